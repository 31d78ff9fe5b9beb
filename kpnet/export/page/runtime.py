"""ONNX Runtime Web for the page: its pinned npm package, or a folder that holds its files."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kpnet.core.errors import KpnetError, first_line
from kpnet.core.files import write_atomic

VERSION = "1.30.0"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="  # SHA-512
PACKAGE = f"onnxruntime-web@{VERSION}"
CODE, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
_PLACES = ("", "dist", "package/dist", "node_modules/onnxruntime-web/dist")  # below the folder that is given
_PACKED = {f"package/dist/{name}" for name in (CODE, WASM)}
_TIMEOUT = 900  # seconds for 33 MB
_GET = f"run `npm pack {PACKAGE}` where there is npm, unpack it, and give its folder as --runtime"


@dataclass(frozen=True)
class Runtime:
    """The files of ONNX Runtime Web that a page holds.

    Attributes:
        version: Its version.
        code: The JavaScript module.
        wasm: The WebAssembly module.
    """

    version: str
    code: bytes
    wasm: bytes


def load_runtime(folder: str | Path | None = None) -> Runtime:
    """Load ONNX Runtime Web.

    The package is fetched by `npm pack`, which executes nothing of it, once: it is kept in `kpnet` of the user's cache
    folder (`XDG_CACHE_HOME`, else `~/.cache`). Its SHA-512 is checked whenever it is read.

    Args:
        folder: A folder that holds the package's files, which are taken as they are. None: the pinned package.

    Returns:
        The runtime.

    Raises:
        KpnetError: The folder has not the files, or the package can neither be found nor fetched.
    """
    if folder is not None:
        return _from_folder(Path(folder))
    with tarfile.open(fileobj=io.BytesIO(_package())) as archive:
        found = {Path(each.name).name: archive.extractfile(each) for each in archive if each.name in _PACKED}
        code, wasm = (found[name].read() for name in (CODE, WASM))  # type: ignore[union-attr]  # files
        return Runtime(VERSION, code, wasm)


def _from_folder(folder: Path) -> Runtime:
    for place in _PLACES:
        if (folder / place / CODE).is_file() and (folder / place / WASM).is_file():
            code = (folder / place / CODE).read_bytes()
            version = re.search(rb"ONNX Runtime Web v([\w.-]+)", code[:1000])
            if version is None:
                raise KpnetError(f"{folder / place / CODE}: not a file of ONNX Runtime Web; {_GET}")
            return Runtime(version[1].decode(), code, (folder / place / WASM).read_bytes())
    found = "no such folder" if not folder.is_dir() else f"expected {CODE} and {WASM} in it or in its dist/"
    raise KpnetError(f"{folder}: {found}; {_GET}")


def _package() -> bytes:
    """Return the package from the cache, or from npm."""
    kept = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kpnet" / f"{PACKAGE}.tgz"
    with suppress(OSError):
        data = kept.read_bytes()
        if _is_pinned(data):
            return data
    data = _fetch()
    with suppress(OSError):  # a cache is no need
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, data)
    return data


def _fetch() -> bytes:
    npm = shutil.which("npm")
    if npm is None:
        raise KpnetError(f"the page needs {PACKAGE}, and there is no npm to fetch it: install Node.js, or {_GET}")
    logging.getLogger("kpnet").info("fetching %s (33 MB)", PACKAGE)
    with tempfile.TemporaryDirectory() as folder:  # npm reads settings of the folder that it runs in
        command = [npm, "pack", PACKAGE, "--ignore-scripts", "--silent", "--fetch-retries=1"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise KpnetError(f"{PACKAGE} cannot be fetched: {first_line(error)}; {_GET}") from None
        packed = next(Path(folder).glob("*.tgz"), None)
        if done.returncode or packed is None:
            why = first_line(done.stderr or done.stdout or f"npm ended with code {done.returncode}")
            raise KpnetError(f"{PACKAGE} cannot be fetched: {why}; {_GET}")
        data = packed.read_bytes()
    if not _is_pinned(data):
        raise KpnetError(f"{PACKAGE}: what npm fetched has another SHA-512 than the package; is the registry a mirror?")
    return data


def _is_pinned(data: bytes) -> bool:
    return base64.b64encode(hashlib.sha512(data).digest()).decode() == INTEGRITY
