"""Reads the frames of a video file in constant memory, whatever container and pixel format ffmpeg knows (by PyAV).

    file -> scan_video -> VideoInfo (frames, rate, size)     decodes the film once, to count its frames
    VideoInfo -> decode_frames -> Frame, Frame, ...          decodes it again, for whoever looks at the frames
    file -> read_frames -> pixels, pixels, ...               the same for a file that this program wrote

Counting by decoding is slow but reliable: containers state wrong frame counts, or none. One thread decodes, so that
both passes yield the same frames of a damaged file too. ffmpeg gets bytes without a file name, so that no name is taken
for a pattern or a protocol, and it opens nothing else, whatever the file asks for.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import SEEK_END, SEEK_SET, FileIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from blockvid_cli.errors import BlockvidError, UsageError
from blockvid_cli.files import NotRegularFileError, open_regular_file

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

Value = TypeVar("Value")
MAX_RATE_SPREAD = 0.25  # of the mean: a larger deviation of the frame durations is a variable frame rate
TIME_TOLERANCE = 1e-4  # seconds, of times that containers round
DEFAULT_FPS = 24.0  # where a file states no frame rate
PLAYLIST_MARKS = (b"#EXTM3U", b"ffconcat version", b"<MPD", b"[playlist]")  # how files begin that name others


@dataclass(eq=False)
class Frame:
    """A decoded frame: its number among those that are read, and its pixels (H, W, 3) uint8 RGB.

    Results that were computed from a frame are cached with it, so that metrics that need the same work share it.
    """

    number: int
    rgb: np.ndarray
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    def cached(self, name: Hashable, compute: Callable[[], Value]) -> Value:
        """Returns the cached result of this name; computes it on the first call."""
        if name not in self.cache:
            self.cache[name] = compute()
        return self.cache[name]


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds.

    Args:
        frames: how many frames are read: every ``stride``-th of the file's from ``first`` on.
        fps: of the frames that are read.
        seconds: of the part that is read.
        size: width and height in pixels, as shown (upright).
        first, end: the part of the file's frames that is read; ``end`` is one past the last, None the file's end.
        notes: what is unusual about the file.
    """

    path: Path
    frames: int
    fps: float
    seconds: float
    size: tuple[int, int]
    stride: int = 1
    notes: tuple[str, ...] = ()
    first: int = 0
    end: int | None = None

    def part(self, first: int, end: int) -> VideoInfo:
        """Returns frames ``first`` to ``end`` - 1 of a whole film as a film."""
        return replace(self, frames=end - first, seconds=(end - first) / self.fps, first=first, end=end)

    def subsample(self, stride: int | None = None, sample_fps: float | None = None) -> VideoInfo:
        """Returns the same film of which every ``stride``-th frame is read, or about ``sample_fps`` per second."""
        stride = stride or (max(1, round(self.fps / sample_fps)) if sample_fps else 1)
        return replace(self, frames=-(-self.frames // stride), fps=self.fps / stride, stride=self.stride * stride)


def scan_video(path: Path) -> VideoInfo:
    """Decodes a film once and returns what it is.

    Raises:
        UsageError: there is no such file, or no frame in it can be decoded.
    """
    timestamps, size, resized, corrupt, decode_errors, notes = (array("d"), array("d")), None, 0, 0, [], []
    with open_video(path) as stream:
        for frame in _decode(stream, decode_errors):
            for times, ticks in zip(timestamps, (frame.pts, frame.dts), strict=True):
                times.append(math.nan if ticks is None else float(ticks * (stream.time_base or 0)))
            upright = (frame.height, frame.width) if _orientation(frame)[0] else (frame.width, frame.height)
            size = size or upright
            resized = resized or (len(timestamps[0]) if upright != size else 0)
            corrupt += frame.is_corrupt
        raw_rate = (
            container_of(stream).duration is None and stream.codec_context.framerate
        )  # frames without a container
        declared = float(raw_rate or stream.average_rate or stream.guessed_rate or 0)
    if size is None:
        raise UsageError(f"{path}: no frame in this file can be read; is it a film, and is it whole?")
    count, (fps, variable) = len(timestamps[0]), _frame_rate([np.asarray(times) for times in timestamps], declared)
    if resized:
        notes.append(f"the size changes at frame {resized}; all frames are brought to the first one's")
    if decode_errors or corrupt:
        notes.append(f"the file is damaged (faults found while decoding it: {len(decode_errors) + corrupt})")
    if variable:
        notes.append(f"the frame rate varies ({fps:.3g} a second on average); frames are measured one after another")
    return VideoInfo(path, count, fps, count / fps, size, notes=tuple(notes))


def decode_frames(video: VideoInfo) -> Iterator[Frame]:
    """Yields the frames that are to be read, in order; as many as were counted, unless the file has changed.

    Raises:
        UsageError: the file is gone, or ffmpeg cannot convert its colours to RGB.
    """
    import av

    with open_video(video.path) as stream:
        reformatter = av.video.reformatter.VideoReformatter()
        for number, frame in enumerate(islice(_decode(stream, []), video.first, video.end)):
            if number % video.stride == 0:
                try:
                    pixels = _rgb(frame, video.size, reformatter)
                except av.FFmpegError as error:
                    what = f"{frame.format.name}, colour space {int(frame.colorspace)}: {error.strerror}"
                    raise UsageError(f"{video.path}: ffmpeg cannot turn its colours into RGB ({what}).") from error
                yield Frame(number // video.stride, pixels)


def read_frames(path: Path, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yields the frames (H, W, 3) uint8 of a file that ``encode_video`` wrote; ``size`` is width and height.

    Raises:
        BlockvidError: the file is missing or damaged; frames before the damage have been yielded by then.
    """
    import av

    decode_errors: list[Exception] = []
    try:
        with open_video(path) as stream:
            reformatter = av.video.reformatter.VideoReformatter()
            for frame in _decode(stream, decode_errors):
                if decode_errors:
                    break
                yield _rgb(frame, size, reformatter)
    except UsageError as error:
        raise BlockvidError(f"the frames in {path} cannot be read: {error}") from error
    if decode_errors:
        raise BlockvidError(f"the frames in {path} cannot be read: the file is damaged.")


def frames_at(path: Path, fps: float, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yields frames (H, W, 3) uint8 at a constant rate: at each time, the last one that is shown by then.

    Frames are scaled to cover ``size``, width and height, and cropped around the middle. Times are those of the file,
    so that a varying frame rate does not shift anything; a frame without a time follows the one before it.

    Raises:
        UsageError: there is no such file, or no frame in it can be decoded.
    """
    import av

    reformatter = av.video.reformatter.VideoReformatter()
    start, latest, shown, count = None, 0.0, None, 0
    with open_video(path) as stream:
        declared = float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
        for frame in _decode(stream, []):
            time = latest + 1 / declared if frame.pts is None else float(frame.pts * (stream.time_base or 0))
            start = time if start is None else start
            latest = max(time, latest)
            while shown is not None and count / fps < latest - start - TIME_TOLERANCE:
                yield shown
                count += 1
            shown = _cover(frame, size, reformatter)
    if shown is None:
        raise UsageError(f"{path}: no frame in this file can be read; is it a film, and is it whole?")
    for _ in range(max(round((latest - (start or 0.0) + 1 / declared) * fps) - count, 0 if count else 1)):
        yield shown


def _cover(frame: av.VideoFrame, size: tuple[int, int], reformatter: VideoReformatter) -> np.ndarray:
    """Upright pixels that fill a size, without distortion."""
    stored = (frame.height, frame.width) if _orientation(frame)[0] else (frame.width, frame.height)
    scale = max(side / own for side, own in zip(size, stored, strict=True))
    width, height = (max(round(own * scale), side) for side, own in zip(size, stored, strict=True))
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    return _rgb(frame, (width, height), reformatter)[top : top + size[1], left : left + size[0]]


class _AnonymousFile(FileIO):
    """A file without its name; seeking beyond the largest possible file, as a damaged index does, ends at its end."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.name = "film"

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except OSError:
            return super().seek(0, SEEK_END)


@contextmanager
def open_video(path: Path) -> Iterator[VideoStream]:
    """Opens the video stream of a file.

    Raises:
        UsageError: the file is missing, is no film, or has no video stream.
    """
    import av

    _check(path)
    with _AnonymousFile(path) as file:
        try:
            container = av.open(file, "r", metadata_errors="replace", container_options={"protocol_whitelist": "none"})
        except (av.FFmpegError, OSError) as error:
            why = f"ffmpeg cannot read this file ({error.strerror}); is it a film, and is it whole?"
            raise UsageError(f"{path}: {why}") from error
        with container:
            yield _largest_stream(path, container)


def _check(path: Path) -> None:
    """Checks a file before ffmpeg opens it.

    Raises:
        UsageError: it is missing, is not a regular file, is empty, may not be read, or is a list of other files.
    """
    try:
        with open_regular_file(path) as file:
            start = file.read(1024)
    except IsADirectoryError as error:
        raise UsageError(f"{path}: this is a folder, not a film.") from error
    except NotRegularFileError as error:
        raise UsageError(f"{path}: this is {error.strerror}, not a film.") from error
    except FileNotFoundError as error:
        raise UsageError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise UsageError(f"{path}: this file cannot be read ({error.strerror}).") from error
    if not start:
        raise UsageError(f"{path}: this file is empty.")
    if any(mark in start for mark in PLAYLIST_MARKS):
        raise UsageError(f"{path}: this is a list of films, not a film; name the films themselves.")


def _largest_stream(path: Path, container: av.container.InputContainer) -> VideoStream:
    """Returns the video stream with the most pixels, as ffmpeg does too; cover pictures do not count."""
    from av.stream import Disposition

    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    decodable = [stream for stream in streams if stream.codec_context]
    if not decodable:
        raise UsageError(
            f"{path}: {'ffmpeg cannot decode the' if streams else 'there are no moving'} pictures in this file."
        )
    stream = max(decodable, key=lambda stream: stream.codec_context.width * stream.codec_context.height)
    stream.codec_context.thread_count = 1
    return stream


def container_of(stream: VideoStream) -> InputContainer:
    """The file a stream is read from."""
    return cast("InputContainer", stream.container)


def _decode(stream: VideoStream, errors: list[Exception]) -> Iterator[av.VideoFrame]:
    """Yields the frames of a stream; packets that cannot be decoded are skipped, and their errors collected."""
    import av

    packets, packet = container_of(stream).demux(stream), None
    while True:
        try:
            packet = next(packets, None)
            frames = stream.decode(packet) if packet is None or packet.size else ()  # an empty one would end the film
        except (av.FFmpegError, OSError) as error:
            errors.append(error)
            frames = ()
        except IndexError:  # PyAV's, at the end of a file in which another stream began on the way
            frames = ()
        yield from frames
        if packet is None:
            return


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """What turns a stored frame upright: swap its axes, then mirror it left to right, then top to bottom."""
    try:
        matrix = frame.side_data["DISPLAYMATRIX"]  # type: ignore[typeddict-item]  # PyAV's stubs lack it
        a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).tolist()
    except (KeyError, ValueError):  # there is none, or one beside an entry that PyAV has no name for
        angle = math.radians(frame.rotation)
        a, b, c, d = math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
    return (True, c < 0, b < 0) if abs(b) > abs(a) else (False, a < 0, d < 0)


def _rgb(frame: av.VideoFrame, size: tuple[int, int], reformatter: VideoReformatter) -> np.ndarray:
    """Returns upright pixels of this size; chroma is not smoothed at any bit depth, as ffmpeg does for 8 bits."""
    swap, mirror, flip = _orientation(frame)
    width, height = size[::-1] if swap else size
    how = "POINT" if (frame.width, frame.height) == (width, height) else "BILINEAR"
    pixels = reformatter.reformat(frame, width, height, "rgb24", interpolation=how, threads=1).to_ndarray()
    pixels = pixels.swapaxes(0, 1) if swap else pixels
    return pixels[:: -1 if flip else 1, :: -1 if mirror else 1].copy()


def _frame_rate(timestamps: Sequence[np.ndarray], declared: float) -> tuple[float, bool]:
    """Returns frames per second and whether the rate varies, from presentation and decoding times in seconds.

    The times that step back less often are right: AVI has none, and what ffmpeg makes up for B-frames is out of order.
    """
    gaps = min((np.diff(times) for times in timestamps), key=lambda gaps: np.count_nonzero(gaps < 0))
    gaps = gaps[gaps >= 0]  # neither where a joined film begins anew, nor beside a frame without time
    if not gaps.sum():
        return declared or DEFAULT_FPS, False
    measured = 1 / float(gaps.mean())
    even = float(gaps.std()) <= MAX_RATE_SPREAD * float(gaps.mean())
    return (declared if even and declared and abs(declared / measured - 1) < 0.02 else measured), not even
