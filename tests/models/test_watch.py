"""The summary of held-out data: saved with the model, loaded with it, and refused where it is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kpnet import KpnetError, load_model
from kpnet.core.model_folder import WATCH
from kpnet.heads import Keypoints
from kpnet.models.build import build_model
from kpnet.models.calibration import Calibration
from kpnet.models.test_time import TestTime
from kpnet.models.watch import AXES, FEATURES, WatchReference, compute_signals, image_signals


@pytest.fixture
def model() -> Any:
    small = {"name": "conv_sandwich", "channels": [4, 8]}
    model = build_model(backbone=small, head="heatmap", num_keypoints=3, in_channels=1, input_size=32).eval()
    model.calibration = Calibration([0.1, 1 / 3, 0.3], 0.7, 5.5, 100, TestTime(flip=True))
    signals = np.random.default_rng(0).standard_normal((20, FEATURES + 50)).astype(np.float32)
    model.watch_reference = WatchReference.from_signals(signals, 70, model, TestTime(flip=True))
    return model


def test_it_is_saved_and_loaded_with_the_model(model: Any, tmp_path: Path) -> None:
    model.save(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.watch_reference is not None
    torch.testing.assert_close(loaded.watch_reference.signals, model.watch_reference.signals, rtol=0, atol=0)
    assert loaded.watch_reference.signals.shape == (20, FEATURES + AXES)
    assert loaded.watch_reference.images == 70
    loaded.watch_reference.check(loaded, TestTime(flip=True))
    with pytest.raises(KpnetError, match=r"views flip=True, scales=.* and not with no further view"):
        loaded.watch_reference.check(loaded, None)
    loaded.calibration = None
    with pytest.raises(KpnetError, match="another decoding or calibration"):
        loaded.watch_reference.check(loaded, TestTime(flip=True))
    loaded.watch_reference = None
    loaded.save(tmp_path)
    assert not (tmp_path / WATCH).exists()


def test_another_programs_file_stays(model: Any, tmp_path: Path) -> None:
    (tmp_path / WATCH).write_bytes(b"mine")
    with pytest.raises(KpnetError, match=r"watch\.safetensors: exists, and kpnet did not write it"):
        model.save(tmp_path)
    assert (tmp_path / WATCH).read_bytes() == b"mine"


@pytest.mark.parametrize("content", [b"", b"damaged", None])
def test_a_damaged_file_is_named(model: Any, tmp_path: Path, content: bytes | None) -> None:
    model.save(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / WATCH).write_bytes(weights if content is None else content)
    with pytest.raises(KpnetError, match=r"watch\.safetensors: expected the summary of held-out data"):
        load_model(tmp_path)


def test_signals_are_in_fractions_of_the_longer_side() -> None:
    """An error of 2 px in x and in y, of an input of 50 x 100."""
    covariance = torch.diag(torch.tensor([(2 * 2 / 100) ** 2, (2 * 2 / 50) ** 2])).expand(1, 4, 2, 2)
    predicted = Keypoints(torch.zeros(1, 4, 2), torch.tensor([[0.2, 0.4, 0.6, 0.8]]), covariance)
    signals = compute_signals(predicted, torch.tensor([[7.0, 8.0]]), (50, 100))[0]
    expected = [0.5, np.log(0.02), 0.02 * np.sqrt(np.pi / 2), 7, 8]
    np.testing.assert_allclose(signals, expected, rtol=1e-5)


def test_an_image_has_the_mean_of_its_instances() -> None:
    instances = np.arange(10, dtype=np.float32).reshape(2, 5)
    np.testing.assert_array_equal(image_signals(instances, True), [2.5, 3.5, 4.5, 5.5, 6.5])
    np.testing.assert_array_equal(image_signals(instances[:0], True), [0, *[np.nan] * 4])
    np.testing.assert_array_equal(image_signals(instances[:0], False), [np.nan] * 5)
