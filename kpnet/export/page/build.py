"""Put the page together: markup, style, scripts, the model and its runtime in one HTML file."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kpnet.core.errors import KpnetError
from kpnet.core.files import plain, write_atomic
from kpnet.export.page.runtime import Runtime

_HERE = Path(__file__).parent
_SCRIPTS = ("geometry.js", "drawing.js", "model.js", "page.js")
# What the page's scripts read of the model's metadata.
_KEYS = ("kpnet", "names", "edges", "input_size", "channels", "crop", "box_scale", "window", "dof", "weights")


def write_page(
    model: bytes, metadata: Mapping[str, Any], path: str | Path, *, title: str = "kpnet", runtime: Runtime
) -> None:
    """Write an exported model as one self-contained web page.

    The page predicts images and the camera in the browser, with ONNX Runtime Web on one thread. It works opened from
    the disk, and its content security policy lets it request nothing.

    Args:
        model: The bytes of a model that `kpnet.export.to_onnx` wrote.
        metadata: The model's metadata, the entry `kpnet` of the ONNX file.
        path: The HTML file to write. An existing one is replaced.
        title: The page's heading.
        runtime: ONNX Runtime Web.

    Raises:
        KpnetError: The metadata lack an entry.
    """
    missing = [key for key in _KEYS if key not in metadata]
    if missing:
        raise KpnetError(f"the metadata of the model lack {', '.join(missing)}: export it with this version of kpnet")
    about = {key: metadata[key] for key in _KEYS} | {"title": title, "runtime": runtime.version}
    page = _render(about, model=model, runtime_code=runtime.code, runtime_wasm=runtime.wasm)
    write_atomic(Path(path), page.encode())


def _render(about: Mapping[str, Any], **data: bytes) -> str:
    """Fill the template. Data are packed, and the policy allows the page's own style and script by their digests."""
    import jinja2

    style = (_HERE / "page.css").read_text(encoding="utf-8")
    script = "\n".join((_HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string((_HERE / "page.html").read_text(encoding="utf-8")).render(
        about=json.dumps(plain(dict(about)), allow_nan=False).replace("<", "\\u003c"),
        licence=(_HERE / "onnxruntime_licence.txt").read_text(encoding="utf-8"),
        policy=_policy(style, script),
        style=style,
        script=script,
        **{name: base64.b64encode(gzip.compress(each, 6, mtime=0)).decode() for name, each in data.items()},
    )


def _policy(style: str, script: str) -> str:
    """Return a content security policy under which the page can send nothing and load nothing."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_source(script)} blob: 'wasm-unsafe-eval'",  # blob: the runtime, once it is unpacked
            f"style-src {_source(style)}",
            "img-src data: blob:",
            "media-src blob: mediastream:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
