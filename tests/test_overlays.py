"""What is laid over pictures: transitions, subtitles, cards; and what a storyboard says of them."""

from __future__ import annotations

import json
import subprocess
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from blockvid_cli.commands.app import app
from blockvid_cli.errors import BlockvidError, UsageError
from blockvid_cli.models.card import find_card
from blockvid_cli.storyboard.exports import dump_storyboard
from blockvid_cli.storyboard.plan import make_plan
from blockvid_cli.storyboard.presentation import Audio, Subtitles, TitleCard
from blockvid_cli.storyboard.schema import json_schema
from blockvid_cli.storyboard.storyboard import read_storyboard
from blockvid_cli.video import ffmpeg
from blockvid_cli.video.metadata import Chapter, read_tags
from blockvid_cli.video.mux import check_video_spec, mux_film, write_film, write_video
from blockvid_cli.video.overlays import (
    ROWS,
    apply_overlays,
    apply_transitions,
    break_lines,
    burn_subtitles,
    load_font,
    subtitle_layer,
    subtitle_pages,
)
from blockvid_cli.video.reader import read_frames
from blockvid_cli.video.spec import Transition, VideoSpec, video_spec
from tests.test_mux import film_of, numbered, numbers, output

SIZE = 64, 48
CHAPTERS = (Chapter(0, 2, "one"), Chapter(2, 4, "two", "a word of its own"), Chapter(4, 5, "three", ""))
CAPTION = "A white swan glides to the left across the quiet mountain lake while the sun sets behind the hills."


def plain(total: int, size: tuple[int, int] = SIZE, first: int = 0) -> list[np.ndarray]:
    """Frames of one grey each, two steps brighter from one to the next."""
    return [np.full((size[1], size[0], 3), first + 2 * number, np.uint8) for number in range(total)]


def greys(frames) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in frames]


@pytest.fixture
def pictures(tmp_path):
    """Sixty kept pictures, numbered, twelve a second."""
    path = tmp_path / "kept" / "pictures.mp4"
    write_video(numbered(60), path, fps=12, size=SIZE, frames_total=60, crf=10)
    return path


# ---- transitions -----------------------------------------------------------------------------------------


def test_a_dissolve_holds_the_last_frame_of_the_shot_before():
    frames = [*plain(6, first=100), *plain(6, first=0)]
    shown = greys(apply_transitions(frames, [Transition(6, "dissolve", 4)]))
    old, new = 110, [0, 2, 4, 6, 8, 10]
    mixed = [round(old * (1 - (k + 0.5) / 4) + new[k] * (k + 0.5) / 4) for k in range(4)]
    assert shown == [*greys(frames)[:6], *mixed, 8, 10]


def test_a_fade_goes_through_black_and_is_even():
    frames = [np.full((4, 4, 3), 200, np.uint8)] * 12
    shown = greys(apply_transitions(frames, [Transition(6, "fade", 4)]))
    assert shown == [200, 200, 200, 200, 150, 50, 50, 150, 200, 200, 200, 200]


def test_what_no_transition_touches_is_passed_on_untouched():
    frames = plain(40)
    transitions = [Transition(10, "fade", 6), Transition(20, "dissolve", 5), Transition(30, "fade", 1)]
    shown = list(apply_transitions(frames, transitions))
    changed = [number for number in range(40) if shown[number] is not frames[number]]
    assert changed == [*range(7, 13), *range(20, 25)]


def test_two_transitions_may_meet():
    transitions = [Transition(4, "dissolve", 4), Transition(8, "dissolve", 4), Transition(10, "fade", 4)]
    shown = greys(apply_transitions([*plain(4, first=200), *plain(8)], transitions))
    assert len(shown) == 12 and shown[:4] == [200, 202, 204, 206]


def test_memory_does_not_grow_with_the_film():
    alive: weakref.WeakSet[np.ndarray] = weakref.WeakSet()
    most = 0

    class TrackedFrame(np.ndarray):
        __hash__ = object.__hash__

    def frames():
        nonlocal most
        for frame in plain(100):
            kept = frame.view(TrackedFrame)
            alive.add(kept)
            most = max(most, len(alive))
            yield kept

    spec = VideoSpec(12, SIZE, 100, CHAPTERS, (Transition(24, "dissolve", 20),), subtitles=Subtitles("burned"))
    for _ in apply_overlays(frames(), spec):
        pass
    assert most <= 5


# ---- words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(160, 96), (832, 480), (480, 832)])
def test_subtitles_can_be_read_and_stay_off_the_edges(size):
    width, height = size
    said = [rows for page in subtitle_pages(CAPTION, size) for rows in page]
    assert " ".join(said) == CAPTION
    for page in subtitle_pages(CAPTION, size):
        layer = subtitle_layer(page, size)
        seen = layer.opacity[..., 0] > 0
        rows, columns = np.flatnonzero(seen.any(1)) + layer.top, np.flatnonzero(seen.any(0))
        assert len(page) <= ROWS and height / 2 < rows[0] and rows[-1] <= height * 0.95
        assert columns[0] >= width * 0.03 and columns[-1] <= width * 0.97
        for ground in (0, 255, 128):  # on black, white and grey: bright ink beside a dark edge
            shown = layer.over(np.full((height, width, 3), ground, np.uint8))[layer.top :]
            assert shown.max() > 220 and shown.min() < 60


def test_subtitles_are_seen_at_their_time_and_nowhere_else():
    frames = plain(60, (160, 96))
    spec = VideoSpec(12, (160, 96), 60, CHAPTERS, subtitles=Subtitles("burned"))
    shown = list(burn_subtitles(frames, spec))
    changed = [number for number in range(60) if shown[number] is not frames[number]]
    assert changed == list(range(48))  # the third chapter says nothing
    assert all(np.array_equal(shown[n][:48], frames[n][:48]) for n in range(60))
    assert not np.array_equal(shown[0] != frames[0], shown[30] != frames[30])


def test_a_long_subtitle_is_shown_page_after_page():
    frames = [np.zeros((96, 160, 3), np.uint8)] * 40
    spec = VideoSpec(10, (160, 96), 40, (Chapter(0, 4, CAPTION),), subtitles=Subtitles("burned"))
    shown = list(burn_subtitles(frames, spec))
    turns = [number for number in range(1, 40) if not np.array_equal(shown[number], shown[number - 1])]
    count = len(subtitle_pages(CAPTION, (160, 96)))
    assert turns == [40 * page // count for page in range(1, count)] and count > 1


def test_words_are_broken_at_spaces_and_only_then_anywhere():
    font = load_font(10)
    assert break_lines("a b\nc", font, 1000) == ["a b", "c"]
    rows = break_lines("one two " + "漢" * 60, font, 100)
    assert "".join(rows) == "one two" + "漢" * 60
    assert all(font.getlength(row) <= 100 for row in rows)


def test_a_film_with_burned_subtitles(pictures, tmp_path):
    film = tmp_path / "film.mp4"
    mux_film(pictures, film, VideoSpec(12, SIZE, 60, CHAPTERS))
    assert film.with_suffix(".srt").exists()
    mux_film(pictures, film, VideoSpec(12, SIZE, 60, CHAPTERS, subtitles=Subtitles("burned")))
    assert not film.with_suffix(".srt").exists()  # a player would show both
    before, after = (np.array([f[:10].mean(axis=(0, 2)) for f in read_frames(path, SIZE)]) for path in (pictures, film))
    assert np.abs(before - after).max() < 12


def test_subtitles_of_ones_own_stay(pictures, tmp_path):
    beside = tmp_path / "film.srt"
    beside.write_text("1\n00:00:00,000 --> 00:00:02,000\nvon Hand\n")
    for mode in ("none", "burned"):
        mux_film(pictures, tmp_path / "film.mp4", VideoSpec(12, SIZE, 60, CHAPTERS, subtitles=Subtitles(mode)))
        assert "von Hand" in beside.read_text()


def test_soft_subtitles_are_in_the_film_and_beside_it_only_on_request(pictures, tmp_path):
    film, beside = tmp_path / "film.mp4", tmp_path / "film.srt"
    for style in (Subtitles("soft"), Subtitles("soft", srt=True)):
        mux_film(pictures, film, VideoSpec(12, SIZE, 60, CHAPTERS, subtitles=style))
        inside = output(film, "-map", "0:s", "-f", "srt").decode().replace("\r\n", "\n")
        for text in (inside, *([beside.read_text()] if style.srt else [])):
            assert "00:00:02,000 --> 00:00:04,000\n" in text and "a word of its own" in text and "three" not in text
        assert beside.exists() == style.srt
    assert "<" not in beside.read_text()
    said = subprocess.run([ffmpeg.binary(), "-i", film], capture_output=True, text=True, check=False).stderr
    assert "mov_text" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "film.srt", "kept"]
    silent = VideoSpec(12, SIZE, 60, (Chapter(0, 5, "", ""),), subtitles=Subtitles("soft"))
    mux_film(pictures, film, silent)  # there is nothing to show


@pytest.mark.parametrize(("size", "lines"), [(6, 17), (12.5, 36)])
def test_soft_subtitles_have_the_size_that_was_asked_for(pictures, tmp_path, size, lines):
    """Players relate it to 288 lines."""
    film = tmp_path / "film.mp4"
    mux_film(pictures, film, VideoSpec(12, SIZE, 60, CHAPTERS, subtitles=Subtitles("soft", size=size)))
    assert f"{{\\fs{lines}}}one" in output(film, "-map", "0:s", "-f", "ass").decode()


@pytest.mark.parametrize(("place", "above", "below"), [("bottom", 0.6, 1), ("middle", 0.3, 0.7), ("top", 0, 0.4)])
def test_burned_subtitles_have_their_place_and_size(place, above, below):
    size, heights = (320, 200), []
    for percent in (4, 8):
        layer = subtitle_layer(["a row"], size, style=Subtitles("burned", size=percent, place=place))
        heights.append(len(layer.colour))
        assert above * size[1] <= layer.top and layer.top + len(layer.colour) <= below * size[1]
    assert heights[1] == pytest.approx(2 * heights[0], rel=0.25)
    spec = VideoSpec(12, size, 24, (Chapter(0, 2, "a row"),), subtitles=Subtitles("burned", size=8, place=place))
    (frame, *_) = apply_overlays(plain(24, size), spec)
    rows = np.nonzero(frame.max(axis=(1, 2)) > 100)[0]
    assert above * size[1] <= rows.min() and rows.max() < below * size[1]
    assert len(subtitle_pages(CAPTION, size, style=Subtitles(size=12))) > len(subtitle_pages(CAPTION, size))


def test_what_a_storyboard_says_of_subtitles(tmp_path):
    def read(text: str) -> Subtitles | None:
        (tmp_path / "story.yaml").write_text(f"{text}\nchunks: [a]")
        story = read_storyboard(tmp_path / "story.yaml")
        (tmp_path / "again.yaml").write_text(dump_storyboard(story))
        assert read_storyboard(tmp_path / "again.yaml").subtitles == story.subtitles
        return story.subtitles

    assert read("title: a") is None
    assert read("subtitles: soft") == Subtitles("soft")
    assert read("subtitles: {show: burned, srt: true, size: 8, place: top}") == Subtitles("burned", True, 8, "top")
    assert read("subtitles: {size: 9}") == Subtitles(size=9)
    for wrong, sentence in (("{size: 50}", "percentage"), ("{place: left}", "bottom, middle or top")):
        with pytest.raises(UsageError, match=sentence):
            read(f"subtitles: {wrong}")


def test_a_film_without_metadata_says_no_caption_that_was_not_asked_for(board):
    story = read_storyboard(board)
    plan = make_plan(story, find_card("storybook"), seed=0)
    for metadata, asked, show in (({}, None, "beside"), (None, None, "none"), (None, Subtitles("soft"), "soft")):
        assert video_spec(replace(story, subtitles=asked), plan, metadata).subtitles.show == show


def test_without_metadata_a_film_has_no_chapters(pictures, tmp_path):
    film = tmp_path / "film.mp4"
    spec = VideoSpec(12, SIZE, 60, CHAPTERS, subtitles=Subtitles("none"), title="a title", title_card=TitleCard("card"))
    mux_film(pictures, film, spec)
    assert read_tags(film)[1] == [] and b"a word of" not in film.read_bytes() and b"a title" not in film.read_bytes()
    mux_film(pictures, film, replace(spec, metadata={}))
    assert [chapter.text for chapter in read_tags(film)[1]] == ["card", "one", "two", "three"]


# ---- cards -----------------------------------------------------------------------------------------------


def test_cards_come_before_and_after(pictures, tmp_path):
    title, end = TitleCard("A film\nin two rows", 1.0), TitleCard("The end", 0.5, "black", "#ffffff")
    spec = VideoSpec(12, SIZE, 60, CHAPTERS, title_card=title, end_card=end, metadata={})
    made = mux_film(pictures, tmp_path / "film.mp4", spec)
    assert (made.frames, made.seconds) == (78, 6.5)
    assert numbers(made.path)[12:72] == list(range(60))
    _, chapters = read_tags(made.path)
    assert [(round(c.start, 2), c.text) for c in chapters] == [
        (0, "A film in two rows"),
        (1, "one"),
        (3, "two"),
        (5, "three"),
        (6, "The end"),
    ]
    srt = made.path.with_suffix(".srt").read_text()
    assert "00:00:01,000 --> 00:00:03,000\none" in srt and "A film" not in srt


def test_cards_come_out_of_black_and_go_into_it():
    spec = VideoSpec(10, SIZE, 1, end_card=TitleCard("The end", 3, "black", "white"))
    corner = greys(apply_overlays(plain(1), spec))[1:]
    assert len(corner) == 30 and corner[5:25] == [255] * 20
    assert corner[:5] == corner[:-6:-1] == sorted(corner[:5]) and corner[0] < 40


@pytest.mark.parametrize("size", [(160, 96), (832, 480)])
def test_the_words_of_a_card_are_in_its_middle(size):
    spec = VideoSpec(1, size, 0, title_card=TitleCard("The swan and the boat", 3, "white", "black"))
    picture = list(apply_overlays([], spec))[1]
    rows, columns = np.flatnonzero(picture.any(axis=(1, 2))), np.flatnonzero(picture.any(axis=(0, 2)))
    assert abs(rows.mean() - size[1] / 2) < size[1] * 0.06
    assert abs(columns.mean() - size[0] / 2) < size[0] * 0.06
    assert picture.max() > 200


def test_what_cannot_be_drawn_is_said_beforehand(tmp_path):
    with pytest.raises(BlockvidError, match="too many words for 64x48 pixels; write fewer"):
        check_video_spec(VideoSpec(12, SIZE, 48, end_card=TitleCard("word " * 200)))
    (tmp_path / "font.ttf").write_text("this is no font")
    with pytest.raises(BlockvidError, match=r"the font .*font\.ttf cannot be read"):
        check_video_spec(VideoSpec(12, SIZE, 48, font=tmp_path / "font.ttf"))


# ---- kept pictures ---------------------------------------------------------------------------------------


def test_kept_pictures_are_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "pictures.mp4"
    with pytest.raises(BlockvidError, match="5 frames of 12"):
        write_video(numbered(5), path, fps=12, size=SIZE, frames_total=12)
    assert list(path.parent.iterdir()) == []
    write_video(numbered(12), path, fps=12, size=SIZE, frames_total=12)
    assert [file.name for file in path.parent.iterdir()] == ["pictures.mp4"]
    assert numbers(path) == list(range(12))


def test_a_film_of_kept_pictures_is_the_film_that_was_written_at_once(tmp_path):
    fields = {"fps": 12, "size": SIZE, "frames_total": 60, "crf": 18}
    once = write_film(numbered(60), tmp_path / "once.mp4", chapters=CHAPTERS, metadata={"a": 1}, title="t", **fields)
    write_video(numbered(60), tmp_path / "pictures.mp4", **fields)
    spec = VideoSpec(12, SIZE, 60, CHAPTERS, title="t", metadata={"a": 1})
    again = mux_film(tmp_path / "pictures.mp4", tmp_path / "again.mp4", spec)
    assert again.path.read_bytes() == once.path.read_bytes()
    assert again.path.with_suffix(".srt").read_bytes() == once.path.with_suffix(".srt").read_bytes()


def test_frames_that_nothing_is_drawn_into_are_those_that_were_kept(pictures):
    spec = VideoSpec(12, SIZE, 60, (), (Transition(30, "fade", 6),), title_card=TitleCard("A film", 1.0))
    kept = list(read_frames(pictures, SIZE))
    shown = list(apply_overlays(read_frames(pictures, SIZE), spec))[12:]
    assert len(shown) == 60
    same = [number for number in range(60) if np.array_equal(kept[number], shown[number])]
    assert same == [*range(27), *range(33, 60)]


def test_a_shorter_film_takes_the_first_pictures(pictures, tmp_path):
    for card in (None, TitleCard("The end", 1.0)):
        film = mux_film(pictures, tmp_path / "film.mp4", VideoSpec(12, SIZE, 24, end_card=card)).path
        assert numbers(film)[:24] == list(range(24)) and len(numbers(film)) == (36 if card else 24)


@pytest.mark.parametrize("card", [None, TitleCard("The end")])
def test_pictures_that_are_missing_few_or_damaged(tmp_path, card, pictures):
    film = tmp_path / "film.mp4"
    with pytest.raises(BlockvidError, match=r"absent\.mp4 do not exist"):
        mux_film(tmp_path / "absent.mp4", film, VideoSpec(12, SIZE, 60, end_card=card))
    with pytest.raises(BlockvidError, match=r"60 pictures of 72; remove it|96 frames of 108"):
        mux_film(pictures, film, VideoSpec(12, SIZE, 72, end_card=card))
    pictures.write_bytes(b"no film")
    with pytest.raises(BlockvidError, match=r"cannot be read|could not write"):
        mux_film(pictures, film, VideoSpec(12, SIZE, 60, end_card=card))
    with pytest.raises(UsageError, match=r"film\.mp4; not film\.avi"):
        mux_film(pictures, tmp_path / "film.avi", VideoSpec(12, SIZE, 60))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]


@pytest.mark.parametrize("fault", ["cut off", "a packet of noise"])
def test_damaged_frames_make_no_film(tmp_path, pictures, fault):
    content = bytearray(pictures.read_bytes())
    start = content.rindex(b"mdat") + 4
    content[start:] = b"" if fault == "cut off" else np.random.default_rng(0).bytes(len(content) - start)
    pictures.write_bytes(content)
    with pytest.raises(BlockvidError, match=r"frames in .*pictures\.mp4 cannot be read|\d+ frames of 72"):
        mux_film(pictures, tmp_path / "film.mp4", VideoSpec(12, SIZE, 60, end_card=TitleCard("The end", 1.0)))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_reader_that_stops_early_can_be_opened_again(pictures):
    frames = read_frames(pictures, SIZE)
    next(frames)
    frames.close()
    assert len(list(read_frames(pictures, SIZE))) == 60


def test_an_old_film_is_as_it_was(tmp_path):
    """Without anything new in it, a film has pictures and chapters, and an .srt beside it."""
    film_of(tmp_path / "film.mp4", 24, chapters=[Chapter(0, 2, "one")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "film.srt"]


# ---- the storyboard --------------------------------------------------------------------------------------

STORY = """
fps: 12
audio: {file: wind.ogg, start: 1.5s, end: 00:10, at: 2, fade_in: 1, volume: 0.5, loudness: -16, loop: true}
subtitles: burned
title_card: {text: "A film\\nby hand", seconds: 2.5, colour: yellow, background: "#102030"}
end_card: The end
font: font.ttf
chunks:
  - {caption: a, subtitle: "", audio: wind.ogg}
  - {caption: b, cut: true, transition: fade, audio: {file: wind.ogg, at: -1, duration: 2, loudness: none}}
  - {caption: c, cut: true, transition: dissolve, transition_seconds: 1.25, subtitle: "one\\ntwo"}
  - {caption: d, cut: true, transition: cut}
"""


@pytest.fixture
def board(tmp_path):
    for name in ("wind.ogg", "font.ttf"):
        (tmp_path / name).touch()
    (tmp_path / "story.yaml").write_text(STORY)
    return tmp_path / "story.yaml"


def test_every_field_of_the_dress_is_read_and_written(board):
    story, wind = read_storyboard(board), board.parent.resolve() / "wind.ogg"
    assert story.audio == Audio(wind, 1.5, 1, 0, 0.5, 2, 10, None, True, -16)
    assert (story.subtitles, story.font) == (Subtitles("burned"), board.parent.resolve() / "font.ttf")
    assert story.title_card == TitleCard("A film\nby hand", 2.5, "yellow", "#102030")
    assert story.end_card == TitleCard("The end", 3, "white", "black")
    assert [chunk.subtitle for chunk in story.chunks] == ["", None, "one\ntwo", None]
    assert [chunk.audio for chunk in story.chunks] == [Audio(wind), Audio(wind, at=-1, duration=2), None, None]
    assert [chunk.transition for chunk in story.chunks] == ["cut", "fade", "dissolve", "cut"]
    assert [chunk.transition_seconds for chunk in story.chunks] == [0.5, 0.5, 1.25, 0.5]
    (board.parent / "again.yaml").write_text(dump_storyboard(story))
    assert read_storyboard(board.parent / "again.yaml") == story


def test_overrides_reach_the_dress(board):
    overrides = ["chunks.1.audio.volume=2", "chunks.4.audio.file=wind.ogg", "end_card.seconds=1", "subtitles=soft"]
    story = read_storyboard(board, [*overrides, "chunks.3.transition=fade"])
    assert (story.chunks[0].audio.volume, story.chunks[3].audio.file.name) == (2, "wind.ogg")
    assert (story.end_card.text, story.end_card.seconds, story.subtitles) == ("The end", 1, Subtitles("soft"))
    assert story.chunks[2].transition == "fade"


def test_the_dress_changes_no_plan_and_the_look_has_all_of_it(board):
    card = find_card("storybook").model_copy(update={"fps": 12.0, "block": 3})
    story = read_storyboard(board)
    plan = make_plan(story, card, seed=0)
    (board.parent / "plain.yaml").write_text(
        "fps: 12\nchunks: [a, {caption: b, cut: true}, {caption: c, cut: true}, {caption: d, cut: true}]"
    )
    assert make_plan(read_storyboard(board.parent / "plain.yaml"), card, seed=0) == plan
    spec = video_spec(story, plan, {"a": 1})
    assert spec.transitions == (Transition(45, "fade", 6), Transition(93, "dissolve", 15))
    assert [chapter.subtitle_text for chapter in spec.chapters] == ["", "b", "one\ntwo", "d"]
    timeline = spec.timeline
    assert (timeline.story.start, timeline.seconds, timeline.frames) == (2.5, 21.5, 258)
    assert [(part.kind, part.first_frame, part.end_frame) for part in timeline.sections] == [
        ("title", 0, 30),
        ("chunk", 30, 75),
        ("chunk", 75, 123),
        ("chunk", 123, 171),
        ("chunk", 171, 222),
        ("end", 222, 258),
    ]
    assert (timeline.chunks[2].chunk, timeline.chunks[2].start, timeline.chunks[2].end) == (3, 10.25, 14.25)
    assert spec.needs_encoding
    assert not video_spec(read_storyboard(board.parent / "plain.yaml"), plan).needs_encoding


def test_check_counts_cards_and_names_sounds_pictures_and_transitions(board):
    Image.new("RGB", (240, 160)).save(board.parent / "lake.png")
    board.write_text(board.read_text().replace("caption: c,", "caption: c, image: lake.png,"))
    values = json.loads(CliRunner().invoke(app, ["storyboard", "check", str(board), "--json"]).output)
    assert (values["seconds"], values["frames"]) == (21.5, 258)
    kinds = [(part["kind"], part["chunk"]) for part in values["timeline"]]
    assert kinds == [("title", None), *(("chunk", n) for n in (1, 2, 3, 4)), ("end", None)]
    assert values["timeline"][1]["start"] == 2.5 and values["timeline"][-1]["end"] == 21.5
    assert values["chunks"][2]["image"].endswith("lake.png") and values["chunks"][2]["transition"] == "dissolve"
    assert values["chunks"][0]["audio"].endswith("wind.ogg") and values["audio"]
    printed = CliRunner().invoke(app, ["storyboard", "check", str(board)], env={"COLUMNS": "160"}).output
    assert "258 frames, 21.5 s" in printed and "title card and end card" in printed
    assert "dissolve of 1.25 s; begins with lake.png" in printed and "fade of 0.5 s" in printed
    assert printed.count("sound: wind.ogg") >= 2 and "subtitles: burned" in printed
    rows = [line.split() for line in printed.splitlines()]
    assert ["title", "00:00-00:02.5"] in [row[:2] for row in rows] and ["end", "00:18.5-00:21.5"] in [
        r[:2] for r in rows
    ]


def test_the_json_schema_knows_bare_texts():
    schema = json_schema()
    bare = {"type": "string"}
    for name in ("audio", "title_card", "end_card"):
        assert bare in schema["properties"][name]["anyOf"]
    assert bare in schema["$defs"]["ChunkForm"]["properties"]["audio"]["anyOf"]
    assert json.dumps(schema["properties"]["subtitles"]).count("burned") >= 1


def test_a_path_to_a_font_stays_inside(tmp_path):
    (tmp_path / "story.yaml").write_text("font: ../font.ttf\nchunks: [a]\n")
    with pytest.raises(UsageError, match=r"story\.yaml:1: font: .*outside"):
        read_storyboard(Path(tmp_path / "story.yaml"))
