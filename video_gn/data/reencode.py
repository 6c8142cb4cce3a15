"""Videos re-encoded for training: small frames, short GOPs, a codec that is quick to decode."""

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from video_gn.data.decoding.damage import DROPPED, decode_all, find_cut
from video_gn.data.decoding.display import AS_STORED, as_progressive, orientation, rgb
from video_gn.data.decoding.libav import refusing_each
from video_gn.data.decoding.pyav_reader import LibavVideo
from video_gn.data.mp4 import create_mp4
from video_gn.errors import DecodeError
from video_gn.files.writing import part_of

# Encoder, its options, quality on its own scale, and frames from keyframe to keyframe: chosen in docs/loading.md. Three
# B-frames in a row to which no frame refers: of a clip of every other frame, a third and more need not be decoded. No
# bits are spent on what only looks sharper (psy): fewer bytes and less to decode at equal SSIM.
CODECS: dict[str, tuple[str, dict[str, str], int, int]] = {
    "h264": ("libx264", {"preset": "medium", "tune": "fastdecode", "x264-params": "keyint={gop}:min-keyint={gop}:"
                         "scenecut=0:b-adapt=0:b-pyramid=none:bframes=3:psy=0"}, 20, 32),
    "mpeg4": ("mpeg4", {"mbd": "rd", "flags": "+cgop", "bf": "3", "sc_threshold": "1000000000"}, 3, 16),
}  # fmt: skip
SAMPLES = 8  # frames whose likeness is looked at
UNLIKE = 26.0  # dB; worse than this is another picture, not a loss of quality


class Encoding(NamedTuple):
    """How videos are prepared.

    Attributes:
        short_side: In pixels, at most.
        codec: A name of `CODECS`.
        quality: The codec's own scale, smaller is better: x264's CRF, or MPEG-4's quantiser.
        gop: Frames from one keyframe to the next.
    """

    short_side: int
    codec: str
    quality: int
    gop: int

    @classmethod
    def of(cls, short_side: int = 256, codec: str = "h264", quality: int | None = None, gop: int | None = None):
        """An encoding with the codec's own quality and GOP where none is given."""
        return cls(short_side, codec, quality or CODECS[codec][2], gop or CODECS[codec][3])


def prepare_video(source: str, target: str, settings: Encoding) -> dict[str, Any]:
    """Writes a video's copy and looks at it.

    Returns:
        num_frames; psnr in dB of RGB, mean over some frames, against the scaled source; bytes_before; bytes.

    Raises:
        DecodeError: The source cannot be decoded to its end, or the copy is not like it.
    """
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    part = str(part_of(Path(target)))
    Path(part).unlink(missing_ok=True)  # what a killed process left, or a link
    if cut := find_cut(source):
        raise DecodeError(source, cut)
    count, samples = write_copy(source, part, settings)
    psnr = _likeness(part, count, samples)
    if psnr < UNLIKE:
        raise DecodeError(source, f"its copy does not look like it ({psnr:.1f} dB)")
    os.replace(part, target)
    return {
        "num_frames": count,
        "psnr": f"{psnr:.2f}",
        "bytes_before": os.path.getsize(source),
        "bytes": os.path.getsize(target),
    }


def write_copy(source: str, target: str, settings: Encoding) -> tuple[int, dict[int, np.ndarray]]:
    """Writes a copy; gives its number of frames, and some of the pictures as they went in, uint8 RGB, by number."""
    name, options, _, _ = CODECS[settings.codec]
    options = {key: value.format(gop=settings.gop) for key, value in options.items()}
    quality = str(settings.quality)
    options |= {"crf": quality} if name == "libx264" else {"qmin": quality, "qmax": quality}
    count, samples = -1, {}  # the encoder's last packets are no picture's
    with create_mp4(Path(target), {"movflags": "faststart"}) as container:

        def packets() -> Iterator[Any]:
            with LibavVideo.opened(source) as video:
                rate, every = Fraction(video.fps or 30).limit_denominator(1001), max(1, video.num_frames // SAMPLES)
                aspect = video.pixel_aspect
            stream: Any = None
            reformatter = VideoReformatter()
            for number, picture in enumerate(scaled(source, settings.short_side, aspect)):
                if stream is None:
                    stream = container.add_stream(name, rate=rate, options=options)
                    stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "yuv420p"
                    stream.codec_context.gop_size, stream.codec_context.thread_count = settings.gop, 1
                    for tag in ("colorspace", "color_range", "color_primaries", "color_trc"):
                        setattr(stream.codec_context, tag, getattr(picture, tag))
                if number % every == 0:
                    samples[number] = np.array(rgb(picture, reformatter))
                picture.pts, picture.time_base, picture.pict_type = number, 1 / rate, 0
                yield stream.encode(picture)
            if stream is None:
                raise DecodeError(source, "no frames")
            yield stream.encode()

        for made in refusing_each(source, packets()):
            container.mux(made)  # that this cannot be written is not the source's fault
            count += 1
    return count, samples


def scaled(source: str, short_side: int, pixel_aspect: float = 1.0) -> Iterator[Any]:
    """The pictures of a video, upright, with square pixels, at the short side asked for and even sizes, as yuv420p.

    Raises:
        DecodeError: A picture is damaged, or made up from others that are missing.
    """
    reformatter = VideoReformatter()
    missing: list[int] = []
    for number, picture in enumerate(decode_all(source, missing)):
        if picture.is_corrupt or missing:
            raise DecodeError(source, f"frame {number} is damaged" if picture.is_corrupt else DROPPED)
        if orientation(picture) == AS_STORED:
            picture = as_progressive(picture)
        else:
            turned = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb(picture, reformatter)), format="rgb24")
            turned.color_range, turned.colorspace = 1, picture.colorspace
            picture = turned
        sides = picture.width * max(1.0, pixel_aspect), picture.height * max(1.0, 1 / pixel_aspect)
        scale = min(1.0, short_side / min(sides))
        width, height = (max(2, 2 * round(side * scale / 2)) for side in sides)
        yield reformatter.reformat(
            picture, width, height, "yuv420p", interpolation="BICUBIC", dst_color_range="MPEG", threads=1
        )


def _likeness(path: str, count: int, samples: dict[int, np.ndarray]) -> float:
    """Mean PSNR of some frames in dB; raises where the copy has another number of frames."""
    with LibavVideo.opened(path) as video:
        if video.num_frames != count:
            raise DecodeError(path, f"has {video.num_frames} frames, its source {count}")
    reformatter, errors, decoded = VideoReformatter(), [], 0
    for decoded, picture in enumerate(decode_all(path), 1):
        if (before := samples.get(decoded - 1)) is not None:
            errors.append(float(np.square(rgb(picture, reformatter).astype(np.float32) - before).mean()))
    if decoded != count:
        raise DecodeError(path, f"{decoded} frames of it can be decoded, its source has {count}")
    return float(np.mean([10 * np.log10(255**2 / max(error, 0.01)) for error in errors]))
