"""The page: escaped, self-contained, and, where a browser is there, sorted, zoomed and measured in it."""

from __future__ import annotations

import html
import importlib.util
import math
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ifan_plugin.benchmark import compare, page, plots, report
from ifan_plugin.images.image_io import write_image

EVIL = "<script>alert(1)</script>\"'&"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
]  # fmt: skip


def make_report(folder: Path) -> dict[str, Any]:
    """A report as a run leaves it, with two scenes' pictures of 48x64."""
    rng = np.random.default_rng(0)
    sharp = rng.random((48, 64, 3))
    pictures = {"one ü": "00000.png", f"two {EVIL}": "00001.png"}
    rows = []
    names = ["blurred", "IFAN", EVIL, "a-model-with-a-name-that-is-very-long-and-has-no-space-at-all-in-it", "failed"]
    for number, name in enumerate(names):
        psnr = [9.12, 25.4, 41.57, 30.0, None][number]
        row: dict[str, Any] = {
            "name": name, "type": "blurred input" if number == 0 else "IFAN", "arguments": {}, "checkpoint": None,
            "random_weights": number == 2, **dict.fromkeys(report.COSTS), "quality": {}, "errors": [],
        }  # fmt: skip
        if number:
            row |= {"parameters": 10**6 * number, "products": 10**9 * 7**number, "latency_s": 0.02 * 5**number}
        if psnr is None:
            row["errors"] = [{"cells": ["tiny"], "status": "failed", "error": f"{EVIL} " + "why " * 60}]
        else:
            images = [{"image": key, "psnr": psnr} for key in pictures]
            row["quality"]["tiny"] = {"mean": {"psnr": psnr, "ssim": 0.7}, "images": images, "key": f"cell{number}"}
            for file in pictures.values():
                write_image(folder / "cells" / f"cell{number}" / file, (sharp + 0.05 * number).clip(0, 1), 8)
        rows.append(row)
    for file in pictures.values():
        write_image(folder / "cells" / "references" / "blurred" / file, sharp, 8)
        write_image(folder / "cells" / "references" / "sharp" / file, sharp, 8)
    machine = {
        "processor": "a processor",
        "cores": 2,
        "threads": 1,
        "memory_bytes": 2**34,
        "gpu": None,
        "system": "Linux",
    }
    return {
        "name": f"all {EVIL}", "protocol": "ifan", "metrics": ["psnr", "ssim"], "date": "2000-01-01 00:00 UTC",
        "machine": machine, "versions": {"torch": "0"}, "device": "cpu",
        "profile": {"height": 720, "width": 1280, "runs": 3, "max_seconds": 60}, "datasets": {"tiny": 2},
        "shown": {"tiny": {"folder": "references", "pictures": pictures}}, "rows": rows,
        "failures": [{"model": "failed", "cells": ["tiny"], "error": f"{EVIL} " + "why " * 60}], "notes": [],
        "published": report.published(), "groups": [],
        "comparisons": compare.comparisons(rows, {"tiny": {"psnr": True}}),
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "report.html").write_text(page.html_page(make_report(folder), folder), encoding="utf-8")
    return folder


class Reader(HTMLParser):
    """Elements, and whether they close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


class TestText:
    def test_names_are_escaped(self, text):
        assert "<script>alert" not in text
        assert text.count("<script>") == 1
        assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;" in text

    def test_well_formed_and_self_contained(self, text):
        reader = Reader()
        reader.feed(text)
        assert reader.open == []
        for tag, attributes in reader.elements:
            for name in ("src", "href", "srcset"):
                if name in attributes:
                    assert (tag, attributes[name][:23]) == ("img", "data:image/jpeg;base64,")
            assert tag != "img" or attributes["alt"]
        assert not re.search(r"https?://|url\(|@import", text)

    def test_published_rows_have_a_table_of_their_own(self, text):
        measured, published = text.split('<section class="published">')
        assert "NRKNet" not in measured
        assert "CVPR 2023" in published

    def test_random_weights_have_no_figure_and_are_never_the_best(self, text):
        assert re.findall(r'data-value="30.0"><strong>30.00', text)
        assert "41.57" not in text

    def test_without_pictures_and_costs(self, tmp_path):
        made = make_report(tmp_path)
        made |= {"shown": {}, "profile": None, "published": {"title": "t", "note": "n", "rows": []}}
        for row in made["rows"]:
            row |= dict.fromkeys(report.COSTS)
        text = page.html_page(made, tmp_path)
        assert "<svg" not in text
        assert 'class="viewer"' not in text

    @pytest.mark.parametrize("value", [None, math.nan, math.inf])
    def test_figures_that_are_not_finite(self, tmp_path, value):
        made = make_report(tmp_path)
        made["rows"][2]["random_weights"] = False
        for number in (0, 3):  # the line, and what would be the best
            quality = made["rows"][number]["quality"]["tiny"]
            quality["mean"]["psnr"] = value
            quality["images"] = [image | {"psnr": value} for image in quality["images"]]
        text = page.html_page(made, tmp_path)
        long_name = made["rows"][3]["name"]
        assert f"Not shown, since its PSNR isn't a finite number: blurred, {long_name}." in html.unescape(text)
        assert text.count("<circle cx") == 6  # two rows, three plots; published ones are rings
        assert 'class="compare"' not in text
        assert re.findall(r'data-value="41.57"><strong>41.57', text)
        assert not re.search(r">(nan|inf|None)\b|(nan|inf|None) dB", text)
        assert "| IFAN | 25.40 |" in report.markdown(made)


def test_error_map_has_a_fixed_scale():
    sharp = np.zeros((4, 4, 3), np.float32)
    levels = [page.error_map(sharp + value, sharp)[0, 0] for value in (0, page.ERROR_SCALE, 2 * page.ERROR_SCALE)]
    assert levels[0].max() < 0.02
    np.testing.assert_array_equal(levels[1], levels[2])
    assert levels[1].mean() > 0.5


class TestPlots:
    @pytest.mark.parametrize("span", [(24.6, 25.4), (9.1, 30.0), (25.0, 25.0), (0.0, 0.001)])
    def test_ticks_enclose_the_values(self, span):
        ticks = plots.nice_ticks(*span)
        assert ticks[0] < span[0] <= span[1] < ticks[-1]
        assert 3 <= len(ticks) <= 9
        assert np.allclose(np.diff(ticks), ticks[1] - ticks[0])

    @pytest.mark.parametrize("span", [(0.1, 0.4), (1.8, 2.1), (-2, 5), (-1, 1.2)])
    def test_logarithmic_ticks(self, span):
        ticks = plots.log_ticks(*span)
        assert 1 <= len(ticks) <= 8
        assert all(span[0] <= math.log10(tick) <= span[1] for tick in ticks)

    def test_points_lie_where_their_values_are(self):
        text = plots.scatter([plots.Point("a<", 1, 10), plots.Point("b", 100, 20)], "x", "y", "l")
        (x1, y1), (x2, y2) = [map(float, found) for found in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', text)]
        assert x1 < x2
        assert y1 > y2
        assert 'class="ring"' not in text
        assert 'class="ring"' in plots.scatter([plots.Point("a", 1, 10, hollow=True)], "x", "y", "l")
        assert "a&lt;" in text
        assert "a<" not in text


def no_browser() -> str | None:
    """Why the page can't be looked at here."""
    if importlib.util.find_spec("playwright") is None:
        return "needs playwright (pip install playwright)"
    if chromium() is None:
        return "needs Chromium (apt-get install chromium)"
    return None


def chromium() -> str | None:
    return next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.mark.skipif(no_browser() is not None, reason=str(no_browser()))
class TestInBrowser:
    @pytest.fixture
    def opened(self, browser, folder: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
        width = getattr(request, "param", 1280)
        opened = browser.new_page(viewport={"width": width, "height": 800})
        faults: list[str] = []
        opened.on("pageerror", lambda error: faults.append(str(error)))
        opened.on("console", lambda message: faults.append(message.text))
        opened.on("dialog", lambda dialog: faults.append("a name was run as a script"))
        opened.on("request", lambda r: faults.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
        opened.goto((folder / "report.html").as_uri())
        yield opened
        opened.close()
        assert faults == []

    @pytest.mark.parametrize("opened", [1280, 390], indirect=True)
    def test_nothing_overflows(self, opened):
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
        outside = "e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll, .view, .hidden')"
        assert (
            opened.evaluate(f"[...document.querySelectorAll('body *')].filter({outside}).map(e => e.outerHTML)") == []
        )

    @pytest.mark.parametrize("opened", [390], indirect=True)
    def test_tables_scroll_inside(self, opened):
        assert opened.evaluate("(e => e.scrollWidth > e.clientWidth)(document.querySelector('.scroll'))")

    def test_sorting(self, opened):
        table = opened.locator("table.sortable").first
        head = table.locator("th[aria-sort]").nth(1)
        values = "t => [...t.tBodies[0].rows].map(r => r.cells[1].textContent)"
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == "descending"
        assert table.evaluate(values) == ["30.00", "25.40", "9.12", "–", "–"]
        head.locator("button").focus()
        opened.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "ascending"
        assert table.evaluate(values) == ["9.12", "25.40", "30.00", "–", "–"]
        name = table.locator("th[aria-sort]").first
        name.locator("button").click()
        assert head.get_attribute("aria-sort") == "none"
        assert name.get_attribute("aria-sort") == "ascending"
        assert table.locator("tbody th").nth(1).inner_text().startswith("a-model")

    @pytest.mark.parametrize(
        ("title", "first"),
        [("PSNR (dB)", "descending"), ("MAE", "ascending"), ("Latency (s)", "ascending"), ("Model", "ascending")],
    )
    def test_the_first_click_anywhere_in_a_title_puts_the_best_first(self, browser, tmp_path, title, first):
        made = make_report(tmp_path)
        made["metrics"] = ["psnr", "mae"]
        for row in made["rows"]:
            for quality in row["quality"].values():
                quality["mean"]["mae"] = 1 / quality["mean"]["psnr"]
        (tmp_path / "report.html").write_text(page.html_page(made, tmp_path), encoding="utf-8")
        opened = browser.new_page()
        opened.goto((tmp_path / "report.html").as_uri())
        head = opened.locator("table.sortable").first.locator("th[aria-sort]", has_text=title).first
        head.click(position={"x": 3, "y": 3})  # its corner, beside the text
        assert head.get_attribute("aria-sort") == first
        opened.close()

    def transforms(self, opened: Any, viewer: int = 0) -> list[str]:
        found = opened.locator(".viewer").nth(viewer).locator("img.picture")
        return found.evaluate_all("all => all.map(e => e.style.transform)")

    def test_zoom_is_the_same_everywhere(self, opened):
        view = opened.locator(".viewer").first.locator(".view").nth(1)
        view.scroll_into_view_if_needed()
        box = view.bounding_box()
        x, y = box["x"] + 0.75 * box["width"], box["y"] + 0.25 * box["height"]
        opened.mouse.move(x, y)
        opened.mouse.wheel(0, -300)
        (transform,) = set(self.transforms(opened))
        left, top, scale = map(float, re.findall(r"-?[\d.]+", transform))
        assert scale == pytest.approx(math.e, rel=1e-3)
        # The point under the mouse stays where it is.
        assert left == pytest.approx(75 - 75 * scale, abs=0.5)
        assert top == pytest.approx(25 - 25 * scale, abs=0.5)
        opened.mouse.down()
        opened.mouse.move(x + 20, y - 10)
        opened.mouse.up()
        (moved,) = set(self.transforms(opened))
        new_left, new_top, _ = map(float, re.findall(r"-?[\d.]+", moved))
        assert new_left - left == pytest.approx(100 * 20 / box["width"], abs=0.1)
        assert new_top - top == pytest.approx(100 * -10 / box["height"], abs=0.1)
        assert set(self.transforms(opened, 1)) == {""}

    def test_buttons_and_keys(self, opened):
        viewer = opened.locator(".viewer").first
        viewer.locator("button[data-do=in]").click()
        viewer.locator("button[data-do=in]").click()
        assert viewer.locator("output").inner_text() == "2.3×"
        viewer.locator(".view").first.focus()
        before = self.transforms(opened)
        opened.keyboard.press("ArrowRight")
        assert self.transforms(opened) != before
        opened.keyboard.press("-")
        assert viewer.locator("output").inner_text() == "1.5×"
        viewer.locator("button[data-do=reset]").click()
        (transform,) = set(self.transforms(opened))
        assert list(map(float, re.findall(r"-?[\d.]+", transform))) == [0, 0, 1]

    def test_two_fingers(self, browser, folder):
        context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True)
        opened = context.new_page()
        opened.goto((folder / "report.html").as_uri())
        view = opened.locator(".view").first
        view.scroll_into_view_if_needed()
        box = view.bounding_box()
        session = context.new_cdp_session(opened)

        def touch(kind: str, *xs: float) -> None:
            points = [
                {"x": box["x"] + x * box["width"], "y": box["y"] + box["height"] / 2, "id": n} for n, x in enumerate(xs)
            ]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", 0.4, 0.6)
        touch("touchMove", 0.3, 0.7)
        touch("touchMove", 0.2, 0.8)
        touch("touchEnd")
        (transform,) = set(self.transforms(opened))
        assert float(re.findall(r"[\d.]+", transform)[-1]) == pytest.approx(3, rel=0.1)
        context.close()

    def test_error_maps(self, opened):
        viewer = opened.locator(".viewer").first
        assert not viewer.locator(".legend").is_visible()
        viewer.locator("input[data-do=error]").check()
        assert viewer.locator(".legend").is_visible()
        shown = viewer.locator(".view").evaluate_all(
            "all => all.map(v => [...v.querySelectorAll('img')].filter(i => !i.hidden).map(i => i.className).join())"
        )
        assert shown == ["error"] * 3 + ["picture"]
        viewer.locator("input[data-do=error]").uncheck()
        assert viewer.locator("img.error").first.is_hidden()
