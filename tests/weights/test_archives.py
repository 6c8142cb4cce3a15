"""Files of tensors that are made to take the stack, the memory or no end, and what one reader sees and another not."""

import pickle
import struct
import zipfile

import pytest
import torch
from samples import nested

from video_gn.weights.pickles import load_torch, read_arrays


def of_text(text):
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def of_number(number):
    return b"\x8a\x08" + struct.pack("<q", number)


def of_tuple(*values):
    return b"(" + b"".join(values) + b"t"


def calling(name, *values):
    return b"c" + name.replace(" ", "\n").encode() + b"\n" + of_tuple(*values) + b"R"


def of_tensor(storage, size, stride):
    return calling(
        "torch._utils _rebuild_tensor_v2", storage, of_number(0), of_tuple(*map(of_number, size)),
        of_tuple(*map(of_number, stride)), b"\x89", calling("collections OrderedDict"),
    )  # fmt: skip


def archived(path, pickled, name="archive/data.pkl"):
    """A file as torch writes it, with this pickle; gives its bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, pickled)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    return path.read_bytes()


def two_directories(path):
    """What zipfile finds is sound; torch reads what the file says is the place of its directory."""
    deep = archived(path, nested(5000))
    end = deep.rindex(b"PK\5\6")
    (size,) = struct.unpack("<L", deep[end + 12 : end + 16])
    sound = archived(path, b"\x80\x02}.")
    directory = bytearray(sound[sound.index(b"PK\1\2") : sound.rindex(b"PK\5\6")])
    assert len(directory) == size
    files = sound[: sound.index(b"PK\1\2")]
    moved = len(files) + size  # how much further than it says zipfile then finds the directory
    at = 0
    while at < size:
        names, extra, comment = struct.unpack("<3H", directory[at + 28 : at + 34])
        (where,) = struct.unpack("<L", directory[at + 42 : at + 46])
        directory[at + 42 : at + 46] = struct.pack("<L", end + where - moved)
        at += 46 + names + extra + comment
    path.write_bytes(deep[:end] + files + bytes(directory) + deep[end:])
    with zipfile.ZipFile(path) as archive:
        assert archive.read("archive/data.pkl") == b"\x80\x02}."


def shared(levels):
    """(x, x) in each other: a hash looks at the innermost 2^levels times."""
    return b")q\x00" + b"h\x00\x86q\x00" * levels


def test_every_reader_reads_what_was_looked_at(tmp_path):
    """Deep values where torch finds a pickle, and zipfile none: the process would end in C."""
    deep, path = nested(5000), tmp_path / "x.pth"
    nothing = archived(tmp_path / "nothing.zip", b"")
    with pytest.raises(pickle.UnpicklingError, match="too deep"):
        path.write_bytes(deep + nothing)  # ends as an archive, which torch does not look at
        load_torch(str(path))
    for name in ("archive/DATA.PKL", "archive/data.Pkl"):
        archived(path, deep, name)
        with pytest.raises(pickle.UnpicklingError, match="too deep"):
            load_torch(str(path))
    two_directories(path)
    with pytest.raises(pickle.UnpicklingError, match="directory is not at its end"):
        load_torch(str(path))
    path.write_bytes(b"PK\3\4" + archived(path, b"\x80\x02}."))
    with pytest.raises(pickle.UnpicklingError, match="directory is not at its end"):
        load_torch(str(path))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "w") as archive:
        for content in (b"\x80\x02}.", deep):
            archive.writestr("archive/data.pkl", content)
    with pytest.raises(pickle.UnpicklingError, match="a name twice"):
        load_torch(str(path))
    torch.save({"a": torch.ones(3)}, path)
    assert load_torch(str(path))["a"].tolist() == [1, 1, 1]


def test_a_mark_that_is_taken_hides_no_depth(tmp_path):
    """Python's unpickler takes a mark for a value in POP."""
    hidden = b"\x80\x02" + b"N" * 5000 + b")" + (b"(0" + b"\x85" * 98) * 50 + b"q\x00}h\x00Ns."
    (tmp_path / "x.pkl").write_bytes(hidden)
    with pytest.raises(pickle.UnpicklingError, match="too deep"):
        read_arrays(str(tmp_path / "x.pkl"))
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02N(\x85}.")  # a tuple of what lies below the mark
    with pytest.raises(pickle.UnpicklingError, match="an empty stack"):
        read_arrays(str(tmp_path / "x.pkl"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (shared(90) + b"q\x01}h\x01Ns", "without end"),
        (b"}q\x05" + shared(22) + b"0" + b"h\x05(" + b"h\x00N" * 30 + b"u", "without end"),
        (calling("_codecs encode", of_text("a" * 9), of_text("punycode")), "codec"),
        (calling("_codecs encode", of_text("a" * 9), of_text("punycode"), of_text("latin1")), "codec"),
        (calling("_codecs encode", of_text("a" * 9)), "codec"),
        (b"c_codecs\nencode\n](" + of_text("a") + of_text("idna") + b"eR", "codec"),
        (calling("torch.storage TypedStorage", of_number(10**12)), "TypedStorage"),
        (calling("torch.storage UntypedStorage", of_number(10**12)), "UntypedStorage"),
        (calling("torch Tensor", of_number(10**12)), "torch Tensor"),
        (calling("torch FloatTensor", of_number(10**12)), "FloatTensor"),
        (calling("builtins bytearray", of_number(10**12)), "bytearray"),
        (b"ctorch.storage\nTypedStorage\n" + of_tuple(of_number(10**12)) + b"\x81", "Unsupported call"),
        (
            calling(
                "torch._tensor _rebuild_from_type_v2", b"ctorch.storage\nTypedStorage\n",
                b"ctorch.storage\nTypedStorage\n", of_tuple(of_number(10**12)), b"}",
            ),
            "TypedStorage",
        ),
        (of_tuple(of_text("module"), b"ctorch\nTensor\n", of_text("a.py"), of_text("source")) + b"Q", "reference"),
        (b"ctorch\nSize\n" + of_tuple() + b"R}b", "attributes"),
    ],
)  # fmt: skip
def test_nothing_is_called_that_a_file_of_tensors_does_not_need(value, words, tmp_path):
    """Torch would: memory without numbers in the file, codecs that take no end, hashes that take none either."""
    pickled = b"\x80\x02" + value + b"."
    archived(tmp_path / "archive.pth", pickled)
    (tmp_path / "legacy.pth").write_bytes(pickled)
    for path in (tmp_path / "archive.pth", tmp_path / "legacy.pth"):
        with pytest.raises(pickle.UnpicklingError, match=words):
            load_torch(str(path))


@pytest.mark.parametrize("archive", [True, False])
def test_what_files_of_tensors_hold_is_read(archive, tmp_path):
    layer = torch.nn.Linear(2, 3)
    layer.weight.note = "kept"
    content = {
        "state_dict": layer.state_dict(), "parameter": layer.bias, "half": torch.ones(2, dtype=torch.bfloat16),
        "view": layer.weight.detach()[1:], "bytes": b"a\xff", "set": {1, 2}, "size": torch.Size([1, 2]),
        "device": torch.device("cpu"), "complex": 1j, "again": [layer.bias] * 3, "long": list(range(20000)),
    }  # fmt: skip
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=archive)
    found = load_torch(str(tmp_path / "x.pth"))
    assert torch.equal(found.pop("view"), content.pop("view")) and torch.equal(found.pop("half"), content.pop("half"))
    assert torch.equal(found["state_dict"]["weight"], layer.weight) and torch.equal(found["parameter"], layer.bias)
    assert all(found[name] == content[name] for name in ("bytes", "set", "size", "device", "complex", "long"))


def test_values_without_end_and_tensors_that_are_not_in_the_file(tmp_path):
    """Lists may share each other so that who goes through them never ends; torch keeps space for any number."""
    deep = [0]
    for _ in range(9):
        deep = [deep] * 60
    within: list = []
    within.append(within)
    for content, words in ((deep, "without end"), ({"a": within}, "in itself")):
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(pickle.UnpicklingError, match=words):
            load_torch(str(tmp_path / "x.pth"))
    pieces = [pickle.dumps(part, 2) for part in (torch.serialization.MAGIC_NUMBER, 1001, {"little_endian": True})]
    storage = of_tuple(
        of_text("storage"), b"ctorch\nFloatStorage\n", of_text("0"), of_text("cpu"), of_number(10**9), b"N"
    )
    tensor = b"\x80\x02}" + of_text("a") + of_tensor(storage + b"Q", [10**9], [1]) + b"s."
    (tmp_path / "x.pth").write_bytes(b"".join(pieces) + tensor + pickle.dumps([], 2))
    with pytest.raises(pickle.UnpicklingError, match="not in the file"):
        load_torch(str(tmp_path / "x.pth"))
