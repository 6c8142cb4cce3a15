"""Whatever backend is asked, the frames are the same, or decord refuses the file and PyAV reads it."""

import io
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image
from samples import H264, sequential, texture, write
from test_display import planes, write_planes

from video_gn.data.decoding import decord_reader
from video_gn.data.decoding.damage import find_damage
from video_gn.data.decoding.decord_reader import DecordVideo
from video_gn.data.decoding.libav import video_stream
from video_gn.data.decoding.look import SAME_COLOURS, why_not_decord
from video_gn.data.decoding.open import BACKENDS, open_video
from video_gn.data.decoding.pyav_reader import LibavVideo
from video_gn.data.tools.check_videos import check_video
from video_gn.data.views import RandomView
from video_gn.errors import DecodeError

CHROMA = {  # rows and columns of luma that share their chroma, and a codec that keeps them
    "yuv420p": (2, 2, "libx264"), "yuv422p": (1, 2, "libx264"), "yuv444p": (1, 1, "libx264"),
    "yuvj420p": (2, 2, "mjpeg"), "yuvj422p": (1, 2, "mjpeg"), "yuvj444p": (1, 1, "mjpeg"),
    "yuv410p": (4, 4, "ffv1"), "yuv411p": (1, 4, "ffv1"), "yuv440p": (2, 1, "ffv1"),
}  # fmt: skip


def read(path, backend, indices=range(4)):
    with open_video(path, backend) as video:
        return video.read(indices)


@pytest.mark.parametrize("pix_fmt", CHROMA)
def test_chroma_of_every_kind(pix_fmt, tmp_path):
    rows, columns, codec = CHROMA[pix_fmt]
    options = {"qp": "0"} if codec == "libx264" else {}
    path = write_planes(tmp_path / "a.mkv", planes(4, 64, 128, (rows, columns)), codec, pix_fmt, 0, options)
    expected = sequential(path)
    assert np.array_equal(read(path, "pyav"), expected)
    if pix_fmt in SAME_COLOURS:
        assert np.array_equal(read(path, "decord"), expected)
    else:
        with pytest.raises(DecodeError, match=f"pixels of {pix_fmt}, of which decord makes other colours"):
            read(path, "decord")
    assert check_video(str(path))["backend"].endswith("pyav")


@pytest.mark.parametrize("size", [(64, 129), (50, 66), (98, 130), (97, 128), (95, 127), (33, 64)])
def test_odd_sides(size, tmp_path):
    write(tmp_path / "a.mkv", texture(4, *size), "ffv1", {}, range(4))
    expected = sequential(tmp_path / "a.mkv")
    assert expected.shape == (4, *size, 3) and np.array_equal(read(tmp_path / "a.mkv", "pyav"), expected)
    if size[0] % 2:
        with pytest.raises(DecodeError, match=f"frames of {size[1]}x{size[0]} pixels, an odd height"):
            read(tmp_path / "a.mkv", "decord")
    else:
        assert np.array_equal(read(tmp_path / "a.mkv", "decord"), expected)


def test_ten_bits_are_rounded_in_one_way(tmp_path):
    write(tmp_path / "a.mp4", texture(4), "libx264", {}, range(4), pix_fmt="yuv420p10le")
    with pytest.raises(DecodeError, match="pixels of yuv420p10le"):
        read(tmp_path / "a.mp4", "decord")
    assert np.array_equal(read(tmp_path / "a.mp4", "pyav"), sequential(tmp_path / "a.mp4"))


# Size that changes


def joined(target, parts):
    """The packets of several files one after the other in a stream of the first one's header."""
    with av.open(str(target), "w") as container:
        out, time = None, 0
        for part in parts:
            with av.open(str(part)) as source:
                stream = source.streams.video[0]
                out = out or container.add_stream_from_template(stream)
                for packet in source.demux(stream):
                    if packet.size:
                        packet.pts = packet.dts = time
                        packet.time_base, packet.stream, time = Fraction(1, 30), out, time + 1
                        container.mux(packet)
    return target


REPEATED = {"x264-params": "repeat-headers=1:bframes=0:keyint=10"}
CHANGING = {  # codec, its options, in which file each part is, in which the whole
    "H.264, MP4": ("libx264", REPEATED, "ts", "mp4"),
    "H.264, Matroska": ("libx264", REPEATED, "ts", "mkv"),
    "H.264, MPEG-TS": ("libx264", REPEATED, "ts", "ts"),
    "HEVC, MP4": ("libx265", {"x265-params": "repeat-headers=1:bframes=0:log-level=none"}, "ts", "mp4"),
    "MPEG-4, AVI": ("mpeg4", {}, "avi", "avi"),
    "MPEG-2, MOV": ("mpeg2video", {}, "mpg", "mov"),
    "Motion JPEG, AVI": ("mjpeg", {}, "avi", "avi"),
    "VP9, WebM": ("libvpx-vp9", {"lag-in-frames": "0"}, "webm", "webm"),
}


@pytest.mark.parametrize("name", CHANGING)
def test_a_size_that_changes(name, tmp_path):
    codec, options, part, whole = CHANGING[name]
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    for letter, side in (("a", 64), ("b", 128)):
        frames = texture(10, side, side)
        write(tmp_path / f"{letter}.{part}", frames, codec, options, range(10), pix_fmt=pix_fmt)
    path = joined(tmp_path / f"both.{whole}", [tmp_path / f"a.{part}", tmp_path / f"b.{part}"])
    with pytest.raises(DecodeError, match=r"the size of its frames may change|MPEG-TS|promises"):
        DecordVideo(str(path))
    with open_video(path, "pyav") as video:
        last = video.num_frames - 1
    words = "frames change from 64x64 to 128x128 pixels; cut it there, or scale it to one size by ffmpeg"
    with pytest.raises(DecodeError, match=words):
        read(path, "pyav", range(last))
    found = check_video(str(path))
    assert found["status"] == "damaged" and found["backend"] == "" and words in found["reason"]
    assert words in find_damage(str(path))
    same = joined(tmp_path / f"same.{whole}", [tmp_path / f"a.{part}"] * 2)
    if codec == "mjpeg":  # to decode all of its keyframes would take too long
        with pytest.raises(DecodeError, match="the size of its frames may change"):
            DecordVideo(str(same))
    for backend in ("pyav",) if whole in ("ts", "mkv") or codec == "mjpeg" else BACKENDS:
        assert len(read(same, backend, [0, last])) == 2


def test_a_header_that_changes(tmp_path, monkeypatch):
    """As MP4 and FLV can have them: libav notes it at the packet."""
    write(tmp_path / "a.mp4", texture(24), "libx264", {"x264-params": H264}, range(24))

    class Changed:
        def has_sidedata(self, kind):
            return kind == "new_extradata"

    with LibavVideo.opened(str(tmp_path / "a.mp4")) as video:
        assert why_not_decord(video) is None
        picture = video.picture_of(0)
        monkeypatch.setattr(video, "picture_of", lambda packet: picture)
        video.packets[video.keys[1]] = Changed()
        assert why_not_decord(video).startswith("the size of its frames may change")


# Covers


def with_cover(path, film=None, first=False):
    """An MP4 file of a sound, a cover picture, and a film if there is one."""
    picture = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 10, 10)).save(picture, "JPEG")
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        source = av.open(str(film)) if film else None

        def add_cover():
            stream = container.add_stream("mjpeg")
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
            stream.disposition = av.stream.Disposition.attached_pic
            return stream

        cover = add_cover() if first else None
        stream = container.add_stream_from_template(source.streams.video[0]) if source else None
        if stream:
            stream.disposition = av.stream.Disposition(0)  # libav takes the default one of several
        cover = cover or add_cover()
        packet = av.Packet(picture.getvalue())
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), cover, True
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate, silence.pts = 8000, 0
        container.mux([*sound.encode(silence), *sound.encode(None)])
        container.mux(packet)
        for packet in source.demux(video=0) if source else ():
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    return path


def test_a_cover_is_no_video(tmp_path):
    write(tmp_path / "film.mp4", texture(4), "libx264", {}, range(4))
    path = with_cover(tmp_path / "music.mp4")
    with av.open(str(path)) as container:  # the test's file is what it should be
        assert container.streams.video[0].disposition & av.stream.Disposition.attached_pic
    for backend in BACKENDS:
        with pytest.raises(DecodeError, match="no video stream, only a cover picture"):
            read(path, backend)
    found = check_video(str(path))
    assert (found["status"], found["reason"]) == ("unreadable", "no video stream, only a cover picture")
    for first, count in ((True, 4), (False, 4), (True, 1)):
        write(tmp_path / "film.mp4", texture(count), "libx264", {}, range(count))
        path = with_cover(tmp_path / f"{first}.mp4", tmp_path / "film.mp4", first)
        assert np.array_equal(read(path, "pyav", range(count)), read(tmp_path / "film.mp4", "pyav", range(count)))
        with pytest.raises(DecodeError, match="a cover picture beside the video"):
            read(path, "decord")


def test_the_film_is_taken_where_libav_finds_the_cover_best():
    cover, film = (SimpleNamespace(disposition=flags, codec_context=SimpleNamespace(width=64, height=64))
                   for flags in (av.stream.Disposition.attached_pic, av.stream.Disposition.default))  # fmt: skip
    for best in (cover, film, None):
        streams = SimpleNamespace(video=[cover, film], best=lambda kind, best=best: best)
        assert video_stream(SimpleNamespace(streams=streams), "a.mp4") is film


def test_metadata_that_are_not_utf8(tmp_path):
    """As in HMDB51's AVIs; of MP4 and Matroska too, in the file and in the stream."""
    for name, codec in (("a.avi", "mpeg4"), ("a.mp4", "libx264"), ("a.mkv", "libx264")):
        with av.open(str(tmp_path / name), "w") as container:
            container.metadata["title"] = "QQQQQQ"
            stream = container.add_stream(codec, rate=25)
            stream.metadata["title"] = stream.metadata["handler_name"] = "QQQQQQ"
            stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
            for pixels in texture(4):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")))
            container.mux(stream.encode(None))
        path = tmp_path / f"latin1_{name}"
        data = (tmp_path / name).read_bytes()
        assert b"QQQQQQ" in data
        path.write_bytes(data.replace(b"QQQQQQ", "Müßig\xff".encode("latin1")))
        with pytest.raises(UnicodeDecodeError):
            av.open(str(path))
        expected = sequential(tmp_path / name)
        for backend in BACKENDS:
            assert np.array_equal(read(path, backend), expected)
        assert check_video(str(path))["status"] == "ok"


# Time stamps


def retimed(source, target, change):
    with av.open(str(source)) as container, av.open(str(target), "w") as out:
        stream = out.add_stream_from_template(container.streams.video[0])
        packets = [packet for packet in container.demux(video=0) if packet.size]
        change(packets)
        for packet in packets:
            packet.stream = stream
            out.mux(packet)


def two_exchanged(packets):
    packets[21].pts, packets[22].pts = packets[22].pts, packets[21].pts


def in_order_of_decoding(packets):
    for first in range(0, len(packets), 12):
        group = packets[first : first + 12]
        for packet, time in zip(group, sorted(packet.pts for packet in group), strict=True):
            packet.pts = time


def twice_the_same(packets):
    packets[21].pts = packets[22].pts


@pytest.mark.parametrize("change", [two_exchanged, in_order_of_decoding, twice_the_same])
def test_time_stamps_that_contradict_the_order_of_frames(change, tmp_path):
    """Each backend gives the frames of a sequential decode, or refuses."""
    write(tmp_path / "a.mp4", texture(60), "libx264", {"x264-params": H264}, range(60))
    retimed(tmp_path / "a.mp4", tmp_path / "b.mp4", change)
    expected, refused = sequential(tmp_path / "b.mp4"), set()
    for start in range(0, 52, 4):
        for backend in BACKENDS:
            try:
                frames = read(tmp_path / "b.mp4", backend, range(start, start + 8))
                assert np.array_equal(frames, expected[start : start + 8]), (backend, start)
            except DecodeError as error:
                assert "time" in error.reason
                refused.add(backend)
    assert refused == ({"decord"} if change is twice_the_same else {"pyav"})
    backends = check_video(str(tmp_path / "b.mp4"))["backend"]
    assert backends == ("pyav" if change is twice_the_same else "decord")


# Lists of findings


def test_what_decord_is_given_unseen_keeps_its_shape(tmp_path):
    """A checked video is not looked at again: what its list says of its pixels is taken."""
    write(tmp_path / "a.mp4", texture(8), "libx264", {}, range(8), aspect=Fraction(4, 3))
    view, shown = RandomView(4, 1, (64, 64), 32, False), []
    for known in ((), (True, 8, 4 / 3), (False, 8, None)):
        for backend in BACKENDS:
            with open_video(tmp_path / "a.mp4", backend, *known) as video:
                assert video.pixel_aspect == pytest.approx(4 / 3)
                shown.append(view(video, np.random.default_rng(0))[0])
    assert all(np.array_equal(clip, shown[0]) for clip in shown[1:])


def test_a_turned_video_has_turned_pixels(tmp_path):
    write(tmp_path / "a.mp4", texture(4), "libx264", {}, range(4), rotation=90, aspect=Fraction(4, 3))
    with open_video(tmp_path / "a.mp4", "pyav") as video:
        assert video.pixel_aspect == pytest.approx(3 / 4)
        assert video.read([0, 3]).shape == (2, 128, 96, 3)


def test_of_large_files_the_first_picture_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(decord_reader, "LARGEST", 100)
    write(tmp_path / "a.mp4", texture(4), "libx264", {}, range(4), rotation=180)
    with pytest.raises(DecodeError, match="turned by 180"):
        DecordVideo(str(tmp_path / "a.mp4"))
    write(tmp_path / "b.mp4", texture(4), "libx264", {}, range(4), aspect=Fraction(4, 3))
    video = DecordVideo(str(tmp_path / "b.mp4"))
    assert video.pixel_aspect == pytest.approx(4 / 3)
    video.close()
