"""A film as decoded frames, one after another: any container and pixel format that ffmpeg reads, in constant memory.

file -> look_over -> Footage (what it is: frames, rate, size)     the film is decoded once, to be counted
Footage -> frames -> Frame, Frame, ...                            and once more, to be measured

Counting by decoding is slow but sure: containers lie about their frames, or say nothing. One thread decodes, so that
both passes yield the same frames of a damaged file too. ffmpeg is handed bytes without a name, so that no name is taken
for a pattern or a protocol, and opens nothing else, whatever the file asks for.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import SEEK_END, SEEK_SET, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from blockvid_cli.errors import UsageError

if TYPE_CHECKING:
    import av
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

Value = TypeVar("Value")
UNEVEN = 0.25  # of the mean: how far frame durations spread before a film's rate is called variable
GUESSED = 24.0  # frames a second where a file says nothing
LISTS = (b"#EXTM3U", b"ffconcat version", b"<MPD", b"[playlist]")  # how files begin that name others


@dataclass(eq=False)
class Frame:
    """A decoded frame: its number among those measured, and its pixels (H, W, 3) uint8 RGB.

    What is worked out about a frame is kept with it, so that measures that need the same work share it.
    """

    number: int
    rgb: np.ndarray
    cache: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def cached(self, name: Hashable, make: Callable[[], Value]) -> Value:
        """What is kept under a name; made the first time it is asked for."""
        if name not in self.cache:
            self.cache[name] = make()
        return self.cache[name]


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds.

    Args:
        frames: how many are measured: every ``stride``-th of the file's.
        fps: of the frames that are measured.
        seconds: of the whole film.
        size: width and height in pixels, as shown (turned upright).
        notes: what is odd about the file.
    """

    path: Path
    decode_frames: int
    fps: float
    seconds: float
    size: tuple[int, int]
    stride: int = 1
    notes: tuple[str, ...] = ()

    def subsample(self, stride: int | None = None, sample_fps: float | None = None) -> VideoInfo:
        """The same film, of which every ``stride``-th frame is measured, or about ``sample_fps`` a second."""
        stride = stride or (max(1, round(self.fps / sample_fps)) if sample_fps else 1)
        return replace(self, frames=-(-self.decode_frames // stride), fps=self.fps / stride, stride=self.stride * stride)


def scan_video(path: Path) -> VideoInfo:
    """Decodes a film once and says what it is.

    Raises:
        UsageError: there is no such file, or no frame in it can be read.
    """
    clocks, size, changed, spoilt, troubles, notes = (array("d"), array("d")), None, 0, 0, [], []
    with _opened(path) as stream:
        for frame in _decoded(stream, troubles):
            for clock, ticks in zip(clocks, (frame.pts, frame.dts), strict=True):
                clock.append(math.nan if ticks is None else float(ticks * stream.time_base))
            shown = (frame.width, frame.height)[:: -1 if _orientation(frame)[0] else 1]
            size = size or shown
            changed = changed or (len(clocks[0]) if shown != size else 0)
            spoilt += frame.is_corrupt
        raw = stream.container.duration is None and stream.codec_context.framerate  # frames without a container
        declared = float(raw or stream.average_rate or stream.guessed_rate or 0)
    if size is None:
        raise UsageError(f"{path}: no frame in this file can be read; is it a film, and is it whole?")
    count, (fps, uneven) = len(clocks[0]), _rate([np.asarray(clock) for clock in clocks], declared)
    if changed:
        notes.append(f"the size changes at frame {changed}; all frames are brought to the first one's")
    if troubles or spoilt:
        notes.append(f"the file is damaged (faults found while decoding it: {len(troubles) + spoilt})")
    if uneven:
        notes.append(f"the frame rate varies ({fps:.3g} a second on average); frames are measured one after another")
    return VideoInfo(path, count, fps, count / fps, size, notes=tuple(notes))


def frames(footage: VideoInfo) -> Iterator[Frame]:
    """The frames to be measured, in order; as many as were counted, if the file is still the same.

    Raises:
        UsageError: the file is gone, or ffmpeg cannot turn its colours into RGB.
    """
    import av

    with _opened(footage.path) as stream:
        reformatter = av.video.reformatter.VideoReformatter()
        for number, frame in enumerate(_decoded(stream, [])):
            if number % footage.stride == 0:
                try:
                    pixels = _upright(frame, footage.size, reformatter)
                except av.FFmpegError as error:
                    what = f"{frame.format.name}, colour space {int(frame.colorspace)}: {error.strerror}"
                    raise UsageError(f"{footage.path}: ffmpeg cannot turn its colours into RGB ({what}).") from error
                yield Frame(number // footage.stride, pixels)


class _Bytes(FileIO):
    """A file without its name; whoever looks beyond the end of all files, as a damaged index does, finds its end."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.name = "film"

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except OSError:
            return super().seek(0, SEEK_END)


@contextmanager
def _opened(path: Path) -> Iterator[VideoStream]:
    """The moving pictures of a file.

    Raises:
        UsageError: it is not there, is no film, or has none.
    """
    import av

    _check(path)
    with _Bytes(path) as file:
        try:
            container = av.open(file, "r", metadata_errors="replace", container_options={"protocol_whitelist": "none"})
        except (av.FFmpegError, OSError) as error:
            why = f"ffmpeg cannot read this file ({error.strerror}); is it a film, and is it whole?"
            raise UsageError(f"{path}: {why}") from error
        with container:
            yield _pictures(path, container)


def _check(path: Path) -> None:
    """Says what is wrong with a file before ffmpeg sees it.

    Raises:
        UsageError: it is not there, is no file, is empty, may not be read, or is a list of other files.
    """
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"{path}: this is {'a folder' if path.is_dir() else 'no ordinary file'}, not a film.")
        with path.open("rb") as file:
            start = file.read(1024)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise UsageError(f"{path}: this file cannot be read ({error.strerror}).") from error
    if not start:
        raise UsageError(f"{path}: this file is empty.")
    if any(mark in start for mark in LISTS):
        raise UsageError(f"{path}: this is a list of films, not a film; name the films themselves.")


def _pictures(path: Path, container: av.container.InputContainer) -> VideoStream:
    """The largest of a file's films, as ffmpeg chooses too; a cover is none."""
    from av.stream import Disposition

    films = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    known = [stream for stream in films if stream.codec_context]
    if not known:
        raise UsageError(
            f"{path}: {'ffmpeg cannot decode the' if films else 'there are no moving'} pictures in this file."
        )
    stream = max(known, key=lambda stream: stream.codec_context.width * stream.codec_context.height)
    stream.codec_context.thread_count = 1
    return stream


def _decoded(stream: VideoStream, troubles: list[Exception]) -> Iterator[av.VideoFrame]:
    """The frames of a film; what cannot be decoded is left out, and told."""
    import av

    packets, packet = stream.container.demux(stream), None
    while True:
        try:
            packet = next(packets, None)
            found = stream.decode(packet) if packet is None or packet.size else ()  # an empty one would end the film
        except (av.FFmpegError, OSError) as error:
            troubles.append(error)
            found = ()
        except IndexError:  # PyAV's, at the end of a file in which another stream began on the way
            found = ()
        yield from found
        if packet is None:
            return


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """What turns a stored frame upright: swap its axes, then mirror it left to right, then top to bottom."""
    try:
        a, b, _, c, d, *_ = np.frombuffer(frame.side_data["DISPLAYMATRIX"], np.int32).tolist()
    except (KeyError, ValueError):  # there is none, or one beside something that PyAV has no name for
        angle = math.radians(frame.rotation)
        a, b, c, d = math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
    return (True, c < 0, b < 0) if abs(b) > abs(a) else (False, a < 0, d < 0)


def _upright(frame: av.VideoFrame, size: tuple[int, int], reformatter: VideoReformatter) -> np.ndarray:
    """A frame's pixels, upright, in this size; colour is not smoothed at any bit depth, as ffmpeg has it for 8 bits."""
    swap, across, down = _orientation(frame)
    width, height = size[::-1] if swap else size
    how = "POINT" if (frame.width, frame.height) == (width, height) else "BILINEAR"
    pixels = reformatter.reformat(frame, width, height, "rgb24", interpolation=how, threads=1).to_ndarray()
    pixels = pixels.swapaxes(0, 1) if swap else pixels
    return pixels[:: -1 if down else 1, :: -1 if across else 1].copy()


def _rate(clocks: Sequence[np.ndarray], declared: float) -> tuple[float, bool]:
    """Frames a second, and whether their rate varies, from what is declared and when frames are shown and decoded (s).

    The clock that steps back less is right: AVI has none, and what ffmpeg makes up for B-frames is out of order.
    """
    gaps = min((np.diff(clock) for clock in clocks), key=lambda gaps: np.count_nonzero(gaps < 0))
    gaps = gaps[gaps >= 0]  # neither where a joined film begins anew, nor beside a frame without time
    if not gaps.sum():
        return declared or GUESSED, False
    measured = 1 / float(gaps.mean())
    even = float(gaps.std()) <= UNEVEN * float(gaps.mean())
    return (declared if even and declared and abs(declared / measured - 1) < 0.02 else measured), not even
