"""The labelling page in a real browser, with the real server: what is clicked is what the file has."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.suspected_labels import WRONG, write_suspected

pytest.importorskip("playwright")
pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
import uvicorn
from playwright import sync_api

from kpnet.core.skeleton import Skeleton
from kpnet.data import PointsCSV
from kpnet.evaluation.agreement import match_labels, measure_agreement
from kpnet.labelling import server
from kpnet.labelling.again import draw_again
from kpnet.labelling.label_rows import Instance, Point
from kpnet.labelling.labels import LabelFile, read_labels
from kpnet.labelling.queue import Queue
from kpnet.labelling.session import Session
from kpnet.labelling.source import open_source
from kpnet.labelling.suspicions import SuspectedLabels

NAMES = ("left_paw", "right_paw", "<b>tail</b>")
CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")
WIDTH, HEIGHT, IMAGES = 96, 64, 5
QUARTER, TENTHS = np.array([0.25, -0.25]), np.array([0.3, -0.1])  # pixels beside a pixel's centre
# Where a pixel of the image is 7.35 on the screen, each is drawn as 7 or 8, and its middle is known to half a one.
FITTED = 0.5 / 7.35 + 0.01


def truth(index: int) -> np.ndarray:
    """Where image `index` has its red, green and blue pixel, (3, 2)."""
    return np.array([(20 + index, 11), (70 - 2 * index, 30 + index), (45, 50 - index)], float)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    made.mkdir()
    for index in range(IMAGES):
        pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for k, (x, y) in enumerate(truth(index).astype(int)):
            pixels[y, x, k] = 255
        Image.fromarray(pixels).save(made / f"{index}.png")
    return made


@contextmanager
def command(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`kpnet label` as a process, and the address that it prints."""
    line = [sys.executable, "-m", "kpnet.cli", "label", *map(str, arguments), "--no-browser", "--port", "0"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, next(line for line in process.stdout if line.startswith("http")).strip()
    finally:
        process.kill()
        process.wait()


@contextmanager
def served(session: Session) -> Iterator[str]:
    """The server in a thread of this process."""
    with server.bind(0) as listener:
        port = listener.getsockname()[1]
        app = server.build_app(session, "token", port)
        settings = {"log_level": "critical", "lifespan": "off", "timeout_graceful_shutdown": 1}
        running = uvicorn.Server(uvicorn.Config(app, **settings))  # type: ignore[arg-type]
        thread = threading.Thread(target=running.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/token/"
        finally:
            running.should_exit = True
            thread.join(5)
            session.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        launched = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@contextmanager
def opened(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    """A page; a script's error, and a script or style that the policy refuses, fail the test."""
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **options})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda m: errors.append(m.text) if "Security Policy" in m.text else None)
    page.on("request", lambda r: errors.append(r.url) if not r.url.startswith((address, "blob:")) else None)
    page.goto(address)
    yield page
    context.close()
    assert errors == []


def wait_until(page: Any, expression: str) -> None:
    """Ask until an expression is true; the page's policy forbids Playwright's own way."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"{expression}: {page.inner_text('#banner')}")


def view(page: Any) -> dict[str, float]:
    return dict(json.loads(page.get_attribute("#stage", "data-view")))


def places(page: Any) -> np.ndarray:
    """Where the red, green and blue pixels are on the screen, in CSS pixels of the page (3, 2): from a screenshot."""
    page.wait_for_timeout(150)
    ratio = page.evaluate("devicePixelRatio")
    box = page.locator("#stage").bounding_box()
    pixels = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), float)
    left, top = round(box["x"] * ratio) + 4, round(box["y"] * ratio) + 4  # without the outline of the focus
    stage = pixels[
        top : round((box["y"] + box["height"]) * ratio) - 4, left : round((box["x"] + box["width"]) * ratio) - 4
    ]
    found = []
    for k in range(3):
        weight = np.clip(stage[..., k] - stage[..., (k + 1) % 3] - stage[..., (k + 2) % 3] - 5, 0, None)
        y, x = np.mgrid[: stage.shape[0], : stage.shape[1]] + 0.5
        found.append((np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum() + (left, top)) / ratio)
    return np.array(found)


def wait_saved(page: Any) -> None:
    page.wait_for_timeout(50)
    wait_until(page, "document.getElementById('saved').textContent === 'saved'")


def open_image(page: Any, number: int) -> None:
    page.fill("#place", str(number + 1))
    page.keyboard.press("Enter")
    wait_until(page, f"document.getElementById('name').textContent === '{number}.png'")
    page.wait_for_timeout(150)


def wait_shown(page: Any) -> None:
    page.wait_for_selector("#points li:nth-child(3)")
    wait_until(page, "document.getElementById('stage').dataset.view !== undefined")


def zoom_7(page: Any) -> None:
    """Zoom from 1 to 7 with the wheel, about a place of the image."""
    page.keyboard.press("1")
    box = page.locator("#stage").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_timeout(100)
    before = view(page)["scale"]
    page.mouse.wheel(0, -100)
    page.wait_for_timeout(100)
    delta = -100 * np.log(7 / view(page)["scale"]) / np.log(view(page)["scale"] / before)
    for _ in range(8):
        page.mouse.wheel(0, delta / 8)
    page.wait_for_timeout(150)
    assert view(page)["scale"] == pytest.approx(7, abs=0.05)


def check(folder: Path, index: int, expected: np.ndarray, tolerance: float = 0.01) -> None:
    """The rows of `image` in the file, by kpnet's reader of the format."""
    data = PointsCSV(folder / "labels.csv")
    (found,) = [data.keypoints(i) for i in range(len(data)) if data.image_name(i) == f"{index}.png"]
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)


def make_skeleton(page: Any) -> None:
    page.wait_for_selector("#skeleton-dialog[open]")
    page.fill("#names", "\n".join(NAMES))
    page.locator("#names").blur()
    page.wait_for_selector("#pairs .row")
    page.click("#connect")
    page.click("#skeleton-save")
    page.wait_for_selector("#skeleton-dialog", state="hidden")
    wait_until(page, "document.getElementById('points').children.length === 3")


def label_by_keys(page: Any, points: np.ndarray) -> None:
    """The crosshair, moved in steps of 10, 1 and 0.1 pixels."""
    page.locator("#stage").focus()
    for point in points:
        page.keyboard.press("ArrowRight")
        at = np.array([float(text) for text in page.inner_text("#where").split(",")])
        for axis, (less, more) in enumerate((("ArrowLeft", "ArrowRight"), ("ArrowUp", "ArrowDown"))):
            left = round((point[axis] - at[axis]) * 10)
            for step, prefix in ((100, "Control+"), (10, ""), (1, "Shift+")):
                for _ in range(abs(left) // step):
                    page.keyboard.press(prefix + (more if left > 0 else less))
                left = int(np.sign(left)) * (abs(left) % step)
        page.keyboard.press("Enter")


@pytest.mark.slow
def test_five_images_by_mouse_keys_and_touch_with_a_server_that_is_killed(browser: Any, folder: Path) -> None:
    with command(folder) as (process, address):
        with opened(browser, address) as page:
            make_skeleton(page)
            page.keyboard.press("1")
            for x, y in places(page):  # image 0, at zoom 1
                page.mouse.click(x, y)
            wait_saved(page)
            check(folder, 0, truth(0))
            open_image(page, 1)
            zoom_7(page)
            quarter = 0.25 * view(page)["scale"]
            for x, y in places(page):  # image 1, at zoom 7, a quarter of a pixel beside
                page.mouse.click(x + quarter, y - quarter)
            page.keyboard.press("Delete")
            page.keyboard.press("Control+z")
            page.mouse.move(600, 60)
            wait_saved(page)
            check(folder, 1, truth(1) + QUARTER)
            open_image(page, 2)
            label_by_keys(page, truth(2) + TENTHS)
            page.keyboard.press("h")
            wait_saved(page)
            check(folder, 2, truth(2) + TENTHS)
            assert read_labels(folder / "labels.csv")[1]["2.png"][0].points[2].visibility == 1  # type: ignore[union-attr]
            process.send_signal(signal.SIGKILL)
            process.wait()
            open_image_fails(page)
        for index in range(3):
            check(folder, index, truth(index) + (0, QUARTER, TENTHS)[index])
    with command(folder) as (_, address):
        touch = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "device_scale_factor": 2}
        with opened(browser, address, **touch) as page:
            wait_until(page, "document.getElementById('name').textContent === '3.png'")  # the first without labels
            wait_shown(page)
            assert page.evaluate("document.documentElement.scrollWidth") == 360
            pinch(page, 1.5)
            exact = places(page)
            tapped = exact.round()  # as Chromium does with touches
            for x, y in tapped:  # image 3
                page.touchscreen.tap(x, y)
            wait_saved(page)
            third = truth(3) + (tapped - exact) / view(page)["scale"]
            check(folder, 3, third, FITTED)
            open_image(page, 4)
            page.tap("#copy")
            wait_saved(page)
            assert {p.source for p in read_labels(folder / "labels.csv")[1]["4.png"][0].points if p} == {"proposed"}
            # The copied points are dragged.
            fourth = [drag(page, start, end) for start, end in zip(third, truth(4), strict=True)]
            wait_saved(page)
    data = PointsCSV(folder / "labels.csv")
    assert data.skeleton.names == NAMES
    check(folder, 4, np.array(fourth), 2 * FITTED)
    assert {p.source for p in read_labels(folder / "labels.csv")[1]["4.png"][0].points if p} == {"person"}
    assert Skeleton.load(folder / "labels.skeleton.yaml").pairs == (("left_paw", "right_paw"),)


def open_image_fails(page: Any) -> None:
    """A change that the server does not take stays in the page, which says so."""
    page.keyboard.press("Delete")
    wait_until(page, "document.getElementById('saved').textContent === 'not saved'")
    assert "kept in this page" in page.inner_text("#banner")


class Fingers:
    """Touches of a page; a gesture is one session of Chromium's protocol."""

    def __init__(self, page: Any) -> None:
        self.page, self.session = page, page.context.new_cdp_session(page)

    def move(self, *steps: list[Any]) -> None:
        """Put down the fingers of the first step, move them through the others, and lift them."""
        for number, points in enumerate((*steps, [])):
            kind = "touchStart" if number == 0 else "touchMove" if points else "touchEnd"
            listed = [{"x": float(x), "y": float(y), "id": k} for k, (x, y) in enumerate(points)]
            self.session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": listed})
        self.page.wait_for_timeout(100)


def pinch(page: Any, factor: float) -> None:
    before = view(page)["scale"]
    box = page.locator("#stage").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    Fingers(page).move(*([(x - 40 * step, y), (x + 40 * step, y)] for step in np.linspace(1, factor, 6)))
    assert view(page)["scale"] == pytest.approx(before * factor, rel=0.02)
    page.keyboard.press("0")


def drag(page: Any, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Move a point with one finger that does not touch its middle; return where it should be."""
    a, b = (np.round(places_of(page, each)) + np.array([5, -4]) for each in (start, end))
    Fingers(page).move([a], [a + 30], [b + 7], [b])
    moved: np.ndarray = start + (b - a) / view(page)["scale"]
    return moved


@pytest.fixture
def session(folder: Path) -> Session:
    return Session(open_source(folder), skeleton=Skeleton.from_names(NAMES))


@pytest.mark.parametrize("ratio", [1, 1.5, 2])
def test_coordinates_on_every_screen(browser: Any, session: Session, folder: Path, ratio: float) -> None:
    with served(session) as address, opened(browser, address, device_scale_factor=ratio) as page:
        # A pixel of the image is 7 or 14 on the screen, or 10 and 11 in turn: then its middle is known to half a one.
        tolerance = 0.05 if ratio == 1.5 else 0.01
        wait_shown(page)
        zoom_7(page)
        for x, y in places(page):
            page.mouse.click(x, y)
        wait_saved(page)
        check(folder, 0, truth(0), tolerance)
        page.mouse.move(600, 400)
        page.mouse.wheel(0, 400)
        x, y = places_of(page, truth(0)[1])
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 30, y + 15, steps=4)
        page.mouse.up()
        wait_saved(page)
        moved = truth(0)
        moved[1] += np.array([30, 15]) / view(page)["scale"]
        check(folder, 0, moved, tolerance)


def places_of(page: Any, point: np.ndarray) -> tuple[float, float]:
    page.wait_for_timeout(100)
    now, box = view(page), page.locator("#stage").bounding_box()
    return box["x"] + now["x"] + (point[0] + 0.5) * now["scale"], box["y"] + now["y"] + (point[1] + 0.5) * now["scale"]


def test_names_are_text(browser: Any, session: Session) -> None:
    with served(session) as address, opened(browser, address) as page:
        page.wait_for_selector("#points li:nth-child(3)")
        assert page.locator("#points b").count() == 0
        assert "<b>tail</b>" in page.inner_text("#points")
        page.keyboard.press(".")
        page.keyboard.press(".")
        assert page.inner_text("#current") == "<b>tail</b>"


def test_an_image_that_cannot_be_read_is_shown_as_such(browser: Any, session: Session, folder: Path) -> None:
    (folder / "0.png").write_bytes(b"no image")
    with served(session) as address, opened(browser, address) as page:
        page.wait_for_selector("#trouble:visible")
        assert "0.png" in page.inner_text("#trouble")
        page.keyboard.press("n")
        page.wait_for_selector("#trouble", state="hidden")
        wait_until(page, "JSON.parse(document.getElementById('stage').dataset.view ?? '{}').scale > 1")


def test_two_pages_notice_each_other(browser: Any, session: Session, folder: Path) -> None:
    with (
        served(session) as address,
        opened(browser, address) as one,
        opened(browser, address) as other,
    ):
        for page in (one, other):
            wait_shown(page)
            page.keyboard.press("1")
        for x, y in places(one):
            one.mouse.click(x, y)
        wait_saved(one)
        wait_until(other, "document.getElementById('banner').textContent.includes('Another page')")
        wait_until(other, "document.querySelector('#points li:nth-child(3)').textContent.includes('✓')")
        open_image(other, 1)
        x, y = places(other)[0]
        other.mouse.click(x, y)  # of another image: nothing is lost on either side
        wait_saved(other)
        one.keyboard.press("Delete")
        wait_until(one, "!document.querySelector('#points li:nth-child(3)').textContent.includes('✓')")
        wait_saved(one)
    found = read_labels(folder / "labels.csv")[1]
    assert [point is None for point in found["0.png"][0].points] == [False, False, True]
    assert found["1.png"][0].points[0] is not None


def test_suspected_labels_are_mended_in_one_step(browser: Any, trained: Path, tmp_path: Path) -> None:
    predicted = write_suspected(tmp_path / "suspected", trained)
    source = open_source(tmp_path / "suspected")
    session, path = Session(source, run=trained, queue=Queue.suspicious), source.labels
    before = path.read_bytes()
    name = f"{WRONG:02d}.png"
    with served(session) as address, opened(browser, address) as page:
        wait_until(page, f"document.getElementById('name').textContent === '{name}'")
        wait_until(page, "!document.getElementById('mend').disabled")
        assert page.inner_text("#suspicion") == (
            "another instance (left_eye, right_eye, nose): look at it: none of the labels fits; "
            "m takes the model's points instead"
        )
        page.keyboard.press("m")
        wait_saved(page)
        points = read_labels(path)[1][name][0].points
        np.testing.assert_allclose(np.array([p[:2] for p in points if p], float), predicted[WRONG], atol=1)
        assert {p.source for p in points if p} == {"proposed"}
        assert page.is_disabled("#mend")
        assert page.inner_text("#suspicion") == "Nothing in this image."
        page.keyboard.press("Control+z")
        wait_saved(page)
        assert path.read_bytes() == before
        page.click("#mend")
        wait_saved(page)
        assert path.read_bytes() != before
        page.keyboard.press("n")
        wait_until(page, "document.getElementById('name').textContent === '00.png'")
        assert page.inner_text("#suspicion") == "Nothing in this image."


@pytest.mark.parametrize("found", [True, False])
def test_an_examination_that_ends_late_leaves_the_image_that_one_went_to(
    browser: Any, trained: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    labels = LabelFile(folder / "labels.csv", ["0.png"], Skeleton(("left_eye", "right_eye", "nose")))
    labels.put(0, (Instance((Point(1, 2, 2, "person"),) * 3),), 0)
    go = threading.Event()

    def examine(*_: object, **__: object) -> dict[int, list[SuspectedLabels]]:
        go.wait(60)
        return {3: [SuspectedLabels(0, "off", "move it", ())]} if found else {}

    monkeypatch.setattr("kpnet.labelling.session.examine_labels", examine)
    session = Session(open_source(folder), run=trained, queue=Queue.suspicious)
    with served(session) as address, opened(browser, address) as page:
        wait_shown(page)
        open_image(page, 2)
        go.set()
        wait_until(
            page, f"document.getElementById('model').textContent.includes('{int(found)} of 1 images look wrong')"
        )
        page.wait_for_timeout(200)
        assert page.inner_text("#name") == "2.png"
        assert page.is_visible("#banner") == found
        if found:
            page.keyboard.press("n")
            wait_until(page, "document.getElementById('name').textContent === '3.png'")


def test_images_are_labelled_again_without_their_labels(browser: Any, folder: Path) -> None:
    names = [f"{k}.png" for k in range(IMAGES)]
    first = LabelFile(folder / "labels.csv", names, Skeleton(NAMES))
    for index in range(IMAGES):
        points = tuple(Point(x, y, 2, "person") for x, y in truth(index).tolist())
        first.put(index, (Instance(points),), first.revision)
    drawn = draw_again(open_source(folder), 2)
    session = Session(drawn.source, skeleton=drawn.skeleton, again=drawn.first)
    with served(session) as address, opened(browser, address) as page:
        for shown in range(2):
            wait_shown(page)
            page.keyboard.press("1")
            assert page.inner_text("#comparison") == f"{shown} of 2 images are fully labelled again."
            assert page.locator("#points").inner_text().count("✓") == 0
            for x, y in places(page):
                page.mouse.click(x, y)
            wait_saved(page)
            begins = f"{shown + 1} of 2" if shown == 0 else "All 2"
            wait_until(page, f"document.getElementById('comparison').textContent.startsWith('{begins}')")
            before = page.inner_text("#name")
            page.keyboard.press("n")
            if shown == 0:
                wait_until(page, f"document.getElementById('name').textContent !== '{before}'")
        again = folder / "labels_again.csv"
        expected = f"All 2 images are labelled again. Compare: kpnet data agree {folder / 'labels.csv'} {again}"
        assert page.inner_text("#comparison") == expected
    labels = match_labels(PointsCSV(folder / "labels.csv"), PointsCSV(again))
    assert measure_agreement(labels).overall.pixels.mean < 0.01


def change(path: Path) -> bytes:
    """Another program's change."""
    other = LabelFile(path, ["4.png"], read_labels(path)[0])
    other.put(0, (Instance((Point(1.0, 2.0, 2, "person"), None, None)),), 0)
    return path.read_bytes()


@pytest.mark.parametrize("load", [True, False])
def test_a_file_that_another_program_changed_is_offered(
    browser: Any, session: Session, folder: Path, load: bool
) -> None:
    path = folder / "labels.csv"
    with served(session) as address, opened(browser, address) as page:
        wait_shown(page)
        page.keyboard.press("1")
        all_places = places(page)
        page.mouse.click(*all_places[0])
        wait_saved(page)
        theirs = change(path)
        page.mouse.click(*all_places[1])
        page.wait_for_selector("#changed-dialog[open]")
        page.keyboard.press("Escape")
        assert path.read_bytes() == theirs
        page.click("#changed-load" if load else "#changed-beside")
        page.wait_for_selector("#changed-dialog", state="hidden")
        wait_saved(page)
        page.wait_for_timeout(300)
        marks = page.locator("#points").inner_text().count("✓")
    assert path.read_bytes() == theirs
    assert marks == (1 if load else 2)
    if not load:
        found = read_labels(folder / "labels_2.csv")[1]["0.png"][0].points
        np.testing.assert_allclose(np.array([p[:2] for p in found[:2] if p], float), truth(0)[:2], atol=0.01)


def test_a_full_disk_keeps_what_is_in_hand(
    browser: Any, session: Session, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with served(session) as address, opened(browser, address) as page:
        wait_shown(page)
        page.keyboard.press("1")
        everywhere = places(page)
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            for x, y in everywhere:
                page.mouse.click(x, y)
            wait_until(page, "document.getElementById('banner').textContent.includes('No space left')")
            assert page.inner_text("#saved") == "not saved"
        wait_saved(page)
        assert page.is_hidden("#banner")
    check(folder, 0, truth(0))
