"""The report of a render: harmless whatever was typed, small whatever was drawn. (test_report_browser.py opens it.)"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockvid_cli.evaluation.segments import LargestChange, drift_error, largest_change
from blockvid_cli.report import report
from blockvid_cli.report.contents import Curve, RenderedChunk, RenderSettings, Report, RetrievedChunk, moment, size
from blockvid_cli.report.render_report import CURVE_FPS, chunk_texts, curve_segments, watch
from blockvid_cli.report.report import MAX_EMBEDDED_BYTES, as_data, as_json, page, write_report
from blockvid_cli.timing import PhaseTimer
from blockvid_cli.video.ffmpeg import encode_video
from blockvid_cli.video.reader import VideoInfo
from blockvid_cli.video.spec import Timeline
from tests import small

HOSTILE = '</script><img src=x onerror="document.title=1"><!-- & \' " -->'
VOID = {"meta", "link", "br", "img", "source"}
SEED = 2**63 - 25  # a browser's number would round it
RNG = np.random.default_rng(4)


def picture(width: int = 64, height: int = 48) -> np.ndarray:
    return RNG.integers(0, 255, (height, width, 3), dtype=np.uint8)


def small_report(caption: str = "A red boat rests.", chunks: int = 3, film: Path | None = None) -> Report:
    """Everything there is to tell, of a film with a chunk a second."""
    rendered = tuple(
        RenderedChunk(
            number,
            shot=1 + (number > 2),
            start=number - 1.0,
            end=float(number),
            caption=caption,
            seed=SEED,
            prompt=f"Rendered: {caption}",
            take=2,
            takes=(1, 2),
            retrieved=(RetrievedChunk(1, 0.8125), RetrievedChunk(number - 1)) if number > 2 else (),
            cached_tokens=120,
            tokens=480,
            seconds=2.0,
            resumed=number == 1,
            image=picture(),
            first_image="boat.png" if number == 1 else "",
            warnings=(f"Cannot be drawn: {caption}",) if number == 3 else (),
        )
        for number in range(1, chunks + 1)
    )
    return Report(
        title=caption,
        film=film,
        seconds=float(chunks),
        fps=12.0,
        size=(64, 48),
        chunks=rendered,
        settings=RenderSettings(
            f"blockvid render {caption}", f"title: {caption}", "tiny", "ab12", 7, {"steps": [1, 2]}, {"torch": "2"}
        ),
        phases={"text": 1.0, "load": 1.0, "denoise": 5.0, "decode": 2.0, "mux": 1.0},
        waited=12.0,
        peak=3 * 2**30,
        curves={"sharpness": Curve((0.9, None, 0.7), (0.5, 1.5, 2.5), "of frames", 0.222, LargestChange(2, -0.222))},
        notes=(caption,),
    )


def bare_report() -> Report:
    """What cannot be left out."""
    chunk = RenderedChunk(1, 1, 0.0, 1.0, "A boat.", 1)
    return Report("", None, 1.0, 12.0, (64, 48), (chunk,), RenderSettings("", "", "tiny", "", 7))


class Page(HTMLParser):
    """A page's elements and texts; a tag that closes what is not open is a mistake."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []  # the innermost tag, and what stands in it
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self._open[-1] if self._open else "", data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def facts(self) -> dict:
        return json.loads(next(text for tag, text in self.texts if tag == "script"))


@pytest.mark.parametrize(
    "facts", [small_report(), small_report(HOSTILE), bare_report()], ids=["full", "hostile", "bare"]
)
def test_the_page_is_whole(facts, tmp_path):
    read = Page(page(facts, tmp_path))
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = {value for _, found in read.tags for key, value in found.items() if key in ("aria-labelledby", "data-of")}
    assert named <= set(ids)
    assert read.facts() == as_data(facts)


def test_what_a_person_typed_stays_text(tmp_path):
    read = Page(page(small_report(HOSTILE), tmp_path))
    assert [attributes.get("type") for attributes in read.of("script")] == ["application/json", None]
    assert not read.of("img")  # thumbnails are made by the script
    assert not [key for _, attributes in read.tags for key in attributes if key.startswith("on") or key == "style"]
    standing = [tag for tag, text in read.texts if HOSTILE in text]
    assert {"title", "h1", "li", "span", "pre"} <= set(standing)


@given(st.text())
def test_any_text_survives_in_the_facts(text):
    data = as_data(replace(bare_report(), title=text, chunks=(RenderedChunk(1, 1, 0.0, 1.0, text, SEED),)))
    inside = as_json(data)
    assert not set(inside) & set("<>&\u2028\u2029")
    assert json.loads(inside)["chunks"][0] == data["chunks"][0]
    assert data["chunks"][0]["caption"] == text


def test_half_a_character_is_no_hindrance(tmp_path):
    path = tmp_path / "story.report.html"
    write_report(path, small_report("A boat \ud83d"))
    assert Page(path.read_text(encoding="utf-8")).facts()["chunks"][0]["caption"] == "A boat \ud83d"


def test_seeds_keep_their_digits_and_scores_are_numbers(tmp_path):
    odd = {"odd": Curve((float("nan"), float("inf"), 0.5), (0.5, 1.5, 2.5))}
    data = Page(page(replace(small_report(), curves=odd), tmp_path)).facts()
    assert data["chunks"][0]["seed"] == str(SEED)
    assert data["curves"][0]["scores"] == [None, None, 0.5]


def test_what_is_not_known_is_left_out(tmp_path):
    text = page(bare_report(), tmp_path)
    for heading in ("What it took", "Notes", "Recipe", "Storyboard</h3>"):
        assert heading in page(small_report(), tmp_path)
        assert heading not in text
    assert "There is no film beside this report" in text
    assert "<title>A film</title>" in text


def test_the_film_is_in_the_page_or_beside_it(tmp_path, monkeypatch):
    film = tmp_path / "films" / "a boat #1.mp4"
    film.parent.mkdir()
    film.write_bytes(b"film")
    facts = small_report(film=film)
    (inside,) = Page(page(facts, tmp_path)).of("source")
    assert inside == {"src": "data:video/mp4;base64,ZmlsbQ==", "type": "video/mp4"}
    monkeypatch.setattr(report, "MAX_EMBEDDED_BYTES", 3)
    (beside,) = Page(page(facts, tmp_path)).of("source")
    assert beside["src"] == "films/a%20boat%20%231.mp4"


def test_the_largest_embedded_film_is_what_browsers_take():
    assert MAX_EMBEDDED_BYTES * 4 / 3 + 1000 < 2**25


def test_a_film_of_six_hours_stays_small(tmp_path):
    """The dearest pictures there are, a thousand of them."""
    noise = picture(320, 192)
    facts = small_report(chunks=1000)
    facts = replace(facts, chunks=tuple(replace(chunk, image=noise) for chunk in facts.chunks))
    assert len(page(facts, tmp_path)) < 10_000_000


def test_nothing_is_fetched_and_only_our_script_runs(tmp_path):
    text = page(small_report(), tmp_path)
    read = Page(text)
    policy = read.of("meta")[1]["content"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    addresses = [value for _, found in read.tags for key, value in found.items() if key in ("src", "href", "poster")]
    assert all(address.startswith("data:") for address in addresses)
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]  # a name, not an address


def test_speed_counts_what_was_drawn_now():
    assert small_report().speed == pytest.approx(2.0 / 12.0)
    assert bare_report().speed is None


def test_time_is_that_which_the_person_waited(tmp_path):
    """Not only that of the phases that are measured, which is ten seconds."""
    text = re.sub(r"<[^>]+>", " ", page(small_report(), tmp_path))
    assert "rendered in 12.0 s" in text
    assert re.search(r"in all\s+12.0 s", text)
    assert re.search(r"starting, checking and planning\s+2.0 s", text)


def test_a_timer_knows_what_came_before_its_phases(monkeypatch):
    clock = iter((5.0, 6.0, 8.0, 9.0))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    timer = PhaseTimer(started=1.0)
    with timer.phase("decode"):
        pass
    assert (timer.seconds, timer.waited) == ({"decode": 2.0}, 8.0)


# ---- drift along the way ----------------------------------------------------------------------------------

WHITE, YELLOW, GRASS = (245, 245, 245), (240, 200, 40), (90, 150, 60)


def cat_film(path: Path, seconds: int = 20, yellow: range = range(8, 12)) -> Path:
    """A white square that walks over a meadow, 96x64 at 12 frames a second; yellow in some of its seconds."""
    frames = []
    for number in range(seconds * 12):
        frame = np.full((64, 96, 3), GRASS, np.uint8)
        left = 30 + abs(number % 48 - 24)
        frame[24:44, left : left + 20] = YELLOW if number // 12 in yellow else WHITE
        frames.append(frame)
    encode_video(frames, path, rate=Fraction(12), size=(96, 64), total=len(frames), crf=12)
    return path


def cat_plan():
    """Five chunks of four seconds for it, without the VAE's short first latent."""
    plan = small.plan([6] * 5)
    return replace(plan, size=(96, 64), frames=240)


def test_drift_that_disappears_again_is_seen(tmp_path):
    """A white cat that turns yellow and comes back: as white at the end as at the beginning."""
    timeline = Timeline(Fraction(12), (48,) * 5, title_frames=36)
    images, curves = watch(cat_film(tmp_path / "cat.mp4"), cat_plan(), timeline)
    colours = curves["colours of the subject"]
    assert abs(colours.scores[-1] / colours.scores[0] - 1) < 0.005
    assert colours.largest.change < -0.05
    assert 3 + 8 < colours.seconds[colours.largest.segment] < 3 + 12
    assert colours.drift > 0.005
    assert sorted(images) == [1, 2, 3, 4, 5] and images[3].shape == (64, 96, 3)


def test_without_drift_nothing_is_seen(tmp_path):
    _, curves = watch(cat_film(tmp_path / "cat.mp4", yellow=range(0)), cat_plan(), Timeline(Fraction(12), (48,) * 5))
    assert abs(curves["colours of the subject"].largest.change) < 0.005


def test_the_figures_of_drift_are_those_of_eval(tmp_path):
    _, curves = watch(cat_film(tmp_path / "cat.mp4"), cat_plan(), Timeline(Fraction(12), (48,) * 5))
    assert len(curves) == 6
    for curve in curves.values():
        assert (curve.drift, curve.largest) == (drift_error(curve.scores).normalised, largest_change(curve.scores))


def test_points_lie_within_chunks_and_do_not_become_too_many():
    film = VideoInfo(Path("film.mp4"), 80, CURVE_FPS, 20.0, (96, 64))
    spans = curve_segments(film, [1.0, 9.0, 20.0])
    assert [span.first for span in spans] == [0, 4, 12, 20, 28, 36, 43, 51, 58, 65, 73]
    assert spans[-1].end == 80
    long = VideoInfo(Path("film.mp4"), 86400, CURVE_FPS, 21600.0, (96, 64))
    assert len(curve_segments(long, [60.0 * minute for minute in range(1, 361)])) == 360
    assert len(curve_segments(long, [10800.0, 21600.0])) == 60


# ---- a rendered film --------------------------------------------------------------------------------------


@pytest.fixture
def rendered(story, model, blockvid):
    """Renders the small storyboard with these lines on top of it; returns the page and what the command printed."""

    def run(lines: str, *options: str) -> tuple[Page, dict]:
        story.write_text(lines + story.read_text())
        done = blockvid("render", story, "--model", model, "--json", *options)
        assert done.code == 0, done.err
        return Page(story.with_suffix(".report.html").read_text("utf-8")), json.loads(done.out)

    return run


CARDS = "title_card: {text: Hello, seconds: 2}\nend_card: {text: Bye, seconds: 1}\n"


def test_times_are_those_of_the_film_with_its_cards(rendered):
    read, result = rendered(CARDS)
    facts = read.facts()
    assert facts["seconds"] == pytest.approx(result["seconds"]) == 8.0
    assert facts["cards"] == [
        {"name": "title card", "start": 0.0, "end": 2.0},
        {"name": "end card", "start": 7.0, "end": 8.0},
    ]
    starts, ends = ([chunk[side] for chunk in facts["chunks"]] for side in ("start", "end"))
    assert starts == [2.0, *ends[:-1]] and ends[-1] == 7.0
    assert all(2.0 < at < 7.0 for at in facts["curves"][0]["seconds"])
    said = [text for tag, text in read.texts if tag == "li"]
    assert {"0:08", "title card of 2.0 s", "end card of 1.0 s"} <= set(said)
    assert result["render_seconds"] > sum(result["phases"].values())  # what was waited for, not what was measured


def test_the_chunks_that_are_retrieved_are_those_of_check(rendered, story, model, blockvid):
    read, _ = rendered("recipe: {kv_cache: {name: semantic, recent: 1, last_blocks: 1}}\n")
    planned = json.loads(blockvid("storyboard", "check", story, "--model", model, "--json").out)["chunks"]
    attended = [chunk["retrieved"] for chunk in read.facts()["chunks"]]
    shown = [[old["chunk"] for old in each if old["cosine"] is not None] for each in attended]
    assert shown == [chunk["retrieves"] for chunk in planned]
    assert shown != [[], [], []]


def test_a_chunk_has_the_names_of_its_pictures_and_its_warnings():
    (chunk, _) = small.plan([2, 2]).chunks
    chunk = replace(chunk, image=Path("in/cat.png"), end_image=Path("in/hat.png"), warnings=("It has no hat.",))
    shown = RenderedChunk(1, 1, 0.0, 1.0, **chunk_texts(chunk))
    assert (shown.first_image, shown.last_image, shown.warnings) == ("cat.png", "hat.png", ("It has no hat.",))


def test_without_metadata_the_report_says_nothing_that_was_written(rendered, story):
    read, _ = rendered("style: SECRET\n", "--no-metadata")
    text = story.with_suffix(".report.html").read_text("utf-8")
    for secret in ("SECRET", "Three moments", "A red boat", "glides", "Seed of the film"):
        assert secret not in text
    assert {(chunk["seed"], chunk["caption"], chunk["prompt"]) for chunk in read.facts()["chunks"]} == {(None, "", "")}
    assert any("--no-metadata" in said for tag, said in read.texts if tag == "li")


def test_times_and_sizes_are_said_plainly():
    assert [moment(at) for at in (0, 7.5, 59.97, 61, 3600, 21599.9)] == [
        "0:00",
        "0:07.5",
        "1:00",
        "1:01",
        "1:00:00",
        "5:59:59.9",
    ]
    assert (size(3 * 2**29), size(2**27)) == ("1.50 GiB", "128 MiB")


def test_text_can_be_read_by_day_and_by_night():
    """The contrast of every ink on every ground is at least 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    style = (Path(report.__file__).parent / "report.css").read_text(encoding="utf-8")
    day, night = (dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in style.split("@media")[:2])
    for colours in (day, night):
        pairs = [(ink, ground) for ink in ("ink", "soft", "accent", "recall") for ground in ("paper", "raised", "sunk")]
        for ink, ground in [*pairs, ("on-recall", "recall")]:
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of two colours."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))
