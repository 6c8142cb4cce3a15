"""Frames are shown as players show them: turned, mirrored, in the right colours, whoever decodes them."""

import struct

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from av.video.reformatter import VideoReformatter
from samples import texture, write

from video_gn.data.decoding.damage import decode_all
from video_gn.data.decoding.display import AS_STORED, Orientation, orientation, pixel_aspect, rgb
from video_gn.data.decoding.open import BACKENDS, open_video
from video_gn.data.tools.check_videos import check_video
from video_gn.errors import DecodeError

F = 65536  # 1 in a display matrix
# (a, b, c, d): the stored pixel (x, y) is shown at (a x + c y, b x + d y), up to a shift (ISO 14496-12, 6.2.2).
MATRICES = {
    (F, 0, 0, F): Orientation(False, 0),
    (0, -F, F, 0): Orientation(False, 1),
    (-F, 0, 0, -F): Orientation(False, 2),
    (0, F, -F, 0): Orientation(False, 3),
    (-F, 0, 0, F): Orientation(True, 0),
    (0, F, F, 0): Orientation(True, 1),
    (F, 0, 0, -F): Orientation(True, 2),
    (0, -F, -F, 0): Orientation(True, 3),
}


@pytest.fixture(scope="module")
def upright(tmp_path_factory):
    path = tmp_path_factory.mktemp("upright") / "a.mp4"
    write(path, texture(6), "libx264", {"bf": "1"}, range(6))
    return path


def with_matrix(source, target, matrix):
    """A copy of an MP4 file with another display matrix in its track's header."""
    a, b, c, d = matrix
    data = bytearray(source.read_bytes())
    at = data.index(b"tkhd") + 4
    at += 4 + (20 if data[at] == 0 else 32) + 16
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


def placed(frame, matrix):
    """The frame with each pixel where the matrix puts it, pixel by pixel."""
    a, b, c, d = (value // F for value in matrix)
    y, x = np.indices(frame.shape[:2])
    left, top = a * x + c * y, b * x + d * y
    left, top = left - left.min(), top - top.min()
    shown = np.empty((top.max() + 1, left.max() + 1, 3), np.uint8)
    shown[top, left] = frame
    return shown


@pytest.mark.parametrize("matrix", MATRICES)
def test_all_eight_orientations(matrix, upright, tmp_path):
    with open_video(upright, "pyav") as video:
        stored = video.read(range(6))
    path = with_matrix(upright, tmp_path / "b.mp4", matrix)
    expected = np.stack([placed(frame, matrix) for frame in stored])
    for backend in BACKENDS:
        if backend == "decord" and MATRICES[matrix] != AS_STORED:
            with pytest.raises(DecodeError, match=f"turned by {MATRICES[matrix]}, which"), open_video(path):
                pass
            continue
        with open_video(path, backend) as video:
            assert np.array_equal(video.read([4, 1, 5]), expected[[4, 1, 5]])
    found = check_video(str(path))
    assert (found["status"], found["rotation"]) == ("ok", str(MATRICES[matrix]))
    assert (found["width"], found["height"]) == expected.shape[2:0:-1]


class Picture:
    def __init__(self, matrix):
        self.side_data = {"DISPLAYMATRIX": struct.pack("=9i", *matrix[:2], 0, *matrix[2:], 0, 0, 0, 1 << 30)}


def test_other_angles_are_the_nearest_quarter_and_nonsense_is_none():
    for degrees, turns in ((40, 0), (50, 1), (130, 1), (140, 2), (181, 2), (300, 3), (359, 0)):
        sine, cosine = (round(F * value(np.radians(degrees))) for value in (np.sin, np.cos))
        # Counterclockwise, with y pointing down.
        assert orientation(Picture((cosine, -sine, sine, cosine))) == Orientation(False, turns)
        assert orientation(Picture((-cosine, sine, sine, cosine))) == Orientation(True, turns)
    assert orientation(Picture((0, 0, 0, 0))) == AS_STORED
    assert orientation(Picture((2 * F, 0, 0, -F))) == Orientation(True, 2)


def test_an_orientation_in_the_stream_itself(upright, tmp_path):
    """H.264's SEI message, which decord does not read, in Matroska, whose header says nothing."""
    with av.open(str(upright)) as source, av.open(str(tmp_path / "a.mkv"), "w") as target:
        stream = source.streams.video[0]
        out = target.add_stream_from_template(stream)
        turn = BitStreamFilterContext("h264_metadata=display_orientation=insert:rotate=90", stream, out)
        for packet in source.demux(stream):
            for made in turn.filter(packet if packet.size else None):
                made.stream = out
                target.mux(made)
    with pytest.raises(DecodeError, match="turned by 90"), open_video(tmp_path / "a.mkv"):
        pass
    with open_video(upright, "pyav") as video, open_video(tmp_path / "a.mkv", "pyav") as turned:
        assert np.array_equal(turned.read([0, 3]), np.rot90(video.read([0, 3]), 1, (1, 2)))


def planes(count, height, width, parts):
    """Random planes of YUV pictures; chroma differs from row to row, so that fields taken apart look otherwise."""
    rng = np.random.default_rng(0)
    sizes = [(height, width), *[(height // parts[0], width // parts[1])] * 2]
    return [[rng.integers(40, 200, size, np.uint8) for size in sizes] for _ in range(count)]


def write_planes(path, pictures, codec, pix_fmt, flags=0, options=None):
    """A lossless file of these very planes; with the flags of interlaced coding, as two fields each."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = pictures[0][0].shape
        stream.pix_fmt, stream.options = pix_fmt, options or {}
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= flags
        for number, content in enumerate(pictures):
            frame = av.VideoFrame(stream.width, stream.height, pix_fmt)
            for plane, values in zip(frame.planes, content, strict=True):
                rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
                rows[:, : values.shape[1]] = values
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


LOSSLESS = {"qp": "0", "bf": "2"}
INTERLACED = int(av.codec.context.Flags.interlaced_dct | av.codec.context.Flags.interlaced_me)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p"])
def test_interlaced_pictures_have_the_colours_of_progressive_ones(pix_fmt, tmp_path):
    """The same planes, coded as two fields or as one picture: decord, PyAV and copies show the same."""
    pictures = planes(5, 64, 128, (2 if pix_fmt == "yuv420p" else 1, 2))
    both = write_planes(tmp_path / "i.mp4", pictures, "libx264", pix_fmt, INTERLACED, LOSSLESS)
    one = write_planes(tmp_path / "p.mp4", pictures, "libx264", pix_fmt, 0, LOSSLESS)
    assert [p.interlaced_frame for p in decode_all(str(both))] == [True] * 5
    assert not any(p.interlaced_frame for p in decode_all(str(one)))
    shown = []
    for path in (both, one):
        for backend in BACKENDS:
            with open_video(path, backend) as video:
                shown.append(video.read(range(5)))
    assert all(np.array_equal(frames, shown[0]) for frames in shown[1:])
    assert check_video(str(both))["backend"] == "decord pyav"


def test_interlaced_pictures_of_any_format(tmp_path):
    """4:1:1 as in DV, which PyAV cannot make an array of."""
    picture = next(decode_all(str(write_planes(tmp_path / "a.mkv", planes(1, 32, 64, (1, 4)), "ffv1", "yuv411p"))))

    class Interlaced:  # a picture's flag cannot be set
        interlaced_frame = True

        def __getattr__(self, name):
            return getattr(picture, name)

    assert np.array_equal(rgb(Interlaced(), VideoReformatter()), rgb(picture, VideoReformatter()))


class Stream:
    def __init__(self, aspect):
        self.sample_aspect_ratio = aspect


def test_what_is_believed_of_pixels():
    cases = {0: 1, None: 1, 1: 1, 1.004: 1, 0.985: 1, 4 / 3: 4 / 3, 10 / 11: 10 / 11, 2.91: 2.91, 255: 1, 0.004: 1}
    assert {aspect: pixel_aspect(Stream(aspect)) for aspect in cases} == cases
