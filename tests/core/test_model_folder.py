"""Where a saved model lies: its own folder, or `final` of a run that has ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from kpnet.core.errors import KpnetError
from kpnet.core.model_folder import WEIGHTS, model_folder, weights_file


def weights(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / WEIGHTS).touch()
    return folder


def test_a_model_and_a_run(tmp_path: Path) -> None:
    model = weights(tmp_path / "model")
    run = tmp_path / "run"
    weights(run / "best")
    final = weights(run / "final")
    assert model_folder(model) == model
    assert model_folder(str(run)) == final
    assert model_folder(run / "best") == run / "best"
    assert weights_file(run) == final / WEIGHTS
    assert weights_file(model / WEIGHTS) == model / WEIGHTS
    assert weights_file("gone.pth") == Path("gone.pth"), "whoever opens it says that it is gone"


def test_what_is_none_says_what_there_is(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(KpnetError) as caught:
            model_folder(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    refused(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    assert WEIGHTS in refused(tmp_path / "empty")
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "last.ckpt").touch()
    message = refused(cut)
    assert "--resume" in message
    assert "best" not in message
    weights(cut / "best")
    assert str(cut / "best") in refused(cut)
    for name, words in (("exported.onnx", "kpnet predict"), ("exported.pt2", "torch.export.load")):
        (tmp_path / name).touch()
        message = refused(tmp_path / name)
        assert words in message
        assert "run folder" in message
    assert "predict" not in refused(tmp_path / "exported.pt2")


def test_a_file_of_a_saved_model_stands_for_its_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    final = weights(run / "final")
    (final / "model.yaml").touch()
    for name in (WEIGHTS, "model.yaml"):
        assert model_folder(final / name) == final
        assert weights_file(final / name) == final / WEIGHTS
    for name, fix in (("last.ckpt", str(run)), ("config.yaml", str(run)), ("notes.txt", WEIGHTS)):
        (run / name).touch()
        with pytest.raises(KpnetError, match="not a") as caught:
            model_folder(run / name)
        assert str(run / name) in str(caught.value)
        assert fix in str(caught.value).partition(": ")[2]
