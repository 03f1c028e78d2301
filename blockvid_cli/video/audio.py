"""The sound of a film: each audio file is cut, brought to its loudness, faded, placed and added; as long as the film.

    music   |------------------------\\.......|      \\ fades at its own end, silence follows
    rain          |////////////|                    / of chunk 2
    film    |--------------------------------|

A single track without loudness or loop keeps its own sample rate and channels. Otherwise all tracks become 48 kHz
stereo and are added up, and a limiter catches what would be too loud. Where the film's own sound has a loudness, the
sum is brought to it too, because every sound that is added makes the film louder.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from math import inf

from blockvid_cli.errors import BlockvidError
from blockvid_cli.storyboard.presentation import Audio
from blockvid_cli.storyboard.seconds import format_clock
from blockvid_cli.video.ffmpeg import last_line, open_arguments, run_ffmpeg

RATE = 48_000  # samples per second
STEREO = (  # one channel goes into both at its full strength
    f"aformat=sample_fmts=fltp:sample_rates={RATE}:channel_layouts=stereo|mono,pan=stereo|FL=FL+FC|FR=FR+FC"
)
LIMITER = "alimiter=limit=0.89:level=0:latency=1"  # -1 dB; in step with the frames
FORMATS = (  # of files that hold their own sound, as ffmpeg names them
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dts,eac3,flac,flv,loas,matroska,mov,mp3,mpeg,mpegts,mpc,mpc8,nut,ogg,oma,tta"
    ",voc,w64,wav,wv"
)
METER = "ebur128=metadata=1,ametadata=mode=print:key=lavfi.r128.I:file=-"
LEAST_SILENCE = 1.0  # seconds at the end of a film that are noted
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


@dataclass(frozen=True)
class SoundMix:
    """The sound of a film that lasts ``seconds``: its clips, and the factor for their sum."""

    clips: tuple[AudioClip, ...]
    seconds: float
    volume: float = 1.0

    def input_arguments(self) -> list[str]:
        """ffmpeg's arguments that open the files."""
        return [argument for clip in self.clips for argument in _open_arguments(clip.audio)]

    def output_arguments(self, first: int) -> list[str]:
        """ffmpeg's arguments that make exactly ``seconds`` of sound of its inputs from number ``first`` on."""
        limiter = LIMITER if self.converts else ""
        graph = self.filter_graph(first, f"volume={self.volume:.6f}" if self.volume != 1 else "", limiter)
        return ["-filter_complex", graph, "-map", "[sound]", "-c:a", "aac", "-b:a", "192k"]

    @property
    def converts(self) -> bool:
        """Whether its clips become 48 kHz stereo."""
        return len(self.clips) > 1 or not all(clip.keeps_format for clip in self.clips)

    def filter_graph(self, first: int, *filters: str) -> str:
        """ffmpeg's graph from its inputs from number ``first`` on to ``[sound]``: the sum, filtered."""
        numbers = range(len(self.clips))
        graph = [f"[{first + n}:a:0]{_filters(clip, self.converts)}[sound{n}]" for n, clip in enumerate(self.clips)]
        mix = f"amix=inputs={len(self.clips)}:normalize=0:duration=longest" if len(self.clips) > 1 else ""
        ending = [mix, *filters, f"apad=whole_dur={self.seconds:.6f}", f"atrim=end={self.seconds:.6f}"]
        graph.append("".join(f"[sound{n}]" for n in numbers) + ",".join(filter(None, ending)) + "[sound]")
        return ";".join(graph)


def check_audio(
    tracks: Sequence[AudioTrack], title_seconds: float, film_seconds: float, loudness: float | None = None
) -> SoundMix:
    """Decodes every file, and returns what is heard in a film of ``film_seconds``, its title card included.

    Args:
        loudness: LUFS that the sum of several sounds is brought to; None leaves it as it is.

    Raises:
        BlockvidError: a file is missing, holds no sound, or ends before its start.
    """
    times = [
        (track, max(0.0, track.begin + title_seconds), min(track.end + title_seconds, film_seconds)) for track in tracks
    ]
    clips = [_audio_clip(track.audio, begin, end - begin) for track, begin, end in times if end > begin]
    mix = SoundMix(tuple(clips), film_seconds)
    if loudness is None or len(clips) < 2:
        return mix
    graph = mix.filter_graph(0, METER)
    process = run_ffmpeg([*mix.input_arguments(), "-filter_complex", graph, "-map", "[sound]", "-f", "null", "-"])
    return replace(mix, volume=_volume(process.stdout.decode("utf-8", "replace"), loudness))


def early_end(audio: Audio | None, title_seconds: float, film_seconds: float) -> str:
    """A sentence if the film's own sound ends at least a second before the film; "" if not, or if it is to end there.

    A sound that cannot be played is no matter of this sentence: ``check_audio`` raises its error.
    """
    if audio is None or audio.loop or audio.duration is not None or audio.end is not None:
        return ""
    begin = max(0.0, audio.at + title_seconds)
    with suppress(BlockvidError):
        end = begin + _audio_clip(replace(audio, loudness=None), begin, film_seconds - begin).duration
        if end <= film_seconds - LEAST_SILENCE:
            times = f"{format_clock(Fraction(round(end)))} of {format_clock(Fraction(round(film_seconds)))}"
            return f"audio: {audio.file.name} ends at {times}, and silence follows; 'loop: true' repeats it."
    return ""


def _open_arguments(audio: Audio) -> list[str]:
    """Opens the file at its start."""
    return ["-ss", f"{audio.start:.6f}", *open_arguments(audio.file, FORMATS)]


def _audio_clip(audio: Audio, begin: float, seconds: float) -> AudioClip:
    """Decodes the audio for ``seconds`` from ``begin`` on."""
    if not audio.file.is_file():
        raise BlockvidError(f"the audio {audio.file} does not exist.")
    part = seconds if audio.end is None else min(seconds, audio.end - audio.start)
    duration = min(part, _progress_seconds(_decode(audio, part, "-progress", "pipe:1", "-f", "null", "-")))
    if duration <= 0:
        raise BlockvidError(f"the audio {audio.file} has no sound after {audio.start:g} s, where it should start.")
    volume = audio.volume
    if audio.loudness is not None:
        volume *= _volume(_decode(audio, duration, "-af", f"{STEREO},{METER}", "-f", "null", "-"), audio.loudness)
    return AudioClip(audio, begin, duration, seconds if audio.loop else duration, volume)


def _volume(readings: str, loudness: float) -> float:
    """The factor that brings a sound to its loudness (LUFS) by what ``METER`` said of it; 1 for silence."""
    values = [float(line.partition("=")[2]) for line in readings.splitlines() if line.startswith("lavfi.r128.I=")]
    return 10 ** ((loudness - values[-1]) / 20) if values and values[-1] > SILENCE else 1.0


def _decode(audio: Audio, seconds: float, *arguments: str) -> str:
    """Decodes the first ``seconds`` of an audio file, and returns ffmpeg's standard output."""
    process = run_ffmpeg([*_open_arguments(audio), "-map", "0:a:0", "-t", f"{seconds:.6f}", *arguments])
    if process.returncode != 0:
        stderr = process.stderr.decode("utf-8", "replace")
        if "Format not on whitelist" in stderr:
            remedy = "name a file that holds its own sound, like .wav, .flac, .mp3, .m4a or .ogg"
            raise BlockvidError(f"{audio.file} is a list of other files, or no format of sound; {remedy}.")
        reason = last_line(stderr)
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
