"""Captions from elsewhere: LV-Bench's lists with their printed quirks, subtitles, and plain text."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from blockvid_cli.errors import BlockvidError, StoryboardError
from blockvid_cli.storyboard.storyboard import read_storyboard

SLOTS = ["A fox wakes (00s - 03s).", "It stretches (04s - 07s).", "It runs off (08s - 11s)."]
FOX = ["A fox wakes", "It stretches", "It runs off"]


def read(folder, text, name):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_storyboard(path)


def spans(story):
    return [(chunk.start, chunk.end) for chunk in story.chunks]


def captions(story):
    return [chunk.caption for chunk in story.chunks]


# LV-Bench


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"captions": SLOTS}),
        json.dumps({"video": "fox.mp4", "captions": SLOTS}, indent="\t"),
        '"captions": [ "A fox wakes (00s - 03s).", "It stretches (04s - 07s).", "It runs off (08s - 11s)." ]',
        "{“captions”: [“A fox wakes (00s - 03s).”, “It stretches (04s - 07s).”, “It runs off (08s - 11s).”]}",
        '{"captions": [“A fox wakes (00s–03s)”,\n"It stretches (04s–07s)",\n“It runs off (08s—11s)”,\n],}',
        '{"captions": ["A fox wakes (0 - 3).", "It stretches (4 - 7)", "It runs off ( 8s-11s ) .",]}',
    ],
    ids=["json", "other keys", "no braces", "curly", "mixed quotes and dashes", "no unit"],
)
@pytest.mark.parametrize("name", ["fox.json", "fox.txt"])
def test_printed_lists(tmp_path, text, name):
    story = read(tmp_path, text, name)
    assert captions(story) == FOX
    assert spans(story) == [(0, 4), (4, 8), (8, 12)]
    assert story.notes == ()


def test_the_last_slot_may_be_longer(tmp_path):
    story = read(tmp_path, json.dumps({"captions": [SLOTS[0], "It stretches (04s - 08s)."]}), "fox.json")
    assert spans(story) == [(0, 4), (4, 9)]


def test_slots_that_meet_are_taken_as_they_are(tmp_path):
    text = json.dumps({"captions": ["A fox wakes (0s - 3s)", "It runs off (3s - 6s)"]})
    story = read(tmp_path, text, "fox.json")
    assert spans(story) == [(0, 3), (3, 6)]
    assert story.notes == ()


def test_curly_apostrophes_and_escapes_stay_in_the_text(tmp_path):
    first, second = "“The fox’s “red” tail (00s - 03s).”", '"A \\"sly\\" fox\\u2019s den, ’tis (04s - 07s)."'
    text = f'{{"captions": [{first}, {second}]}}'
    assert captions(read(tmp_path, text, "fox.json")) == ["The fox’s “red” tail", 'A "sly" fox’s den, ’tis']


def test_parentheses_that_hold_no_time_stay(tmp_path):
    text = json.dumps({"captions": ["A fox (a red one) wakes (still half-asleep)"]})
    assert captions(read(tmp_path, text, "fox.json")) == ["A fox (a red one) wakes (still half-asleep)"]


def test_a_wider_gap_is_closed_and_said(tmp_path):
    text = json.dumps({"captions": ["A fox wakes (2s - 4s)", "It runs off (10s - 12s)"]})
    story = read(tmp_path, text, "fox.json")
    assert spans(story) == [(0, 10), (10, 12)]
    assert story.notes == (
        "chunk 1 begins at 00:00 instead of 00:02",
        "chunk 1 lasts until 00:10 instead of 00:04",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"captions": []}', ":1: there is no caption"),
        ('{"captions": [\n"A fox",\n42]}', ":3: captions[2]: '42]}' is no caption in quotes"),
        ('{"captions": [\n"A fox"', ":2: captions[2]: the list does not end"),
        ('{"captions": [\n"A fox (0s - 3s)",\n"It runs"]}', ":3: this caption has no time"),
        ('{"captions": [\n"A fox (4s - 7s)",\n"It runs (0s - 3s)"]}', ":3: this begins at 00:00"),
        ('{"captions": [\n"A fox (7s - 4s)"]}', ":2: the span ends at 00:04"),
        ('{"captions": [\n"(0s - 3s)"]}', ":2: a time without a caption"),
        ('{"captions": [\n"A fox",\n"  "]}', ":3: chunks[2].caption: this text is blank"),
    ],
)
def test_lists_that_cannot_be_read(tmp_path, text, said):
    with pytest.raises(StoryboardError) as error:
        read(tmp_path, text, "fox.json")
    assert f"fox.json{said}" in str(error.value)


# Subtitles

SRT = """\ufeff1\r
00:00:01,500 --> 00:00:04,000\r
<i>A fox</i>\r
{\\an8}wakes\r
\r
2\r
00:00:04,000 --> 00:00:06,000 X1:40 X2:600\r
It stretches &amp; yawns\r
\r
3\r
00:00:08,250 --> 00:00:10,000\r
It runs off\r
"""

VTT = """WEBVTT - a fox

STYLE
::cue { color: red }

NOTE
the beginning

first
00:00.000 --> 00:04.000 align:start position:0%
<v Teller>A <c.red>fox</c> <00:01.000>wakes

00:04.000 --> 00:06.000

01:00:04.000 --> 01:00:06.500
It runs off"""


def test_subrip(tmp_path):
    story = read(tmp_path, SRT, "fox.srt")
    assert captions(story) == ["A fox wakes", "It stretches & yawns", "It runs off"]
    assert spans(story) == [(0, 4), (4, Fraction(33, 4)), (Fraction(33, 4), 10)]
    assert story.notes == (
        "chunk 1 begins at 00:00 instead of 00:01.5",
        "chunk 2 lasts until 00:08.25 instead of 00:06",
    )


def test_webvtt(tmp_path):
    story = read(tmp_path, VTT, "fox.vtt")
    assert captions(story) == ["A fox wakes", "It runs off"]
    assert spans(story) == [(0, 3604), (3604, Fraction(7213, 2))]


def test_a_second_between_cues_is_a_gap_and_not_a_printed_slot(tmp_path):
    text = "00:00.000 --> 00:03.000\nA fox\n\n00:04.000 --> 00:07.000\nIt runs\n"
    story = read(tmp_path, text, "fox.vtt")
    assert spans(story) == [(0, 4), (4, 7)]
    assert len(story.notes) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ":1: there is no caption"),
        ("WEBVTT\n\nNOTE nothing", ":1: there is no caption"),
        ("1\n00:00:01 --> soon\nA fox", ":2: 'soon' is not a time"),
        ("1\n00:00:01 -->\nA fox", ":2: '' is not a time"),
        ("1\n00:00:05,000 --> 00:00:01,000\nA fox", ":2: this cue ends at 00:01"),
        ("00:02.000 --> 00:03.000\nA fox\n\n00:02.000 --> 00:04.000\nA hen", ":4: this begins at 00:02"),
    ],
)
def test_subtitles_that_cannot_be_read(tmp_path, text, said):
    with pytest.raises(StoryboardError) as error:
        read(tmp_path, text, "fox.srt")
    assert f"fox.srt{said}" in str(error.value)


def test_a_cue_ends_where_the_next_begins(tmp_path):
    story = read(tmp_path, "0 --> 3\nA fox\n3 --> 6\nIt runs\noff", "fox.srt")
    assert captions(story) == ["A fox", "It runs off"]


def test_impossible_characters_are_said(tmp_path):
    with pytest.raises(StoryboardError, match=r"fox.srt:4: a character in this cue has an impossible number"):
        read(tmp_path, f"0 --> 3\nA fox &amp; a hen\n\n3 --> 4\n&#{'9' * 5000};", "fox.srt")


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("fox.srt", "".join(f"{n} --> {n + 1}\nA fox\n\n" for n in range(5401)), 16201),
        ("fox.srt", "0 --> 1\n" * 5401, 5401),
        ("fox.txt", "A fox\n" * 5401, 5401),
        ("fox.json", '{"captions": [' + '"A fox",\n' * 5401 + "]}", 5401),
    ],
)
def test_there_is_a_most_of_captions(tmp_path, name, text, line):
    with pytest.raises(StoryboardError, match=rf"{name}:{line}: there are more than 5400 c"):
        read(tmp_path, text, name)


# Plain text


def test_a_caption_a_line(tmp_path):
    story = read(tmp_path, "# a fox\n\nA fox wakes\n  It runs off  \n", "fox.txt")
    assert captions(story) == ["A fox wakes", "It runs off"]
    assert spans(story) == [(0, 4), (4, 8)]
    assert story.chunks[1].location.endswith("fox.txt:4")


@pytest.mark.parametrize(
    ("line", "caption"),
    [
        ("A fox (0-3)", "A fox"),
        ("A fox (a) [0s - 3s] .", "A fox (a)"),
        ("A fox (0s-3s]", "A fox"),
        ("[0s-3s] A fox (red)", "A fox (red)"),
        ("A fox (a - 3)", "A fox (a - 3)"),
        ("A fox ((0-3))", "A fox ((0-3))"),
        ("A fox 0-3)", "A fox 0-3)"),
        ("[red] fox", "[red] fox"),
        ("[0-3 A fox", "[0-3 A fox"),
        ("[(0-3] A fox", "[(0-3] A fox"),
        ("A (" + "0-" * 900, "A (" + "0-" * 900),
    ],
)
def test_only_a_time_in_brackets_is_a_time(tmp_path, line, caption):
    assert captions(read(tmp_path, line, "fox.txt")) == [caption]


def test_lines_with_times(tmp_path):
    story = read(tmp_path, "[0s-3s] A fox wakes\nIt runs off (3s - 5s).\n[00:05 – 00:09] It is gone", "fox.txt")
    assert captions(story) == ["A fox wakes", "It runs off", "It is gone"]
    assert spans(story) == [(0, 3), (3, 5), (5, 9)]


def test_a_line_with_an_impossible_time_is_an_error(tmp_path):
    with pytest.raises(StoryboardError, match=r"fox.txt:2: '00:75' is not a time"):
        read(tmp_path, "[0s-3s] A fox\n[00:03-00:75] It runs\n", "fox.txt")


@settings(max_examples=150, deadline=None)
@given(
    some.lists(
        some.sampled_from([*SLOTS, *SRT.split("\r\n"), *VTT.split("\n"), "[0s-3s] A", '"captions": [', "“A”,", "]"])
        | some.text(max_size=20),
        max_size=12,
    ),
    some.sampled_from(["fox.srt", "fox.vtt", "fox.txt", "fox.json"]),
)
def test_nothing_but_a_sentence_comes_of_odd_files(tmp_path_factory, lines, name):
    path = tmp_path_factory.mktemp("odd") / name
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    try:
        story = read_storyboard(path)
    except BlockvidError as error:
        assert error.exit_code == 2
        assert str(error).startswith(f"{path}:")
    else:
        assert all(before.end == after.start for before, after in zip(story.chunks, story.chunks[1:], strict=False))
        assert story.chunks[0].start == 0
