"""The report in a browser: the film plays, the keyboard reaches all, nothing typed runs. Needs chromium's driver."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from blockvid_cli.report import report
from blockvid_cli.report.report import write_report
from blockvid_cli.video.ffmpeg import encode_video
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
    assert see(browser, "document.activeElement.getAttribute('aria-valuetext')") == "0:00.5  0.9000"
    press(browser, Keys.ARROW_RIGHT)
    assert see(browser, "document.activeElement.getAttribute('aria-valuetext')") == "0:02.5  0.7000  −22.2 %"
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
