"""Receptive fields: the input pixels that a cell of a feature map depends on, traced through a forward pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

Cells = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Axis:
    """The receptive fields of the cells along one axis of a map, as if the image had no border.

    Attributes:
        start: Index of the first cell; cell `start + i` depends on the input pixels lo[i] to hi[i].
        lo: First pixel of each cell.
        hi: Last pixel of each cell.
        jump: Input pixels from one cell to the next.
    """

    start: int
    lo: np.ndarray
    hi: np.ndarray
    jump: Fraction = Fraction(1)

    @classmethod
    def pixels(cls, size: int) -> Axis:
        """Return the axis of the image itself, with a wide margin of virtual pixels around it."""
        pixels = np.arange(-4 * size, 5 * size)
        return cls(-4 * size, pixels, pixels)

    def window(self, first: Cells, last: Cells, size: int, jump: Fraction) -> Axis | None:
        """Return the axis of `size` cells, of which cell j sees the cells first(j) to last(j) of this axis.

        None where a cell sees beyond the margin, and so the whole image.
        """
        cells = np.arange(-max(len(self.lo), size), max(len(self.lo), 2 * size))
        a, b = first(cells) - self.start, last(cells) - self.start
        known = (a >= 0) & (b < len(self.hi))
        if not known[(cells >= 0) & (cells < size)].all():
            return None
        return Axis(int(cells[known][0]), self.lo[a[known]], self.hi[b[known]], jump)

    def union(self, other: Axis) -> Axis:
        """Return the axis of cells that see what the cells of both axes see."""
        start, stop = max(self.start, other.start), min(self.start + len(self.lo), other.start + len(other.lo))
        mine, theirs = slice(start - self.start, stop - self.start), slice(start - other.start, stop - other.start)
        return Axis(
            start,
            np.minimum(self.lo[mine], other.lo[theirs]),
            np.maximum(self.hi[mine], other.hi[theirs]),
            max(self.jump, other.jump),
        )

    def extent(self, size: int) -> int:
        """Return how many pixels the widest of the `size` cells sees."""
        real = slice(-self.start, size - self.start)
        return int((self.hi[real] - self.lo[real]).max()) + 1


# (rows, columns); "all": every element depends on the whole image; "flat": the elements of one image as a vector;
# "unknown": an operation that has no rule here.
Field = tuple[Axis, Axis] | Literal["all", "flat", "unknown"]


class ReceptiveFields(TorchDispatchMode):
    """A context that traces the receptive field of every tensor computed from an image.

    Exact for convolutions, pooling, padding, upsampling, pointwise operations and any sum or concatenation of branches;
    "unknown" elsewhere, never a guess.

    Args:
        images: The image (1, C, H, W).
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.fields = WeakTensorKeyDictionary()
        self.fields[images] = (Axis.pixels(images.shape[-2]), Axis.pixels(images.shape[-1]))
        self.lost = False

    def of(self, tensor: Tensor) -> Field:
        """Return the receptive field of the cells of a tensor."""
        return "unknown" if self.lost else self.fields.get(tensor, "unknown")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [t for t in tensors_in([args, kwargs]) if t in self.fields]
        fields = [(self.fields[t], t.shape) for t in inputs]
        target = args[0] if func._schema.is_mutable and isinstance(args[0], Tensor) else None
        if fields and target is not None and (target not in self.fields or _is_part(target)):
            self.lost = True  # written into a buffer, maybe through a view of it: no longer to be followed
        result = func(*args, **(kwargs or {}))
        outputs = list(tensors_in(result))
        if fields:
            for output in outputs:
                self.fields[output] = _rule(func, args, fields, output)
        return result


def _rule(func: Any, args: Any, inputs: list[tuple[Field, torch.Size]], output: Tensor) -> Field:
    fields = [field for field, _ in inputs]
    name = func._schema.name.removeprefix("aten::").rstrip("_")
    if "all" in fields:
        return "all"
    if "unknown" in fields:
        return "unknown"
    if "flat" in fields:
        if name in ("addmm", "mm"):
            return "all"
        return "flat" if torch.Tag.pointwise in func.tags and set(fields) == {"flat"} else "unknown"
    shape = inputs[0][1]
    if _keeps_cells(func, name, args):
        same = all(s[-2:] == output.shape[-2:] for _, s in inputs)
        return _merge(fields) if same else "unknown"
    if name in ("native_group_norm", "native_batch_norm", "_native_batch_norm_legit"):
        return "all"  # its statistics are the image's own
    if name == "mean" and len(args) > 1 and {d % len(shape) for d in args[1]} >= {len(shape) - 2, len(shape) - 1}:
        return "all"
    if name in ("view", "_unsafe_view", "clone", "transpose"):
        if name == "transpose" and max(d % len(shape) for d in args[1:3]) >= len(shape) - 2:
            return "unknown"
        if output.shape[-2:] == shape[-2:]:
            return fields[0]
        return "flat" if output.ndim == 2 and len(shape) == 4 and len(output) == shape[0] else "unknown"
    axes = []
    for d, axis in enumerate(fields[0]):
        assert isinstance(axis, Axis)
        window = _window(name, args, d, shape[d - 2], output.shape[d - 2] if output.ndim > 2 else 1)
        if window is None:
            return "unknown"
        axes.append(axis.window(*window[:2], output.shape[d - 2], axis.jump * window[2]))
    return "all" if axes[0] is None or axes[1] is None else (axes[0], axes[1])


def _keeps_cells(func: Any, name: str, args: Any) -> bool:
    """Return whether cell (i, j) of the output depends on cell (i, j) of the inputs alone."""
    if name in ("cat", "split", "split_with_sizes", "slice", "softmax", "_softmax"):
        at = 2 if name.startswith("split") else 1
        return len(args) > at and args[at] in (0, 1)
    if name in ("native_batch_norm", "_native_batch_norm_legit"):
        return not args[5]
    same = ("_native_batch_norm_legit_no_training", "detach", "alias", "_to_copy", "hardswish", "_prelu_kernel")
    return torch.Tag.pointwise in func.tags or name in same


def _merge(fields: Iterable[Any]) -> Field:
    first, *others = fields
    for other in others:
        first = (first[0].union(other[0]), first[1].union(other[1]))
    return first


def _window(name: str, args: Any, d: int, size: int, out: int) -> tuple[Cells, Cells, Fraction] | None:
    """Return the first and last cell of axis `d` that an output cell sees, and the jump's factor; None: no rule."""

    def at(index: int, default: int) -> int:
        value = args[index] if len(args) > index else default
        return value if isinstance(value, int) else value[min(d, len(value) - 1)] if value else default

    if name == "convolution":
        k, s, p, dilation = args[1].shape[d - 2], at(3, 1), at(4, 0), at(5, 1)
        reach = (k - 1) * dilation
        if args[6]:
            return lambda j: -((reach - j - p) // s), lambda j: (j + p) // s, Fraction(1, s)
        return lambda j: j * s - p, lambda j: j * s - p + reach, Fraction(s)
    if name in ("max_pool2d_with_indices", "max_pool2d", "avg_pool2d"):
        k = at(1, 1)
        s, p, dilation = at(2, k), at(3, 0), at(4, 1) if name != "avg_pool2d" else 1
        return lambda j: j * s - p, lambda j: j * s - p + (k - 1) * dilation, Fraction(s)
    if name in ("_adaptive_avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"):
        return lambda j: j * size // out, lambda j: -(-(j + 1) * size // out) - 1, Fraction(size, out)
    if name in ("constant_pad_nd", "replication_pad2d"):
        before = args[1][2 * (1 - d)] if len(args[1]) > 2 * (1 - d) else 0
        return lambda j: j - before, lambda j: j - before, Fraction(1)
    if name == "slice" and at(4, 1) == 1:
        start = at(2, 0) if args[1] % 4 == 2 + d else 0
        return lambda j: j + start, lambda j: j + start, Fraction(1)
    return _resampling(name, args, d, size, out)


def _resampling(name: str, args: Any, d: int, size: int, out: int) -> tuple[Cells, Cells, Fraction] | None:
    ratio = Fraction(size, out)
    if name in ("upsample_nearest2d", "_upsample_nearest_exact2d"):
        half = 1 if "exact" in name else 0
        near: Cells = lambda j: (2 * j + half) * size // (2 * out)  # noqa: E731
        return near, near, ratio
    if name in ("upsample_bilinear2d", "upsample_bicubic2d"):
        more = 1 if "cubic" in name else 0
        if args[2] and out > 1:  # corners aligned
            return (
                lambda j: j * (size - 1) // (out - 1) - more,
                lambda j: -(-j * (size - 1) // (out - 1)) + more,
                Fraction(size - 1, out - 1),
            )
        if len(args) > 3 + d and args[3 + d]:  # a scale that the rounded size does not quite have
            ratio = 1 / Fraction(args[3 + d]).limit_denominator(1000)
        p, q = ratio.numerator, ratio.denominator
        low: Cells = lambda j: ((2 * j + 1) * p - q) // (2 * q)  # noqa: E731
        high: Cells = lambda j: -((q - (2 * j + 1) * p) // (2 * q))  # noqa: E731
        return lambda j: low(j) - more, lambda j: high(j) + more, ratio
    return None


def _is_part(tensor: Tensor) -> bool:
    return tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested lists, tuples, mappings and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif dataclasses.is_dataclass(value):
        yield from tensors_in([getattr(value, field.name) for field in dataclasses.fields(value)])
