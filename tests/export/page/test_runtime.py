"""ONNX Runtime Web from npm, from the cache and from a folder; npm is a script of the test."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from kpnet.core.errors import KpnetError
from kpnet.export.page import runtime
from kpnet.export.page.runtime import CODE, PACKAGE, VERSION, WASM, Runtime, load_runtime

FILES = {CODE: b"/* ONNX Runtime Web v1.2.3 */", WASM: b"\0asm"}


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an empty cache and no programs."""
    for name, variable in (("cache", "XDG_CACHE_HOME"), ("bin", "PATH")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    return tmp_path


def package() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in FILES.items():
            info = tarfile.TarInfo(f"package/dist/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def install_npm(world: Path, does: str) -> None:
    (world / "bin" / "npm").write_text(f"#!/bin/sh\necho \"$@\" >> '{world}/calls'\n{does}\n")
    (world / "bin" / "npm").chmod(0o755)


@pytest.fixture
def pinned(world: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A package that npm gives, and whose digest is the pinned one."""
    data = package()
    monkeypatch.setattr(runtime, "INTEGRITY", base64.b64encode(hashlib.sha512(data).digest()).decode())
    (world / "package.tgz").write_bytes(data)
    install_npm(world, f"/bin/cat '{world}/package.tgz' > onnxruntime-web.tgz")
    return data


def test_npm_is_asked_once_and_runs_no_script(world: Path, pinned: bytes) -> None:
    expected = Runtime(VERSION, FILES[CODE], FILES[WASM])
    assert load_runtime() == load_runtime() == expected
    [call] = (world / "calls").read_text().splitlines()
    assert call.startswith(f"pack {PACKAGE} --ignore-scripts")
    assert [path.read_bytes() for path in (world / "cache" / "kpnet").iterdir()] == [pinned]


def test_a_damaged_cache_is_fetched_again(world: Path, pinned: bytes) -> None:
    load_runtime()
    [kept] = (world / "cache" / "kpnet").iterdir()
    kept.write_bytes(pinned[:-9])
    load_runtime()
    assert kept.read_bytes() == pinned
    assert len((world / "calls").read_text().splitlines()) == 2


def test_a_cache_that_cannot_be_written_is_no_need(world: Path, pinned: bytes) -> None:
    (world / "cache").rmdir()
    (world / "cache").write_text("a file")
    assert load_runtime().wasm == FILES[WASM]


def test_another_package_is_refused(world: Path, pinned: bytes) -> None:
    (world / "package.tgz").write_bytes(pinned + b" ")
    with pytest.raises(KpnetError, match=f"^{PACKAGE}: what npm fetched has another SHA-512"):
        load_runtime()
    assert not (world / "cache" / "kpnet").exists()


@pytest.mark.parametrize(
    ("npm", "expected"),
    [
        (None, "there is no npm to fetch it: install Node.js, or run `npm pack onnxruntime-web@"),
        ("echo 'npm error network request failed' >&2; exit 1", "cannot be fetched: npm error network request failed;"),
        ("exit 7", "cannot be fetched: npm ended with code 7;"),
        ("exit 0", "cannot be fetched: npm ended with code 0;"),
    ],
)
def test_without_npm_one_line_says_how(world: Path, npm: str | None, expected: str) -> None:
    if npm is not None:
        install_npm(world, npm)
    with pytest.raises(KpnetError) as caught:
        load_runtime()
    assert expected in str(caught.value)
    assert "--runtime" in str(caught.value)


@pytest.mark.parametrize("place", ["", "dist", "package/dist", "node_modules/onnxruntime-web/dist"])
def test_a_folder_with_the_files(world: Path, place: str) -> None:
    folder = world / "given" / place
    folder.mkdir(parents=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    assert load_runtime(world / "given") == Runtime("1.2.3", FILES[CODE], FILES[WASM])


def test_a_folder_without_them(world: Path) -> None:
    (world / CODE).write_bytes(FILES[CODE])
    with pytest.raises(KpnetError, match=f"expected {CODE} and {WASM} in it or in its dist/; run `npm pack"):
        load_runtime(world)
    with pytest.raises(KpnetError, match="gone: no such folder"):
        load_runtime(world / "gone")
    (world / CODE).write_bytes(b"something else")
    (world / WASM).write_bytes(b"")
    with pytest.raises(KpnetError, match="not a file of ONNX Runtime Web"):
        load_runtime(world)
