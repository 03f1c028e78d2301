"""Whatever is wrong with a storyboard ends in a sentence with file, line, field and remedy."""

from __future__ import annotations

import os
import random
import re
import socket
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from blockvid_cli.errors import BlockvidError, StoryboardError, UsageError
from blockvid_cli.storyboard.exports import dump_storyboard
from blockvid_cli.storyboard.storyboard import read_storyboard
from tests.fuzzing import time_limit

GOOD = """\
version: 1
title: Two boats
size: 160x96
fps: 24
seed: 3
chunk: 4s
recipe: {steps: 6, kv_cache: {name: window, recent: 3}}
chunks:
  - caption: A red boat rests
    at: 00:00-00:04
  - caption: The red boat glides left
    duration: 48f
    seed: 9
    cut: true
  - It is gone
"""

# name: (text, line, what the sentence holds)
BAD = {
    "unknown field": ("chunks: [a]\ntitel: b", 2, "titel: there is no field 'titel'; did you mean 'title'?"),
    "unknown field of a chunk": (
        "chunks:\n- caption: a\n  captoin: b",
        3,
        "chunks[1].captoin: there is no field 'captoin'; did you mean 'caption'?",
    ),
    "unknown field, nothing near": (
        "chunks: [a]\nzzz: 1",
        2,
        "zzz: there is no field 'zzz'; there are version",
    ),
    "a chunk's field at the top": ("transition: fade\nchunks: [a]", 1, "'transition' belongs to a chunk"),
    "the film's field in a chunk": ("chunks:\n- {caption: a, title: b}", 2, "'title' belongs to the whole film"),
    "unknown field of audio": ("chunks: [a]\naudio:\n  file: a\n  fadein: 1", 4, "did you mean 'fade_in'?"),
    "no chunks": ("title: a", 1, "chunks: 'chunks' is missing"),
    "chunks empty": ("title: a\nchunks: []", 2, "chunks: there are no chunks; write at least one"),
    "chunks nothing": ("title: a\nchunks:", 2, "chunks: 'chunks' is missing or empty"),
    "chunks a text": ("chunks: a swan", 1, "chunks: 'a swan' is not a list"),
    "chunks a mapping": ("chunks:\n  caption: a", 1, "chunks: a mapping is not a list"),
    "chunk a number": ("chunks:\n- a\n- 42", 3, "chunks[2]: the number 42 will not do"),
    "chunk nothing": ("chunks:\n- a\n-", 3, "chunks[2]: nothing will not do"),
    "chunk a list": ("chunks:\n- [a, b]", 2, "chunks[1]: a list will not do"),
    "caption missing": ("chunks:\n- a\n- duration: 3s", 3, "chunks[2].caption: 'caption' is missing"),
    "caption blank": ("chunks:\n- caption: '  '", 2, "chunks[1].caption: this text is blank"),
    "caption too long": (
        f"chunks:\n- {'swan ' * 401}",
        2,
        "chunks[1].caption: this text has 2004 characters",
    ),
    "caption yes": (
        "chunks:\n- caption: yes",
        2,
        "chunks[1].caption: true (a word that YAML reads as true or",
    ),
    "caption a number": ("chunks:\n- caption: 7", 2, "the number 7 is not text; put it in quotes"),
    "seed a date": ("seed: 2024-05-01\nchunks: [a]", 1, "seed: '2024-05-01' will not do; write a whole number"),
    "seed in base 60": ("seed: 1:1:1\nchunks: [a]", 1, "seed: '1:1:1' will not do; write a whole number"),
    "seed in base 60, many places": (f"seed: 1{':1' * 9000}\nchunks: [a]", 1, "seed: '1:1:1"),
    "fps in base 60": (f"fps: 1{':1' * 500}.5\nchunks: [a]", 1, "fps: '1:1:1"),
    "seed in base 60 by its tag": (f"seed: !!int 1{':1' * 9000}\nchunks: [a]", 1, "cannot be read as a number"),
    "seed in base 8": ("seed: 0777\nchunks: [a]", 1, "seed: '0777' will not do; write a whole number"),
    "seed in base 16": ("seed: 0x1F\nchunks: [a]", 1, "seed: '0x1F' will not do; write a whole number"),
    "seed with underscores": ("seed: 1_000\nchunks: [a]", 1, "seed: '1_000' will not do; write a whole number"),
    "seed infinite": ("seed: Infinity\nchunks: [a]", 1, "seed: 'Infinity' will not do; write a whole number"),
    "caption a list": ("chunks:\n- caption: [a]", 2, "chunks[1].caption: a list is not text"),
    "caption with a bell": ('chunks:\n- "a \\a swan"', 2, "chunks[1].caption: a control character"),
    "caption with half a character": ('chunks:\n- "\\ud83d"', 2, "chunks[1]: half a character"),
    "gap": (
        "chunks:\n- {caption: a, at: 0s-3s}\n- {caption: b, at: 4s-6s}",
        3,
        "chunks[2].at: chunk 2 begins at 00:04, but chunk 1 ends at 00:03, which leaves a gap of 1 s; write "
        "00:03-00:06, or let chunk 1 end at 00:04",
    ),
    "overlap": (
        "chunks:\n- {caption: a, at: 0s-3s}\n- {caption: b, at: 2s-6s}",
        3,
        "chunks[2].at: chunk 2 begins at 00:02, but chunk 1 ends at 00:03, which overlaps by 1 s; write",
    ),
    "gap after a duration": ("chunks:\n- a\n- {caption: b, at: 5s-6s}", 3, "but chunk 1 ends at 00:04"),
    "late beginning": (
        "chunks:\n- {caption: a, at: 1s-3s}",
        2,
        "chunks[1].at: chunk 1 begins at 00:01, but a film",
    ),
    "span backwards": ("chunks:\n- caption: a\n  at: 00:06-00:03", 3, "chunks[1].at: the span ends at 00:03"),
    "span of nothing": (
        "chunks:\n- caption: a\n  at: 00:00-00:00",
        3,
        "chunks[1].at: the span ends at 00:00",
    ),
    "span without a dash": ("chunks:\n- caption: a\n  at: 00:06", 3, "chunks[1].at: "),
    "span a number": ("chunks:\n- caption: a\n  at: 6", 3, "chunks[1].at: the number 6 is not a span"),
    "span of 75 seconds": ("chunks:\n- caption: a\n  at: 00:00-00:75", 3, "minutes and seconds end at 59"),
    "at and duration": (
        "chunks:\n- caption: a\n  at: 0-3\n  duration: 3s",
        2,
        "chunks[1]: 'at' and 'duration' are",
    ),
    "duration zero": ("chunks:\n- caption: a\n  duration: 0", 3, "chunks[1].duration: a length must be more"),
    "duration negative": (
        "chunks:\n- caption: a\n  duration: -2",
        3,
        "chunks[1].duration: a length must be more",
    ),
    "duration of words": ("chunks:\n- caption: a\n  duration: long", 3, "'long' is not a length; write 4s"),
    "duration true": ("chunks:\n- caption: a\n  duration: true", 3, "chunks[1].duration: true"),
    "duration infinite": (
        "chunks:\n- caption: a\n  duration: .inf",
        3,
        "chunks[1].duration: .inf is no number",
    ),
    "duration no number": (
        "chunks:\n- caption: a\n  duration: .nan",
        3,
        "chunks[1].duration: .nan is no number",
    ),
    "duration under a frame": ("fps: 10\nchunks:\n- caption: a\n  duration: 0.09", 4, "at least 0.1000 s"),
    "frames without fps": (
        "chunks:\n- caption: a\n  duration: 48f",
        3,
        "needs the storyboard's fps; add a line",
    ),
    "chunk in frames without fps": (
        "title: a\nchunk: 48f\nchunks: [a]",
        2,
        "chunk: a length in frames (48f) needs",
    ),
    "chunk a list of lengths": ("chunk: [4s]\nchunks: [a]", 1, "chunk: a list is not a length"),
    "film too long": ("chunks:\n- {caption: a, duration: 6h}\n- a", 3, "may last 6 hours at most"),
    "duration of other units": ("chunks:\n- {caption: a, duration: 3 weeks}", 2, "'3 weeks' is not a length; write 4s"),
    "duration of mixed units": (
        "chunks:\n- {caption: a, duration: 3 s 2 min}",
        2,
        "is not a length; write 4s, 2.5, 2 min",
    ),
    "film over six hours": ("chunks:\n- {caption: a, duration: 21600}\n- a", 3, "may last 6 hours at most"),
    "cut a word": (
        "chunks:\n- caption: a\n  cut: maybe",
        3,
        "chunks[1].cut: 'maybe' will not do; write true or",
    ),
    "chunk seed negative": ("chunks:\n- caption: a\n  seed: -1", 3, "chunks[1].seed: -1 is out of bounds"),
    "seed a fraction": (
        "seed: 1.5\nchunks: [a]",
        1,
        "seed: the number 1.5 will not do; write a whole number",
    ),
    "seed too large": (
        "seed: 9223372036854775808\nchunks: [a]",
        1,
        "seed: 9223372036854775808 is out of bounds",
    ),
    "seed enormous": (f"seed: {'9' * 5000}\nchunks: [a]", 1, "is no number that means anything here"),
    "seed absurd": (f"seed: {'9' * 400}\nchunks: [a]", 1, "is no number that means anything here"),
    "seed true": ("seed: true\nchunks: [a]", 1, "seed: true"),
    "fps zero": ("fps: 0\nchunks: [a]", 1, "fps: 0 is out of bounds; write a number above 0, at most 120"),
    "fps too high": ("title: a\nfps: 121\nchunks: [a]", 2, "fps: 121 is out of bounds"),
    "fps a word": ("fps: fast\nchunks: [a]", 1, "fps: 'fast' will not do"),
    "size odd": (
        "size: 161x96\nchunks: [a]",
        1,
        "size: a film cannot be 161x96; both sides must be even",
    ),
    "size a number": ("size: 480\nchunks: [a]", 1, "size: the number 480 is not a size; write WIDTHxHEIGHT"),
    "size of words": (
        "size: large\nchunks: [a]",
        1,
        "size: a size is WIDTHxHEIGHT, like 832x480; not 'large'",
    ),
    "size zero": ("size: 00x16\nchunks: [a]", 1, "size: a size is WIDTHxHEIGHT"),
    "version unknown": (
        "version: 2\nchunks: [a]",
        1,
        "version: the number 2 is not a version known here; write",
    ),
    "version a word": ("version: new\nchunks: [a]", 1, "version: 'new' is not a version"),
    "style a mapping": ("style: {a: b}\nchunks: [a]", 1, "style: a mapping is not text"),
    "title a number": ("title: 1984\nchunks: [a]", 1, "title: the number 1984 is not text; put it in quotes"),
    "recipe a list": ("recipe: [a]\nchunks: [a]", 1, "recipe: a list is not a recipe"),
    "number in a recipe": ("chunks: [a]\nrecipe:\n  shift: .inf", 3, "recipe.shift: .inf is no number"),
    "audio missing": (
        "title: a\naudio: none.ogg\nchunks: [a]",
        2,
        "audio.file: 'none.ogg' is not there; name a",
    ),
    "audio without a file": ("chunks: [a]\naudio: {start: 1}", 2, "audio.file: 'file' is missing"),
    "audio a folder": ("audio: .\nchunks: [a]", 1, "audio.file: '.' is a folder"),
    "audio outside": (
        "audio: ../a.ogg\nchunks: [a]",
        1,
        "audio.file: '../a.ogg' lies outside the storyboard's",
    ),
    "audio absolute": ("audio: /etc/passwd\nchunks: [a]", 1, "audio.file: '/etc/passwd' lies outside"),
    "audio with an endless name": (f"audio: {'a' * 1500}\nchunks: [a]", 1, "audio.file: 'aaa"),
    "audio too loud": (
        "chunks: [a]\naudio:\n  file: a\n  volume: 11",
        4,
        "audio.volume: 11 is out of bounds",
    ),
    "audio starts before": (
        "chunks: [a]\naudio:\n  file: a\n  start: -1",
        4,
        "audio.start: -1 is out of bounds",
    ),
    "audio ends before it starts": (
        "chunks: [a]\naudio:\n  start: 4\n  end: 3s\n  file: a",
        4,
        "audio.end: the sound ends at 3 s, which is not after its start at 4 s; write a later end",
    ),
    "audio with end and duration": (
        "chunks: [a]\naudio:\n  end: 3\n  duration: 2\n  file: a",
        4,
        "audio.duration: 'end' and 'duration' are both given; keep one of them, or add 'loop: true'",
    ),
    "audio after the film": (
        "chunks: [a]\naudio:\n  at: 00:04\n  file: a",
        3,
        "audio.at: the film lasts 4 s; let the sound begin before its end",
    ),
    "audio before the film": (
        "chunks: [a]\naudio:\n  at: -1\n  file: a",
        3,
        "audio.at: the sound would begin 1 s before the film; write 0 or more",
    ),
    "audio before the title card": (
        "chunks: [a]\ntitle_card: {text: b, seconds: 2}\naudio:\n  at: -3\n  file: a",
        4,
        "audio.at: the sound would begin 1 s before the film; write -2 or more",
    ),
    "audio after its chunk": (
        "chunks:\n- caption: a\n  audio:\n    at: 5\n    file: a",
        4,
        "chunks[1].audio.at: the chunk lasts 4 s; let the sound begin before its end",
    ),
    "audio of a chunk missing": (
        "chunks:\n- caption: a\n  audio: no.ogg",
        3,
        "chunks[1].audio.file: 'no.ogg' is not there",
    ),
    "unknown field of a chunk's audio": (
        "chunks:\n- caption: a\n  audio:\n    file: a\n    volum: 1",
        5,
        "chunks[1].audio.volum: there is no field 'volum'; did you mean 'volume'?",
    ),
    "audio as loud as thunder": (
        "chunks: [a]\naudio:\n  file: a\n  loudness: 3",
        4,
        "audio.loudness: 3 is out of bounds; write a number of LUFS from -70 to -5, like -16, or none",
    ),
    "loop a number": ("chunks: [a]\naudio:\n  file: a\n  loop: 2", 4, "audio.loop: the number 2 will not do"),
    "a moment of words": ("chunks: [a]\naudio:\n  file: a\n  at: soon", 4, "audio.at: 'soon' will not do"),
    "subtitles unknown": (
        "subtitles: hard\nchunks: [a]",
        1,
        "subtitles.show: 'hard' will not do; write beside, none, soft or burned",
    ),
    "subtitles misspelt": (
        "subtitles: burnt\nchunks: [a]",
        1,
        "subtitles.show: 'burnt' will not do; did you mean 'burned'? There are beside, none, soft or burned",
    ),
    "transition misspelt": (
        "chunks:\n- a\n- {caption: b, cut: true, transition: disolve}",
        3,
        "chunks[2].transition: 'disolve' will not do; did you mean 'dissolve'?",
    ),
    "colour misspelt": (
        "end_card: {text: a, colour: gray}\nchunks: [a]",
        1,
        "'gray' is not a colour; did you mean 'grey'?",
    ),
    "sound that starts with something else": (
        "audio: {file: a, start: flim}\nchunks: [a]",
        1,
        "audio.start: 'flim' will not do; write a number of seconds into the file, or one of the words film and story",
    ),
    "sound of a chunk that starts with the film": (
        "chunks:\n- caption: a\n  audio: {file: a, start: film}",
        3,
        "chunks[1].audio.start: a chunk's sound begins with its chunk, not with the film",
    ),
    "sound before the film": (
        "chunks: [a]\ntitle_card: {text: b, seconds: 2}\naudio: {file: a, start: film, at: -1}",
        3,
        "audio.at: the sound would begin 1 s before the film; write 0 or more",
    ),
    "subtitle a number": ("chunks:\n- caption: a\n  subtitle: 7", 3, "chunks[1].subtitle: the number 7 is not text"),
    "card without words": ("title_card: {seconds: 2}\nchunks: [a]", 1, "title_card.text: 'text' is missing"),
    "card with blank words": ("end_card: ' '\nchunks: [a]", 1, "end_card.text: this text is blank"),
    "card of no time": ("end_card: {text: a, seconds: 0}\nchunks: [a]", 1, "end_card.seconds: 0 is out of bounds"),
    "card in no colour": (
        "end_card: {text: a, colour: shiny}\nchunks: [a]",
        1,
        "end_card.colour: 'shiny' is not a colour; write black, white",
    ),
    "font missing": ("font: none.ttf\nchunks: [a]", 1, "font: 'none.ttf' is not there"),
    "transition unknown": (
        "chunks:\n- a\n- caption: b\n  cut: true\n  transition: wipe",
        5,
        "chunks[2].transition: 'wipe' will not do; write cut, fade or dissolve",
    ),
    "transition without a cut": (
        "chunks:\n- a\n- caption: b\n  transition: fade",
        4,
        "chunks[2].transition: a transition leads to a new shot; add 'cut: true', or remove the transition",
    ),
    "transition before the first shot": (
        "chunks:\n- caption: a\n  cut: true\n  transition: fade",
        4,
        "chunks[1].transition: no shot comes before the first one; remove the transition",
    ),
    "transition longer than a chunk": (
        "chunks:\n- a\n- caption: b\n  cut: true\n  transition: dissolve\n  transition_seconds: 5",
        6,
        "chunks[2].transition_seconds: the transition lasts 5 s, but a chunk beside it only 4 s; write 4 or less",
    ),
    "seconds of no transition": (
        "chunks:\n- a\n- caption: b\n  cut: true\n  transition_seconds: 1",
        5,
        "chunks[2].transition_seconds: there is no transition to last so long; add 'transition: fade'",
    ),
    "image missing": ("chunks:\n- caption: a\n  image: no.png", 3, "chunks[1].image: 'no.png' is not there"),
    "same field twice": (
        "title: a\nseed: 1\ntitle: b\nchunks: [a]",
        3,
        "title: this field is given twice, first on line 1; keep one of them",
    ),
    "same field twice in a chunk": (
        "chunks:\n- caption: a\n  caption: b",
        3,
        "chunks[1].caption: this field is given twice, first on line 2",
    ),
    "empty": ("", 1, "this file is empty; it needs 'chunks:'"),
    "only a comment": ("# a film\n", 1, "this file is empty"),
    "a text": ("A swan glides", 1, "this is no storyboard; begin with a line 'chunks:'"),
    "a list": ("- A swan\n- A boat", 1, "this is no storyboard"),
    "nothing": ("~", 1, "this is no storyboard"),
    "two documents": ("chunks: [a]\n---\nchunks: [b]", 2, "a second document begins"),
    "tabs": ("chunks:\n\t- a", 2, "indent with spaces, not with tabs"),
    "open bracket": ("title: a\nchunks: [a\n", 3, "this is not YAML that can be read"),
    "open quote": ('chunks:\n- "a swan\n', 3, "this is not YAML that can be read"),
    "colon in a caption": (
        "chunks:\n- caption: Night: rain falls",
        2,
        "a colon stands inside the text of 'caption'; quote the caption: caption: \"Night: rain falls\"",
    ),
    "colon and quotes in a caption": (
        'chunks:\n- seed: 1\n  caption: She says: "go"',
        3,
        "quote the caption: caption: 'She says: \"go\"'",
    ),
    "colon in brackets": (
        "chunks:\n- {seed: 1, caption: Night: rain, cut: true}",
        2,
        'caption: caption: "Night: rain"',
    ),
    "colon in brackets of a line": ("chunks: [{caption: Night: rain}]", 1, 'quote the caption: caption: "Night: rain"'),
    "colon after a comma": (
        "chunks:\n- caption: Dark, cold: rain",
        2,
        'quote the caption: caption: "Dark, cold: rain"',
    ),
    "colon in a caption without a field": (
        "chunks:\n- A red boat: it rests",
        2,
        "there is no field 'A red boat'; if a colon belongs to the caption, put the caption in quotes",
    ),
    "colon in the second line": (
        "chunks:\n- caption: a\n    b: c",
        3,
        "a field begins here, inside a text; quote the caption",
    ),
    "caption that begins with a sign": ("chunks:\n- @home", 2, "must be put in quotes"),
    "endless name": (f"? {'a' * 500}\n: b\nchunks: [a]", 1, "is too long for a field's name"),
    "endless text": (f"title: {'a' * 20_001}\nchunks: [a]", 1, "title: 'aaa"),
    "wrong indentation": ("chunks:\n  - a\n - b", 3, "this is not YAML that can be read"),
    "unknown alias": ("chunks:\n- *swan", 2, "this is not YAML that can be read"),
    "merged fields": (
        "chunks:\n- &a {caption: a}\n- {<<: *a}",
        3,
        "'<<' is not followed here; write the fields out",
    ),
    "list as a name": ("chunks: [a]\n? [b]\n: c", 2, "a field's name must be a word"),
    "tag of Python": ("chunks:\n- !!python/object:os.system a", 2, "chunks[1]: the tag"),
    "own tag": ("chunks: [a]\ntitle: !mine a", 2, "title: the tag '!mine' is not known here; remove it"),
    "binary": ("chunks: [a]\ntitle: !!binary aGk=", 2, "title: the tag"),
    "a set": ("chunks: !!set {a, b}", 1, "chunks: the tag"),
    "bool that is none": ("chunks: [a]\nseed: !!bool 7", 2, "seed: '7' cannot be read"),
    "number that is none": ("chunks: [a]\nseed: !!int ''", 2, "seed: '' cannot be read"),
    "escape too far": ('chunks:\n- "\\UFFFFFFFF"', 2, "an escape that is no character"),
    "deep brackets": ("chunks: " + "[" * 5000, 1, "this has more than 24 levels"),
    "deep indentation": ("chunks:\n" + "- " * 3000 + "a", 2, "this has more than 24 levels"),
    "too many values": (
        "recipe: {" + ", ".join(f"a{n}: b" for n in range(20_000)) + "}",
        1,
        "this has more than 40000 values",
    ),
    "too many chunks": ("chunks:\n" + "- a\n" * 5401, 5402, "more than 5400 entries in one list"),
    "alias of itself": ("chunks: &a [*a]", 1, "repeats itself too much"),
    "many aliases": ("title: &a x\nchunks:\n" + "- *a\n" * 101, 103, "this has more than 100 aliases"),
    "laughing aliases": (
        "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'ha'] * 9)}]" for n in range(9)),
        1,
        "repeats itself too much",
    ),
}


def complaint(path, overrides=()):
    """The error that reading ``path`` ends in; its exit code is that of a wrong storyboard."""
    with pytest.raises(UsageError) as caught:
        read_storyboard(path, overrides)
    assert caught.value.exit_code == 2
    return caught.value


@pytest.mark.parametrize(("text", "line", "said"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_said_with_its_place(tmp_path, text, line, said):
    path = tmp_path / "story.yaml"
    path.write_text(text, encoding="utf-8")
    error = complaint(path)
    assert isinstance(error, StoryboardError)
    first = str(error).splitlines()[0]
    assert first.startswith(f"{path}:{line}: ")
    assert said in first
    assert len(first) < len(str(path)) + 400


RAW = {  # name: (content, line or none where it is the whole file, what the sentence holds)
    "not UTF-8": (b"title: a\nchunks: [\xff]", 2, "not UTF-8"),
    "UTF-16": ("chunks: [a]".encode("utf-16"), 1, "not UTF-8"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), 1, "not UTF-8"),
    "a zero byte": (b"title: a\nchunks: [\0]", 2, "a character that is not text; remove it"),
    "too large": (b"chunks: [a] #" + b" " * 1_000_000, None, "larger than 1 MB"),
}


@pytest.mark.parametrize(("raw", "line", "said"), RAW.values(), ids=RAW.keys())
@pytest.mark.parametrize("name", ["story.yaml", "story.json"])
def test_files_that_are_no_text(tmp_path, raw, line, said, name):
    path = tmp_path / name
    path.write_bytes(raw)
    error = str(complaint(path))
    assert error.startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert said in error


def test_a_misspelt_caption_is_one_problem(tmp_path):
    for text, meant in (("chunks:\n- captoin: A swan.\n", "caption"), ("chnks:\n- A swan.\n", "chunks")):
        path = tmp_path / "story.yaml"
        path.write_text(text)
        error = str(complaint(path))
        assert f"did you mean '{meant}'?" in error and "\n" not in error and "missing" not in error


@pytest.mark.parametrize(("name", "kind"), [("fox.png", "a picture"), ("a.mp4", "a film"), ("a.mp3", "a sound")])
def test_a_picture_film_or_sound_is_no_storyboard(tmp_path, name, kind):
    path = tmp_path / name
    for size in (100, 2_000_000):
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(size))
        assert str(complaint(path)).startswith(f"{path}: this is {kind}, not a storyboard")


def test_no_file(tmp_path):
    captions = tmp_path / "talk.srt"
    assert str(complaint(captions)) == f"{captions}: there is no such file"
    assert "blockvid storyboard new" in str(complaint(tmp_path / "new.yaml"))
    missing = tmp_path / "none.yaml"
    assert str(complaint(missing)).startswith(f"{missing}: there is no such file")
    assert str(complaint(tmp_path)) == f"{tmp_path}: this is a folder; name the storyboard in it"
    assert "cannot be read" in str(complaint(tmp_path / ("a" * 300)))
    assert "cannot be read" in str(complaint(tmp_path / "a\0b.yaml"))


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    """Whoever runs this may read everything, so the refusal is played."""
    path = tmp_path / "story.yaml"
    path.write_text(GOOD)

    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)
    assert str(complaint(path)) == f"{path}: this file cannot be read (Permission denied); check its permissions"


@pytest.fixture
def unusual(tmp_path, request):
    """A pipe, a socket, a device, or a link to one of them, which would block, or never end, when it is read."""
    path = tmp_path / "unusual"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif request.param == "link to a pipe":
        os.mkfifo(tmp_path / "other")
        path.symlink_to("other")
    else:
        path.symlink_to("/dev/zero")
    return path


UNUSUAL = ["pipe", "socket", "link to a pipe", "device"]


@pytest.mark.parametrize("unusual", UNUSUAL, indirect=True)
@pytest.mark.parametrize("suffix", ["", ".yaml", ".srt", ".txt", ".json"])
def test_only_regular_files_are_read(unusual, suffix):
    path = unusual.rename(unusual.with_name(f"story{suffix}"))
    with time_limit(wall=5):
        assert re.search(rf"^{path}: this is a (pipe|socket|device), not a regular file; save", str(complaint(path)))


@pytest.mark.parametrize("unusual", UNUSUAL, indirect=True)
@pytest.mark.parametrize(
    "text",
    ["audio: unusual\nchunks: [a]", "font: unusual\nchunks: [a]", "chunks: [{caption: a, image: unusual}]"],
    ids=["audio", "font", "image"],
)
def test_only_regular_files_are_named(unusual, text):
    path = unusual.with_name("story.yaml")
    path.write_text(text)
    with (
        time_limit(wall=5),
        pytest.raises(UsageError, match="'unusual' is no regular file but a pipe, a device or a s"),
    ):
        read_storyboard(path, allow_outside=True)


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path, monkeypatch):
    """It is looked at twice: before it is opened, and once it is open."""
    regular, pipe = tmp_path / "story.yaml", tmp_path / "pipe"
    regular.write_text(GOOD)
    os.mkfifo(pipe)
    system_open = os.open
    monkeypatch.setattr("os.open", lambda path, flags: system_open(pipe, flags))
    with time_limit(wall=5):
        assert "this is a pipe" in str(complaint(regular))


def test_dates_and_clocks_are_text_where_text_belongs(tmp_path):
    path = tmp_path / "story.yaml"
    path.write_text("title: 2024-05-01\nstyle: 12:30\nchunk: 1:30\nchunks: [010, 0x1F]\nfps: 1e1\n")
    story = read_storyboard(path)
    assert (story.title, story.style, story.fps, story.seconds) == ("2024-05-01", "12:30", 10, 180)
    assert [chunk.caption for chunk in story.chunks] == ["010", "0x1F"]
    path.write_text(dump_storyboard(replace(story, title="1e5", style="1:30")))
    assert (read_storyboard(path).title, read_storyboard(path).style) == ("1e5", "1:30")


def test_all_faults_are_said_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "story.yaml"
    path.write_text("chunks:\n- caption: 7\n- b\n- {caption: a, seed: x, cut: 3}\nfps: 500\ntitle: 2024\n")
    said = str(complaint(path)).splitlines()
    assert [line.removeprefix(f"{path}:").split(": ")[:2] for line in said] == [
        ["2", "chunks[1].caption"],
        ["4", "chunks[3].seed"],
        ["4", "chunks[3].cut"],
        ["5", "fps"],
        ["6", "title"],
    ]


def test_ten_faults_are_enough(tmp_path):
    path = tmp_path / "story.yaml"
    path.write_text("chunks:\n" + "- caption: 7\n" * 40)
    said = str(complaint(path)).splitlines()
    assert len(said) == 11
    assert said[-1] == "... and 30 more"


def test_every_gap_and_overlap_is_said(tmp_path):
    path = tmp_path / "story.yaml"
    path.write_text(
        "chunks:\n- {caption: a, at: 0-2}\n- {caption: b, at: 3-5}\n- {caption: c, at: 4-6}\naudio: x.ogg\n"
    )
    said = str(complaint(path)).splitlines()
    assert [line.removeprefix(f"{path}:").split(": ")[0] for line in said] == ["3", "4", "5"]


OVERRIDES = {
    "chnks.2.seed=7": "there is no field 'chnks'; did you mean 'chunks'?",
    "chunks.2.sead=7": "there is no field 'sead'; did you mean 'seed'?",
    "chunks.0.seed=7": "there is no chunk '0'; count from 1 to 3",
    "chunks.4.seed=7": "there is no chunk '4'; count from 1 to 3",
    "chunks.two.seed=7": "there is no chunk 'two'; count from 1 to 3",
    "title.size=7": "'title' holds no fields of its own; end the name there",
    "chunks.2.seed.x=7": "'seed' holds no fields of its own",
    "seed": "this is no field and value; write it like chunks.4.seed=7",
    "=7": "this is no field and value",
    "": "this is no field and value",
    "seed=abc": "seed: 'abc' will not do; write a whole number",
    "chunks.2.seed=-1": "chunks[2].seed: -1 is out of bounds",
    "chunks.3.seed=x": "chunks[3].seed: 'x' will not do",
    "chunks.1=": "chunks[1]: nothing will not do",
    "chunks=9": "chunks: the number 9 is not a list",
    "seed=1:1:1": "seed: '1:1:1' will not do; write a whole number",
    "recipe.shift=.nan": "recipe.shift: .nan is no number",
    "recipe.steps=[1, .nan]": "recipe.steps: .nan is no number",
    "recipe.steps=[1: 2, {]": "recipe.steps: '[1: 2, {]' cannot be read as a list or a mapping",
    "audio.file=none.ogg": "audio.file: 'none.ogg' is not there",
    "audio.volume=loud": "audio.volume: 'loud' will not do",
    "audio.volum=2": "there is no field 'volum'; did you mean 'volume'?",
    "chunks.1.audio.volume=loud": "chunks[1].audio.volume: 'loud' will not do",
    "end_card.texture=a": "there is no field 'texture'; did you mean 'text'?",
    "subtitles=loud": "subtitles.show: 'loud' will not do; write beside",
    "chunks.1.at=00:00-00:03": None,
}


@pytest.mark.parametrize(("override", "said"), OVERRIDES.items())
def test_a_wrong_override_is_said_with_what_was_typed(tmp_path, override, said):
    path = tmp_path / "story.yaml"
    path.write_text(GOOD)
    if said is None:
        assert read_storyboard(path, [override]).chunks[0].end == 3
    else:
        first = str(complaint(path, [override])).splitlines()[0]
        assert first.startswith(f"--set {override}: ")
        assert said in first


def test_an_override_of_no_storyboard(tmp_path):
    path = tmp_path / "story.yaml"
    path.write_text("- a")
    assert "this is no storyboard" in str(complaint(path, ["seed=3"]))


# Whatever is typed

ODD = [
    *(
        "yes",
        "~",
        "[]",
        "{}",
        "{a: b}",
        "- - a",
        "*a",
        "&a x",
        "!!set {a}",
        "2024-01-01",
        ".nan",
        "1e999",
        "0x",
        "0b",
    ),
    *(
        "1:99:99",
        "-",
        "?",
        ":",
        "'",
        '"',
        "\t",
        "|",
        ">",
        "%YAML 9.9",
        "---",
        "...",
        "<<: {a: b}",
        "9" * 5000,
        "\x00",
    ),
    *(
        "\ud800",
        "\U0001f9a2",
        "at: 0-1",
        "at: 3-1",
        "duration: 1e-9",
        "seed: ''",
        "audio: {file: [a]}",
        "{file: a, at: -1e9, end: 0.1, loudness: -16}",
        "title_card: {text: [a], seconds: -1}",
        "transition: fade",
        "subtitle: |",
        "caption:",
    ),
]


def only_sentences(path, overrides=()):
    """Reads; whatever comes of it, it is a storyboard that tiles or a sentence."""
    try:
        story = read_storyboard(path, overrides)
    except BlockvidError as error:
        assert error.exit_code == 2
        assert str(error).startswith((f"{path}:", "--set "))
    else:
        starts = [0, *(chunk.end for chunk in story.chunks)]
        assert [chunk.start for chunk in story.chunks] == starts[:-1]


def change(lines, dice, odd):
    """One thing that happens to a file: a line lost, doubled, moved, or with something odd in it."""
    place = dice.randrange(len(lines) + 1)
    deed = dice.choice(["lose", "double", "swap", "value", "insert", "indent", "cut"])
    if deed == "insert" or place == len(lines):
        lines.insert(place, "  " * dice.randrange(3) + odd)
    elif deed == "lose":
        del lines[place]
    elif deed == "double":
        lines.insert(place, lines[place])
    elif deed == "swap":
        other = dice.randrange(len(lines))
        lines[place], lines[other] = lines[other], lines[place]
    elif deed == "value":
        lines[place] = lines[place].partition(":")[0] + ": " + odd
    elif deed == "indent":
        lines[place] = " " * dice.randrange(4) + lines[place]
    else:
        lines[place] = lines[place][: dice.randrange(len(lines[place]) + 1)]


@settings(max_examples=400, deadline=None)
@given(
    some.integers(0, 2**32),
    some.lists(some.sampled_from(ODD) | some.text(max_size=8), min_size=1, max_size=4),
)
def test_a_good_storyboard_that_something_happened_to(tmp_path_factory, seed, odds):
    dice, lines = random.Random(seed), GOOD.splitlines()
    for odd in odds:
        change(lines, dice, odd)
    path = tmp_path_factory.getbasetemp() / "changed.yaml"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    only_sentences(path)


words = some.sampled_from(
    ["chunks:", "- ", "caption: a", "at: 0-1", "\n", "\n  ", "{", "}", "[", "]", ", ", ": ", "#", *ODD]
)


@settings(max_examples=400, deadline=None)
@given(some.lists(words | some.text(max_size=4), max_size=25), some.sampled_from(["yaml", "json"]))
def test_anything_like_yaml(tmp_path_factory, parts, suffix):
    path = tmp_path_factory.getbasetemp() / f"any.{suffix}"
    path.write_bytes("".join(parts).encode("utf-8", "surrogatepass"))
    only_sentences(path)


names = some.lists(
    some.sampled_from(["chunks", "1", "3", "seed", "caption", "recipe", "kv_cache", "audio", "file", "at", "", "size"]),
    max_size=4,
).map(".".join)


@settings(max_examples=200, deadline=None)
@given(some.lists(some.tuples(names, some.sampled_from(ODD) | some.text(max_size=6)).map("=".join), max_size=3))
def test_any_override(tmp_path_factory, overrides):
    path = tmp_path_factory.getbasetemp() / "overridden.yaml"
    path.write_text(GOOD)
    only_sentences(path, overrides)
