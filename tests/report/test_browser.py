"""The page in a real browser: comparison, filter, sorting, keyboard, dark mode, narrow, without JavaScript; axe.

Opt in with ``-m browser``. Needs Playwright and Debian's Chromium (``apt-get install chromium``); the check of
accessibility needs axe-core (``npm install axe-core`` here or globally, or ``$LEAKAUDIT_AXE`` naming axe.min.js).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from leakaudit.document.schema import Report
from leakaudit.policy.apply import apply_policy
from leakaudit.policy.read import Policy
from leakaudit.report.formats.html import render_html
from leakaudit.safety.text import clean
from tests.conftest import ROOT
from tests.report.builder import build
from tests.report.hostile import hostile
from tests.report.names import NAMES, named, named_table

pytestmark = pytest.mark.browser
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(apply_policy(build(victims=3), Policy(fail_on="medium")), tmp_path_factory.mktemp("page"))


def written(report: Report, folder: Path) -> Path:
    path = folder / "report.html"
    path.write_text(render_html(report), encoding="utf-8")
    return path


@pytest.fixture
def page(browser: Any, page_file: Path) -> Iterator[Any]:
    """The page at 1400 pixels; fails on any error and on any request but for the file itself."""
    yield from opened(browser, page_file)


def opened(browser: Any, file: Path, **options: Any) -> Iterator[Any]:
    context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
    tab = context.new_page()
    trouble: list[str] = []
    tab.on("console", lambda message: trouble.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
    tab.on("request", lambda r: trouble.append(r.url[:80]) if not r.url.startswith((file.as_uri(), "data:")) else None)
    tab.goto(file.as_uri())
    yield tab
    context.close()
    assert not trouble


def unfold(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")


def test_filter_by_attack_victim_and_result(page: Any) -> None:
    unfold(page)
    cards = page.locator(".sample:visible")
    total = cards.count()
    page.locator("#controls select").first.select_option("ig")
    assert 0 < cards.count() < total
    assert set(cards.evaluate_all("all => all.map(card => card.dataset.attack)")) == {"ig"}
    page.locator("#controls select").last.select_option("1")
    assert cards.count() == 1
    rows = page.locator("#table-scores tbody tr:visible")
    assert rows.evaluate_all("all => all.map(r => r.dataset.attack + r.dataset.victim)") == ["ig1"]
    assert page.get_by_role("status").inner_text() == "1 reconstruction shown"
    page.locator("#controls select").first.select_option("")
    page.locator("#controls select").last.select_option("")
    page.get_by_label("leaked only").check()
    assert set(cards.evaluate_all("all => all.map(card => card.dataset.leaked)")) == {"yes"}


def test_the_slider_moves_by_keyboard(page: Any) -> None:
    slide = page.locator("input.slide").first
    assert not slide.is_visible()
    page.get_by_label("compare with a slider").check()
    assert slide.is_visible()
    image = page.locator(".slider img.reconstruction").first
    original = page.locator(".slider .pair img.original").first
    assert image.bounding_box() == original.bounding_box(), "one over the other"
    before = image.evaluate("e => getComputedStyle(e).clipPath")
    slide.focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    assert slide.input_value() == "70"
    assert image.evaluate("e => getComputedStyle(e).clipPath") != before


def test_error_maps_are_drawn_on_demand(page: Any) -> None:
    assert page.locator("canvas").count() == 0
    page.get_by_label("error maps").check()
    maps = page.locator(".sample.leaked .error canvas")
    assert maps.count() == page.locator(".sample.leaked .pair").count() > 0
    assert maps.first.get_attribute("aria-label").startswith("Error of the reconstruction of sample ")
    red = "c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; return [d[0], d[1] < 255]; }"
    assert maps.evaluate_all(f"all => all.map({red})")[0][0] == 255
    page.get_by_label("error maps").uncheck()
    assert not maps.first.is_visible()


def test_the_timeline_steps_through_snapshots(page: Any) -> None:
    card = page.locator(".sample").first
    image, step = card.locator("img.reconstruction"), card.locator("input.step")
    final = image.get_attribute("src")
    step.focus()
    page.keyboard.press("Home")
    assert image.get_attribute("src") == card.locator(".timeline img").first.get_attribute("src") != final
    assert step.get_attribute("aria-valuetext") == "25%"
    page.keyboard.press("End")
    assert image.get_attribute("src") == final


def test_tables_sort_by_keyboard(page: Any) -> None:
    unfold(page)
    table = page.locator("#table-scores")
    button = table.get_by_role("button", name="PSNR dB")
    column = "rows => rows.map(row => Number(row.cells[4].dataset.key))"
    button.focus()
    page.keyboard.press("Enter")
    rising = table.locator("tbody tr").evaluate_all(column)
    assert rising == sorted(rising)
    assert table.locator("th[aria-sort=ascending]").inner_text().startswith("PSNR dB")
    page.keyboard.press("Enter")
    assert table.locator("tbody tr").evaluate_all(column) == rising[::-1]


def test_the_first_tab_stop_skips_to_the_verdict(page: Any) -> None:
    page.keyboard.press("Tab")
    focused = page.locator(":focus")
    assert focused.inner_text() == "Skip to the verdict"
    assert focused.bounding_box()["x"] >= 0, "visible when focused"
    assert focused.evaluate("e => getComputedStyle(e).outlineStyle") != "none"
    page.keyboard.press("Enter")
    assert page.url.endswith("#verdict")


def test_every_option_is_a_native_disclosure(browser: Any, tmp_path: Path) -> None:
    from leakaudit.document.schema import SettingEntry

    entry = SettingEntry(name="seed", value=7, source="command line")
    file = written(apply_policy(build(victims=1, runs=1), Policy(), settings=[entry]), tmp_path)
    for page in opened(browser, file):
        assert not page.locator("#table-settings").is_visible()
        page.locator("#policy summary").focus()
        page.keyboard.press("Enter")
        assert page.locator("#table-settings").is_visible()


def test_the_appendix_is_folded_and_a_link_into_it_opens_it(page: Any) -> None:
    assert not page.locator("#table-scores").is_visible()
    page.locator(".contents a[href='#scores']").click()
    page.wait_for_function("document.querySelector('#scores details').open")
    assert page.locator("#table-scores").is_visible()
    assert not page.locator("#table-labels").is_visible()


def test_printing_the_page_opens_the_appendix(page: Any) -> None:
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#table-labels").is_visible()


def test_dark_mode_follows_the_system(browser: Any, page_file: Path) -> None:
    seen = []
    for scheme in ("light", "dark"):
        for page in opened(browser, page_file, color_scheme=scheme):
            seen.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert seen[0] == "rgb(255, 255, 255)"
    assert max(int(part) for part in seen[1].strip("rgb()").split(",")) < 64


@pytest.mark.parametrize("width", [320, 400, 800])
def test_narrow_screens_need_no_sideways_scrolling(browser: Any, page_file: Path, width: int) -> None:
    for page in opened(browser, page_file, viewport={"width": width, "height": 800}):
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("made", [named, named_table])
def test_names_of_every_kind_stay_inside_of_the_page(
    browser: Any, tmp_path: Path, made: Callable[[list[str]], Report], width: int
) -> None:
    file = written(made(list(NAMES.values())), tmp_path)
    for page in opened(browser, file, viewport={"width": width, "height": 900}):
        unfold(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        text = "".join(page.locator("main").inner_text().split())
        for name in NAMES.values():
            assert "".join(clean(name).split()) in text


def test_without_javascript_everything_is_there(browser: Any, page_file: Path) -> None:
    for page in opened(browser, page_file, java_script_enabled=False):
        assert page.locator("#controls").is_hidden()
        assert page.locator(".sample.leaked").count() == page.locator(".sample.leaked:visible").count() > 0
        assert page.locator(".thumbs img:visible").count() > 0
        page.locator("details.held summary").first.click()
        assert page.locator(".held .sample:visible").count() > 0, "folding needs no script"
        assert page.locator(".timeline img:visible").count() > 0
        assert page.locator("thead button").count() == 0
        for section in ("verdict", "findings", "scores", "ledger", "annex", "glossary"):
            assert page.locator(f"#{section}").is_visible()


def test_hostile_names_do_nothing(browser: Any, tmp_path: Path) -> None:
    for page in opened(browser, written(apply_policy(hostile(), Policy()), tmp_path)):
        assert page.locator("script").count() == 1
        assert page.locator("img[onerror]").count() == 0
        assert page.get_by_text("<script>alert(1)</script>").first.is_visible()


def axe_source() -> str:
    places = [ROOT / "node_modules", ROOT.parent / "node_modules"]
    if shutil.which("npm"):
        done = subprocess.run(["npm", "root", "--global"], capture_output=True, text=True)
        places.append(Path(done.stdout.strip()))
    files = [Path(os.environ.get("LEAKAUDIT_AXE", "")), *(place / "axe-core" / "axe.min.js" for place in places)]
    for file in files:
        if file.is_file():
            return file.read_text(encoding="utf-8")
    pytest.skip("axe-core is not installed (npm install axe-core)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_axe_finds_no_violation(browser: Any, page_file: Path, scheme: str, width: int) -> None:
    source = axe_source()
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 900}, "bypass_csp": True}
    for page in opened(browser, page_file, **options):
        unfold(page)
        page.evaluate(source)
        tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
        found = page.evaluate("tags => axe.run({runOnly: tags})", tags)
        assert len(found["passes"]) > 20, "axe has looked at the page"
        assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found["violations"]] == []
