"""Nothing but the named file is opened, whatever its name and its content are."""

import http.server
import os
import struct
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from conftest import VIDEOS, few
from samples import sequential

from video_gn.data.decoding.containers import CERTAIN, CONTAINERS, OpenFile, find_container, find_transport_stream
from video_gn.data.decoding.damage import decode_all
from video_gn.data.decoding.open import BACKENDS, open_video
from video_gn.data.mp4 import encode
from video_gn.errors import DecodeError
from video_gn.predict.pictures import write_video


@pytest.fixture
def good(motion_folder):
    return motion_folder / "val" / "slow_up" / "0000.mp4"


@pytest.fixture
def server(tmp_path):
    """A server that counts what it is asked for, and serves nothing."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_PUT = do_POST = do_GET

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.asked = asked
    yield server
    server.shutdown()
    server.server_close()


NAMES = [
    "http:/127.0.0.1:{port}/a.mp4",
    "HTTP:/a.mp4",
    "2024-01-01T12:30:45.mp4",
    "concat:b.mp4",
    "subfile,,start,0,end,9,,:a.mp4",
    "data:video/mp4;base64,AAAA",
    "pipe:0",
    "file:a.mp4",
    "-i.mp4",
    "a%03d.jpg",
    "a*?[b]{c}.png",
    "~.mp4",
    " a\n.mp4",
    "a.m3u8",
]


@pytest.mark.parametrize("name", few(NAMES, NAMES[::4], NAMES[2::4]))
def test_a_name_is_a_name(name, good, server, tmp_path, monkeypatch):
    """Relative, with what libavformat takes as a protocol or a pattern: the file of that name is read."""
    monkeypatch.chdir(tmp_path)
    path = name.replace("{port}", str(server.server_address[1]))
    if os.path.dirname(path):
        os.makedirs(os.path.dirname(path))
    with open(path, "wb") as file:
        file.write(good.read_bytes())
    with open_video(good, "pyav") as video:
        expected = video.read([0, 9, 40])
    for backend in BACKENDS:
        for checked in (False, True):
            with open_video(path, backend, checked) as video:
                assert np.array_equal(video.read([0, 9, 40]), expected)
    assert sum(1 for _ in decode_all(path)) == 64
    assert server.asked == []


@pytest.mark.parametrize("name", ["http:/127.0.0.1:{port}", "a:b", "50%d"])
def test_a_name_is_a_name_for_what_is_written(name, good, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path.__class__(name.replace("{port}", str(server.server_address[1])))
    folder.mkdir(parents=True)
    frames = [np.full((32, 32, 3), 8 * i, np.uint8) for i in range(8)]
    encode(iter(frames), folder / "a.mp4")
    write_video(folder / "b.mp4", frames, [[("x", 1.0)]] * 8, 30.0)
    for file, count in (("a.mp4", 8), ("b.mp4", 8)):
        with open_video(folder / file) as video:
            assert video.num_frames == count
    assert server.asked == []


def playlists(address, inner):
    """What names other files or addresses, by name."""
    return {
        "hls.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n#EXTINF:9,\n{inner}\n#EXT-X-ENDLIST\n",
        "hls.mp4": f'#EXTM3U\n#EXT-X-MAP:URI="{inner}"\n#EXTINF:9,\n{inner}\n#EXT-X-ENDLIST\n',
        "byte order mark.m3u8": f"\ufeff#EXTM3U\n#EXTINF:9,\n{inner}\n#EXT-X-ENDLIST\n",
        "concat.mp4": f"ffconcat version 1.0\nfile '{inner}'\n",
        "dash.mpd": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:'
        f'isoff-live:2011" type="static"><Period><AdaptationSet><Representation id="0" bandwidth="9" mimeType='
        f'"video/mp4"><BaseURL>{address}</BaseURL><SegmentList><SegmentURL media="{inner}"/></SegmentList>'
        "</Representation></AdaptationSet></Period></MPD>",
        "session.sdp": "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
        "m=video 5004 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n",
        "imf.xml": '<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"></CompositionPlaylist>',
        "avisynth.avs": f'DirectShowSource("{inner}")\n',
        "subtitles.idx": "# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\n",
        "talk.json": '{"captions":[{"duration":9,"content":"x","startOfParagraph":true,"startTime":0}]}',
        "list.asx": f'<asx version="3.0"><entry><ref href="{address}"/></entry></asx>',
        "redirect.mov": f"SMIL\n{address}",
        "real.ram": f"{address}\n",
        "picture.svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{address}"/></svg>',
    }


def test_playlists_are_refused(good, server, tmp_path):
    address = f"http://127.0.0.1:{server.server_address[1]}/x.mp4"
    for name, text in playlists(address, str(good)).items():
        path = tmp_path / name
        for content in (text.encode(), text.encode("utf-16"), b"\n" + text.encode()):
            path.write_bytes(content)
            for backend in BACKENDS:
                for checked in (False, True):
                    with pytest.raises(DecodeError, match="not a video file") as caught:
                        list_of(open_video(path, backend, checked))
                    assert "\n" not in caught.value.reason
            with pytest.raises(DecodeError, match="not a video file"):
                list(decode_all(str(path)))
    assert server.asked == []


def list_of(video):
    with video as opened:
        return opened.read([0])


HEADS = {
    "mov": b"\0\0\0\x10ftypisom\0\0\0\0",
    "large mov": b"\x20\x20\x20\x20mdat\n\n\n\n",
    "matroska": b"\x1aE\xdf\xa3\n\n\n\n",
    "avi": b"RIFF\x20\x20\x20\x20AVI \n",
    "flv": b"FLV\x01\x05\0\0\0\x09\n\n\n\n",
    "asf": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + b"\n",
    "mpeg": b"\0\0\1\xba\n\n\n\n",
    "mpegvideo": b"\0\0\1\xb3\n\n\n\n",
    "mpegts": (b"G" + b"\n" * 187) * 8,
    "mxf": bytes.fromhex("060e2b34020501010d01020101020400"),
    "ogg": b"OggS\0\2" + b"\n" * 10,
    "gif": b"GIF89a\x20\0\x20\0\n\n\n\n\n\n",
}


@pytest.mark.parametrize("kind", few(HEADS, [*HEADS][::6], [*HEADS][3::6]))
def test_two_kinds_in_one_file(kind, good, server, tmp_path, monkeypatch):
    """A playlist behind the first bytes of a container: libavformat's guess does not matter, or is certain."""
    monkeypatch.chdir(tmp_path)
    address = f"http://127.0.0.1:{server.server_address[1]}/x.mp4"
    for name, text in playlists(address, str(good)).items():
        path = tmp_path / name
        path.write_bytes(HEADS[kind] + b"\n" + text.encode() * 20)
        for backend in BACKENDS:
            for checked in (False, True):
                with pytest.raises(DecodeError):
                    list_of(open_video(path, backend, checked))
    assert server.asked == []


def box(kind, *content):
    data = b"".join(content)
    return struct.pack(">I4s", 8 + len(data), kind) + data


def with_reference(data, entry):
    """An MP4 whose samples are in another file: the `url ` of its dref box is replaced, all sizes corrected."""
    path = [b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"]

    def rebuilt(data, path):
        out, at = b"", 0
        while at < len(data):
            size, kind = struct.unpack(">I4s", data[at : at + 8])
            inner = data[at + 8 : at + size]
            if kind == path[0]:
                inner = rebuilt(inner, path[1:]) if path[1:] else b"\0\0\0\0\0\0\0\x01" + entry
            out += box(kind, inner)
            at += size
        return out

    return rebuilt(data, path)


def test_a_mov_that_refers_to_another_file_is_refused(good, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = good.read_bytes()
    (tmp_path / "0000.mp4").write_bytes(data)
    (tmp_path / "alias.mov").write_bytes(with_reference(data, alias(str(tmp_path / "0000.mp4"))))
    with av.open("alias.mov", options={"enable_drefs": "1"}) as container:
        assert sum(1 for _ in container.decode(video=0)) == 64  # the test's file is what it should be
    (tmp_path / "url.mov").write_bytes(with_reference(data, url(server, b"\0\0\0\0")))
    for backend in BACKENDS:
        for checked in (False, True):
            with pytest.raises(DecodeError):
                list_of(open_video("alias.mov", backend, checked))
            # libavformat knows no addresses here: it takes the samples from the file itself.
            assert list_of(open_video("url.mov", backend, checked)).shape == (1, 64, 64, 3)
    assert server.asked == []


def url(server, flags):
    return box(b"url ", flags, f"http://127.0.0.1:{server.server_address[1]}/x.mp4\0".encode())


def alias(path):
    """A QuickTime alias to a file, as libavformat's mov_read_dref takes it apart."""
    name, text = os.path.basename(path).encode(), path.encode()
    names = bytes([4]) + b"disk".ljust(27, b"\0") + b"\0" * 12 + bytes([len(name)]) + name.ljust(63, b"\0")
    tags = struct.pack(">HH", 2, len(text)) + text + b"\0" * (len(text) % 2) + struct.pack(">hH", -1, 0)
    return box(b"alis", b"\0\0\0\0", b"\0" * 10, names, b"\0" * 16, struct.pack(">hh", 1, 1), b"\0" * 16, tags)


def test_what_is_open_is_what_was_looked_at(good, tmp_path):
    """Exchanged between the look and the decoder, a file is still the first one."""
    path = tmp_path / "a.mp4"
    path.write_bytes(good.read_bytes())
    with OpenFile(str(path)) as file:
        path.unlink()
        path.write_text("#EXTM3U\n")
        with open(file.address, "rb") as same:
            assert same.read() == good.read_bytes()


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")  # to open it would wait for a writer
    os.symlink("loop.mp4", tmp_path / "loop.mp4")
    for path in (tmp_path / "pipe.mp4", tmp_path / "loop.mp4", tmp_path / "none.mp4", "/dev/zero", "a\0.mp4"):
        for backend in BACKENDS:
            with pytest.raises(DecodeError, match="no such file"):
                list_of(open_video(path, backend))
    with pytest.raises(DecodeError, match="no such file"):
        OpenFile(str(tmp_path))


def test_no_file_stays_open(good, tmp_path):
    (tmp_path / "text.mp4").write_text("text")
    (tmp_path / "cut.mp4").write_bytes(good.read_bytes()[:3000])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        for backend in BACKENDS:
            list_of(open_video(good, backend))
            for bad in ("text.mp4", "cut.mp4"):
                with pytest.raises(DecodeError):
                    list_of(open_video(tmp_path / bad, backend))
        next(decode_all(str(good)))
    assert len(os.listdir("/proc/self/fd")) <= before


def test_heads():
    found = {name: find_container(head[:16]) for name, head in HEADS.items() if name != "mpegts"}
    assert found == {name: name.removeprefix("large ") for name in found}
    assert {*found.values()} <= {*CONTAINERS} and {*CONTAINERS} >= CERTAIN
    for nothing in (b"", b"\0" * 16, b"G" * 16):
        assert find_container(nothing) is None
    for size in (188, 192, 204):
        packets = (b"G" + b"x" * (size - 1)) * 8
        assert find_transport_stream(packets[:1632]) == find_transport_stream(packets[77 : 77 + 1632]) == "mpegts"
        assert find_transport_stream(packets[: 3 * size]) is None


@pytest.mark.skipif(not VIDEOS.is_dir(), reason=f"no real clips at {VIDEOS}")
def test_every_real_clip_is_of_a_known_container():
    named = {".mp4": "mov", ".mov": "mov", ".mkv": "matroska", ".webm": "matroska", ".avi": "avi", ".ts": "mpegts"}
    for path in VIDEOS.rglob("*.*"):
        if path.suffix in named and path.name not in ("text.mp4", "zero_byte.mp4"):
            with OpenFile(str(path)) as file:
                assert file.container == named[path.suffix], path


MORE = {"a.mxf": ("mpeg2video", {"bf": "2", "g": "12"}), "a.ogv": ("libvpx", {"g": "12"}), "a.gif": ("gif", {})}


@pytest.mark.parametrize("name", MORE)
def test_more_containers_against_a_sequential_decode(name, tmp_path, rng):
    """By PyAV, to which decord leaves them, as the loader asks: some frames, and all."""
    pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    frames = [np.where(np.arange(64)[None, :, None] < i, pixels, 99).astype(np.uint8) for i in range(60)]
    path = tmp_path / name
    codec, options = MORE[name]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.options = 48, 64, options
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=stream.pix_fmt)
            picture.pts, picture.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    expected = sequential(path)
    assert len(expected) == 60
    for wanted in (np.arange(60), *(rng.choice(60, 5, replace=False) for _ in range(6))):
        with open_video(path, "pyav") as video:
            assert video.num_frames == 60 and np.array_equal(video.read(wanted), expected[wanted])
    with pytest.raises(DecodeError, match="in which decord cannot seek"):
        list_of(open_video(path, "decord"))


def test_frames_that_ogg_repeats_without_storing_them(tmp_path):
    page = b"OggS" + bytes(22)
    path = tmp_path / "a.ogv"
    path.write_bytes(page + b"\2\xff\0" + bytes(255) + page + b"\1\5" + bytes(5))  # 255 bytes end with a 0
    with OpenFile(str(path)) as file:
        assert file.container == "ogg"
    path.write_bytes(path.read_bytes() + page + b"\2\5\0" + bytes(5))
    with pytest.raises(DecodeError, match="Ogg that repeats frames without storing them; convert it with ffmpeg"):
        OpenFile(str(path))
