"""The report in a real browser."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kpnet.experiments.report.charts import ReportRow
from kpnet.experiments.report.page import group_runs, report_runs, write_report
from kpnet.experiments.table import Group, tabulate

sync_api = pytest.importorskip("playwright.sync_api")
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")


@pytest.fixture(scope="module")
def page_file(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two rows: the tiny run, and a worse one: its first epoch's weights turned to noise."""
    import torch

    from kpnet.models.build import load_model

    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(trained, folder / "worse")
    config = yaml.safe_load((folder / "worse" / "config.yaml").read_text())
    config["name"], config["train"]["batch_size"] = "worse", 3
    (folder / "worse" / "config.yaml").write_text(yaml.safe_dump(config))
    model = load_model(folder / "worse")
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape))
    model.save(folder / "worse" / "final")
    return report_runs([trained, folder / "worse"], folder / "report.html")


@pytest.fixture
def page(page_file: Path) -> Iterator[Any]:
    """The page, opened from the disk without a network; an error on its console fails the test."""
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900})
        opened = context.new_page()
        errors: list[str] = []
        opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.on("request", lambda request: errors.append(request.url[:80]) if "http" in request.url[:5] else None)
        opened.goto(page_file.as_uri())
        yield opened
        browser.close()
        assert errors == []


def column(page: Any, heading: str) -> list[str]:
    place = page.locator("#table th").all_inner_texts().index(heading)
    return [row.locator("td").nth(place).inner_text() for row in page.locator("#table tbody tr").all()]


def test_a_click_sorts(page: Any) -> None:
    assert column(page, "row") == ["tiny", "worse"]
    heading = page.locator("#table th", has_text="score").first
    heading.click()
    assert heading.get_attribute("aria-sort") == "descending"
    scores = [float(text) for text in column(page, "score")]
    assert scores == sorted(scores, reverse=True)
    heading.press("Enter")
    assert [float(text) for text in column(page, "score")] == sorted(scores)
    page.locator("#table th", has_text="row").first.click()
    assert column(page, "row") == ["worse", "tiny"]


def test_the_images_show_and_a_click_shows_the_heatmap(page: Any) -> None:
    sizes = page.eval_on_selector_all("img.pixels", "all => all.map(image => image.naturalWidth)")
    assert len(sizes) >= 6
    assert set(sizes) == {32}
    prediction = page.locator(".prediction").first
    heat = prediction.locator(".heat")
    assert heat.evaluate("image => image.naturalWidth") == 16
    assert heat.evaluate("image => getComputedStyle(image).opacity") == "0"
    prediction.click()
    page.mouse.move(0, 0)
    page.wait_for_function("getComputedStyle(document.querySelector('.prediction .heat')).opacity > 0.8")
    box, image = prediction.locator("svg").bounding_box(), prediction.locator(".pixels").bounding_box()
    assert box == image, "the points lie on the image"
    assert prediction.locator("circle.truth").count() == 3
    assert prediction.locator("circle.found").count() == 3


def test_points_are_drawn_where_they_are(page: Any, trained: Path) -> None:
    """The middle of each ring is the true point of the image: the brightest spot beneath it."""
    prediction = page.locator(".prediction").first
    worst = prediction.evaluate(
        """async prediction => {
          const image = prediction.querySelector("img.pixels"), canvas = document.createElement("canvas");
          canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0);
          const grey = (x, y) => context.getImageData(x, y, 1, 1).data[0];
          return Math.min(...[...prediction.querySelectorAll(".truth")].map(
            ring => grey(Math.round(ring.cx.baseVal.value), Math.round(ring.cy.baseVal.value))));
        }"""
    )
    assert worst > 150


@pytest.fixture(scope="module")
def row(trained: Path) -> ReportRow:
    return group_runs([trained])[0]


@pytest.mark.parametrize("count", [1, 6])
def test_wide_and_narrow(page: Any, row: ReportRow, tmp_path: Path, count: int) -> None:
    """At 1300 px nothing scrolls sideways, at 420 px only tables and configs; a panel does not fill a wide page."""
    names = [f"{'a_long_name_of_a_config_' * (i == 3)}sigma_{i}" for i in range(count)]
    rows = [dataclasses.replace(row, name=name) for name in names]
    out = write_report(rows, tabulate([Group(row.name, row.results) for row in rows]), tmp_path / "report.html")
    scrolled = """() => [document.scrollingElement, ...document.querySelectorAll("body *")].filter(
        each => each.scrollWidth > each.clientWidth && getComputedStyle(each).display !== "inline"
                && (each === document.scrollingElement || getComputedStyle(each).overflowX === "auto")
        ).map(each => each.className || each.tagName)"""
    page.set_viewport_size({"width": 1300, "height": 900})
    page.goto(out.as_uri())
    assert page.evaluate(scrolled) == []
    widths = page.eval_on_selector_all("figure > svg", "all => all.map(svg => svg.getBoundingClientRect().width)")
    assert max(widths) < 650
    page.set_viewport_size({"width": 420, "height": 900})
    assert set(page.evaluate(scrolled)) <= {"wide", "PRE"}
    widths = page.eval_on_selector_all("figure > svg", "all => all.map(svg => svg.getBoundingClientRect().width)")
    assert min(widths) > 350


def test_narrow_and_dark(page: Any, page_file: Path) -> None:
    """Nothing but the wide tables and charts scrolls sideways, and text stands out from its ground."""
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.emulate_media(color_scheme="dark")
    light = "c => Math.max(...getComputedStyle(document.body)[c].match(/\\d+/g).slice(0, 3).map(Number))"
    assert page.evaluate(light, "backgroundColor") < 60
    assert page.evaluate(light, "color") > 200
    assert page.locator("figure svg").first.evaluate("svg => getComputedStyle(svg).color") == page.evaluate(
        "getComputedStyle(document.body).color"
    )
