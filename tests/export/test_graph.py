"""The network that is exported, before it is a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.exports import SIZE, check_equal, graph_inputs, odd_images, small
from torch import Tensor

from kpnet import Predictor
from kpnet.core.errors import KpnetError
from kpnet.export import to_onnx
from kpnet.export.graph import ExportGraph, size_step, trace
from kpnet.heads.regression import RegressionHead
from kpnet.models.ensemble import Ensemble


def test_matrices_that_turn_and_shear() -> None:
    """Points and covariances go back by the inverse of any matrix; numpy is the reference."""
    model = small("rle")
    pixels, _ = graph_inputs(model, odd_images(1))
    matrix = np.array([[0.3, -0.8, 4.0], [1.1, 0.4, -7.0]])
    plain, _, own = (
        each.double().numpy() for each in ExportGraph(model)(torch.from_numpy(pixels), torch.eye(2, 3)[None])
    )
    points, _, covariance = ExportGraph(model)(torch.from_numpy(pixels), torch.from_numpy(matrix).float()[None])
    inverse = np.linalg.inv(matrix[:, :2])
    np.testing.assert_allclose(points, (plain - matrix[:, 2]) @ inverse.T, atol=1e-3)
    np.testing.assert_allclose(covariance, inverse @ own @ inverse.T, rtol=1e-4, atol=1e-3 * own.max())


def test_the_model_stays_as_it_is() -> None:
    model = small("rle").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = ExportGraph(model)
    assert model.training
    assert not graph.model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    pixels, matrices = (torch.from_numpy(each) for each in graph_inputs(model, odd_images(3)))
    check_equal([each.numpy() for each in graph(pixels, matrices)], Predictor(model)(odd_images(3)))


def test_the_step_of_sizes_is_that_of_all_parts() -> None:
    heatmap = {"name": "heatmap", "stride": 2}
    two, three = (
        small(heatmap, backbone={"name": "conv_sandwich", "channels": [4] * maps, "norm": "batch"}) for maps in (2, 3)
    )
    assert (size_step(two), size_step(three), size_step(Ensemble([two, three]))) == (4, 8, 8)


class Branching(RegressionHead):
    """A head that no tracer can follow."""

    def forward(self, features: list[Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward([each if each.sum() > 0 else -each for each in features])  # type: ignore[return-value]


def test_a_head_that_branches_on_values_is_named(tmp_path: Path) -> None:
    model = small("regression")
    model.head.__class__ = Branching
    for act in (lambda: trace(ExportGraph(model)), lambda: to_onnx(model, tmp_path / "a.onnx")):
        with pytest.raises(
            KpnetError, match=r"^Branching: torch\.export cannot trace it: .*without branches"
        ) as caught:
            act()
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_head_of_one_size_says_that_it_takes_no_other() -> None:
    expected = "^RegressionHead: cannot be exported for images of any size: leave out --any-size .*pool: avg"
    with pytest.raises(KpnetError, match=expected):
        trace(ExportGraph(small("regression")), any_size=True)


def test_a_program_of_any_size() -> None:
    program = trace(ExportGraph(small({"name": "regression", "pool": "avg"})), any_size=True).module()
    images = torch.zeros(1, SIZE[0] + 8, SIZE[1] - 4, 1, dtype=torch.uint8)
    assert program(images, torch.eye(2, 3)[None])[0].shape == (1, 3, 2)
