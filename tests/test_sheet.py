"""Contact sheets: every picture in its place, every label within its column."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFont

from blockvid_cli.video.contact_sheet import PAPER, contact_sheet, thumbnail, wrap_text
from blockvid_cli.video.overlays import with_glyphs

COLOURS = [
    (200, 30, 30),
    (30, 200, 30),
    (30, 30, 200),
    (200, 200, 30),
    (30, 200, 200),
    (200, 30, 200),
    (250, 120, 0),
]


def plain(colour: tuple[int, int, int], width: int = 64, height: int = 48) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def places(sheet: np.ndarray, colour: tuple[int, int, int], tolerance: int = 0) -> tuple[int, int, int, int]:
    """Left, top, width and height of the area of a colour."""
    rows, columns = np.nonzero((np.abs(sheet.astype(int) - colour) <= tolerance).all(axis=2))
    left, top = columns.min(), rows.min()
    return int(left), int(top), int(columns.max() - left + 1), int(rows.max() - top + 1)


def read(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("scale", [1, 2])
def test_pictures_lie_row_by_row(tmp_path, scale):
    path = tmp_path / "sheet.png"
    contact_sheet([plain(colour) for colour in COLOURS], ["a caption"] * 7, path, columns=3, scale=scale)
    sheet = read(path)
    found = [places(sheet, colour) for colour in COLOURS]
    assert {(width, height) for _, _, width, height in found} == {(64 * scale, 48 * scale)}
    lefts, tops = [left for left, *_ in found], [top for _, top, *_ in found]
    assert lefts[0] == lefts[3] == lefts[6] < lefts[1] == lefts[4] < lefts[2] == lefts[5]
    assert tops[0] == tops[1] == tops[2] < tops[3] == tops[4] == tops[5] < tops[6]
    assert lefts[1] >= lefts[0] + 64 * scale + 4
    assert (sheet[:, 0] == PAPER).all() and (sheet[:, -1] == PAPER).all()


def test_labels_are_under_their_pictures_and_not_in_the_next_column(tmp_path):
    path = tmp_path / "sheet.png"
    words = "a very long caption that does not fit under a picture " * 5
    contact_sheet([plain(COLOURS[0])] * 2, ["", words], path, columns=2)
    sheet = read(path)
    left, top, _, height = places(sheet, COLOURS[0])
    below = (sheet[top + height :] != PAPER).any(axis=2)
    assert below.any()
    columns = np.nonzero(below.any(axis=0))[0]
    assert columns.min() >= left + 64 and columns.max() <= sheet.shape[1] - left + 1


def test_few_pictures_make_a_narrow_sheet(tmp_path):
    contact_sheet([plain(COLOURS[0])], ["alone"], tmp_path / "sheet.png")
    assert read(tmp_path / "sheet.png").shape[1] < 100


def test_wrapping():
    font = ImageFont.load_default(10)
    assert wrap_text("short", font, 100) == ["short"]
    assert wrap_text("", font, 100) == []
    long = wrap_text("one two three four five six seven eight nine ten", font, 60)
    assert len(long) == 2 and long[1].endswith("…")
    assert " ".join(long).startswith("one two")
    for text in (
        "Donaudampfschifffahrtsgesellschaftskapitän here",
        "a " + "w" * 99,
        "漢字" * 60,
        "two\nlines 🐘",
    ):
        rows = wrap_text(text, font, 60)
        assert 1 <= len(rows) <= 2 and all(font.getlength(row) <= 60 for row in rows)


def test_a_label_a_frame():
    with pytest.raises(ValueError, match="label"):
        contact_sheet([plain(COLOURS[0])], [], "sheet.png")


def test_a_wide_picture_is_shrunk_and_a_small_one_kept():
    wide, narrow = plain(COLOURS[0], 832, 480), plain(COLOURS[1])
    assert thumbnail(wide).shape == (185, 320, 3) and (thumbnail(wide) == COLOURS[0]).all()
    assert thumbnail(narrow) is narrow


# ---- characters that a font lacks ------------------------------------------------------------------------


def label_ink(tmp_path, label: str) -> np.ndarray:
    """The rows and columns of ink (h, w) of bools that a label is drawn with."""
    contact_sheet([plain(COLOURS[0], 160, 96)], [label], tmp_path / "sheet.png")
    sheet = read(tmp_path / "sheet.png")
    _, top, _, height = places(sheet, COLOURS[0])
    ink = (sheet[top + height :] != PAPER).any(axis=2)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@pytest.mark.parametrize("dash", ["\N{EN DASH}", "\N{EM DASH}", "\N{HORIZONTAL BAR}", "\N{MINUS SIGN}"])
def test_a_dash_in_a_caption_is_a_line_and_no_box(tmp_path, dash):
    ink = label_ink(tmp_path, dash)
    assert ink.shape[0] <= 3 < ink.shape[1] and ink.all(axis=0).mean() > 0.5


def test_a_character_outside_the_font_becomes_the_most_similar_one(tmp_path):
    assert np.array_equal(label_ink(tmp_path, "\N{CJK UNIFIED IDEOGRAPH-6F22}"), label_ink(tmp_path, "?"))
    assert np.array_equal(label_ink(tmp_path, "\N{FULLWIDTH LATIN CAPITAL LETTER A}"), label_ink(tmp_path, "A"))
    assert np.array_equal(label_ink(tmp_path, "a\N{VARIATION SELECTOR-16}"), label_ink(tmp_path, "a"))


@pytest.mark.parametrize(
    ("char", "similar"),
    [("\N{EM DASH}", "-"), ("\N{RIGHT SINGLE QUOTATION MARK}", '"'), ("\N{HORIZONTAL ELLIPSIS}", "..."), ("x", "x")],
)
def test_a_font_of_few_characters_gets_similar_ones(char, similar):
    class Ascii:
        """A font whose characters are those of ASCII; what it lacks is a box."""

        def getmask(self, text):
            return Mask(text if text.isascii() else "box")

    class Mask(bytes):
        """The pixels of a text."""

        def __new__(cls, text):
            return super().__new__(cls, text.encode())

        @property
        def size(self):
            return len(self), 1

    assert with_glyphs(f"a{char}b", Ascii()) == f"a{similar}b"
