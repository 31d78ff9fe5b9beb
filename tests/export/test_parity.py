"""The parity is measured as the largest distance to `kpnet.Predictor`, and one that is too large stops the export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.exports import SIZE, guarantee, small
from torch import Tensor

from kpnet import Predictor
from kpnet.core.errors import KpnetError
from kpnet.data import SyntheticFaces
from kpnet.export import ParityError, onnx, program, to_onnx, to_torch
from kpnet.export.graph import ExportGraph
from kpnet.export.parity import Sample, check_parity, dataset_samples, drawn_samples, measure_parity
from kpnet.models.guarantee import By

Outputs = dict[str, np.ndarray]


def samples(count: int = 20) -> list[Sample]:
    """Images at half of their size: a pixel of the input is two of the original."""
    rng, matrix = np.random.default_rng(0), np.array([[0.5, 0, 0], [0, 0.5, 0]])
    return [Sample(f"image {i}", rng.integers(0, 256, (*SIZE, 1), dtype=np.uint8), matrix) for i in range(count)]


def graph(
    change: Callable[[Outputs, np.ndarray], None], by: By | None = None
) -> tuple[Predictor, Callable[..., Outputs]]:
    """A predictor, and a graph that is the same but for a change of its outputs."""
    model = small("rle")
    model.guarantee = None if by is None else guarantee(by)
    inner = ExportGraph(model)

    def run(images: np.ndarray, matrices: np.ndarray) -> Outputs:
        given = inner(torch.from_numpy(images), torch.from_numpy(matrices))
        found = {name: each.numpy() for name, each in zip(inner.output_names, given, strict=True)}
        change(found, images)
        return found

    return Predictor(model), run


def test_the_largest_distance_and_its_image_are_found() -> None:
    """In pixels of the original, in the first of two batches; a distance is Euclidean."""
    given = samples()

    def move(found: Outputs, images: np.ndarray) -> None:
        for row, image in enumerate(images):
            if np.array_equal(image, given[5].pixels):
                found["points"][row, 1] += (0.03, -0.04)
            if np.array_equal(image, given[17].pixels):
                found["points"][row, 1] += 0.01
                found["confidence"][row, 2] += 0.02

    predictor, run = graph(move)
    parity = measure_parity(predictor, run, given)
    assert parity.images == 20
    assert parity.pixels == pytest.approx(0.05, abs=1e-4)
    assert parity.worst == "image 5"
    assert parity.confidence == pytest.approx(0.02, abs=1e-4)
    assert parity.covariance < 1e-4
    with pytest.raises(ParityError, match=r"^image 5: the exported graph is 0.05 pixels from .*nothing was written$"):
        check_parity(parity, predictor, given)


@pytest.mark.parametrize(("output", "off"), [("confidence", 2e-4), ("covariance", 2e-3)])
def test_confidence_and_covariance_have_bounds_too(output: str, off: float) -> None:
    def change(found: Outputs, images: np.ndarray) -> None:
        if output == "confidence":
            found[output] += off
        else:
            found[output] *= 1 + 2 * off

    predictor, run = graph(change)
    parity = measure_parity(predictor, run, samples(3))
    with pytest.raises(ParityError, match=rf"graph's {output} is .*nothing was written$"):
        check_parity(parity, predictor, samples(3))


@pytest.mark.parametrize(("factor", "apart"), [(3.0, 0.0), (1 / 3, 0.0), (1.01, 0.01), (9.0, 2.0)])
def test_a_radius_may_be_that_of_the_third_beside(factor: float, apart: float) -> None:
    """Those of one third are three times those of the one before, and the last digits decide at their limit."""

    def change(found: Outputs, images: np.ndarray) -> None:
        found["radius"][1, 2] *= factor
        found["joint_radius"][0] *= factor

    parity = measure_parity(*graph(change, "confidence"), samples(3))
    assert parity.radius == pytest.approx(apart, abs=1e-4)
    assert parity.joint_radius == pytest.approx(apart, abs=1e-4)


def test_a_parity_on_nothing_is_none() -> None:
    predictor, run = graph(lambda found, images: None)
    with pytest.raises(KpnetError, match="expected at least one, found none"):
        measure_parity(predictor, run, [])


def test_a_graph_as_the_model_is_within_the_bound() -> None:
    predictor, run = graph(lambda found, images: None)
    parity = measure_parity(predictor, run, samples(3))
    assert parity.pixels < 1e-4
    check_parity(parity, predictor, samples(3))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_point_that_is_not_finite(value: float) -> None:
    def spoil(found: Outputs, images: np.ndarray) -> None:
        found["points"][2, 0, 1] = value

    with pytest.raises(ParityError, match=r"^image 2: the exported graph gives points of which some are not finite"):
        measure_parity(*graph(spoil), samples(5))


def test_a_covariance_and_a_confidence_that_are_not_finite() -> None:
    for output in ("confidence", "covariance"):

        def spoil(found: Outputs, images: np.ndarray, output: str = output) -> None:
            found[output][1, 0] = np.nan

        with pytest.raises(ParityError, match="image 1"):
            measure_parity(*graph(spoil), samples(2))


@pytest.mark.parametrize("write", [to_onnx, to_torch])
def test_a_graph_that_is_off_is_not_written(
    write: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph is two thousandths of a pixel of the original beside what the model predicts."""
    forward = ExportGraph.forward

    def off(self: ExportGraph, images: Tensor, matrices: Tensor) -> tuple[Tensor, ...]:
        points, *rest = forward(self, images, matrices)
        return points + 2e-3, *rest

    monkeypatch.setattr(ExportGraph, "forward", off)
    (tmp_path / "a").write_text("mine")
    with pytest.raises(ParityError, match=r"^image \d: the exported graph is 0.002[789] pixels from"):
        write(small("regression"), tmp_path / "a", samples=samples(4))
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("a", "mine")]
    assert onnx.check_parity is program.check_parity is check_parity


def test_samples_of_a_dataset_are_spread_over_it() -> None:
    dataset = SyntheticFaces(9, size=96, image_size=SIZE)
    found = list(dataset_samples(dataset, 5))
    assert [each.name for each in found] == [f"sample {index}" for index in (0, 2, 4, 6, 8)]
    item = dataset[4]
    assert np.array_equal(found[2].pixels[..., 0], (item["image"][0] * 255).round().numpy())
    assert np.array_equal(found[2].matrix, item["matrix"].numpy())
    assert len(list(dataset_samples(dataset, 100))) == 9


def test_drawn_samples_have_many_sizes() -> None:
    found = list(drawn_samples(Predictor(small("regression", channels=3)), 10))
    assert {each.pixels.shape for each in found} == {(*SIZE, 3)}
    assert len({each.matrix[0, 0] for each in found}) == 5
    assert min(each.matrix[0, 0] for each in found) == pytest.approx(0.1, abs=0.01)
