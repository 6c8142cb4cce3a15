"""Files from which packets were dropped are named, and no sound file is."""

import av
import pytest
from conftest import VIDEOS
from samples import H264, texture, write
from test_decode import manifest

from video_gn.data.decoding.damage import DROPPED, decode_all, find_damage
from video_gn.data.decoding.missing import gaps_bit, may_have_gaps, messages
from video_gn.data.reencode import Encoding, prepare_video
from video_gn.data.tools.check_videos import check_video
from video_gn.errors import DecodeError

CODECS = {
    "H.264": ("libx264", {"x264-params": H264}),
    "H.264, 4:4:4": ("libx264", {"qp": "0", "profile": "high444", "x264-params": H264}),
    "H.264, baseline": ("libx264", {"profile": "baseline", "x264-params": "keyint=24"}),
    "H.264, open GOP": ("libx264", {"x264-params": H264 + ":open-gop=1"}),
    "HEVC": ("libx265", {"x265-params": "keyint=12:min-keyint=12:log-level=none"}),
    "HEVC, open GOP": ("libx265", {"x265-params": "keyint=12:min-keyint=12:open-gop=1:log-level=none"}),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    for number, (codec, options) in enumerate(CODECS.values()):
        write(folder / f"{number}.mp4", texture(48, 64, 96), codec, options, range(48))
    return {name: folder / f"{number}.mp4" for number, name in enumerate(CODECS)}


def copied(source, target, keep):
    """The packets of a file for which `keep(number, packet)` is true, in another file."""
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        stream = out.add_stream_from_template(container.streams.video[0])
        packets = [packet for packet in container.demux(video=0) if packet.size]
        for number, packet in enumerate(packets):
            if keep(number, packet):
                packet.stream = stream
                out.mux(packet)
    return str(target)


def referred(source):
    """The number of a packet in the middle of a group of pictures that others refer to."""
    with av.open(str(source)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
    return next(i for i in range(keys[1] + 3, len(packets)) if not packets[i].is_disposable and i not in keys)


@pytest.mark.parametrize("end", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("name", CODECS)
def test_a_dropped_packet_is_found(name, end, sources, tmp_path):
    gone = referred(sources[name])
    path = copied(sources[name], tmp_path / f"a.{end}", lambda i, _: i != gone)
    assert find_damage(path).startswith(DROPPED)
    if end == "mp4":
        found = check_video(path)
        assert found["status"] == "damaged" and found["reason"].startswith(DROPPED)
        with pytest.raises(DecodeError, match=DROPPED):
            prepare_video(path, str(tmp_path / "copy.mp4"), Encoding.of())


@pytest.mark.parametrize("name", CODECS)
def test_sound_files_and_what_is_cut_from_them_are_sound(name, sources, tmp_path):
    with av.open(str(sources[name])) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    key = [i for i, packet in enumerate(packets) if packet.is_keyframe][1]
    cuts = {
        "whole": lambda i, _: True,
        "from a keyframe on": lambda i, _: i >= key,  # of an open GOP, its first frames refer to what is not there
        "to the middle": lambda i, _: i < 30,
        "nothing that others refer to is missing": lambda i, packet: not packet.is_disposable or i % 2,
    }
    for end in ("mp4", "ts"):
        for cut, keep in cuts.items():
            if end == "ts" and cut.startswith("from"):  # its parameters are in the first keyframe alone
                continue
            assert find_damage(copied(sources[name], tmp_path / f"a.{end}", keep)) is None, (end, cut)


def test_edit_lists_and_uneven_times_are_sound(tmp_path):
    for number, how in enumerate(({"shift": 15}, {"times": [0, 1, 4, 5, 9, 20, *range(21, 51)]})):
        path = tmp_path / f"{number}.mp4"
        write(path, texture(36, 64, 96), "libx264", {"x264-params": H264}, **{"times": range(36), **how})
        assert find_damage(str(path)) is None


def test_streams_that_may_have_gaps(sources, tmp_path):
    """H.264's parameters can allow them, as layered streams do; then a gap is no damage."""
    path, found = tmp_path / "a.mp4", {}
    for name in CODECS:
        if "HEVC" in name:
            continue
        gone = referred(sources[name])
        copied(sources[name], path, lambda i, _, gone=gone: i != gone)
        with av.open(str(path)) as container:
            extradata = container.streams.video[0].codec_context.extradata
        assert not may_have_gaps(extradata)
        parameters, bit = gaps_bit(extradata)
        before = parameters[: bit // 8 + 1]  # what is escaped comes later
        allowed = bytearray(before)
        allowed[-1] |= 128 >> bit % 8
        data = path.read_bytes()
        assert data.count(before) == 1
        path.write_bytes(data.replace(before, bytes(allowed)))
        found[name] = find_damage(str(path))
    assert found["H.264, baseline"] is None
    assert found["H.264"].startswith(DROPPED)  # B-frames name those that they refer to
    assert {"H.264", "H.264, baseline"} <= found.keys()
    assert not may_have_gaps(b"") and not may_have_gaps(b"\0\0\1\x67\x64") and not may_have_gaps(extradata[:12])


def ue(number):
    """An unsigned Exp-Golomb number as digits."""
    digits = f"{number + 1:b}"
    return "0" * (len(digits) - 1) + digits


@pytest.mark.parametrize("gaps", ["0", "1"])
@pytest.mark.parametrize("order", [ue(0) + ue(4), ue(2), ue(1) + "1" + ue(3) + ue(5) + ue(2) + ue(7) + ue(9)])
@pytest.mark.parametrize("chroma", [1, 3])
def test_parameters_written_out_by_hand(chroma, order, gaps):
    """With scaling lists (7.3.2.1.1.1): one of 16 that ends at its third number, one of 64 that is whole."""
    ends, whole = ue(1) + ue(1) + ue(20), ue(1) * 64  # 8 + 1 + 1 - 10 = 0 ends it
    lists = "1" + ends + "0" * 5 + "1" + whole + "0" * (1 if chroma == 1 else 5)
    high = ue(chroma) + ("0" if chroma == 3 else "") + ue(0) + ue(0) + "0" + "1" + lists
    bits = f"{0x67:08b}{244:08b}{0:08b}{30:08b}" + ue(0) + high + ue(4) + order + ue(4) + gaps + ue(7) + ue(5) + "1"
    unit = int(bits + "0" * (-len(bits) % 8), 2).to_bytes(-(-len(bits) // 8), "big").replace(b"\0\0", b"\0\0\3")
    assert may_have_gaps(b"\0\0\0\1" + unit) == (gaps == "1")
    as_mp4 = b"\1" + bytes(4) + b"\xe1" + len(unit).to_bytes(2, "big") + unit + b"\1"
    assert may_have_gaps(as_mp4) == (gaps == "1")


def test_what_a_decoder_says_is_heard_and_not_printed(sources, capfd):
    level = av.logging.get_level()
    with messages() as heard:
        list(decode_all(str(sources["H.264"])))
    assert heard and av.logging.get_level() == level
    assert capfd.readouterr().err == ""


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not VIDEOS.is_dir(), reason=f"no real clips at {VIDEOS}")
def test_no_damage_is_found_in_any_sound_clip():
    names = manifest("good", "short", "odd", "rotation", "synthetic", "derived")
    found = {name: damage for name in names if (damage := find_damage(str(VIDEOS / name)))}
    assert len(names) > 35 and found == {"derived/audio_only.mkv": "no video stream"}
