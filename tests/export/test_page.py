"""The page in a real browser: opened from the disk, without a network, with a camera that shows a drawn video."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from support.browser import CHROMIUM, open_browser, open_page
from support.paths import ROOT
from support.web_models import COVARIANCE, centre_of_light, light_model, metadata

from kpnet import Predictor, build_model, load_model
from kpnet.coordinates import crop_region
from kpnet.core.errors import KpnetError
from kpnet.data import SyntheticFaces
from kpnet.data.images import crop, letterbox, read_image, to_channels
from kpnet.export import to_html
from kpnet.export.page.build import write_page
from kpnet.export.page.runtime import Runtime, load_runtime
from kpnet.uncertainty import ellipse_radius

sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("onnx")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")

NASTY = ["<b>nose</b>", '</script><img src=x onerror="throw 1">', 'a "quoted", name']
OFFSETS = np.array([(0, 0), (20, -12), (-30, 25)])
CONFIDENCE = np.array([1.0, 0.5, 0.0])
DOTS = [(100 + 70 * i, 150 + 20 * i) for i in range(6)]  # where the camera sees the light, frame by frame
READY = 60_000  # milliseconds until 14 MB of WebAssembly are unpacked and compiled, on a busy machine


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    """ONNX Runtime Web, from the user's cache or from npm."""
    try:
        return load_runtime()
    except KpnetError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def playwright() -> Iterator[Any]:
    with sync_api.sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    video = tmp_path_factory.mktemp("camera") / "dots.y4m"
    video.write_bytes(b"YUV4MPEG2 W640 H480 F10:1 Ip A1:1 C420\n" + b"".join(frame(*dot) for dot in DOTS))
    with open_browser(playwright, video) as opened:
        yield opened


def light(x: float, y: float, height: int = 480, width: int = 640, sigma: float = 20) -> np.ndarray:
    """A black image uint8 (H, W, 3) with one light."""
    rows, columns = np.mgrid[:height, :width]
    bright = 200 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return np.repeat(np.round(bright).astype(np.uint8)[..., None], 3, 2)


def frame(x: float, y: float) -> bytes:
    """A frame of a Y4M video with one light."""
    grey = 16 + light(x, y)[..., 0] / 255 * 219  # black is 16
    return b"FRAME\n" + np.round(grey).astype(np.uint8).tobytes() + bytes([128]) * (320 * 240 * 2)


@pytest.fixture(scope="module")
def crop_page(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of crops with names that are HTML, a confidence and a covariance."""
    about = metadata(NASTY, crop="box", edges=[NASTY[:2], NASTY[1:]], dof=5.0)
    model = light_model(about, OFFSETS, CONFIDENCE)
    path = tmp_path_factory.mktemp("crop") / "a.html"
    write_page(model, about, path, title="<i>crops</i>", runtime=runtime)
    return path


@pytest.fixture(scope="module")
def clip_page(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of grey clips of three frames, whose points follow the first, the middle and the last frame."""
    about = metadata(["first", "middle", "last"], channels=1, window=[1, 1])
    model = light_model(about, np.zeros((3, 2)))
    path = tmp_path_factory.mktemp("clip") / "a.html"
    write_page(model, about, path, title="clips", runtime=runtime)
    return path


def ready(page: Any) -> Any:
    page.locator("#files:enabled").wait_for(state="attached", timeout=READY)
    return page


@pytest.fixture
def crops(browser: Any, crop_page: Path) -> Iterator[Any]:
    with open_page(browser, crop_page, viewport={"width": 1000, "height": 800}) as page:
        yield ready(page)


def choose(page: Any, *files: Path) -> None:
    page.locator("#files").set_input_files(list(files))
    page.locator("#status", has_text="predicted").wait_for()


def problems(page: Any) -> list[str]:
    return list(page.locator("#problems li").all_inner_texts())


def table(page: Any) -> list[list[str]]:
    """The rows of the CSV that the page saves, without the header."""
    with page.expect_download() as download:
        page.locator("#save").click()
    rows = list(csv.reader(io.StringIO(Path(download.value.path()).read_text("utf-8"))))
    assert rows[0] == ["image", "instance", "name", "x", "y", "confidence"]
    return rows[1:]


def points(rows: list[list[str]]) -> np.ndarray:
    return np.array([[float(row[3]), float(row[4])] for row in rows])


@pytest.fixture
def face_files(tmp_path: Path) -> list[Path]:
    """Drawn faces of several sizes, one of them turned by its EXIF, and a JPEG."""
    faces, files = SyntheticFaces(4), []
    for i, (width, height) in enumerate([(96, 96), (333, 517), (1600, 900), (401, 300)]):
        grey = (faces[i]["image"][0].numpy() * 255).round().astype(np.uint8)
        file = tmp_path / f"face, {i}.{'jpg' if i > 1 else 'png'}"
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 3 else 1
        Image.fromarray(grey).convert("RGB").resize((width, height), Image.Resampling.BICUBIC).save(file, exif=exif)
        files.append(file)
    return files


def test_points_are_those_of_the_predictor(
    browser: Any, runtime: Runtime, trained: Path, tmp_path: Path, face_files: list[Path]
) -> None:
    model = load_model(trained)
    info = to_html(model, tmp_path / "a.html")
    assert info.parity is not None
    assert info.parity.pixels > 1e-3, "the weights are rounded"
    with open_page(browser, tmp_path / "a.html") as page:
        choose(ready(page), *face_files)
        rows = table(page)
        assert problems(page) == []
    predictor = Predictor(model)
    for file in face_files:
        own, expected = [row for row in rows if row[0] == file.name], predictor(file)
        assert [row[2] for row in own] == list(expected.names)
        assert np.abs(points(own) - expected.keypoints[0]).max() < 0.1
        if expected.confidence is not None:
            sure = np.array([float(row[5]) for row in own])
            assert np.abs(sure - expected.confidence[0]).max() < 1e-3


CASES = [
    ((480, 640), (96, 96), 1, None),
    ((192, 192), (96, 96), 3, None),
    ((288, 288), (96, 96), 3, None),
    ((50, 31), (96, 90), 3, None),
    ((96, 50), (96, 96), 1, None),
    ((333, 517), (240, 320), 3, None),
    ((1100, 900), (64, 96), 1, (-20, 30, 850, 400)),
    ((70, 80), (128, 96), 3, (10.3, 20.7, 40.5, 61)),
]


def test_images_are_fitted_as_kpnet_fits_them(browser: Any) -> None:
    """To the last bit: shrunk by any and by whole factors, enlarged, over several bands, and beyond the edges."""
    context = browser.new_context(offline=True)
    page = context.new_page()
    script = (ROOT / "kpnet" / "export" / "page" / "geometry.js").read_text()
    page.add_script_tag(
        content=script
        + """
        function fit(pixels, source, target, channels, box) {
          const raw = Uint8Array.from(atob(pixels), (c) => c.charCodeAt(0));
          const read = (left, top, width, height) => {
            const out = new Uint8ClampedArray(4 * width * height);
            for (let y = Math.max(0, -top); y < Math.min(height, source[0] - top); y++)
              for (let x = Math.max(0, -left); x < Math.min(width, source[1] - left); x++)
                for (let c = 0; c < 3; c++)
                  out[4 * (y * width + x) + c] = raw[3 * ((y + top) * source[1] + x + left) + c];
            return out;
          };
          const view = box ? cropView(box, 1.25, source, target) : letterbox(source, target);
          return [view.matrix, Array.from(fitImage(read, view, target, channels))];
        }"""
    )
    rng = np.random.default_rng(0)
    for source, target, channels, box in CASES:
        image = cv2.GaussianBlur(rng.integers(0, 256, (*source, 3)).astype(np.uint8), (0, 0), 1)
        same = to_channels(image, channels)
        region = None if box is None else crop_region(box, 1.25, source, target)
        pixels, matrix = letterbox(same, target) if region is None else crop(same, region, target)
        encoded = base64.b64encode(image.tobytes()).decode()
        found = page.evaluate("each => fit(...each)", [encoded, source, target, channels, box])
        np.testing.assert_allclose(np.array(found[0]).reshape(2, 3), matrix, atol=1e-12)
        np.testing.assert_array_equal(np.array(found[1]).reshape(pixels.shape), pixels, err_msg=f"{source} {target}")
    radii = page.evaluate("() => [ellipseRadius(0.9, null), ellipseRadius(0.9, 5)]")
    np.testing.assert_allclose(radii, [ellipse_radius(0.9), ellipse_radius(0.9, 5.0)], rtol=1e-12)
    major, minor, angle = page.evaluate("c => ellipseAxes(c.flat())", [list(row) for row in COVARIANCE])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(turn @ np.diag([major**2, minor**2]) @ turn.T, COVARIANCE)
    context.close()


def test_names_that_are_html_stay_text(crops: Any, tmp_path: Path) -> None:
    Image.fromarray(light(300, 200)).save(tmp_path / "=1+1,<b>.png")
    choose(crops, tmp_path / "=1+1,<b>.png")
    assert crops.locator("#rows td:nth-child(2)").all_inner_texts() == NASTY
    assert crops.locator("h1").inner_text() == crops.title() == "<i>crops</i>"
    assert crops.evaluate("document.querySelectorAll('b, i, img').length") == 0
    rows = table(crops)
    assert [row[0] for row in rows] == ["=1+1,<b>.png"] * 3
    assert [row[2] for row in rows] == NASTY
    np.testing.assert_allclose([float(row[5]) for row in rows], CONFIDENCE, atol=1e-4)


def test_boxes(crops: Any, tmp_path: Path) -> None:
    """Of each box, drawn or typed, the points are those of kpnet's crop; one that misses the image is a line."""
    image = light(300, 200) // 2 + light(420, 300, sigma=30) // 2
    Image.fromarray(image).save(tmp_path / "a.png")
    choose(crops, tmp_path / "a.png")
    pixels, matrix = letterbox(image, (24, 32))
    assert np.abs(points(table(crops)) - OFFSETS - centre_of_light(pixels, matrix)).max() < 0.1

    crops.set_viewport_size({"width": 1000, "height": 1100})
    canvas = crops.locator("#canvas").bounding_box()
    assert canvas["y"] > 0
    scale = canvas["width"] / 640
    crops.mouse.move(canvas["x"] + 240 * scale, canvas["y"] + 120 * scale)
    crops.mouse.down()
    crops.mouse.move(canvas["x"] + 360 * scale, canvas["y"] + 280 * scale, steps=3)
    crops.mouse.up()
    crops.locator("#box-edges").fill("380, 250 470 350")
    crops.keyboard.press("Enter")
    crops.locator("#rows tr").nth(5).wait_for()
    rows = table(crops)
    assert [row[1] for row in rows] == ["0"] * 3 + ["1"] * 3
    for i, box in enumerate([(239.5, 119.5, 359.5, 279.5), (380, 250, 470, 350)]):
        pixels, matrix = crop(image, crop_region(box, 1.25, (480, 640), (24, 32)), (24, 32))
        centre = centre_of_light(pixels, matrix)
        tolerance = 1.5 if i == 0 else 0.1  # of a mouse
        assert np.abs(points(rows[3 * i : 3 * i + 3]) - OFFSETS - centre).max() < tolerance

    crops.locator("#box-edges").fill("700 10 800 90")
    crops.keyboard.press("Enter")
    crops.locator("#box-edges").fill("1, 2, 3")
    crops.keyboard.press("Enter")
    assert problems(crops) == [
        "Box 700, 10, 800, 90: no area on this image of 640x480.",
        "Expected four numbers: x0, y0, x1, y1.",
    ]
    crops.locator("#clear-boxes").click()
    crops.locator("#rows tr").nth(3).wait_for(state="detached")
    assert len(table(crops)) == 3


def test_points_are_drawn_where_they_are(crops: Any, tmp_path: Path) -> None:
    """From red to green by confidence, each at its place; the ellipse is where 90 % of the errors end."""
    Image.fromarray(light(300.0, 200.0)).save(tmp_path / "a.png")
    choose(crops, tmp_path / "a.png")
    crops.locator("#show-names").uncheck()
    crops.locator("#show-edges").uncheck()
    at = points(table(crops))
    colour = """([x, y]) => {
        const canvas = document.getElementById("canvas"), scale = canvas.width / 640;
        const at = [x, y].map((value) => Math.floor((value + 0.5) * scale));
        return [...canvas.getContext("2d").getImageData(...at, 1, 1).data];
    }"""
    green, _, red = (crops.evaluate(colour, list(point)) for point in at)
    assert green[1] > 200 > 100 > green[0]
    assert red[0] > 200 > 100 > red[1]
    radius = ellipse_radius(0.9, 5.0) * np.sqrt(1 / np.linalg.inv(COVARIANCE)[0, 0])  # along x
    on_it = [at[2][0] + radius, at[2][1]]
    coloured = crops.evaluate(colour, on_it)
    assert coloured[0] - coloured[2] > 60
    crops.locator("#show-ellipses").uncheck()
    grey = crops.evaluate(colour, on_it)
    assert grey[0] - grey[2] < 10


def test_several_images_and_a_wrong_file(crops: Any, tmp_path: Path) -> None:
    Image.fromarray(light(300, 200)).save(tmp_path / "a.png")
    Image.fromarray(light(50, 80, 100, 200, 8)).save(tmp_path / "b.png")
    (tmp_path / "notes.png").write_text("no image")
    choose(crops, tmp_path / "a.png", tmp_path / "notes.png", tmp_path / "b.png")
    assert problems(crops) == ["notes.png: not an image that this browser can read"]
    assert crops.locator("#place").inner_text() == "2 / 2: b.png"
    assert crops.locator("#copy").inner_text() == "Copy table of 2 images"
    crops.locator("#next").press("Enter")
    crops.locator("#place", has_text="1 / 2: a.png").wait_for()
    rows = table(crops)
    assert [row[0] for row in rows] == ["a.png"] * 3 + ["b.png"] * 3
    for file, own in (("a.png", rows[:3]), ("b.png", rows[3:])):
        centre = centre_of_light(*letterbox(read_image(tmp_path / file), (24, 32)))
        assert np.abs(points(own) - OFFSETS - centre).max() < 0.1


def test_copy_and_drop(browser: Any, crop_page: Path, tmp_path: Path) -> None:
    Image.fromarray(light(300, 200)).save(tmp_path / "a.png")
    encoded = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    with open_page(browser, crop_page, permissions=["clipboard-read", "clipboard-write"]) as page:
        dropped = ready(page).evaluate_handle(
            """text => {
              const data = new DataTransfer(), bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
              data.items.add(new File([bytes], "a.png", { type: "image/png" }));
              return data;
            }""",
            encoded,
        )
        page.dispatch_event("#stage", "drop", {"dataTransfer": dropped})
        page.locator("#status", has_text="predicted").wait_for()
        expected = table(page)
        page.locator("#copy").click()
        page.locator("#status", has_text="copied").wait_for()
        copied = list(csv.reader(io.StringIO(page.evaluate("navigator.clipboard.readText()"))))
    assert copied[1:] == expected


def test_the_camera(crops: Any) -> None:
    """The points are those of a frame of the video, whatever the moment, and stay when the camera is stopped."""
    crops.locator("#camera").click()
    crops.locator("#status", has_text="frames a second").wait_for()
    crops.locator("#camera", has_text="Stop camera").click()
    crops.locator("#camera", has_text="Open camera").wait_for()
    rows = table(crops)
    assert {row[0] for row in rows} == {"camera"}
    assert min(np.abs(points(rows) - OFFSETS - dot).max() for dot in DOTS) < 0.7  # of the centre of a cut light
    assert problems(crops) == []


def test_clips(browser: Any, clip_page: Path, tmp_path: Path) -> None:
    """One image fills the window; frames of the camera follow each other in it."""
    Image.fromarray(light(300, 200)).save(tmp_path / "a.png")
    with open_page(browser, clip_page) as page:
        choose(ready(page), tmp_path / "a.png")
        rows = table(page)
        centre = centre_of_light(*letterbox(read_image(tmp_path / "a.png"), (24, 32)))
        assert np.abs(points(rows) - centre).max() < 0.1
        assert [row[5] for row in rows] == [""] * 3
        page.locator("#camera").click()
        page.locator("#status", has_text="frames a second").wait_for()
        seen = []
        for _ in range(50):
            cells = page.locator("#rows td:nth-child(3)").all_inner_texts()
            seen.append([float(cell) for cell in cells])
            if len(seen) > 3 and len({round(value) for value in seen[-1]}) > 1:
                break
            page.wait_for_timeout(50)
        assert len({round(value) for value in seen[-1]}) > 1, "the window holds one frame alone"
        steps = np.abs(np.subtract.outer(seen[-1], [dot[0] for dot in DOTS])).min(1)
        assert steps.max() < 1


def test_without_a_camera(playwright: Any, clip_page: Path) -> None:
    with open_browser(playwright) as browser, open_page(browser, clip_page) as page:
        ready(page).locator("#camera").click()
        page.locator("#problems li").wait_for()
        assert problems(page) in (["Camera: none was found."], ["Camera: the browser did not allow it."])
        assert page.locator("#camera").inner_text() == "Open camera"


def test_a_model_that_is_none(browser: Any, runtime: Runtime, tmp_path: Path) -> None:
    write_page(b"no model", metadata(["a"]), tmp_path / "a.html", runtime=runtime)
    with open_page(browser, tmp_path / "a.html") as page:
        page.locator("#problems li").wait_for(timeout=READY)
        [line] = problems(page)
        assert line.startswith("The model cannot be loaded in this browser: ")
        assert page.locator("#camera").is_disabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(browser: Any, crop_page: Path, tmp_path: Path, scheme: str) -> None:
    """At 360 px nothing scrolls sideways but the table, and text stands out from its ground."""
    Image.fromarray(light(900, 100, 300, 2000)).save(tmp_path / "wide.png")
    options = {"viewport": {"width": 360, "height": 740}, "color_scheme": scheme, "device_scale_factor": 2}
    with open_page(browser, crop_page, **options) as page:
        choose(ready(page), tmp_path / "wide.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.locator("#canvas").bounding_box()["width"] <= 360
        light_of = "c => Math.max(...getComputedStyle(document.body)[c].match(/\\d+/g).slice(0, 3).map(Number))"
        ground, text = page.evaluate(light_of, "backgroundColor"), page.evaluate(light_of, "color")
        assert (ground > 200 and text < 60) if scheme == "light" else (ground < 60 and text > 200)


def test_the_keyboard_reaches_everything(crops: Any, tmp_path: Path) -> None:
    Image.fromarray(light(300, 200)).save(tmp_path / "a.png")
    choose(crops, tmp_path / "a.png", tmp_path / "a.png")
    crops.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(16):
        crops.keyboard.press("Tab")
        reached.append(crops.evaluate("document.activeElement.id"))
    wanted = ["files", "camera", "show-names", "show-edges", "show-ellipses", "box-edges", "clear-boxes"]
    assert [each for each in reached if each in wanted] == wanted
    assert {"previous", "next", "copy", "save", "table-room"} <= set(reached)


@pytest.mark.slow
def test_the_size_of_a_page(runtime: Runtime, tmp_path: Path) -> None:
    to_html(build_model("facial_heatmap"), tmp_path / "a.html")
    assert (tmp_path / "a.html").stat().st_size < 25e6
