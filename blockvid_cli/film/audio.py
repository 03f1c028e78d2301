"""The storyboard's sound under the film: cut to its length, faded, padded with silence."""

from __future__ import annotations

from blockvid_cli.errors import BlockvidError
from blockvid_cli.film.ffmpeg import last_line, run_ffmpeg
from blockvid_cli.story.storyboard import Audio


def source(audio: Audio) -> list[str]:
    """ffmpeg's arguments that open the file at its start; local files only, whatever a playlist says."""
    return ["-protocol_whitelist", "file", "-ss", f"{audio.start:.6f}", "-i", str(audio.file.absolute())]


def audible_seconds(audio: Audio, film: float) -> float:
    """How many seconds of sound there are for a film of ``film`` seconds, by decoding them.

    Raises:
        BlockvidError: the file is missing, holds no sound, or ends before its start.
    """
    if not audio.file.is_file():
        raise BlockvidError(f"the audio {audio.file} does not exist.")
    to_nowhere = ["-map", "0:a:0", "-t", f"{film:.6f}", "-progress", "pipe:1", "-f", "null", "-"]
    done = run_ffmpeg([*source(audio), *to_nowhere])
    if done.returncode != 0:
        reason = last_line(done.stderr.decode("utf-8", "replace"))
        raise BlockvidError(f"the audio {audio.file} cannot be played: {reason}.")
    seconds = _progress(done.stdout.decode("utf-8", "replace"))
    if seconds <= 0:
        raise BlockvidError(f"the audio {audio.file} has no sound after {audio.start:g} s, where it should start.")
    return min(seconds, film)


def filters(audio: Audio, audible: float, film: float) -> str:
    """ffmpeg's filters: exactly ``film`` seconds of sound, of which the first ``audible`` are not silence."""
    chain = [f"atrim=end={film:.6f}", f"volume={audio.volume:.6f}"]
    if audio.fade_in > 0:
        chain.append(f"afade=t=in:d={audio.fade_in:.6f}")
    if audio.fade_out > 0:
        begin = max(0.0, audible - audio.fade_out)
        chain.append(f"afade=t=out:st={begin:.6f}:d={audible - begin:.6f}")
    return ",".join([*chain, f"apad=whole_dur={film:.6f}"])


def _progress(report: str) -> float:
    """The last ``out_time_us`` of ffmpeg's progress report, in seconds."""
    times = [line.partition("=")[2] for line in report.splitlines() if line.startswith("out_time_us=")]
    return int(times[-1]) / 1e6 if times and times[-1].lstrip("-").isdigit() else 0.0
