"""A headless Chromium without a network, for the pages that kpnet writes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
WITHOUT_A_QUESTION = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")


@contextmanager
def open_browser(playwright: Any, video: Path | None = None) -> Iterator[Any]:
    """Yield Chromium; its camera shows a Y4M file. Without one, there is no camera that the page may open."""
    camera = [] if video is None else [*WITHOUT_A_QUESTION, f"--use-file-for-fake-video-capture={video}"]
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *camera])
    yield browser
    browser.close()


@contextmanager
def open_page(browser: Any, file: Path, **options: Any) -> Iterator[Any]:
    """Yield a page opened from the disk, offline; an error on its console or a request for anything else is an error.

    `options` are those of the browser's context, such as `viewport`.
    """
    context = browser.new_context(offline=True, **options)
    page, errors = context.new_page(), []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith((file.as_uri(), "blob:")) else errors.append(request.url[:80]),
    )
    page.goto(file.as_uri())
    yield page
    context.close()
    assert errors == []
