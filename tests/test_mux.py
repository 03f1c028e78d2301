"""The film: exact to the frame, whole or absent, and saying what it should of itself."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import time
import wave
import weakref
from collections.abc import Iterable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from imageio_ffmpeg import count_frames_and_secs

from blockvid_cli.errors import BlockvidError, PartialError, UsageError
from blockvid_cli.storyboard.plan import Plan, PlannedChunk
from blockvid_cli.storyboard.presentation import Audio
from blockvid_cli.video import ffmpeg, mux
from blockvid_cli.video.ffmpeg import exact_rate
from blockvid_cli.video.metadata import (
    COMMENT_BYTES,
    Chapter,
    clip_chapters,
    compact,
    plan_chapters,
    read_metadata,
    read_tags,
    srt,
)
from blockvid_cli.video.mux import write_film

SIZE = 64, 48
BITS = 8
NASTY = 'She said: "a=b; c#d"\\e\\\\f\nStream #0:0\n[CHAPTER]\nDuration: 00:00:01.00\nl\'été 🐘 Ωω 漢字'
LONG = ("x;=#\\" * 100)[:499] + "."
DEV_FULL = Path("/dev/full")


def numbered(total: int, first: int = 0):
    """Frames whose eight vertical bars are the bits of their number."""
    for number in range(first, first + total):
        bars = [255 * (number >> bit & 1) for bit in range(BITS)]
        yield np.repeat(np.tile(np.repeat(np.uint8(bars), 64 // BITS), (48, 1))[:, :, None], 3, axis=2)


def film_of(path: Path, frames: int = 12, fps: float = 12, **options):
    return write_film(numbered(frames), path, fps=fps, size=SIZE, frames_total=frames, **options)


def output(path: Path, *arguments: str) -> bytes:
    """What ffmpeg makes of a film."""
    done = ffmpeg.run_ffmpeg(["-i", str(path), *arguments, "-"])
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def numbers(path: Path) -> list[int]:
    """The numbers of a film's frames, decoded."""
    raw = output(path, "-map", "0:v", "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "gray")
    bars = np.frombuffer(raw, np.uint8).reshape(-1, 48, BITS, 64 // BITS).mean(axis=(1, 3)) > 127
    return [int(number) for number in bars @ (1 << np.arange(BITS))]


def container_seconds(path: Path) -> Fraction:
    """The duration that the mp4 itself states."""
    content = path.read_bytes()
    fields = content[content.index(b"mvhd") + 4 :]
    timescale, duration = (
        struct.unpack(">12xII", fields[:20]) if fields[0] == 0 else struct.unpack(">20xIQ", fields[:32])
    )
    return Fraction(duration, timescale)


def sound(path: Path) -> np.ndarray:
    """A film's samples, mono at 44.1 kHz, in -1..1."""
    raw = output(path, "-map", "0:a", "-f", "s16le", "-ac", "1", "-ar", "44100")
    return np.frombuffer(raw, "<i2") / 32768


@pytest.fixture
def tone(tmp_path):
    def write(seconds: float, name: str = "tone.wav") -> Path:
        samples = 16000 * np.sin(np.arange(round(seconds * 44100)) * 0.05)
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setparams((1, 2, 44100, 0, "NONE", ""))
            file.writeframes(samples.astype("<i2").tobytes())
        return tmp_path / name

    return write


@pytest.fixture
def film(tmp_path):
    (tmp_path / "films").mkdir()
    return tmp_path / "films" / "story.mp4"


# ---- pictures --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fps", "rate", "frames"),
    [
        (12, "12", 50),
        (12.5, "25/2", 50),
        (23.976, "2997/125", 50),
        (24000 / 1001, "24000/1001", 50),
        (24, "24", 50),
        (1.004, "251/250", 200),  # so slow that rounding to 0.01 would lose a frame
    ],
)
def test_every_frame_is_there_once_and_on_time(film, fps, rate, frames):
    made = film_of(film, frames, fps)
    assert numbers(film) == list(range(frames))
    stream = output(film, "-map", "0:v", "-c", "copy", "-f", "framecrc").decode()
    base = Fraction(re.search(r"#tb 0: (\S+)", stream)[1])
    shown = [int(line.split(",")[2]) * base for line in stream.splitlines() if not line.startswith("#")]
    assert shown == [number / Fraction(rate) for number in range(frames)]
    assert made.frames == frames and made.seconds == pytest.approx(frames / Fraction(rate))
    assert made.bytes == film.stat().st_size
    assert abs(container_seconds(film) - frames / Fraction(rate)) < Fraction(1, 1000)


@pytest.mark.parametrize("audio_seconds", [None, 58.7, 61.3])
def test_a_minute_is_a_minute(film, tone, audio_seconds):
    audio = Audio(tone(audio_seconds)) if audio_seconds else None
    chapters = [Chapter(start, start + 4, f"at {start}") for start in range(0, 64, 4)]
    made = film_of(film, 720, audio=audio, chapters=chapters)
    assert count_frames_and_secs(film) == (720, 60.0)
    assert container_seconds(film) == 60
    assert made.seconds == 60
    if audio:
        assert len(sound(film)) == 60 * 44100


def test_it_plays_everywhere(film):
    film_of(film)
    done = subprocess.run([ffmpeg.binary(), "-i", film], capture_output=True, text=True, check=False)
    [video] = [line for line in done.stderr.splitlines() if "Video:" in line]
    assert "h264" in video and "yuv420p(tv, bt709" in video and "64x48" in video
    content = film.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # starts before it is loaded whole
    assert b"moof" not in content


def test_colours_stay(film):
    colour = np.uint8([200, 40, 30])
    frames = (np.tile(colour, (48, 64, 1)) for _ in range(3))
    write_film(frames, film, fps=12, size=SIZE, frames_total=3)
    raw = np.frombuffer(output(film, "-f", "rawvideo", "-pix_fmt", "rgb24"), np.uint8).reshape(-1, 3)
    assert np.abs(raw.mean(axis=0) - colour).max() < 4


def test_a_smaller_crf_is_a_larger_film(film):
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), np.uint8)
    sizes = [write_film(noise, film, fps=12, size=SIZE, frames_total=4, crf=crf).bytes for crf in (10, 40)]
    assert sizes[0] > 2 * sizes[1]


def test_no_more_frames_are_asked_for_than_needed(film):
    source = numbered(100)
    write_film(source, film, fps=12, size=SIZE, frames_total=7)
    assert numbers(film) == list(range(7))
    assert np.array_equal(next(source), next(numbered(1, first=7)))


def test_the_film_can_be_watched_while_it_grows(film):
    seen = []

    def frames():
        for number, frame in enumerate(numbered(200)):
            for _ in range(100 if number == 199 else 0):  # until the encoder has caught up
                with suppress(AssertionError):  # not begun yet
                    seen[:] = numbers(film.with_suffix(".part.mp4"))
                if len(seen) >= 48:
                    break
                time.sleep(0.1)
            yield frame

    write_film(frames(), film, fps=12, size=SIZE, frames_total=200)
    assert 48 <= len(seen) < 200 and seen == list(range(len(seen)))


def test_memory_does_not_grow_with_the_film(film):
    alive: weakref.WeakSet[np.ndarray] = weakref.WeakSet()
    most = 0

    class Frame(np.ndarray):
        __hash__ = object.__hash__

    def frames():
        nonlocal most
        for frame in numbered(120):
            kept = frame.view(Frame)
            alive.add(kept)
            most = max(most, len(alive))
            yield kept

    write_film(frames(), film, fps=12, size=SIZE, frames_total=120)
    assert most <= 3


def test_strange_names(tmp_path):
    for name in ("-film.mp4", "a: b %03d 'c' #.mp4", "dots.in.it.mp4", "UPPER.MP4"):
        film_of(tmp_path / name, 2)
        assert numbers(tmp_path / name) == [0, 1]
    with pytest.raises(UsageError, match=r"story\.mp4; not story\.avi"):
        film_of(tmp_path / "story.avi")


# ---- whole or not at all ---------------------------------------------------------------------------------


@pytest.fixture
def processes(monkeypatch):
    """The ffmpeg processes that encoders started."""
    started = []
    begin = ffmpeg.VideoWriter.__init__

    def recorded(self, *arguments):
        begin(self, *arguments)
        started.append(self._process)

    monkeypatch.setattr(ffmpeg.VideoWriter, "__init__", recorded)
    return started


def test_too_few_frames(film, processes):
    with pytest.raises(BlockvidError, match="5 frames of 12"):
        write_film(numbered(5), film, fps=12, size=SIZE, frames_total=12)
    assert list(film.parent.iterdir()) == []
    assert processes[0].returncode is not None


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit, OSError])
def test_an_error_among_the_frames_passes_through_and_leaves_nothing(film, processes, error):
    film_of(film)
    before = film.read_bytes()

    def frames():
        yield from numbered(5)
        raise error("among the frames")

    with pytest.raises(error, match="among the frames"):
        write_film(frames(), film, fps=12, size=SIZE, frames_total=12)
    assert film.read_bytes() == before
    assert sorted(path.name for path in film.parent.iterdir()) == ["story.mp4", "story.srt"]
    assert all(process.returncode is not None for process in processes)


def test_a_failed_rename_keeps_the_old_film(film, monkeypatch):
    film_of(film, 5)
    before = film.read_bytes()
    rename = os.replace

    def refused(old, new):
        if Path(new) == film:
            raise PermissionError(13, "Permission denied")
        rename(old, new)

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(BlockvidError, match="Permission denied"):
        film_of(film, 7)
    assert film.read_bytes() == before
    assert sorted(path.name for path in film.parent.iterdir()) == ["story.mp4", "story.srt"]


@pytest.mark.skipif(not DEV_FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("stage", [".part.mp4", ".whole.part.mp4"])
@pytest.mark.parametrize("frames", [3, 200])  # noticed at the end, noticed on the way
def test_a_full_disk_is_partial(film, processes, stage, frames, monkeypatch):
    remove, links = mux._remove, [film.with_suffix(stage)]

    def remove_and_link(files: Iterable[Path]) -> None:
        """What was there before is removed; what ffmpeg opens then is on a full disk."""
        remove(files)
        if links:
            links.pop().symlink_to(DEV_FULL)

    monkeypatch.setattr(mux, "_remove", remove_and_link)
    with pytest.raises(PartialError, match="the disk is full") as caught:
        film_of(film, frames)
    assert "the same command" in str(caught.value)
    assert list(film.parent.iterdir()) == []
    assert processes[0].returncode is not None


def test_a_wrong_frame_is_our_mistake(film):
    with pytest.raises(ValueError, match="uint8"):
        write_film([np.zeros((48, 64, 3))], film, fps=12, size=SIZE, frames_total=1)
    assert list(film.parent.iterdir()) == []


# ---- ffmpeg ----------------------------------------------------------------------------------------------


def test_missing_ffmpeg_names_what_mends_it(film, monkeypatch):
    monkeypatch.setenv("FFMPEG_BINARY", "/nowhere/ffmpeg")
    with pytest.raises(BlockvidError, match="pip install --force-reinstall imageio-ffmpeg"):
        film_of(film)
    with pytest.raises(BlockvidError, match="FFMPEG_BINARY"):
        ffmpeg.run_ffmpeg(["-version"])


def test_a_wrong_ffmpeg_setting_is_a_sentence_too():
    code = (
        "from blockvid_cli.errors import BlockvidError; from blockvid_cli.video.ffmpeg import binary\n"
        "try: binary()\nexcept BlockvidError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "FFMPEG_BINARY": "/nowhere/ffmpeg"},
        cwd=Path(ffmpeg.__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("ffmpeg is missing"), done.stderr


HOSTILE = {  # what libraries read in a working folder, and what runs or fails if they do
    ".env": "FFMPEG_BINARY=./evil\nFFPLAY_BINARY=./evil\nIMAGEIO_FFMPEG_EXE=./evil\nHF_ENDPOINT=http://127.0.0.1:9\n",
    "matplotlibrc": "backend: module://evil\ntext.usetex: True\n",
    "sitecustomize.py": "open('ran', 'w')",
    "usercustomize.py": "open('ran', 'w')",
    "evil.py": "open('ran', 'w')",
    "evil": "#!/bin/sh\ntouch ran\n",
    "ffmpeg": "#!/bin/sh\ntouch ran\n",
}
EVERYTHING = """
import os, sys
from pathlib import Path
home, opened = os.getcwd(), []

def watch(event, values):
    if event in ("open", "subprocess.Popen", "os.posix_spawn", "os.exec"):
        path = values[0]
        if not isinstance(path, (str, bytes, os.PathLike)) or (event != "open" and os.sep not in os.fsdecode(path)):
            return  # a file descriptor, or a program that is searched for on PATH
        folder, name = os.path.split(os.path.abspath(os.fsdecode(path)))
        if folder == home and name != "work":
            opened.append(name)

sys.addaudithook(watch)
import importlib, pkgutil, blockvid_cli
for module in pkgutil.walk_packages(blockvid_cli.__path__, "blockvid_cli."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
import numpy as np
from blockvid_cli.evaluation.scores import EvalConfig, score_film
from blockvid_cli.evaluation.tables import plot
from blockvid_cli.video import ffmpeg
from blockvid_cli.video.mux import write_film
film = Path("work/film.mp4").absolute()
write_film([np.full((48, 64, 3), 8 * n, np.uint8) for n in range(30)], film, fps=12, size=(64, 48), frames_total=30)
plot([score_film(film, EvalConfig(segments="2"))], ["film"], film.with_suffix(".png"))
from blockvid_cli.commands.app import app
from blockvid_cli.errors import BlockvidError
for command in (["doctor"], ["models", "list"], ["storyboard", "new", "work/story.yaml"],
                ["storyboard", "check", "work/story.yaml"], ["history", "work/story.yaml"]):
    try:
        app(command, standalone_mode=False)
    except (SystemExit, BlockvidError):
        pass
import matplotlib
print("\\n--")
print(sorted(set(opened)), ffmpeg.binary(), matplotlib.rcParams["text.usetex"])
"""


@pytest.mark.parametrize("interpreter", [["-P", "-c", EVERYTHING], ["-P", "work/everything.py"]], ids=["code", "file"])
def test_no_library_reads_settings_in_the_working_folder(tmp_path, interpreter):
    for name, text in HOSTILE.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "everything.py").write_text(EVERYTHING)
    done = subprocess.run(
        [sys.executable, *interpreter],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    opened = done.stdout.rpartition("--\n")[2]
    assert opened == f"[] {ffmpeg.binary()} False\n"
    assert not (tmp_path / "ran").exists() and not (tmp_path / "work" / "ran").exists()


def test_moviepy_uses_our_ffmpeg_even_where_it_was_imported_before():
    """A program that uses this package may have imported it in a folder with a ``.env``."""
    code = (
        "from moviepy.video.io import ffmpeg_writer\n"
        "from blockvid_cli.video import ffmpeg\n"
        "ffmpeg_writer.FFMPEG_BINARY = './evil'\n"
        "assert ffmpeg.import_writer().FFMPEG_BINARY == ffmpeg.binary()\n"
        "import dotenv\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(ffmpeg.__file__).parents[2], check=False)
    assert done.returncode == 0


def test_moviepy_is_not_imported_before_it_is_needed():
    code = "import sys, blockvid_cli.video.mux, blockvid_cli.video.contact_sheet; sys.exit('moviepy' in sys.modules)"
    root = Path(ffmpeg.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


# ---- sound -----------------------------------------------------------------------------------------------


def loudness(samples: np.ndarray, begin: float, end: float) -> float:
    return float(np.abs(samples[round(begin * 44100) : round(end * 44100)]).max())


def test_sound_is_cut_faded_and_turned_down(film, tone):
    audio = Audio(tone(9), volume=0.5, fade_in=1, fade_out=1)
    film_of(film, 48, audio=audio)
    samples = sound(film)
    assert len(samples) == 4 * 44100
    assert loudness(samples, 1.2, 2.8) == pytest.approx(0.25, abs=0.03)
    assert loudness(samples, 0, 0.1) < 0.05 and loudness(samples, 3.9, 4) < 0.05
    assert 0.1 < loudness(samples, 0.4, 0.6) < 0.2


def test_short_sound_fades_at_its_own_end_and_silence_follows(film, tone):
    film_of(film, 48, audio=Audio(tone(3), start=1, fade_out=1))
    samples = sound(film)
    assert len(samples) == 4 * 44100
    assert loudness(samples, 0, 0.9) == pytest.approx(0.5, abs=0.05)
    assert loudness(samples, 1.85, 1.95) < 0.12
    assert loudness(samples, 2.1, 4) < 0.01


def never():
    pytest.fail("a frame was drawn before the audio was tried")
    yield


@pytest.mark.parametrize("content", [None, b"", b"this is no sound"])
def test_audio_that_cannot_be_used_is_said_before_anything_is_drawn(film, tmp_path, content):
    path = tmp_path / "song.mp3"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BlockvidError, match=r"the audio .*song\.mp3 (does not exist|cannot be played)"):
        write_film(never(), film, fps=12, size=SIZE, frames_total=12, audio=Audio(path))


def test_audio_that_starts_after_its_end(film, tone):
    with pytest.raises(BlockvidError, match="no sound after 5 s"):
        write_film(never(), film, fps=12, size=SIZE, frames_total=12, audio=Audio(tone(2), start=5))


def test_a_film_without_sound_is_no_audio(film, tmp_path):
    silent = tmp_path / "silent.mp4"
    film_of(silent)
    with pytest.raises(BlockvidError, match="cannot be played"):
        film_of(film, audio=Audio(silent))


# ---- captions and tags -----------------------------------------------------------------------------------

CHAPTERS = [
    Chapter(0, 0.5, NASTY),
    Chapter(0.5, 1.25, LONG),
    Chapter(1.25, 2, "ends in \\"),
    Chapter(2, 3, "beyond"),
]


def test_chapters_and_metadata_come_back(film, tone):
    metadata = {
        "storyboard": NASTY,
        "seed": 7,
        "recipe": {"steps": 6},
        "nothing": None,
        LONG: [NASTY, "\x00\\"],
    }
    film_of(film, 24, chapters=CHAPTERS, metadata=metadata, title=NASTY, audio=Audio(tone(3)))
    tags, chapters = read_tags(film)
    assert tags["title"] == NASTY
    assert [chapter.text.rstrip(" ") for chapter in chapters] == [NASTY, LONG, "ends in \\"]
    times = [time for chapter in chapters for time in (chapter.start, chapter.end)]
    assert times == pytest.approx([0, 0.5, 0.5, 1.25, 1.25, 2], abs=0.001)
    assert read_metadata(film) == metadata


@pytest.mark.parametrize("ending", ["\\", "\\\\", "\n", "=", ";", "#", "\\\n"])
def test_a_title_may_end_in_anything(film, ending):
    film_of(film, 2, metadata={"a": 1}, title=f"film{ending}")
    assert read_tags(film)[0]["title"].rstrip(" ") == f"film{ending}"
    assert read_metadata(film) == {"a": 1}


def test_half_a_character_does_no_harm(film):
    film_of(film, 2, chapters=[Chapter(0, 1, "half \ud83d")], metadata={"a": "half \ud83d"}, title="half \ud83d")
    assert read_metadata(film) == {"a": "half \ud83d"}
    assert read_tags(film)[0]["title"] == "half ?"


def test_without_metadata_none_of_it_is_in_the_film(film):
    film_of(film, metadata=None, title="secret title")
    assert read_metadata(film) is None
    assert set(read_tags(film)[0]) <= {"encoder", "major_brand", "minor_version", "compatible_brands"}
    assert b"secret" not in film.read_bytes()


def test_metadata_that_is_too_long_leaves_out_its_longest_entries(film):
    metadata = {"seed": 7, "storyboard": "é" * COMMENT_BYTES, "recipe": "r" * 1000}
    assert len(compact(metadata).encode()) <= COMMENT_BYTES
    film_of(film, 2, metadata=metadata)
    assert read_metadata(film) == {"seed": 7, "recipe": "r" * 1000, "left_out": ["storyboard"]}


def test_metadata_that_just_fits_is_kept_whole(film):
    metadata = {"a": "=" * (COMMENT_BYTES - len('{"a":""}'))}
    film_of(film, 2, metadata=metadata)
    assert read_metadata(film) == metadata


def test_reading_what_is_no_film(tmp_path):
    with pytest.raises(BlockvidError, match="there is no such file"):
        read_metadata(tmp_path / "absent.mp4")
    (tmp_path / "text.mp4").write_text("text")
    with pytest.raises(BlockvidError, match="cannot read this file"):
        read_metadata(tmp_path / "text.mp4")


def test_the_srt_lies_beside_the_film(film):
    film_of(film, 24, chapters=CHAPTERS)
    text = film.with_suffix(".srt").read_text(encoding="utf-8")
    assert "2\n00:00:00,500 --> 00:00:01,250\nx;=#" in text
    assert "beyond" not in text


def test_srt():
    chapters = [
        Chapter(0, 4, "The sun rises"),
        Chapter(4, 8, " two\r\n\r\n\nlines --> \x00here "),
        Chapter(8, 9, "\n \n"),
        Chapter(3661.5, 3662.9996, "late"),
    ]
    assert srt(chapters) == (
        "1\n00:00:00,000 --> 00:00:04,000\nThe sun rises\n\n"
        "2\n00:00:04,000 --> 00:00:08,000\ntwo\nlines → here\n\n"
        "3\n01:01:01,500 --> 01:01:03,000\nlate\n"
    )


def test_chapters_end_with_the_film():
    assert clip_chapters([Chapter(0, 3, "a"), Chapter(3, 6, "b"), Chapter(6, 9, "c")], 5) == [
        Chapter(0, 3, "a"),
        Chapter(3, 5, "b"),
    ]


def test_plan_chapters_a_plan_are_where_the_frames_are():
    chunks = tuple(
        PlannedChunk(number, 1, caption, caption, "", 0.0, 0.0, first, end, 0, 0, 3, 0, False)
        for number, (caption, first, end) in enumerate([("a", 0, 45), ("b", 45, 100), ("c", 100, 120)], start=1)
    )
    plan = Plan(chunks, 12.0, SIZE, (16, 6, 8), 96, 0)
    assert plan_chapters(plan) == [Chapter(0, 3.75, "a"), Chapter(3.75, 8, "b")]


def test_rates_are_what_was_written():
    assert [exact_rate(fps) for fps in (12, 12.5, 23.976, 16)] == [
        12,
        Fraction(25, 2),
        Fraction(2997, 125),
        16,
    ]
