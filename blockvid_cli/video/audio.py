"""The sound of a film: each audio file is cut, brought to its loudness, faded and placed; as long as the film.

    music   |------------------------\\.......|      \\ fades at its own end, silence follows
    rain          |////////////|                    / of chunk 2
    film    |--------------------------------|

A single track without loudness or loop keeps its own sample rate and channels. Otherwise all tracks become 48 kHz
stereo and are added up, and a limiter catches what would be too loud.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from blockvid_cli.errors import BlockvidError
from blockvid_cli.storyboard.presentation import Audio
from blockvid_cli.video.ffmpeg import last_line, run_ffmpeg

RATE = 48_000  # samples per second
STEREO = (  # one channel goes into both at its full strength
    f"aformat=sample_fmts=fltp:sample_rates={RATE}:channel_layouts=stereo|mono,pan=stereo|FL=FL+FC|FR=FR+FC"
)
LIMITER = "alimiter=limit=0.89:level=0:latency=1"  # -1 dB; in step with the frames
SILENCE = -70.0  # LUFS: what EBU R128 does not count


@dataclass(frozen=True)
class AudioTrack:
    """An audio file and the times (seconds from the first frame) between which it may be heard."""

    audio: Audio
    begin: float = 0.0
    end: float = inf


@dataclass(frozen=True)
class AudioClip:
    """A track that was decoded once; all in seconds of the film, title card included.

    Args:
        duration: how long the part of the file lasts, as far as it is heard.
        audible: how long it is heard; longer than ``duration`` where it loops.
        volume: the factor for its samples.
    """

    audio: Audio
    begin: float
    duration: float
    audible: float
    volume: float

    @property
    def keeps_format(self) -> bool:
        """Whether it can keep its own sample rate and channels."""
        return self.audio.loudness is None and not self.audio.loop


def check_audio(tracks: Sequence[AudioTrack], title_seconds: float, film_seconds: float) -> list[AudioClip]:
    """Decodes every file, and returns what is heard in a film of ``film_seconds``, its title card included.

    Raises:
        BlockvidError: a file is missing, holds no sound, or ends before its start.
    """
    times = [
        (track, max(0.0, track.begin + title_seconds), min(track.end + title_seconds, film_seconds)) for track in tracks
    ]
    return [_audio_clip(track.audio, begin, end - begin) for track, begin, end in times if end > begin]


def input_arguments(clips: Sequence[AudioClip]) -> list[str]:
    """ffmpeg's arguments that open the files."""
    return [argument for clip in clips for argument in _open_arguments(clip.audio)]


def output_arguments(clips: Sequence[AudioClip], first: int, film_seconds: float) -> list[str]:
    """ffmpeg's arguments that make exactly ``film_seconds`` of sound of its inputs from number ``first`` on."""
    convert = len(clips) > 1 or not all(clip.keeps_format for clip in clips)
    graph = [f"[{first + n}:a:0]{_filters(clip, convert)}[sound{n}]" for n, clip in enumerate(clips)]
    mix = [f"amix=inputs={len(clips)}:normalize=0:duration=longest"] if len(clips) > 1 else []
    limiter = [LIMITER] if convert else []
    ending = ",".join([*mix, *limiter, f"apad=whole_dur={film_seconds:.6f}", f"atrim=end={film_seconds:.6f}"])
    graph.append("".join(f"[sound{n}]" for n in range(len(clips))) + f"{ending}[sound]")
    return ["-filter_complex", ";".join(graph), "-map", "[sound]", "-c:a", "aac", "-b:a", "192k"]


def _open_arguments(audio: Audio) -> list[str]:
    """Opens the file at its start; local files only, whatever a playlist says."""
    return ["-protocol_whitelist", "file", "-ss", f"{audio.start:.6f}", "-i", str(audio.file.absolute())]


def _audio_clip(audio: Audio, begin: float, seconds: float) -> AudioClip:
    """Decodes the audio for ``seconds`` from ``begin`` on."""
    if not audio.file.is_file():
        raise BlockvidError(f"the audio {audio.file} does not exist.")
    part = seconds if audio.end is None else min(seconds, audio.end - audio.start)
    duration = min(part, _progress_seconds(_decode(audio, part, "-progress", "pipe:1", "-f", "null", "-")))
    if duration <= 0:
        raise BlockvidError(f"the audio {audio.file} has no sound after {audio.start:g} s, where it should start.")
    gain = 0.0 if audio.loudness is None else _gain(audio, duration)
    return AudioClip(audio, begin, duration, seconds if audio.loop else duration, audio.volume * 10 ** (gain / 20))


def _gain(audio: Audio, seconds: float) -> float:
    """Decibels that bring the first ``seconds`` to their loudness; 0 for silence (EBU R128, by ebur128)."""
    meter = f"{STEREO},ebur128=metadata=1,ametadata=mode=print:key=lavfi.r128.I:file=-"
    output = _decode(audio, seconds, "-af", meter, "-f", "null", "-")
    readings = [float(line.partition("=")[2]) for line in output.splitlines() if line.startswith("lavfi.r128.I=")]
    loudness = readings[-1] if readings else SILENCE
    return audio.loudness - loudness if audio.loudness is not None and loudness > SILENCE else 0.0


def _decode(audio: Audio, seconds: float, *arguments: str) -> str:
    """Decodes the first ``seconds`` of an audio file, and returns ffmpeg's standard output."""
    process = run_ffmpeg([*_open_arguments(audio), "-map", "0:a:0", "-t", f"{seconds:.6f}", *arguments])
    if process.returncode != 0:
        reason = last_line(process.stderr.decode("utf-8", "replace"))
        raise BlockvidError(f"the audio {audio.file} cannot be played: {reason}.")
    return process.stdout.decode("utf-8", "replace")


def _filters(clip: AudioClip, convert: bool) -> str:
    """ffmpeg's filter chain for one clip."""
    audio, filters = clip.audio, [STEREO] if convert else []
    filters.append(f"atrim=end={clip.duration:.6f}")
    if clip.audible > clip.duration:
        filters += [f"aloop=loop=-1:size={round(clip.duration * RATE)}", f"atrim=end={clip.audible:.6f}"]
    filters.append(f"volume={clip.volume:.6f}")
    if audio.fade_in > 0:
        filters.append(f"afade=t=in:d={audio.fade_in:.6f}")
    if audio.fade_out > 0:
        begin = max(0.0, clip.audible - audio.fade_out)
        filters.append(f"afade=t=out:st={begin:.6f}:d={clip.audible - begin:.6f}")
    if clip.begin > 0:
        filters.append(f"adelay=delays={clip.begin * 1000:.3f}:all=1")
    return ",".join(filters)


def _progress_seconds(output: str) -> float:
    """The last ``out_time_us`` of ffmpeg's progress output, in seconds."""
    times = [line.partition("=")[2] for line in output.splitlines() if line.startswith("out_time_us=")]
    return int(times[-1]) / 1e6 if times and times[-1].lstrip("-").isdigit() else 0.0
