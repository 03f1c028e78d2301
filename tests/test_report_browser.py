"""The report in a browser: the film plays, the keyboard reaches all, nothing typed runs. Needs chromium's driver."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from blockvid_cli.evaluation.segments import LargestChange
from blockvid_cli.report import report
from blockvid_cli.report.contents import Curve
from blockvid_cli.report.report import write_report
from blockvid_cli.video.ffmpeg import encode_video
from blockvid_cli.video.reader import decode_frames, scan_video
from blockvid_cli.video.spec import Timeline
from tests.test_report import HOSTILE, small_report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install '.[browser]'")
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
FPS, SECONDS = 12, 6

pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="there is no chromium with chromedriver here")


def film(path: Path) -> Path:
    """A bright bar that crosses the picture in six seconds, a chunk a second."""
    pictures = []
    for number in range(FPS * SECONDS):
        pictures.append(np.full((48, 64, 3), 40, np.uint8))
        pictures[-1][:, number * 64 // (FPS * SECONDS) :][:, :4] = 220
    encode_video(pictures, path, rate=Fraction(FPS), size=(64, 48), total=len(pictures), crf=20)
    return path


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    """A report with hostile captions."""
    folder = tmp_path_factory.mktemp("report")
    write_report(folder / "boat.report.html", small_report(HOSTILE, SECONDS, film(folder / "boat.mp4")))
    return (folder / "boat.report.html").as_uri()


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(started, address):
    """The report, opened anew on a wide screen; at the end nobody has complained on the console."""
    resize(started, 1280)
    started.get_log("browser")
    started.get(address)
    until(started, "document.querySelector('video').readyState >= 1")
    yield started
    assert not started.get_log("browser")


def resize(browser, width: int) -> None:
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)


def see(browser, expression: str):
    return browser.execute_script(f"return {expression}")


def until(browser, expression: str) -> None:
    WebDriverWait(browser, 20).until(lambda driver: see(driver, expression), expression)


def press(browser, *keys: str) -> None:
    for key in keys:
        browser.switch_to.active_element.send_keys(key)


def reach(browser, selector: str) -> None:
    """Tab until the focus is on an element of this selector."""
    for _ in range(40):
        press(browser, Keys.TAB)
        if see(browser, f"document.activeElement.matches('{selector}')"):
            return
    pytest.fail(f"Tab never came to {selector}")


def test_the_film_plays_and_the_card_follows(browser):
    browser.execute_script("const v = document.querySelector('video'); v.muted = true; v.play()")
    until(browser, "document.querySelector('video').currentTime > 1.2")
    until(browser, "document.querySelector('.where').textContent.startsWith('Chunk 2 of 6')")
    assert see(browser, "document.querySelectorAll('.chunk[aria-current]').length") == 1
    assert see(browser, "document.querySelector('video').videoWidth") == 64
    browser.execute_script("document.querySelector('video').pause()")


def test_a_chunk_is_reached_and_sought_by_keyboard(browser):
    reach(browser, ".chunk")
    assert see(browser, "getComputedStyle(document.activeElement).outlineStyle") == "solid"
    press(browser, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert see(browser, "document.querySelector('.where').textContent").startswith("Chunk 4 of 6 · shot 2 · 0:03")
    assert see(browser, "document.querySelector('video').currentTime") == 0  # only looked at so far
    assert see(browser, "document.querySelectorAll('.arcs .chosen').length") == 2
    assert see(browser, "[...document.querySelectorAll('.badge')].map((b) => b.textContent).join('')") == "0.81"
    press(browser, Keys.ENTER)
    until(browser, "Math.abs(document.querySelector('video').currentTime - 3) < 0.1")
    until(browser, "document.activeElement.getAttribute('aria-current') === 'true'")
    press(browser, Keys.END, Keys.SPACE)
    until(browser, "Math.abs(document.querySelector('video').currentTime - 5) < 0.1")
    press(browser, Keys.HOME)
    assert see(browser, "document.querySelector('.where').textContent").startswith("Chunk 1 of 6")
    assert see(browser, "document.querySelectorAll('.chunk[tabindex=\"0\"]').length") == 1


def test_what_a_chunk_attends_to_leads_to_it(browser):
    browser.execute_script("document.querySelectorAll('.chunk')[4].click()")
    browser.execute_script("document.querySelector('.card .link').click()")
    until(browser, "document.querySelector('.where').textContent.startsWith('Chunk 1 of 6')")
    until(browser, "document.querySelector('video').currentTime < 0.1")


def test_a_curve_tells_its_values(browser):
    reach(browser, ".plot")
    assert see(browser, "document.activeElement.getAttribute('aria-valuetext')") == "0:00.5  0.900"
    press(browser, Keys.ARROW_RIGHT)
    assert see(browser, "document.activeElement.getAttribute('aria-valuetext')") == "0:02.5  0.700  −22.2 %"
    press(browser, Keys.ENTER)
    until(browser, "Math.abs(document.querySelector('video').currentTime - 2.5) < 0.1")


@pytest.mark.parametrize("width", [320, 360, 800, 1280])
def test_no_screen_scrolls_sideways(browser, width):
    resize(browser, width)
    browser.execute_script("document.querySelectorAll('details').forEach((folded) => { folded.open = true })")
    assert see(browser, "document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert see(browser, "document.querySelector('.chunk').offsetWidth") >= 24


def test_day_and_night_differ(browser):
    seen = {}
    for scheme in ("light", "dark"):
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        seen[scheme] = see(browser, "getComputedStyle(document.body).backgroundColor")
    assert seen == {"light": "rgb(250, 249, 246)", "dark": "rgb(21, 23, 27)"}


def test_a_hostile_caption_is_only_text(browser):
    assert see(browser, "document.querySelector('.caption').textContent") == HOSTILE
    assert see(browser, "document.title") == HOSTILE
    assert see(browser, "document.querySelectorAll('img:not(.frame > img)').length") == 0
    assert see(browser, "document.querySelectorAll('script').length") == 2


def test_a_film_beside_the_page_plays_too(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MAX_EMBEDDED_BYTES", 0)
    facts = small_report("A boat.", SECONDS, film(tmp_path / "a boat.mp4"))
    write_report(tmp_path / "boat.report.html", facts)
    browser.get((tmp_path / "boat.report.html").as_uri())
    until(browser, "document.querySelector('video').readyState >= 1")
    assert see(browser, "document.querySelector('video').currentSrc").endswith("/a%20boat.mp4")


def test_a_film_of_six_hours_answers_at_once(browser, tmp_path):
    write_report(tmp_path / "long.report.html", small_report("A boat.", 1000))
    browser.get((tmp_path / "long.report.html").as_uri())
    assert see(browser, "document.querySelectorAll('.chunk').length") == 1000
    reach(browser, ".chunk")
    press(browser, Keys.END)
    assert see(browser, "document.querySelector('.where').textContent").startswith("Chunk 1000 of 1000")
    until(browser, "document.getElementById('scroller').scrollLeft > 10000")


# ---- cards ------------------------------------------------------------------------------------------------

TITLE, END = 30, 12  # frames of the cards


def chunk_frame(number: int, first: bool) -> np.ndarray:
    """A frame of the film with cards: its grey says the chunk, and a bar on the left that it is the first of one."""
    frame = np.full((48, 64, 3), 30 * number, np.uint8)
    frame[:, :16] = 255 if first else 0
    return frame


@pytest.fixture
def with_cards(browser, tmp_path):
    """The report of a film of six chunks of a second between two cards; returns the film."""
    timeline = Timeline(Fraction(FPS), (FPS,) * SECONDS, TITLE, END)
    frames = [chunk_frame(0, False)] * TITLE
    for number in range(1, SECONDS + 1):
        frames += [chunk_frame(number, at == 0) for at in range(FPS)]
    frames += [chunk_frame(8, False)] * END
    path = tmp_path / "cards.mp4"
    encode_video(frames, path, rate=Fraction(FPS), size=(64, 48), total=len(frames), crf=5)
    facts = small_report("A boat.", SECONDS, path)
    chunks = [replace(c, start=s.start, end=s.end) for c, s in zip(facts.chunks, timeline.chunks, strict=True)]
    cards = tuple(section for section in timeline.sections if section.kind != "chunk")
    write_report(
        tmp_path / "cards.report.html", replace(facts, chunks=tuple(chunks), cards=cards, seconds=timeline.seconds)
    )
    browser.get((tmp_path / "cards.report.html").as_uri())
    until(browser, "document.querySelector('video').readyState >= 2")
    return path


def shown_pixels(browser) -> np.ndarray:
    """The film's frame in the browser, (H, W, 3) uint8."""
    until(browser, "!document.querySelector('video').seeking && document.querySelector('video').readyState >= 2")
    data = see(
        browser,
        """(() => { const v = document.querySelector('video'), c = document.createElement('canvas');
        [c.width, c.height] = [v.videoWidth, v.videoHeight]; const d = c.getContext('2d');
        d.drawImage(v, 0, 0); return Array.from(d.getImageData(0, 0, c.width, c.height).data); })()""",
    )
    return np.array(data, np.uint8).reshape(48, 64, 4)[..., :3]


@pytest.mark.parametrize("number", [1, 4, 6])
def test_a_click_on_a_chunk_shows_its_first_frame(browser, with_cards, number):
    frames = [frame.rgb for frame in decode_frames(scan_video(with_cards))]
    browser.execute_script(f"document.querySelectorAll('.chunk')[{number - 1}].click()")
    pixels, first = shown_pixels(browser).astype(int), TITLE + FPS * (number - 1)
    distances = [float(np.abs(pixels - frames[index]).mean()) for index in (first - 1, first, first + 1)]
    assert distances[1] < 4 < min(distances[0], distances[2]), distances
    assert see(browser, "document.querySelector('.where').textContent").startswith(f"Chunk {number} of 6")
    until(browser, f"document.querySelectorAll('.chunk')[{number - 1}].getAttribute('aria-current') === 'true'")


def test_captions_and_cards_are_where_the_film_has_them(browser, with_cards):
    cues = "[...document.querySelector('video').textTracks[0].cues].map((c) => [c.startTime, c.endTime])"
    browser.execute_script("document.querySelector('video').textTracks[0].mode = 'hidden'")
    assert see(browser, cues) == [[2.5 + second, 3.5 + second] for second in range(SECONDS)]
    assert see(browser, "[...document.querySelectorAll('.still')].map((s) => s.textContent)") == [
        "title card",
        "end card",
    ]
    lefts = "['.still', '.chunk'].map((s) => document.querySelector(s).getBoundingClientRect().left)"
    title, chunk = see(browser, lefts)
    assert chunk - title == pytest.approx(2.5 * see(browser, "scale"), abs=1)


def test_while_a_card_is_shown_no_chunk_is_playing(browser, with_cards):
    assert see(browser, "document.querySelectorAll('.chunk[aria-current]').length") == 0
    browser.execute_script("document.querySelectorAll('.chunk')[5].click()")
    until(browser, "document.querySelectorAll('.chunk[aria-current]').length === 1")
    browser.execute_script("document.querySelector('video').currentTime = 9.2")
    until(browser, "document.querySelectorAll('.chunk[aria-current]').length === 0")
    browser.execute_script("document.querySelector('video').currentTime = 4")
    until(browser, "document.querySelector('.where').textContent.startsWith('Chunk 2 of 6')")  # it follows again


# ---- drift, warnings, pictures ----------------------------------------------------------------------------


@pytest.fixture
def drifting(browser, tmp_path):
    """The report of a film whose subject changes its colours in the fourth second, and back."""
    scores = (1.0, 1.0, 0.99, 0.85, 0.99, 1.0)
    curve = Curve(
        scores, tuple(n + 0.5 for n in range(6)), "compared with the beginning", 0.03, LargestChange(3, -0.15)
    )
    facts = replace(small_report("A boat.", SECONDS, film(tmp_path / "boat.mp4")), curves={"colours": curve})
    write_report(tmp_path / "boat.report.html", facts)
    browser.get((tmp_path / "boat.report.html").as_uri())
    until(browser, "document.querySelector('video').readyState >= 1")


def test_drift_that_disappears_again_is_shown_and_a_click_goes_there(browser, drifting):
    assert see(browser, "document.querySelector('button.largest').textContent") == "largest −15.0 % at 0:03.5, chunk 4"
    assert see(browser, "document.querySelector('.value').textContent") == "mean 3.0 %"
    browser.execute_script("document.querySelector('button.largest').click()")
    until(browser, "Math.abs(document.querySelector('video').currentTime - 3.5) < 0.1")
    until(browser, "document.querySelector('.where').textContent.startsWith('Chunk 4 of 6')")
    far = "document.querySelector('.dot.far').getAttribute('cy')"
    dots = "Math.max(...[...document.querySelectorAll('.dot:not(.chosen)')].map((d) => Number(d.getAttribute('cy'))))"
    assert float(see(browser, far)) == see(browser, dots)  # the lowest


def test_axes_have_numbers(browser, drifting):
    numbers = "[...document.querySelectorAll('.score')].map((t) => Number(t.textContent))"
    marks = see(browser, numbers)
    assert len(marks) >= 3 and min(marks) <= 0.85 and max(marks) >= 1.0
    steps = {round(b - a, 6) for a, b in itertools.pairwise(marks)}
    assert len(steps) == 1
    assert see(browser, "[...document.querySelectorAll('.time')].map((t) => t.textContent)") == [
        "0:00",
        "0:02",
        "0:04",
        "0:06",
    ]
    lasts = (
        "['.time:last-of-type', 'svg'].map((s) => document.querySelector('.plot ' + s).getBoundingClientRect().right)"
    )
    text, plot = see(browser, lasts)
    assert text <= plot  # the last one is not cut off


def test_a_chunk_tells_its_picture_and_its_warning(browser):
    assert "begins withthe picture boat.png" in see(browser, "document.querySelector('.card').textContent")
    browser.execute_script("document.querySelectorAll('.chunk')[2].click()")
    assert see(browser, "document.querySelector('.card .warning').textContent") == f"Cannot be drawn: {HOSTILE}"
    assert "the picture" not in see(browser, "document.querySelector('.card').textContent")
    warned = see(browser, "[...document.querySelectorAll('.chunk b')].map((b) => b.textContent)")
    assert warned == ["1", "2", "3 ⚠", "4", "5", "6"]


def test_the_reason_of_a_warning_is_shown_without_a_click_and_arcs_have_the_legends_colour(browser):
    reasons = see(browser, "[...document.querySelectorAll('#reasons .warning')].map((p) => p.textContent)")
    assert reasons == [f"Chunk 3: Cannot be drawn: {HOSTILE}"]
    colours = "[...document.querySelectorAll('.arcs path')].map((path) => getComputedStyle(path).stroke)"
    legend = see(browser, "getComputedStyle(document.querySelector('.key.recent'), '::before').borderTopColor")
    assert set(see(browser, colours)) == {legend}


def test_thumbnails_are_whole_and_pixels_stay_square(browser):
    assert see(browser, "getComputedStyle(document.querySelector('.frame img')).objectFit") == "contain"
    until(browser, "getComputedStyle(document.querySelector('video')).imageRendering === 'pixelated'")
