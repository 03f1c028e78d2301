"""The sounds under a film: each cut, brought to its loudness, faded and laid at its moment; as long as the film.

    music   |------------------------\\.......|      \\ fades at its own end, silence follows
    rain          |////////////|                    / of chunk 2
    film    |--------------------------------|

A single sound that asks for no more is taken as it is, in its own sample rate and channels. Otherwise all become
48 kHz stereo, are added up, and a limiter catches what would be too loud.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from blockvid_cli.errors import BlockvidError
from blockvid_cli.storyboard.presentation import Audio
from blockvid_cli.video.ffmpeg import last_line, run_ffmpeg

RATE = 48_000  # samples a second
SAME = (  # one channel goes into both at its full strength
    f"aformat=sample_fmts=fltp:sample_rates={RATE}:channel_layouts=stereo|mono,pan=stereo|FL=FL+FC|FR=FR+FC"
)
LIMITER = "alimiter=limit=0.89:level=0:latency=1"  # -1 dB; in step with the pictures
SILENCE = -70.0  # LUFS: what EBU R128 does not count


@dataclass(frozen=True)
class Track:
    """A sound and the moments (seconds from the first picture) between which it may be heard."""

    audio: Audio
    begin: float = 0.0
    end: float = inf


@dataclass(frozen=True)
class Sound:
    """A track that was tried: all in seconds of the film, title card included.

    Args:
        once: how long the part of the file lasts, as far as it is heard.
        heard: how long it is heard; longer than ``once`` where it begins again.
        volume: what its samples are multiplied by.
    """

    audio: Audio
    begin: float
    once: float
    heard: float
    volume: float

    @property
    def plain(self) -> bool:
        """Whether it can be taken in its own rate and channels."""
        return self.audio.loudness is None and not self.audio.loop


def try_sounds(tracks: Sequence[Track], before: float, film: float) -> list[Sound]:
    """What is heard in a film of ``film`` seconds, ``before`` of them title card; every file is decoded to tell.

    Raises:
        BlockvidError: a file is missing, holds no sound, or ends before its start.
    """
    places = [(track, max(0.0, track.begin + before), min(track.end + before, film)) for track in tracks]
    return [_tried(track.audio, begin, end - begin) for track, begin, end in places if end > begin]


def inputs(sounds: Sequence[Sound]) -> list[str]:
    """ffmpeg's arguments that open the files."""
    return [argument for sound in sounds for argument in _source(sound.audio)]


def outputs(sounds: Sequence[Sound], first: int, film: float) -> list[str]:
    """ffmpeg's arguments that make exactly ``film`` seconds of sound of its inputs from number ``first`` on."""
    same = len(sounds) > 1 or not all(sound.plain for sound in sounds)
    graph = [f"[{first + n}:a:0]{_chain(sound, same)}[sound{n}]" for n, sound in enumerate(sounds)]
    mixed = [f"amix=inputs={len(sounds)}:normalize=0:duration=longest"] if len(sounds) > 1 else []
    limited = [LIMITER] if same else []
    ending = ",".join([*mixed, *limited, f"apad=whole_dur={film:.6f}", f"atrim=end={film:.6f}"])
    graph.append("".join(f"[sound{n}]" for n in range(len(sounds))) + f"{ending}[sound]")
    return ["-filter_complex", ";".join(graph), "-map", "[sound]", "-c:a", "aac", "-b:a", "192k"]


def _source(audio: Audio) -> list[str]:
    """Opens the file at its start; local files only, whatever a playlist says."""
    return ["-protocol_whitelist", "file", "-ss", f"{audio.start:.6f}", "-i", str(audio.file.absolute())]


def _tried(audio: Audio, begin: float, room: float) -> Sound:
    """The sound in ``room`` seconds from ``begin`` on."""
    if not audio.file.is_file():
        raise BlockvidError(f"the audio {audio.file} does not exist.")
    part = room if audio.end is None else min(room, audio.end - audio.start)
    once = min(part, _progress(_decoded(audio, part, "-progress", "pipe:1", "-f", "null", "-")))
    if once <= 0:
        raise BlockvidError(f"the audio {audio.file} has no sound after {audio.start:g} s, where it should start.")
    gain = 0.0 if audio.loudness is None else _gain(audio, once)
    return Sound(audio, begin, once, room if audio.loop else once, audio.volume * 10 ** (gain / 20))


def _gain(audio: Audio, seconds: float) -> float:
    """Decibels that bring the first ``seconds`` to their loudness; 0 for silence (EBU R128, by ebur128)."""
    printed = f"{SAME},ebur128=metadata=1,ametadata=mode=print:key=lavfi.r128.I:file=-"
    report = _decoded(audio, seconds, "-af", printed, "-f", "null", "-")
    found = [float(line.partition("=")[2]) for line in report.splitlines() if line.startswith("lavfi.r128.I=")]
    measured = found[-1] if found else SILENCE
    return audio.loudness - measured if measured > SILENCE else 0.0


def _decoded(audio: Audio, seconds: float, *arguments: str) -> str:
    """What ffmpeg says on its output while it decodes the first ``seconds`` of a sound."""
    done = run_ffmpeg([*_source(audio), "-map", "0:a:0", "-t", f"{seconds:.6f}", *arguments])
    if done.returncode != 0:
        reason = last_line(done.stderr.decode("utf-8", "replace"))
        raise BlockvidError(f"the audio {audio.file} cannot be played: {reason}.")
    return done.stdout.decode("utf-8", "replace")


def _chain(sound: Sound, same: bool) -> str:
    """ffmpeg's filters for one sound."""
    audio, chain = sound.audio, [SAME] if same else []
    chain.append(f"atrim=end={sound.once:.6f}")
    if sound.heard > sound.once:
        chain += [f"aloop=loop=-1:size={round(sound.once * RATE)}", f"atrim=end={sound.heard:.6f}"]
    chain.append(f"volume={sound.volume:.6f}")
    if audio.fade_in > 0:
        chain.append(f"afade=t=in:d={audio.fade_in:.6f}")
    if audio.fade_out > 0:
        begin = max(0.0, sound.heard - audio.fade_out)
        chain.append(f"afade=t=out:st={begin:.6f}:d={sound.heard - begin:.6f}")
    if sound.begin > 0:
        chain.append(f"adelay=delays={sound.begin * 1000:.3f}:all=1")
    return ",".join(chain)


def _progress(report: str) -> float:
    """The last ``out_time_us`` of ffmpeg's progress report, in seconds."""
    times = [line.partition("=")[2] for line in report.splitlines() if line.startswith("out_time_us=")]
    return int(times[-1]) / 1e6 if times and times[-1].lstrip("-").isdigit() else 0.0
