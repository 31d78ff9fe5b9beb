"""How far an exported graph is from `kpnet.Predictor`."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from kpnet.core.errors import KpnetError
from kpnet.data import KeypointDataset
from kpnet.data.images import model_inputs
from kpnet.data.synthetic.faces import LARGEST, SyntheticFaces
from kpnet.heads.base import POINT_VALUES
from kpnet.inference.predictor import Predictor
from kpnet.models.exported import POINTS, Parity
from kpnet.models.guarantee import Guarantee

MOST_PIXELS = 1e-3
"""Largest distance of an exported model's point from that of `Predictor`, in pixels of the original image."""
MOST = {"confidence": 1e-4, "covariance": 1e-3, "presence": 1e-4, "radius": 1e-3, "joint_radius": 1e-3}
"""Largest differences of what else it gives: of covariances relative to their trace, and of radii relative to them."""
BATCH = 16
DRAWN = 20  # images that are drawn where none are given
DRAWN_SIZES = ((1, 1), (0.64, 0.91), (2.5, 1.4), (3.47, 5.21), (10, 7.5))  # relative to the model's input

Run = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]


class ParityError(KpnetError):
    """An exported graph does not predict what the model predicts."""


@dataclass(frozen=True)
class Sample:
    """An input of a model.

    Attributes:
        name: Name of the image.
        pixels: Uint8 (H, W, C), or a clip (T, H, W, C) as long as the head's window.
        matrix: Matrix (2, 3) from pixels of the original image to pixels of the input.
    """

    name: str
    pixels: np.ndarray
    matrix: np.ndarray


def dataset_samples(dataset: KeypointDataset, most: int) -> Iterator[Sample]:
    """Yield at most `most` samples of a dataset, evenly from its beginning to its end."""
    count = min(most, len(dataset))
    for index in np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist():
        item = dataset[index]
        pixels = (item["image"] * 255).round().to(torch.uint8).movedim(-3, -1).numpy()
        file = dataset.image_file(index)
        yield Sample(f"sample {index}" if file is None else str(file), pixels, item["matrix"].numpy())


def drawn_samples(predictor: Predictor, count: int) -> Iterator[Sample]:
    """Yield drawn faces of several sizes as inputs of a model."""
    frames = 1 + sum(predictor.model.frame_window)
    for index in range(count):
        factors = DRAWN_SIZES[index % len(DRAWN_SIZES)]
        sides = zip(factors, predictor.model.config.input_size, strict=True)
        size = tuple(min(max(round(factor * side), 16), LARGEST) for factor, side in sides)
        views = []
        for frame in range(frames):
            image = SyntheticFaces(1, size=max(size), seed=index * frames + frame).read(0)[0][: size[0], : size[1]]
            views.append(model_inputs(image, None, predictor.model.config)[0])
        pixels = np.stack([each.reshape(*each.shape[:2], -1) for each, _ in views])
        yield Sample(f"drawn face {index} of {size[0]}x{size[1]}", pixels if frames > 1 else pixels[0], views[0][1])


def measure_parity(predictor: Predictor, run: Run, samples: Iterable[Sample]) -> Parity:
    """Compare an exported graph with `Predictor` on the same inputs.

    Args:
        predictor: Predicts with the model that was exported.
        run: The graph: from images and matrices to points and what is known of them, by name.
        samples: The inputs.

    Returns:
        The largest differences.

    Raises:
        ParityError: A value that the graph gives is not finite.
        KpnetError: There are no inputs.
    """
    count, pixels, worst = 0, 0.0, ""
    apart_by = dict.fromkeys(POINT_VALUES, 0.0)
    iterator = iter(samples)
    while batch := list(itertools.islice(iterator, BATCH)):
        count += len(batch)
        expected = predictor.predict_inputs([(each.pixels, each.matrix) for each in batch])
        found = run(
            np.stack([each.pixels for each in batch]), np.stack([each.matrix for each in batch]).astype(np.float32)
        )
        for what, values in found.items():
            bad = ~np.isfinite(values).reshape(len(batch), -1).all(1)
            if bad.any():
                raise ParityError(
                    f"{batch[int(bad.argmax())].name}: the exported graph gives {what} of which some are not finite; "
                    "nothing was written"
                )
        apart = np.linalg.norm(found[POINTS] - expected.keypoints, axis=-1).max(-1)
        index = int(apart.argmax())
        if apart[index] >= pixels:
            pixels, worst = float(apart[index]), batch[index].name
        for name in POINT_VALUES:
            own, other = found.get(name), getattr(expected, name)
            if own is not None and other is not None:
                apart = _differences(name, own, other, getattr(predictor.model, "guarantee", None))
                apart_by[name] = max(apart_by[name], float(apart.max()))
    if not count:
        raise KpnetError("the parity is measured on images: expected at least one, found none")
    return Parity(images=count, pixels=pixels, worst=worst, **apart_by)


def _differences(name: str, own: np.ndarray, other: np.ndarray, guarantee: Guarantee | None) -> np.ndarray:
    """Return differences of the graph's own values of this name from others, relative to what `MOST` says."""
    if name == "covariance":
        return np.asarray(np.abs(own - other) / other.diagonal(axis1=-2, axis2=-1).sum(-1)[..., None, None])
    if not name.endswith("radius"):
        return np.abs(own - other)
    changes = np.ones((1, 1))
    if guarantee is not None and guarantee.by is not None:
        # The last digits decide on the third of a point at its limit: the radius may be that of the third beside it.
        quantiles = np.array(guarantee.quantiles)[:-1] if name == "radius" else np.array(guarantee.quantiles)[-1:]
        steps = quantiles[:, 1:] / quantiles[:, :-1]
        changes = np.concatenate([np.ones((len(steps), 1)), steps, 1 / steps], 1)
    return np.asarray(np.abs(own[..., None] / (other[..., None] * changes) - 1).min(-1))


def check_parity(parity: Parity, predictor: Predictor, samples: Iterable[Sample]) -> None:
    """Raise ParityError where points, of which the worst image is named, or what is known of them is too far apart.

    Args:
        parity: What was measured.
        predictor: Predicts with the model that was exported.
        samples: The inputs that it was measured on.
    """
    if parity.pixels <= MOST_PIXELS:
        for name, most in MOST.items():
            if not (apart := getattr(parity, name)) <= most:
                raise ParityError(
                    f"the exported graph's {name} is {apart:.2g} from kpnet's own, more than {most:g}; nothing was "
                    "written"
                )
        return
    rounding = _rounding_error(predictor, [each for each in samples if each.name == parity.worst])
    cause = (
        f"; the model's own points move by {rounding:.1g} between single and double precision, as those of "
        "a model that has hardly been trained do: train it longer"
        if 8 * rounding > parity.pixels
        else ""
    )
    raise ParityError(
        f"{parity.worst}: the exported graph is {parity.pixels:.2g} pixels from kpnet's own prediction, more than "
        f"{MOST_PIXELS:g}; nothing was written{cause}"
    )


def _rounding_error(predictor: Predictor, samples: list[Sample]) -> float:
    """Return by how many pixels the predicted points change in double precision."""
    inputs = [(each.pixels, each.matrix) for each in samples]
    exact = Predictor(copy.deepcopy(predictor.model).double(), test_time=predictor.test_time, device="cpu")
    apart = predictor.predict_inputs(inputs).keypoints - exact.predict_inputs(inputs).keypoints
    return float(np.linalg.norm(apart, axis=-1).max())
