"""Measure the web page of a model in headless Chromium: its size, its parity, and the frames a second of a camera.

    python benchmarks/speed/web_page.py RUN [--seconds 20]

The camera shows a drawn face of 640x480. Each rate is the median of those that the page shows every half second; that
of `kpnet.Predictor` on the same frame, on one thread, is measured before and after. The parity is the largest distance
of a point from `Predictor` on drawn faces of five sizes. It needs Chromium, playwright, and npm for the first page.
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from playwright.sync_api import sync_playwright

import kpnet
from kpnet.data import SyntheticFaces
from kpnet.export import to_html

SIZES = ((96, 96), (300, 500), (640, 480), (333, 517), (1600, 900))  # (width, height)


def drawn_face(index: int, size: tuple[int, int]) -> np.ndarray:
    """Return an image uint8 (H, W)."""
    face = (SyntheticFaces(index + 1)[index]["image"][0].numpy() * 255).round().astype(np.uint8)
    return cv2.resize(face, size, interpolation=cv2.INTER_CUBIC)


def write_camera(path: Path, grey: np.ndarray) -> None:
    """Write a Y4M video of one frame, which Chromium shows again and again at 60 Hz."""
    luma = np.round(16 + grey / 255 * 219).astype(np.uint8)  # black is 16
    header = f"YUV4MPEG2 W{grey.shape[1]} H{grey.shape[0]} F60:1 Ip A1:1 C420\nFRAME\n".encode()
    path.write_bytes(header + luma.tobytes() + bytes([128]) * (grey.size // 2))


def predictor_rate(predictor: kpnet.Predictor, image: np.ndarray) -> float:
    """Return images a second, one at a time."""
    times = []
    for _ in range(30):
        start = time.perf_counter()
        predictor(image)
        times.append(time.perf_counter() - start)
    return 1 / statistics.median(times)


def page_parity(page: Any, predictor: kpnet.Predictor, folder: Path) -> float:
    """Return the largest distance of a point in the page from `Predictor`, in pixels of the image."""
    files = [folder / f"{i}.png" for i in range(len(SIZES))]
    for i, (file, size) in enumerate(zip(files, SIZES, strict=True)):
        cv2.imwrite(str(file), drawn_face(i, size))
    page.locator("#files").set_input_files(files)
    page.get_by_text(f"{len(files)} images predicted").wait_for(timeout=120_000)
    with page.expect_download() as download:
        page.locator("#save").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    found = np.array([[float(row["x"]), float(row["y"])] for row in rows])
    expected = np.concatenate([each.keypoints[0] for each in predictor(files)])
    return float(np.linalg.norm(found - expected, axis=-1).max())


def page_rates(page: Any, seconds: float) -> list[float]:
    """Return the frames a second that the page shows, once it is warm."""
    page.locator("#camera").click()
    page.wait_for_timeout(3000)
    rates = []
    for _ in range(round(seconds / 0.5)):
        page.wait_for_timeout(500)
        rates.append(float(page.locator("#status").inner_text().split()[0]))
    page.locator("#camera").click()
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    args = parser.parse_args()
    torch.set_num_threads(1)
    predictor = kpnet.Predictor(args.run, device="cpu")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as play:
        folder = Path(name)
        to_html(kpnet.load_model(args.run), folder / "page.html")
        size = (folder / "page.html").stat().st_size
        camera = drawn_face(0, (640, 480))
        write_camera(folder / "camera.y4m", camera)
        switches = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        switches.append(f"--use-file-for-fake-video-capture={folder / 'camera.y4m'}")
        page = play.chromium.launch(executable_path=args.chromium, args=switches).new_context(offline=True).new_page()
        start = time.perf_counter()
        page.goto((folder / "page.html").as_uri())
        page.locator("#files:enabled").wait_for(state="attached", timeout=120_000)
        ready = time.perf_counter() - start
        apart = page_parity(page, predictor, folder)
        rates = [predictor_rate(predictor, camera)]
        shown = statistics.median(page_rates(page, args.seconds))
        rates.append(predictor_rate(predictor, camera))
    print(f"page            {size / 1e6:.1f} MB, ready after {ready:.1f} s")
    print(f"parity          {apart:.4f} px on drawn faces of {len(SIZES)} sizes")
    eager = statistics.mean(rates)
    print(f"frames a second {shown:.1f} in the page, {eager:.1f} by Predictor: {shown / eager:.2f} x")


if __name__ == "__main__":
    main()
