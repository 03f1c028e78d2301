"""Films as people have them: any container and pixel format, odd and broken ones too, give frames or one sentence."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import tracemalloc
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from blockvid_cli.errors import UsageError
from blockvid_cli.evaluation.scores import EvalConfig, score_film
from blockvid_cli.video import reader
from blockvid_cli.video.reader import decode_frames, scan_video

COUNT, RATE, SIZE = 12, 12, (64, 48)
H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")
MPEG4 = ("-c:v", "mpeg4")
PLAIN = {  # 12 frames of 64x48, a second: how each is made
    "h264.mp4": (*H264, "-bf", "0"),
    "b-frames.mp4": (*H264, "-bf", "3"),
    "b-frames.avi": (*H264, "-bf", "3"),  # AVI has no times
    "sound.mp4": ("-f", "lavfi", "-i", "sine=duration=1", *H264),
    "vp8.webm": ("-c:v", "libvpx"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-crf", "10", "-b:v", "0"),
    "alpha.webm": ("-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", "-crf", "10", "-b:v", "0"),
    "alpha.mov": ("-c:v", "qtrle", "-pix_fmt", "argb"),
    "prores.mov": ("-c:v", "prores_ks", "-profile:v", "4444", "-pix_fmt", "yuva444p10le"),
    "film.gif": (),
    "film.apng": (),
    "jpegs.avi": ("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p"),
    "mpeg4.avi": (*MPEG4, "-q:v", "2"),
    "stream.ts": H264,
    "gray.mp4": ("-c:v", "libx264", "-pix_fmt", "gray"),
    "gray.mkv": ("-c:v", "ffv1", "-pix_fmt", "gray10le"),
    "ten-bit.mp4": ("-c:v", "libx264", "-pix_fmt", "yuv420p10le"),
    "full-range.mp4": ("-c:v", "libx264", "-pix_fmt", "yuvj420p"),
    "rgb.mkv": ("-c:v", "libx264rgb"),
    "sixteen-bit.mkv": ("-c:v", "ffv1", "-pix_fmt", "yuv444p16le"),
    "palette.avi": ("-c:v", "rawvideo", "-pix_fmt", "pal8"),
    "pipe.webm": ("-c:v", "libvpx", "-live", "1"),  # no duration
    "pieces.mp4": (*H264, "-movflags", "frag_keyframe+empty_moov"),
    "bare.h264": H264,  # no times
    "bare.y4m": ("-pix_fmt", "yuv444p"),
    "film.flv": ("-c:v", "flv1"),
    "film.ogv": ("-c:v", "libtheora", "-q:v", "9"),
}
UNEVEN = ("uneven.mp4", "uneven.mkv", "uneven.webm", "uneven.avi", "uneven.gif", "uneven.ts")
TURNS = {
    "turned-90.mp4": ("-display_rotation", "90"),
    "turned-180.mp4": ("-display_rotation", "180"),
    "turned-270.mp4": ("-display_rotation", "270"),
    "mirrored.mp4": ("-display_hflip",),
    "upside-down.mp4": ("-display_vflip",),
    "mirrored-90.mp4": ("-display_rotation", "90", "-display_hflip"),
    "mirrored-270.mp4": ("-display_rotation", "270", "-display_hflip"),
}
ODD = {"odd.mp4": ("-c:v", "libx264", "-pix_fmt", "yuv444p"), "odd.webm": ("-c:v", "libvpx"), "odd.gif": ()}
SHORT = ("one.mp4", "one.webm", "one.gif", "one.h264", "one.png", "two.mp4", "two.webm", "two.gif", "two.h264")
NAMES = ("with space.mp4", "náïve ★.mp4", "50% off.mp4", "-", "concat:x.mp4", "http:", "100%03d.gif", "really?.gif")
BROKEN = [
    f"{how}-{film}"
    for how in ("cut", "flipped")
    for film in ("h264.mp4", "vp8.webm", "vp9.webm", "film.gif", "jpegs.avi", "mpeg4.avi", "stream.ts", "bare.h264")
]
REFUSED = {  # what is in the sentence
    "missing.mp4": "there is no such file",
    "folder.mp4": "this is a folder",
    "pipe": "a pipe, not a regular file",
    "empty.mp4": "this file is empty",
    "text.txt": "cannot read this file",
    "text.mp4": "cannot read this file",
    "text.png": "cannot read this file",
    "noise.mp4": "cannot read this file",
    "cut-h264.mp4": "cannot read this file",
    "sound.mp3": "no moving pictures",
    "cover.mp3": "no moving pictures",
    "unknown.mp4": "cannot decode the pictures",
    "colours.mp4": "cannot turn its colours into RGB",
    "list.m3u8": "this is a list of films",
    "list.txt": "this is a list of films",
    "list.mpd": "this is a list of films",
    "call.sdp": "cannot read this file",
}
REST = ("joined.ts", "covered.mp4", "largest.mkv", "latin.avi")


def picture(number: int) -> np.ndarray:
    """Smooth, and unlike itself however it is turned or mirrored."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    return np.stack([x * 3 + 40, y * 4 + 20, (x + y) + 8 * number], axis=-1).astype(np.uint8)


def ffmpeg(*arguments: object) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout


@pytest.fixture(scope="session")
def films(tmp_path_factory) -> Path:
    """A folder with all of them."""
    folder = tmp_path_factory.mktemp("footage")
    raw = folder / "raw"
    raw.write_bytes(b"".join(picture(number).tobytes() for number in range(COUNT)))
    source = ("-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", "64x48", "-framerate", RATE, "-i", raw)
    for name, how in PLAIN.items():
        ffmpeg(*source, *how, folder / name)
    for name in UNEVEN:
        codec = {".webm": ("-c:v", "libvpx"), ".gif": (), ".avi": MPEG4}.get(Path(name).suffix, H264)
        sparse = "select='lt(n,10)+not(mod(n,5))'"  # frames 0..10, 15, 20, ... 35
        ffmpeg("-stream_loop", 2, *source, "-vf", sparse, "-fps_mode", "vfr", *codec, folder / name)
    for name, how in TURNS.items():
        ffmpeg(*how, "-i", folder / "h264.mp4", "-c", "copy", folder / name)
    for name, how in ODD.items():
        ffmpeg(*source, "-vf", "crop=63:47:0:0:exact=1,format=rgb24", *how, folder / name)
    for name in SHORT:
        codec = {".webm": ("-c:v", "libvpx"), ".gif": (), ".png": ()}.get(Path(name).suffix, H264)
        ffmpeg(*source, "-frames:v", 1 if name.startswith("one") else 2, *codec, folder / name)
    for name in NAMES:
        shutil.copy(folder / ("film.gif" if name.endswith("gif") else "h264.mp4"), folder / name)
    for name in BROKEN:
        how, _, whole = name.partition("-")
        content = (folder / whole).read_bytes()
        middle = len(content) // 2
        flipped = content[:middle] + bytes(byte ^ 0x5A for byte in content[middle : middle + 60])
        cut = content[: len(content) * 6 // 10]
        (folder / name).write_bytes(cut if how == "cut" else flipped + content[middle + 60 :])
    no_films(folder, source)
    the_rest(folder, source)
    return folder


def no_films(folder: Path, source: tuple[object, ...]) -> None:
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "empty.mp4").touch()
    for name in ("text.txt", "text.mp4", "text.png"):
        (folder / name).write_text("Once upon a time there was no film.\n" * 40)
    (folder / "noise.mp4").write_bytes(np.random.default_rng(1).bytes(30_000))
    ffmpeg("-f", "lavfi", "-i", "sine=duration=0.5", folder / "sound.mp3")
    cover = ("-map", "0", "-map", "1", "-c", "copy", "-disposition:v:0", "attached_pic")
    ffmpeg("-i", folder / "sound.mp3", "-i", folder / "one.png", *cover, folder / "cover.mp3")
    ffmpeg("-i", folder / "one.png", "-i", folder / "h264.mp4", *cover, folder / "covered.mp4")
    (folder / "unknown.mp4").write_bytes((folder / "h264.mp4").read_bytes().replace(b"avc1", b"zzz9"))
    ffmpeg(*source, *H264, "-x264-params", "colormatrix=ICtCp", folder / "colours.mp4")
    (folder / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nstream.ts\n#EXT-X-ENDLIST\n")
    (folder / "list.txt").write_text("ffconcat version 1.0\nfile h264.mp4\n")
    (folder / "list.mpd").write_text('<?xml version="1.0"?>\n<MPD type="static"></MPD>\n')
    call = ("v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=-", "c=IN IP4 127.0.0.1", "t=0 0", "m=video 5004 RTP/AVP 96")
    (folder / "call.sdp").write_text("\n".join([*call, "a=rtpmap:96 H264/90000", ""]))


def the_rest(folder: Path, source: tuple[object, ...]) -> None:
    tall = ffmpeg(*source, "-vf", "scale=32:64", *H264, "-f", "mpegts", "-")
    (folder / "joined.ts").write_bytes((folder / "stream.ts").read_bytes() + tall)
    small = ("-filter_complex", "[0]split[a][b];[a]scale=32:24[a]", "-map", "[a]", "-map", "[b]")
    ffmpeg(*source, *small, *H264, folder / "largest.mkv")
    ffmpeg(*source, *MPEG4, "-metadata", "title=a title", folder / "latin.avi")
    (folder / "latin.avi").write_bytes((folder / "latin.avi").read_bytes().replace(b"a title", b"\xe9 title"))


def shown(path: Path, **thinned: float) -> np.ndarray:
    """The frames that are measured; as many, as large as was said."""
    footage = scan_video(path).subsample(**thinned)
    found = list(decode_frames(footage))
    assert [frame.number for frame in found] == list(range(footage.frames))
    assert all(frame.rgb.dtype == np.uint8 and frame.rgb.flags.c_contiguous for frame in found)
    pictures = np.stack([frame.rgb for frame in found]).astype(int)
    assert pictures.shape[1:] == (*footage.size[::-1], 3)
    return pictures


@pytest.mark.parametrize("name", PLAIN)
def test_a_film_is_the_same_in_any_container_and_pixel_format(films, name):
    footage, pictures = scan_video(films / name), shown(films / name)
    assert (footage.frames, footage.size, footage.notes) == (COUNT, SIZE, ())
    near = 0.005 if name.endswith("gif") else 1e-9  # a GIF counts hundredths of a second
    assert footage.fps == pytest.approx(RATE, rel=near) and footage.seconds == pytest.approx(1, rel=near)
    true = np.stack([picture(number) for number in range(COUNT)]).astype(float)
    if name.startswith("gray"):
        assert (pictures == pictures[..., :1]).all()
        true = (true @ [0.299, 0.587, 0.114])[..., None]
    assert abs(pictures - true).mean() < (20 if name in ("film.gif", "palette.avi") else 4)


def test_ten_bits_look_like_eight(tmp_path):
    for bits, pixels in (("eight", "yuv420p"), ("ten", "yuv420p10le")):  # many edges between colours
        source = ("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=12:duration=1")
        ffmpeg(*source, "-c:v", "libx264", "-crf", 2, "-pix_fmt", pixels, tmp_path / f"{bits}.mp4")
    assert abs(shown(tmp_path / "ten.mp4") - shown(tmp_path / "eight.mp4")).mean() < 1.5


@pytest.mark.parametrize("name", TURNS)
def test_a_film_that_is_turned_or_mirrored_comes_out_as_it_is_shown(films, name):
    pictures = shown(films / name)
    height, width = pictures.shape[1:3]
    assert (width, height) == (SIZE[::-1] if "90" in name or "270" in name else SIZE)
    raw = ffmpeg("-i", films / name, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    assert (pictures == np.frombuffer(raw, np.uint8).reshape(pictures.shape)).all()
    if "mirrored" not in name and "upside" not in name:
        turns = int(name.split("-")[1].split(".")[0]) // 90
        assert (pictures == np.rot90(shown(films / "h264.mp4"), turns, axes=(1, 2))).all()


@pytest.mark.parametrize("name", UNEVEN)
def test_the_rate_of_an_uneven_film_is_its_average(films, name):
    footage = scan_video(films / name)
    assert footage.frames == 16 and footage.fps == pytest.approx(15 / (35 / RATE), rel=0.005)
    assert footage.seconds == pytest.approx(16 / footage.fps) and "the frame rate varies" in footage.notes[0]


@pytest.mark.parametrize("name", ODD)
def test_odd_sizes_stay_odd(films, name):
    assert shown(films / name).shape == (COUNT, 47, 63, 3)


@pytest.mark.parametrize("name", SHORT)
def test_one_frame_is_a_film_and_so_are_two(films, name):
    footage = scan_video(films / name)
    assert footage.frames == len(shown(films / name)) == (1 if name.startswith("one") else 2)
    assert footage.fps == pytest.approx({".gif": 12.5, ".png": 25}.get(Path(name).suffix, RATE))
    assert footage.seconds == pytest.approx(footage.frames / footage.fps)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_name(films, name, monkeypatch):
    monkeypatch.chdir(films)
    assert scan_video(Path(name)).frames == COUNT


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_film_gets_a_sentence(films, name):
    with pytest.raises(UsageError, match=REFUSED[name]) as error:
        list(decode_frames(scan_video(films / name)))
    assert str(error.value).startswith(f"{films / name}: ") and "\n" not in str(error.value)


def test_a_film_that_may_not_be_read_gets_a_sentence(films, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(reader, "open_regular_file", denied)
    with pytest.raises(UsageError, match=r"h264\.mp4: this file cannot be read \(Permission denied\)\.$"):
        scan_video(films / "h264.mp4")


def test_joined_films_have_one_size_and_one_clock(films):
    footage = scan_video(films / "joined.ts")
    assert (footage.frames, footage.fps, footage.seconds, footage.size) == (24, RATE, 2, SIZE)
    assert "the size changes at frame 13" in footage.notes[0]
    pictures = shown(films / "joined.ts")
    assert abs(pictures[12:] - pictures[:12]).mean() < 8


def test_the_largest_film_of_a_file_is_measured_and_never_its_cover(films):
    assert scan_video(films / "largest.mkv").size == SIZE
    assert scan_video(films / "covered.mp4").frames == COUNT


def test_a_title_in_any_alphabet_is_no_trouble(films):
    assert scan_video(films / "latin.avi").frames == COUNT


@pytest.mark.parametrize(("how", "picks"), [({"stride": 5}, [0, 5, 10]), ({"sample_fps": 4}, [0, 3, 6, 9]), ({}, None)])
def test_thinning_keeps_every_nth_frame(films, how, picks):
    footage = scan_video(films / "b-frames.mp4").subsample(**how)
    assert (shown(films / "b-frames.mp4", **how) == shown(films / "b-frames.mp4")[picks or slice(None)]).all()
    assert footage.seconds == 1 and footage.fps == RATE / footage.stride


def test_damage_is_noted(films, tmp_path):
    assert "the file is damaged" in scan_video(films / "cut-jpegs.avi").notes[0]
    content = ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=12:duration=1", *H264, "-f", "h264", "-")
    (tmp_path / "half.h264").write_bytes(content[: len(content) // 2])  # half a picture, the rest made up
    assert "the file is damaged" in scan_video(tmp_path / "half.h264").notes[0]


def test_a_long_film_takes_no_more_memory(films):
    ffmpeg("-stream_loop", 99, "-i", films / "h264.mp4", "-c", "copy", films / "long.mp4")
    tracemalloc.start()
    try:
        footage = scan_video(films / "long.mp4")
        assert sum(1 for _ in decode_frames(footage)) == footage.frames == 100 * COUNT  # 11 MB
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def plain(value: object) -> bool:
    """Whether all numbers in it are finite."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(map(plain, parts)) and not (isinstance(value, float) and not math.isfinite(value))


@pytest.mark.parametrize("name", [*PLAIN, *UNEVEN, *TURNS, *ODD, *SHORT, *NAMES, *BROKEN, *REFUSED, *REST])
def test_every_file_is_scored_or_refused_in_one_sentence(films, name, capfd):
    try:
        result = score_film(films / name, EvalConfig())
        assert plain(result)
        assert all((measure["value"] is None) == bool(measure["reason"]) for measure in result["metrics"].values())
    except UsageError as error:
        assert name in REFUSED or name in BROKEN
        assert len(str(error).splitlines()) == 1 and str(error).endswith((".", "?"))
    assert capfd.readouterr() == ("", "")
