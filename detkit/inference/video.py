"""Running a detector over the frames of a video.

Objects are not tracked from frame to frame. The sound is not copied.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from detkit.console import Console
from detkit.files import refuse_url, write_atomically
from detkit.inference.images import Options
from detkit.inference.processing import Summary
from detkit.modeling.image_model import RETURN_EVERY, ImageModel
from detkit.modeling.memory import return_free_memory
from detkit.modeling.sources import DRAWING

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".avi": "avi"}  # that are written
VIDEO_SUFFIXES = (*FORMATS, ".webm", ".mpg", ".mpeg", ".wmv", ".ts", ".3gp")  # that are read
COMPLETE = 0.9  # of the length that the header states: what a video must have
QUALITY = {"crf": "20"}  # of H.264, 0 (best) to 51


@dataclass
class VideoSummary(Summary):
    """What became of the frames, which count as images.

    Attributes:
        seconds: the time that all of it took.
    """

    seconds: float = 0.0
    _started: float = field(default_factory=time.monotonic, repr=False)

    def count(self, objects: int) -> None:
        """Note a frame and the objects found in it."""
        self.images, self.objects = self.images + 1, self.objects + objects
        self.seconds = time.monotonic() - self._started

    def speed(self) -> str:
        """ "8.3 frames/s"."""
        return f"{self.images / max(self.seconds, 1e-6):.1f} frames/s"


def is_video(path: str | Path) -> bool:
    """Whether the name is that of a video file."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def drawn_video(film: Path, out: Path) -> Path:
    """The file to write for `--out`: itself if it is the name of a video, else one of the same name in that folder.

    Raises:
        ValueError: a kind of video that is not written.
    """
    if out.is_dir() or not is_video(out):
        return out / f"{film.stem}.mp4"
    if out.suffix.lower() not in FORMATS:
        raise ValueError(f"{out}: videos are written as {', '.join(FORMATS)}")
    return out


def predict_video(model: ImageModel, film: Path, out: Path, options: Options | None = None) -> VideoSummary:
    """Find objects in each frame of a video, and write it with them drawn, at the same times and without sound.

    The file appears when it is complete.

    Args:
        film: what PyAV reads: `pip install "detkit[video]"`.
        out: ends in one of `FORMATS`.

    Raises:
        ValueError: PyAV is missing, the video cannot be read to its end, or `out` exists and is no drawing.
    """
    summary = VideoSummary()
    find = (options or Options()).finder(model, summary)
    with opened_video(film) as (container, stream):
        _check_output(film, out)
        out.parent.mkdir(parents=True, exist_ok=True)

        def write(path: Path) -> None:
            with _Writer(path, FORMATS[out.suffix.lower()], stream) as writer:
                for frame, image in _decoded(container, stream, film):
                    found = find(image)
                    writer.add(found.draw(image, min_score=-1.0), frame)
                    summary.count(len(found))
                    console.progress(_share(frame, stream), f"frame {summary.images}, {summary.speed()}")
                    if summary.images % RETURN_EVERY == 0:
                        return_free_memory()

        console = Console(sys.stderr)
        try:
            write_atomically(out, write)
        finally:
            console.clear()
    return summary


def read_frames(film: str | Path) -> Iterator[Tensor]:
    """The frames of a video, upright, one after the other: uint8 RGB `[3, h, w]`.

    Raises:
        ValueError: PyAV is missing, or the video cannot be read to its end.
    """
    with opened_video(Path(film)) as (container, stream):
        for _, image in _decoded(container, stream, Path(film)):
            yield image


@contextmanager
def opened_video(film: Path) -> Iterator[tuple[Any, Any]]:
    """A video file opened by PyAV, and its first stream of pictures.

    Raises:
        ValueError: see `read_frames`; the message names the file.
    """
    try:
        import av
    except ImportError as error:
        raise ValueError(f'reading {film} needs PyAV: pip install "detkit[video]"') from error
    refuse_url(film, "video")
    if not film.is_file():
        raise ValueError(f"{film} {'is a folder' if film.is_dir() else 'does not exist'}")
    av.logging.set_level(None)
    try:
        container: Any = av.open(str(film))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise ValueError(f"cannot read video {film}: {_reason(error)}") from error
    with container:
        if not container.streams.video:
            raise ValueError(f"cannot read video {film}: it has no pictures")
        container.streams.video[0].thread_type = "AUTO"
        yield container, container.streams.video[0]


def _decoded(container: Any, stream: Any, film: Path) -> Iterator[tuple[Any, Tensor]]:
    """The frames as PyAV has them and as upright images."""
    import av

    frames, number, end = container.decode(stream), 0, 0.0
    while True:
        try:
            frame = next(frames, None)
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"cannot read video {film}: damaged behind frame {number}: {_reason(error)}") from error
        if frame is None:
            break
        number, end = number + 1, frame.time or 0.0
        turns = round(getattr(frame, "rotation", 0) / 90) % 4
        pixels = np.rot90(frame.to_ndarray(format="rgb24"), turns)
        yield frame, torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    if number == 0:
        raise ValueError(f"cannot read video {film}: it has no frame that can be decoded")
    length = _length(container, stream)
    if end < COMPLETE * length - 1 / float(stream.average_rate or 1):
        cut = f"it ends after {end:.1f} of {length:.1f} seconds, as if cut off"
        raise ValueError(f"cannot read video {film}: {cut}; ffmpeg -i {film.name} -c copy NEW{film.suffix} may mend it")


class _Writer:
    """Writes pictures as H.264, or MPEG-4 where PyAV has no encoder for it, at the times of the frames read."""

    def __init__(self, path: Path, kind: str, source: Any):
        import av

        self._container: Any = av.open(str(path), "w", format=kind)
        self._container.metadata["comment"] = DRAWING.decode()
        self._source, self._last = source, -1
        self._stream: Any = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *raised: object) -> None:
        if raised[0] is None and self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()

    def add(self, picture: Image, at: Any) -> None:
        """Write a picture at the time of the frame `at`."""
        import av

        pixels = np.asarray(picture)
        height, width = (side + side % 2 for side in pixels.shape[:2])  # H.264 wants even sides
        pixels = np.pad(pixels, ((0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0)), mode="edge")
        if self._stream is None:
            self._stream = self._new_stream(height, width)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        self._last = max(self._last + 1, at.pts if at.pts is not None else 0)
        frame.pts, frame.time_base = self._last, self._source.time_base
        self._container.mux(self._stream.encode(frame))

    def _new_stream(self, height: int, width: int) -> Any:
        import av

        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        stream = self._container.add_stream(codec, rate=self._source.average_rate or 25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = self._source.time_base
        if codec == "libx264":
            stream.options = QUALITY
        return stream


def _check_output(film: Path, out: Path) -> None:
    """Refuse to replace a file that is no drawn video."""
    if not out.exists():
        return
    import av

    try:
        with av.open(str(out)) as container:
            is_drawn = DRAWING.decode() in container.metadata.values()
    except (av.FFmpegError, OSError, ValueError):
        is_drawn = False
    if not is_drawn or out.resolve() == film.resolve():
        raise ValueError(f"{out} would be overwritten, and is no video of an earlier prediction: choose another --out")


def _length(container: Any, stream: Any) -> float:
    """The seconds that the header of a video states, counted from 0; 0 where it does not, or not of the pictures."""
    if stream.duration:
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base)
    return container.duration / 1e6 if container.duration and len(container.streams) == 1 else 0.0


def _share(frame: Any, stream: Any) -> float:
    """How much of the video is over, in 0..1; 0 where its length is not known."""
    if not stream.duration or frame.pts is None:
        return 0.0
    return min(1.0, max(0.0, (frame.pts - (stream.start_time or 0)) / stream.duration))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
