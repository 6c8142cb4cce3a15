"""Damaged copies of files: what transfers, disks and attackers do to them. The same seed gives the same copies."""

from collections.abc import Callable, Iterator

import numpy as np

Generator = np.random.Generator
NAMED = (  # what stands before, or is, something that a demuxer believes
    *b"ftyp moov mvhd trak tkhd mdhd hdlr stsd stts ctts stsc stsz stco elst avcC hvcC avc1 hev1 mp4v vmhd".split(),
    *b"dref RIFF avih strh strf idx1 movi LIST 00dc H264 XVID DIVX FMP4 V_ FLV".split(),
    b"\x1aE\xdf\xa3", b"\x18S\x80g", b"\x15I\xa9f", b"\x16T\xaek", b"\xae", b"\xb0", b"\xba", b"\x1fC\xb6u",  # Matroska
    b"\0\0\1\xba", b"\0\0\1\xb3", b"\0\0\1\xe0", b"\0\0\0\1g", b"\0\0\1g", b"\0\0\0\1h",  # MPEG, H.264
)  # fmt: skip
EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE, 0x00FFFFFF, 0x10000000)


def bits(data: bytearray, rng: Generator) -> None:
    """Some bits anywhere."""
    for at in rng.integers(0, len(data), rng.choice([1, 10, 100, 1000])):
        data[at] ^= 1 << rng.integers(8)


def header_bits(data: bytearray, rng: Generator) -> None:
    """Some bits near something with a name."""
    for _ in range(rng.choice([1, 3, 10])):
        at = named(data, rng) + rng.integers(0, 64)
        if at < len(data):
            data[at] ^= 1 << rng.integers(8)


def fields(data: bytearray, rng: Generator) -> None:
    """Sizes, counts, times, frame sizes: numbers behind something with a name."""
    for _ in range(rng.choice([1, 1, 3])):
        width = int(rng.choice([2, 4]))
        at = named(data, rng) + int(rng.integers(-2, 24)) * width // 2
        value = int(rng.choice(EXTREMES)) & (256**width - 1)
        if 0 <= at <= len(data) - width:
            data[at : at + width] = value.to_bytes(width, "big" if rng.random() < 0.7 else "little")


def codec(data: bytearray, rng: Generator) -> None:
    """The name of another codec, or of none."""
    names = [
        b"avc1",
        b"hev1",
        b"hvc1",
        b"mp4v",
        b"av01",
        b"vp09",
        b"H264",
        b"h264",
        b"XVID",
        b"FMP4",
        b"DIVX",
        b"V_VP9",
    ]
    others = [
        b"zzzz",
        b"mjpa",
        b"raw ",
        b"png ",
        b"SVQ3",
        b"MJPG",
        b"\0\0\0\0",
        b"cvid",
        b"rle ",
        b"WMV3",
        b"HEVC",
        *names,
    ]
    other = others[rng.integers(len(others))]
    for name in names:
        if (at := data.find(name)) >= 0:
            data[at : at + len(other)] = other
            if rng.random() < 0.5:
                break


def cut(data: bytearray, rng: Generator) -> None:
    """The end is missing, or the beginning."""
    at = int(len(data) * rng.choice([0.001, 0.01, 0.1, 0.5, 0.9, 0.99]) * rng.uniform(0.5, 1))
    if rng.random() < 0.7:
        del data[at:]
    else:
        del data[:at]


def stretch(data: bytearray, rng: Generator) -> tuple[int, int]:
    size = int(min(len(data) - 1, rng.choice([4, 64, 512, 4096, len(data) // 5]))) or 1
    at = int(rng.integers(0, len(data) - size))
    return at, at + size


def zeros(data: bytearray, rng: Generator) -> None:
    """A stretch of zeros."""
    first, last = stretch(data, rng)
    data[first:last] = bytes(last - first)


def noise(data: bytearray, rng: Generator) -> None:
    """A stretch of noise."""
    first, last = stretch(data, rng)
    data[first:last] = rng.bytes(last - first)


def repeated(data: bytearray, rng: Generator) -> None:
    """A stretch that comes twice."""
    first, last = stretch(data, rng)
    data[last:last] = data[first:last]


def moved(data: bytearray, rng: Generator) -> None:
    """Two stretches in each other's place."""
    (a, b), (c, _) = stretch(data, rng), stretch(data, rng)
    d = c + b - a
    data[a:b], data[c:d] = data[c:d], data[a:b]


def left_out(data: bytearray, rng: Generator) -> None:
    """A stretch that is missing."""
    first, last = stretch(data, rng)
    del data[first:last]


def named(data: bytearray, rng: Generator) -> int:
    """Where something with a name begins: one of the first of its kind."""
    there = [at for name in NAMED if (at := data.find(name)) >= 0]
    return int(there[rng.integers(len(there))]) if there else 0


KINDS: tuple[Callable[[bytearray, Generator], None], ...] = (
    bits, header_bits, fields, codec, cut, zeros, noise, repeated, moved, left_out, fields, header_bits,
)  # fmt: skip


def mutants(sources: list[bytes], count: int, seed: int = 0) -> Iterator[tuple[str, int, bytes]]:
    """`count` damaged copies of the sources in turn: the kind of damage, the number of the source, and the content."""
    for i in range(count):
        rng = np.random.default_rng((seed, i))
        kind, source = KINDS[i % len(KINDS)], i // len(KINDS) % len(sources)
        data = bytearray(sources[source])
        kind(data, rng)
        yield kind.__name__, source, bytes(data)
