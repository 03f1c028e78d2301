"""Pictures in the terminal, GIFs, takes side by side: what is written is read back to pixels."""

from __future__ import annotations

import base64
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from blockvid_cli.errors import UsageError
from blockvid_cli.video.contact_sheet import side_by_side, write_gif
from blockvid_cli.video.terminal_images import CHUNK, GraphicsProtocol, choose_protocol, encode_image, fit, sixels

KITTY, ITERM, SIXEL, BLOCKS, BLOCKS_256 = GraphicsProtocol
LEVELS = (0, 95, 135, 175, 215, 255)
XTERM = [(r, g, b) for r in LEVELS for g in LEVELS for b in LEVELS] + [(8 + 10 * n,) * 3 for n in range(24)]  # from 16


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def sunset(width: int, height: int) -> np.ndarray:
    """A smooth picture with a sharp disc."""
    y, x = np.mgrid[0:height, 0:width]
    sky = np.stack([255 - y * 120 / height, 90 + y * 60 / height, 60 + x * 150 / width], -1)
    disc = (x - width * 0.6) ** 2 + (y - height * 0.5) ** 2 < (height * 0.2) ** 2
    return np.where(disc[..., None], (250, 230, 120), sky).astype(np.uint8)


def read_png(text: str) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(base64.b64decode(text, validate=True))))


def read_kitty(written: str) -> tuple[dict[str, str], np.ndarray]:
    """The keys of the first piece and the picture; pieces must follow one another without a gap."""
    assert re.fullmatch(r"(\x1b_G[^;]*;[^\x1b]*\x1b\\)+\n", written)
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", written)
    keys = [dict(pair.split("=") for pair in told.split(",")) for told, _ in pieces]
    assert [key["m"] for key in keys] == ["1"] * (len(pieces) - 1) + ["0"]
    assert all(set(key) == {"m"} for key in keys[1:])
    assert all(len(piece) <= CHUNK and len(piece) % 4 == 0 for _, piece in pieces)
    return keys[0], read_png("".join(piece for _, piece in pieces))


def read_sixels(written: str) -> np.ndarray:
    """A terminal for sixels: paints what it is told onto nothing (-1)."""
    told = re.fullmatch(r'\x1bP0;1;0q"1;1;(\d+);(\d+)(.*)\x1b\\', written, re.DOTALL)
    assert told
    width, height = int(told[1]), int(told[2])
    canvas = np.full((height, width, 3), -1)
    palette: dict[int, tuple[int, ...]] = {}
    colour, column, top, times = (0, 0, 0), 0, 0, 1
    for definition, number, repeat, letter in re.findall(r"#(\d+;2;[\d;]+)|#(\d+)|!(\d+)|([?-~$-])", told[3]):
        if definition:
            index, _, *percent = map(int, definition.split(";"))
            assert all(0 <= part <= 100 for part in percent)
            palette[index] = tuple(round(part * 2.55) for part in percent)
        elif number:
            colour = palette[int(number)]
        elif repeat:
            times = int(repeat)
        elif letter in "$-":
            column, top = 0, top + (6 if letter == "-" else 0)
        else:
            for row in (row for row in range(6) if (ord(letter) - 63) >> row & 1):
                assert top + row < height and column + times <= width
                canvas[top + row, column : column + times] = colour
            column, times = column + times, 1
    return canvas


def read_blocks(written: str) -> np.ndarray:
    """A terminal for half blocks in 16 million or 256 colours."""
    table = dict(enumerate(XTERM, 16))
    rows = []
    for line in written.splitlines():
        assert line.endswith("\x1b[0m")
        now: dict[str, tuple[int, ...]] = {}
        pair: list[list[tuple[int, ...]]] = [[], []]
        for codes, block in re.findall(r"\x1b\[([\d;]*)m|(▀)", line):
            for ground, red, green, blue, number in re.findall(r"([34]8);(?:2;(\d+);(\d+);(\d+)|5;(\d+))", codes):
                now[ground] = table[int(number)] if number else (int(red), int(green), int(blue))
            if block:
                pair[0].append(now["38"])
                pair[1].append(now["48"])
        rows += pair
    return np.array(rows, dtype=np.uint8)


def read_gif(path: Path) -> tuple[np.ndarray, list[int]]:
    """Frames (F, H, W, 3) and their milliseconds."""
    with Image.open(path) as film:
        frames = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(film)]
        times = [frame.info["duration"] for frame in ImageSequence.Iterator(film)]
    return np.stack(frames), times


def test_small_pictures_arrive_as_they_are():
    picture = noise(60, 40)
    keys, seen = read_kitty(encode_image(picture, KITTY, 40, 20))
    assert np.array_equal(seen, picture) and (keys["a"], keys["f"], keys["q"], keys["c"]) == ("T", "100", "2", "40")
    told = re.fullmatch(r"\x1b]1337;File=([^:]*):([^\x07]*)\x07\n", encode_image(picture, ITERM, 40, 20))
    keys = dict(pair.split("=") for pair in told[1].split(";"))
    assert np.array_equal(read_png(told[2]), picture)
    assert keys["inline"] == "1" and keys["width"] == "40" and keys["preserveAspectRatio"] == "1"
    assert int(keys["size"]) == len(base64.b64decode(told[2]))


def test_large_pictures_are_shrunk_before_they_are_sent():
    picture = sunset(832, 480)
    keys, seen = read_kitty(encode_image(picture, KITTY, 40, 40))
    assert keys["c"] == "40" and seen.shape[:2] == (231, 400)
    assert np.abs(seen.mean((0, 1)) - picture.mean((0, 1))).max() < 2
    assert len(encode_image(noise(300, 200), KITTY, 80, 40)) > 10 * CHUNK


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (30, 6), (31, 13), (64, 48)])
def test_sixels_of_few_colours_come_back(size):
    colours = np.array([(255, 0, 0), (0, 153, 51), (0, 0, 255), (255, 255, 255), (0, 0, 0)], dtype=np.uint8)
    picture = colours[np.random.default_rng(1).integers(0, 5, size[::-1])]
    picture[: size[1] // 2] = colours[1]  # long runs too
    assert np.array_equal(read_sixels(sixels(picture)), picture)


def test_sixels_of_many_colours_are_near():
    picture = sunset(160, 96)
    seen = read_sixels(encode_image(picture, SIXEL, 40, 20).removesuffix("\n"))
    assert seen.shape == picture.shape and seen.min() >= 0
    assert np.abs(seen - picture.astype(int)).mean() < 8
    assert read_sixels(encode_image(sunset(832, 480), SIXEL, 40, 40).strip()).shape == (185, 320, 3)


def test_half_blocks_are_the_pixels():
    picture = noise(12, 8)
    written = encode_image(picture, BLOCKS, 12, 4)
    assert np.array_equal(read_blocks(written), picture) and written.count("\n") == 4
    flat = encode_image(np.full((8, 12, 3), 9, dtype=np.uint8), BLOCKS, 12, 4)
    assert flat.count("38;2") == 4  # a colour is told once a line


def test_256_colours_are_the_nearest():
    picture = noise(12, 8)
    seen = read_blocks(encode_image(picture, BLOCKS_256, 12, 4)).astype(int)
    best = ((np.array(XTERM)[None, None] - picture[:, :, None].astype(int)) ** 2).sum(-1).min(-1)
    assert np.array_equal(((seen - picture) ** 2).sum(-1), best)
    grey = read_blocks(encode_image(np.full((2, 1, 3), 128, dtype=np.uint8), BLOCKS_256, 1, 1))
    assert grey.tolist() == [[[128] * 3]] * 2


def test_a_picture_keeps_its_shape_within_its_room():
    wide, tall = noise(160, 96), noise(10, 100)
    assert fit(wide, 80, 40) == (80, 24) and fit(wide, 80, 10) == (33, 10)
    assert fit(tall, 80, 10) == (2, 10) and fit(noise(500, 1), 20, 5) == (20, 1)
    with pytest.raises(ValueError, match="no room in 0 x 5"):
        encode_image(wide, BLOCKS, 0, 5)
    with pytest.raises(ValueError, match="uint8"):
        encode_image(wide.astype(float), BLOCKS, 10, 5)


@pytest.mark.parametrize(
    ("variables", "way"),
    [
        ({"TERM": "xterm-kitty"}, KITTY),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, KITTY),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1", "TERM_PROGRAM": "vscode"}, BLOCKS_256),
        ({"TERM": "xterm-kitty", "TERM_PROGRAM": "WezTerm"}, KITTY),
        ({"TERM": "xterm-ghostty", "TERM_PROGRAM": "ghostty"}, KITTY),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, ITERM),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, ITERM),
        ({"TERM": "foot"}, SIXEL),
        ({"TERM": "mlterm-256color"}, SIXEL),
        ({"TERM": "xterm-sixel"}, SIXEL),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, BLOCKS),
        ({"WT_SESSION": "1"}, BLOCKS),
        ({"TERM": "xterm-256color"}, BLOCKS_256),
        ({"TERM": "screen", "COLORTERM": "24bit", "TERM_PROGRAM": "iTerm.app"}, BLOCKS),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/tmux", "KITTY_WINDOW_ID": "1"}, BLOCKS_256),
        ({"TERM": "xterm-kitty", "STY": "1"}, BLOCKS_256),
        ({"TERM": "linux"}, None),
        ({"TERM": "dumb", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "xterm-kitty", "NO_COLOR": "1"}, None),
        ({"TERM": "xterm-kitty", "NO_COLOR": ""}, KITTY),
        ({}, None),
        ({"TERM": "xterm-kitty", "BLOCKVID_GRAPHICS": "none"}, None),
        ({"TERM": "xterm-kitty", "COLORTERM": "truecolor", "BLOCKVID_GRAPHICS": "blocks"}, BLOCKS),
        ({"TMUX": "1", "BLOCKVID_GRAPHICS": "sixel"}, SIXEL),
        ({"NO_COLOR": "1", "TERM": "dumb", "BLOCKVID_GRAPHICS": "iterm"}, ITERM),
    ],
)
def test_terminals_are_told_by_their_variables(variables, way):
    assert choose_protocol(variables, is_tty=True) is way
    assert choose_protocol(variables, is_tty=False) is None


def test_an_unknown_way_is_a_sentence():
    with pytest.raises(UsageError, match="Did you mean 'kitty'"):
        choose_protocol({"BLOCKVID_GRAPHICS": "kity"}, is_tty=True)


def test_a_gif_has_the_frames_at_their_times(tmp_path):
    frames = [np.roll(sunset(160, 96), 5 * number, 1) for number in range(13)]
    path = tmp_path / "film.gif"
    assert write_gif(iter(frames), path, fps=12) == 13
    seen, times = read_gif(path)
    assert seen.shape == (13, 96, 160, 3) and sum(times) == 1080  # 13 / 12 s
    assert set(times) <= {80, 90}
    assert np.abs(seen - np.stack(frames).astype(int)).mean() < 8
    with Image.open(path) as film:
        assert film.info["loop"] == 0


def test_a_gif_is_small_and_its_colours_are_everyones(tmp_path):
    """A red half and a blue half both come out right, since the palette is chosen over all frames."""
    red, blue = (np.full((480, 832, 3), colour, dtype=np.uint8) for colour in ((220, 30, 20), (10, 40, 230)))
    path = tmp_path / "film.gif"
    write_gif([red] * 5 + [blue] * 5, path, fps=10)
    seen, times = read_gif(path)
    assert seen.shape[1:] == (277, 480, 3) and sum(times) == 1000
    assert np.abs(seen[0] - red[0, 0].astype(int)).max() <= 2 and np.abs(seen[-1] - blue[0, 0].astype(int)).max() <= 2
    assert path.stat().st_size < 20_000


def test_fast_films_lose_frames_not_time(tmp_path):
    path = tmp_path / "film.gif"
    assert write_gif((noise(16, 16, seed) for seed in range(120)), path, fps=60) == 60
    assert sum(read_gif(path)[1]) == 2000


@pytest.mark.parametrize(("frames", "fps", "fault"), [([], 10, "at least one frame"), ([1], 0, "not 0")])
def test_a_gif_of_nothing_is_refused(tmp_path, frames, fps, fault):
    with pytest.raises(ValueError, match=fault):
        write_gif(frames, tmp_path / "film.gif", fps=fps)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("columns", [None, 1])
@pytest.mark.parametrize(("count", "across"), [(1, 1), (2, 2), (5, 3)])
def test_takes_stand_side_by_side(count, across, columns):
    takes = [[noise(81, 45, 10 * take + moment) for moment in range(3)] for take in range(count)]
    pages = list(side_by_side([iter(take) for take in takes], [f"take {n}" for n in range(count)], columns))
    across, strip = columns or across, 16
    down = -(-count // across)
    assert len(pages) == 3 and pages[0].dtype == np.uint8
    wanted = (down * (45 + strip), across * 85 - 4)
    assert pages[0].shape == (wanted[0] + wanted[0] % 2, wanted[1] + wanted[1] % 2, 3)
    for moment, page in enumerate(pages):
        for number, take in enumerate(takes):
            top, left = number // across * (45 + strip) + strip, number % across * 85
            assert np.array_equal(page[top : top + 45, left : left + 81], take[moment])
            assert page[top - strip : top, left : left + 81].min() < 100  # a label


def test_takes_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="2 labels for 1 takes"):
        side_by_side([[noise(8, 8)]], ["a", "b"])
    with pytest.raises(ValueError, match="different sizes"):
        list(side_by_side([[noise(8, 8)], [noise(8, 10)]], ["a", "b"]))
    with pytest.raises(ValueError, match="shorter"):
        list(side_by_side([[noise(8, 8)] * 2, [noise(8, 8)]], ["a", "b"]))
