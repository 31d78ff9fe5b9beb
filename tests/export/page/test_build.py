"""The file of the page, without a browser: what is in it, and what cannot get out of its place."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.web_models import metadata

from kpnet.core.errors import KpnetError
from kpnet.export.page.build import write_page
from kpnet.export.page.runtime import Runtime

RUNTIME = Runtime("1.2.3", b"/* code */ </script>", b"\0asm")


class Parts(HTMLParser):
    """The texts of the style and the scripts, by id or type, and the attributes of all elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self.key = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        found = dict(attrs)
        self.key = (found.get("id") or found.get("type") or tag) if tag in ("script", "style") else ""

    def handle_data(self, data: str) -> None:
        if self.key:
            self.texts[self.key] = self.texts.get(self.key, "") + data
            self.key = ""


def unpacked(text: str) -> bytes:
    return gzip.decompress(base64.b64decode(text))


def test_everything_is_in_the_file_and_nothing_gets_out(tmp_path: Path) -> None:
    names = ["</script><script>alert(1)</script>", "<!--", "ñ 'q' \"r\" & \u2028"]
    write_page(b"model", metadata(names), tmp_path / "a.html", title="</title><b>", runtime=RUNTIME)
    parts = Parts((tmp_path / "a.html").read_text("utf-8"))
    about = json.loads(parts.texts["about"])
    assert (about["names"], about["title"], about["runtime"]) == (names, "</title><b>", "1.2.3")
    assert [unpacked(parts.texts[key]) for key in ("runtime-code", "runtime-wasm", "model")] == [
        RUNTIME.code,
        RUNTIME.wasm,
        b"model",
    ]
    policy = next(value for name, value in parts.attributes if name == "content" and value and "default-src" in value)
    assert policy.startswith("default-src 'none'; ")
    assert not re.search(r"connect-src|unsafe-inline|unsafe-eval(?<!wasm-unsafe-eval)|http", policy)
    for text in (parts.texts["style"], parts.texts["module"]):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
    assert not [name for name, _ in parts.attributes if name.startswith("on") or name == "style"]
    assert "innerHTML" not in parts.texts["module"]


def test_the_same_model_gives_the_same_page(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_page(b"m", metadata(["a"]), tmp_path / name, runtime=RUNTIME)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_metadata_that_lack_something(tmp_path: Path) -> None:
    about = metadata(["a"])
    del about["dof"], about["window"]
    with pytest.raises(KpnetError, match="lack window, dof"):
        write_page(b"m", about, tmp_path / "a.html", runtime=RUNTIME)
    assert not (tmp_path / "a.html").exists()
