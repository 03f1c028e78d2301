"""Sounds under a film: where they lie, how loud they are, and that the film is as long as its pictures."""

from __future__ import annotations

import wave
from dataclasses import replace
from itertools import product
from math import inf
from pathlib import Path

import numpy as np
import pytest
from imageio_ffmpeg import count_frames_and_secs

from blockvid_cli.errors import BlockvidError
from blockvid_cli.job import RenderRequest, prepare
from blockvid_cli.models.card import find_card
from blockvid_cli.storyboard.plan import make_plan
from blockvid_cli.storyboard.presentation import Audio, Subtitles, TitleCard
from blockvid_cli.storyboard.storyboard import read_storyboard
from blockvid_cli.video.audio import AudioTrack
from blockvid_cli.video.ffmpeg import run_ffmpeg
from blockvid_cli.video.metadata import Chapter
from blockvid_cli.video.mux import check_video_spec, mux_film, write_video
from blockvid_cli.video.spec import VideoSpec, video_spec
from tests.test_mux import output

RATE = 44100
SIZE = 64, 48


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Four seconds of kept pictures, twelve a second."""
    path = tmp_path_factory.mktemp("kept") / "pictures.mp4"
    frames = (np.full((48, 64, 3), 5 * number, np.uint8) for number in range(48))
    write_video(frames, path, fps=12, size=SIZE, frames_total=48, crf=12)
    return path


@pytest.fixture
def tone(tmp_path):
    """Writes a tone of some hertz; ``on`` seconds of every second are heard."""

    def write(hertz: float = 440, seconds: float = 9, level: float = 0.2, on: float = 1, channels: int = 1) -> Path:
        times = np.arange(round(seconds * RATE)) / RATE
        samples = level * np.sin(2 * np.pi * hertz * times) * (times % 1 < on)
        path = tmp_path / f"{hertz}-{seconds}-{level}-{on}-{channels}.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((channels, 2, RATE, 0, "NONE", ""))
            file.writeframes(np.repeat((samples * 32767).astype("<i2"), channels).tobytes())
        return path

    return write


def film_with(pictures: Path, folder: Path, *tracks: AudioTrack, **fields: object) -> Path:
    film = folder / "film.mp4"
    mux_film(pictures, film, VideoSpec(12, SIZE, 48, tracks=tracks, **fields))
    return film


def heard(film: Path) -> np.ndarray:
    """Samples, mono at 44.1 kHz."""
    raw = output(film, "-map", "0:a", "-f", "f32le", "-af", "pan=mono|c0=c0", "-ar", str(RATE))
    return np.frombuffer(raw, "<f4")


def strength(samples: np.ndarray, hertz: float, begin: float, end: float) -> float:
    """Amplitude of a tone between two moments."""
    part = samples[round(begin * RATE) : round(end * RATE)]
    return float(2 * abs(np.mean(part * np.exp(-2j * np.pi * hertz * np.arange(len(part)) / RATE))))


def edges(samples: np.ndarray) -> list[float]:
    """When sound begins and ends, in turn, in seconds."""
    loud = np.abs(samples).reshape(-1, RATE // 100).max(1) > 0.05
    return [round((n + 1) / 100, 2) for n in np.flatnonzero(np.diff(loud))]


def lufs(path: Path) -> float:
    """Integrated loudness (EBU R128) as ffmpeg measures it."""
    printed = "ebur128=metadata=1,ametadata=mode=print:key=lavfi.r128.I:file=-"
    said = run_ffmpeg(["-i", str(path), "-af", printed, "-f", "null", "-"]).stdout.decode()
    return float(said.splitlines()[-1].partition("=")[2])


def test_a_sound_lies_where_it_is_said_to(pictures, tmp_path, tone):
    film = film_with(pictures, tmp_path, AudioTrack(Audio(tone()), 1.5, 2.5))
    samples = heard(film)
    assert len(samples) == 4 * RATE
    assert edges(samples) == pytest.approx([1.5, 2.5], abs=0.03)


def test_a_part_of_a_sound(pictures, tmp_path, tone):
    assert edges(heard(film_with(pictures, tmp_path, AudioTrack(Audio(tone(), start=2, end=3.5))))) == pytest.approx(
        [1.5], abs=0.03
    )


def test_a_loop_begins_again_without_a_gap(pictures, tmp_path, tone):
    beeps = heard(film_with(pictures, tmp_path, AudioTrack(Audio(tone(seconds=1, on=0.25), loop=True))))
    assert edges(beeps) == pytest.approx([0.25, 1, 1.25, 2, 2.25, 3, 3.25], abs=0.03)
    steady = heard(film_with(pictures, tmp_path, AudioTrack(Audio(tone(440, 9), end=0.5, loop=True), 1, 3)))
    assert edges(steady) == pytest.approx([1, 3], abs=0.03)


@pytest.mark.parametrize(("target", "level", "channels"), [(-16, 0.02, 1), (-23, 0.9, 2), (-16, 0.5, 2)])
def test_loudness_is_what_was_asked_for(pictures, tmp_path, tone, target, level, channels):
    audio = Audio(tone(level=level, channels=channels, on=0.5), loudness=target)
    assert lufs(film_with(pictures, tmp_path, AudioTrack(audio))) == pytest.approx(target, abs=1)


def test_loudness_is_that_of_what_is_heard_and_volume_comes_on_top(pictures, tmp_path, tone):
    audio = Audio(tone(), start=2, end=8, loudness=-20, volume=0.5)
    assert lufs(film_with(pictures, tmp_path, AudioTrack(audio))) == pytest.approx(-26, abs=1)


@pytest.mark.parametrize(("volume", "expected"), [(1, -16), (0.5, -22)])
def test_the_sounds_of_chunks_do_not_make_a_film_louder_than_was_asked_for(pictures, tmp_path, tone, volume, expected):
    (tmp_path / "music.wav").write_bytes(tone(440).read_bytes())
    (tmp_path / "rain.wav").write_bytes(tone(1000, level=0.9, channels=2).read_bytes())
    story = tmp_path / "story.yaml"
    story.write_text(
        f"fps: 12\nchunk: 48f\naudio: {{file: music.wav, loudness: -16, volume: {volume}}}\n"
        "chunks: [{caption: a, audio: {file: rain.wav, volume: 0.5}}]\n"
    )
    storyboard = read_storyboard(story)
    plan = make_plan(storyboard, find_card("storybook"), seed=0)
    mux_film(pictures, tmp_path / "film.mp4", replace(video_spec(storyboard, plan), size=SIZE, frames=48))
    assert lufs(tmp_path / "film.mp4") == pytest.approx(expected, abs=0.5)


def test_silence_has_no_loudness_to_change(pictures, tmp_path, tone):
    assert np.abs(heard(film_with(pictures, tmp_path, AudioTrack(Audio(tone(level=0), loudness=-16))))).max() < 0.001


def test_sounds_are_added_up_and_none_grows_quieter(pictures, tmp_path, tone):
    tracks = AudioTrack(Audio(tone(440, level=0.3))), AudioTrack(Audio(tone(1000, level=0.2, channels=2)), 1, 3)
    samples = heard(film_with(pictures, tmp_path, *tracks))
    for begin, end in ((0.1, 0.9), (1.2, 2.8), (3.2, 3.9)):
        assert strength(samples, 440, begin, end) == pytest.approx(0.3, rel=0.05)
    assert strength(samples, 1000, 1.2, 2.8) == pytest.approx(0.2, rel=0.1)
    assert max(strength(samples, 1000, 0.1, 0.9), strength(samples, 1000, 3.2, 3.9)) < 0.01


def test_what_is_too_loud_together_is_limited(pictures, tmp_path, tone):
    tracks = [AudioTrack(Audio(tone(hertz, level=0.9))) for hertz in (440, 550, 660)]
    assert 0.8 < np.abs(heard(film_with(pictures, tmp_path, *tracks))).max() < 1


def test_sounds_wait_for_the_title_card(pictures, tmp_path, tone):
    card = TitleCard("A film", 1.0)
    audio = Audio(tone())
    assert edges(heard(film_with(pictures, tmp_path, AudioTrack(audio, 0.5, 2), title_card=card))) == pytest.approx(
        [1.5, 3], abs=0.03
    )
    early = heard(film_with(pictures, tmp_path, AudioTrack(audio, -0.5, 2), title_card=card))
    assert edges(early) == pytest.approx([0.5, 3], abs=0.03)


CHAPTERS = (Chapter(0, 2, "one"), Chapter(2, 4, "two"))


@pytest.mark.parametrize(
    ("subtitles", "cards", "sounds"), [*product(["beside", "none", "soft", "burned"], [0, 1], [0, 2]), ("soft", 2, 1)]
)
def test_a_film_lasts_as_long_as_its_pictures_and_cards(pictures, tmp_path, tone, subtitles, cards, sounds):
    """No sound makes it longer or shorter; chapters cover it."""
    tracks = (AudioTrack(Audio(tone(seconds=2.7), fade_out=1)), AudioTrack(Audio(tone(880, 9)), 3, inf))[:sounds]
    title, end = (TitleCard("A film", 0.75), TitleCard("The end", 1.0)) if cards == 2 else (None, None)
    title = TitleCard("A film", 0.75) if cards else title
    spec = VideoSpec(12, SIZE, 48, CHAPTERS, (), tracks, subtitles=Subtitles(subtitles), title_card=title, end_card=end)
    film = mux_film(pictures, tmp_path / "film.mp4", spec)
    frames = 48 + (9 if cards else 0) + (12 if cards == 2 else 0)
    assert (film.frames, film.seconds) == (frames, frames / 12)
    assert count_frames_and_secs(film.path) == (frames, round(frames / 12, 2))
    if sounds:
        assert len(heard(film.path)) == frames / 12 * RATE


def test_the_pictures_are_copied_when_only_sounds_change(pictures, tmp_path, tone):
    def packets(path):
        lines = output(path, "-map", "0:v", "-c", "copy", "-f", "framecrc").decode().splitlines()
        return [line.split(",")[4:] for line in lines if not line.startswith("#")]

    film = film_with(
        pictures, tmp_path, AudioTrack(Audio(tone())), AudioTrack(Audio(tone(880))), subtitles=Subtitles("soft")
    )
    assert packets(film) == packets(pictures)


def test_sounds_that_cannot_be_used_are_said_beforehand(tmp_path, tone):
    with pytest.raises(BlockvidError, match=r"none\.ogg does not exist"):
        check_video_spec(VideoSpec(12, SIZE, 48, tracks=(AudioTrack(Audio(tmp_path / "none.ogg")),)))
    with pytest.raises(BlockvidError, match="no sound after 9 s"):
        check_video_spec(VideoSpec(12, SIZE, 48, tracks=(AudioTrack(Audio(tone(seconds=3), start=9, loop=True)),)))


def test_a_chunks_sound_begins_and_ends_with_it(tmp_path, tone):
    file = tone().name
    story = f"""
audio: {{file: {file}, at: 1, duration: 2.5}}
title_card: Three
chunks:
  - a
  - {{caption: b, audio: {file}}}
  - {{caption: c, audio: {{file: {file}, at: -1s, start: 2, end: 3}}}}
  - {{caption: d, audio: {{file: {file}, at: 0.5, duration: 6, loop: true}}}}
"""
    (tmp_path / "story.yaml").write_text(story)
    storyboard = read_storyboard(tmp_path / "story.yaml")
    plan = make_plan(storyboard, find_card("storybook").model_copy(update={"fps": 12.0, "block": 3}), seed=0)
    spec = video_spec(storyboard, plan)
    assert [chunk.first_frame / 12 for chunk in plan.chunks] == [0, 3.75, 7.75, 11.75]
    spans = [(track.begin, track.end) for track in spec.tracks]
    assert spans == [(1, 3.5), (3.75, 7.75), (6.75, inf), (12.25, 18.25)]
    placed = [(sound.begin, sound.begin + sound.audible) for sound in check_video_spec(spec).clips]
    assert placed == [(4, 6.5), (6.75, 10.75), (9.75, 10.75), (15.25, 19)]


# ---- files that name others ------------------------------------------------------------------------------


@pytest.fixture
def secret(tmp_path, tone) -> Path:
    """A sound outside the storyboard's folder, in the formats that playlists may name; returns the inner folder."""
    sound, story = tone(), tmp_path / "story"
    story.mkdir()
    for name in ("secret.ts", "secret.aac", "secret.wav"):
        assert run_ffmpeg(["-y", "-i", str(sound), str(tmp_path / name)]).returncode == 0
    return story


LISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n../secret.ts\n#EXT-X-ENDLIST\n",
    "list.mp3": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n../secret.aac\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile ../secret.wav\n",
    "list.wav": "ffconcat version 1.0\nfile ../secret.wav\n",
    "list.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT9S"><Period><AdaptationSet mimeType="audio/mp4"><Representation id="1" '
    'bandwidth="1"><BaseURL>../secret.wav</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "call.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    "cue.cue": 'FILE "../secret.wav" WAVE\n  TRACK 01 AUDIO\n    INDEX 01 00:00:00\n',
    "empty.wav": "",
    "text.flac": "no sound",
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_files_is_no_sound(secret, name):
    (secret / name).write_text(LISTS[name])
    with pytest.raises(BlockvidError, match=r"list of other files|cannot be played"):
        check_video_spec(VideoSpec(12, SIZE, 48, tracks=(AudioTrack(Audio(secret / name)),)))


@pytest.mark.parametrize("name", ["-i", "concat:a|b.wav", "http:", "100%03d.wav", "data:x,y", "a b.wav", "ü'\"\\.wav"])
def test_a_name_is_a_name(pictures, secret, name, tone):
    sound = secret / name
    sound.write_bytes(tone().read_bytes())
    film = film_with(pictures, secret, AudioTrack(Audio(sound)))
    assert np.abs(heard(film)).max() > 0.1


@pytest.mark.parametrize(
    "suffix", ["wav", "flac", "mp3", "m4a", "ogg", "opus", "aac", "aiff", "mka", "ac3", "wv", "mp4", "ts", "avi"]
)
def test_formats_of_sound(tone, tmp_path, suffix):
    sound = tmp_path / f"sound.{suffix}"
    assert run_ffmpeg(["-i", str(tone()), str(sound)]).returncode == 0
    (clip,) = check_video_spec(VideoSpec(12, SIZE, 48, tracks=(AudioTrack(Audio(sound)),))).clips
    assert clip.duration == pytest.approx(4, abs=0.1)


def test_a_sound_that_ends_before_the_film_is_noted(tmp_path, tone):
    sound, file = tone(seconds=3), tmp_path / "story.yaml"

    def notes(audio: str) -> list[str]:
        file.write_text(f"audio: {audio}\ntitle_card: A\nchunks: [A white swan rests on the lake by day.]\n")
        return [note for note in prepare(RenderRequest(file)).notes if note.startswith("audio:")]

    assert notes(sound.name) == [
        f"audio: {sound.name} ends at 00:06 of 00:07, and silence follows; 'loop: true' repeats it."
    ]
    assert not notes(f"{{file: {sound.name}, loop: true}}")
    assert not notes(f"{{file: {sound.name}, duration: 2}}")
    assert not notes(tone(seconds=9).name)
