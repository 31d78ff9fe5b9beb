"""Addresses of the hub, and files fetched from a stand-in for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from support.hub_server import Hub, closed_address, use_hub

from kpnet.backbones.weights import load_weights
from kpnet.core.errors import KpnetError
from kpnet.core.hub import fetch, fetch_file, one_commit
from kpnet.core.hub_address import HubAddress, format_path, hub_suffix, is_hub, parse_address
from kpnet.core.model_folder import model_folder

NAMES = ("model.safetensors", "model.yaml")
FILES = {"model.safetensors": b"weights", "model.yaml": b"model: {}", "pytorch_model.bin": b"\x80pickle", "run.py": b""}
PAWS = HubAddress("me/paws")


@pytest.fixture
def hub(hub: Hub) -> Hub:
    hub.repos["me/paws"] = {"main": dict(FILES), "v1": {**FILES, "model.yaml": b"model: {old: true}"}}
    return hub


def refused(address: HubAddress, **options: Any) -> str:
    with pytest.raises(KpnetError) as caught:
        fetch(address, NAMES, **options)
    assert str(caught.value).startswith(f"{address}: ")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://me/paws", HubAddress("me/paws")),
        (str(Path("hf://me/paws@v1.0/fold/0")), HubAddress("me/paws", "v1.0", "fold/0")),
        ("hf:\\me\\paws", HubAddress("me/paws")),
        ("hf://me/paws@refs%2Fpr%2F1/", HubAddress("me/paws", "refs/pr/1")),
        ("hf://me/paws.v2", HubAddress("me/paws.v2")),
    ],
)
def test_addresses(text: str, expected: HubAddress) -> None:
    assert is_hub(text)
    assert parse_address(text) == expected


@pytest.mark.parametrize("text", ["hf://", "hf://me", "hf://me/paws/../../other", "hf://me/pa ws"])
def test_what_is_no_address(text: str) -> None:
    for path in (text, Path(text)):
        assert is_hub(path)
        with pytest.raises(KpnetError, match=rf'^"{text}": not an address of the hub: expected hf://OWNER/NAME'):
            parse_address(path)


def test_an_address_is_shown_with_both_slashes() -> None:
    for text in ("hf://me/paws@v1/fold", "hf:/me/paws@v1/fold"):
        assert format_path(text) == "hf://me/paws@v1/fold"
    assert format_path(Path("https://huggingface.co/me")) == "https://huggingface.co/me"
    for text in ("runs/hf:/a", "hf:a", "http/a"):
        assert format_path(Path(text)) == text


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("me/faces", "hf://me/faces"),
        ("me/faces.v2", "hf://me/faces.v2"),
        ("me/faces@v1", "hf://me/faces@v1"),
        ("https://huggingface.co/me/faces", "hf://me/faces"),
        ("huggingface.co/me/faces/", "hf://me/faces"),
        ("https://hf.co/me/faces/tree/v1/fold0", "hf://me/faces@v1/fold0"),
        ("https://huggingface.co/me/faces/blob/main/model.yaml?raw=1", "hf://me/faces@main/model.yaml"),
    ],
)
def test_what_is_missing_may_be_on_the_hub(path: str, address: str) -> None:
    for each in (path, Path(path)):
        for look, what in ((model_folder, "run or model folder"), (load_weights, "weight file")):
            with pytest.raises(KpnetError, match=f": no such {what}; if it is on the hub, give {address}$"):
                look(each)


@pytest.mark.parametrize(
    "path",
    [
        *("faces", "a/b/c", "../faces", "~/faces", "/me/faces", "here/faces", "me/faces.pth", "me/faces.PTH"),
        *("runs/faces", "faces/final", "data/labels.csv", "photos/a.JPG", "https://huggingface.co/datasets/me"),
    ],
)
def test_what_is_missing_here_alone(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(KpnetError, match=f"^{path}: no such run or model folder$"):
        model_folder(path)


def test_paths_are_no_addresses() -> None:
    assert not any(map(is_hub, ("runs/paws", "hf", "hf/paws", "/hf:/a")))
    assert hub_suffix("hf://me/paws.onnx") == "", "the name of a repository has no suffix"
    assert hub_suffix("hf://me/paws/model.onnx") == hub_suffix("runs/model.onnx") == ".onnx"


def test_only_the_files_that_are_asked_for(hub: Hub) -> None:
    folder = fetch(PAWS, NAMES)
    assert sorted(file.name for file in folder.iterdir()) == list(NAMES)
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    old = fetch(parse_address("hf://me/paws@v1"), NAMES)
    assert (old / "model.yaml").read_bytes() == b"model: {old: true}"
    assert not any(each.endswith((".bin", ".py")) for each in hub.requests)


def test_a_folder_and_a_file_of_a_repository(hub: Hub) -> None:
    hub.repos["me/many"] = {"main": {f"fold/{name}": data for name, data in FILES.items()}}
    assert (fetch(HubAddress("me/many", path="fold"), NAMES) / "model.yaml").read_bytes() == b"model: {}"
    file = fetch_file(parse_address("hf://me/many/fold/model.safetensors"), optional=("model.yaml", "none.yaml"))
    assert file.read_bytes() == b"weights"
    assert (file.parent / "model.yaml").is_file()
    assert refused(HubAddress("me/many")).endswith("there is one in hf://me/many/fold")


def test_what_cannot_be_fetched(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such repository" in refused(HubAddress("me/pawz"))
    assert 'no revision "mian" (did you mean "main"?)' in refused(HubAddress("me/paws", "mian"))
    hub.repos["me/bert"] = {"main": {"config.json": b"{}", "pytorch_model.bin": b""}}
    message = refused(HubAddress("me/bert"))
    assert "not a model of kpnet: it has no model.safetensors and no model.yaml; found config.json" in message
    hub.private.add("me/paws")
    assert "HF_TOKEN" in refused(PAWS)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert fetch(PAWS, NAMES).is_dir()


def test_a_large_file_is_not_fetched(hub: Hub) -> None:
    hub.sizes["model.yaml"] = 2**30
    assert "model.yaml has 1074 MB, expected at most 1 MB" in refused(PAWS)
    assert not any("resolve" in each for each in hub.requests)


@pytest.mark.parametrize("status", [408, 429, 503])
def test_a_failure_of_the_hub(hub: Hub, status: int) -> None:
    folder = fetch(PAWS, NAMES)
    hub.failure = status
    assert fetch(PAWS, NAMES) == folder
    message = refused(HubAddress("me/other"))
    assert "the hub replied: " in message
    assert str(status) in message
    assert str(status) in refused(PAWS, force_download=True)


def test_the_cache_does_not_stand_in_for_a_refusal(hub: Hub) -> None:
    fetch(PAWS, NAMES)
    hub.failure = 403
    assert "refuses it (403)" in refused(PAWS)


def test_one_commit(hub: Hub) -> None:
    with one_commit():
        folder = fetch(PAWS, NAMES)
        hub.repos["me/paws"]["main"]["model.yaml"] = b"model: {new: true}"
        with one_commit():
            assert fetch(PAWS, NAMES) == folder
        assert fetch(PAWS, NAMES) == folder
        assert fetch_file(parse_address("hf://me/paws/model.yaml")).read_bytes() == b"model: {new: true}"
    assert (fetch(PAWS, NAMES) / "model.yaml").read_bytes() == b"model: {new: true}"


def test_the_cache_serves_while_the_hub_is_away(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch(PAWS, NAMES)
    use_hub(monkeypatch, closed_address(), Path(constants.HF_HUB_CACHE))
    assert fetch(PAWS, NAMES) == folder
    assert "no connection to http://127.0.0.1" in refused(HubAddress("me/other"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(PAWS, NAMES) == folder
    assert "HF_HUB_OFFLINE" in refused(HubAddress("me/other"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert fetch(PAWS, NAMES, local_files_only=True) == folder


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_of_the_cache_is_named(hub: Hub, name: str) -> None:
    blob = (fetch(PAWS, NAMES) / name).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    message = refused(PAWS)
    assert f"{name} is damaged in the cache: delete {blob}" in message
    blob.unlink()
    assert (fetch(PAWS, NAMES) / name).read_bytes() == FILES[name]
