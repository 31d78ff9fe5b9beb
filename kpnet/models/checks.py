"""Checks of what goes into a model and of what comes out of it."""

from __future__ import annotations

from torch import Tensor

from kpnet.core.errors import NotFiniteError
from kpnet.heads import Keypoints


def check_finite(predicted: Keypoints, what: str) -> None:
    """Raise NotFiniteError, which names `what` predicted and the image, where a keypoint is not finite."""
    check_rows(predicted.keypoints, what)


def check_rows(values: Tensor, what: str) -> None:
    """Raise NotFiniteError, which names `what` predicted and the row, where a row of values is not finite."""
    not_finite = ~values.isfinite().flatten(1).all(1)
    if not_finite.any():
        raise NotFiniteError(
            f"{what}: the prediction for image {int(not_finite.nonzero()[0])} of the batch is not finite: "
            "look for NaN in the images and in the weights"
        )


def size_message(size: tuple[int, int], size_divisor: int) -> str:
    """Return the message for images whose height or width `size_divisor` does not divide."""
    near = [max(size_divisor, round(side / size_divisor) * size_divisor) for side in size]
    return (
        f"images of {size[0]}x{size[1]} do not fit: height and width must be multiples of {size_divisor}; "
        f"nearest: {near}"
    )
