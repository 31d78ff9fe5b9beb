"""The transforms that `DeviceAugment` has: albumentations' by name, as matrices or as changes of pixel values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kpnet.coordinates import Size, inside_box
from kpnet.data.transforms.matrices import SYMMETRIES, symmetry_matrix

LINEAR, MOST_HOLES = 1, 32
# cv2's border modes: what grid_sample calls them, and whether it takes the centres of the outer pixels for -1 and 1
BORDERS = {0: ("zeros", False), 1: ("border", False), 2: ("reflection", False), 4: ("reflection", True)}
NO_BORDER = (0, 0.0)


class Hole(NamedTuple):
    """A rectangle of each image that a step filled, (B,) each; empty where it has none."""

    left: Tensor
    top: Tensor
    width: Tensor
    height: Tensor

    def covers(self, xy: Tensor) -> Tensor:
        """Return which points (B, K, 2), in pixels, lie in it, bool (B, K)."""
        boxes = torch.stack([self.left, self.top, self.left + self.width, self.top + self.height], -1)
        return inside_box(xy, boxes[:, None] - 0.5)  # a pixel's index is its centre


class Draws:
    """Uniform numbers of a batch (B, N), of which each call takes a column, and noise; and the holes that they made."""

    def __init__(self, count: int, columns: int, generator: torch.Generator) -> None:
        self.generator, self.device = generator, generator.device
        self._columns = iter(torch.rand(count, columns, generator=generator, device=self.device).unbind(1))
        self.holes: list[Hole] = []

    def happens(self, p: float) -> Tensor:
        """Return whether something of probability `p` happens, bool (B,)."""
        return next(self._columns) < p

    def take_holes(self) -> list[Hole]:
        """Return the holes that were made since the last call."""
        taken, self.holes = self.holes, []
        return taken

    def uniform(self, bounds: Sequence[float]) -> Tensor:
        return next(self._columns) * (bounds[1] - bounds[0]) + bounds[0]

    def integer(self, low: float, high: float | Tensor) -> Tensor:
        """Return whole numbers (B,) as floats, both bounds included."""
        number = (next(self._columns) * (high + 1 - low) + low).floor()
        return torch.minimum(number, high) if isinstance(high, Tensor) else number.clamp(max=high)


@dataclass(frozen=True)
class Move:
    """A geometric transform: matrices (B, 3, 3) from draws, and the cv2 border mode and fill of what is outside."""

    columns: int
    matrices: Callable[[Draws], Tensor]
    border: tuple[int, float] | None = None  # None: it maps the image onto itself


@dataclass(frozen=True)
class Paint:
    """A transform of pixel values; images (B, T, C, H, W), of which the T frames are changed alike."""

    columns: int
    paint: Callable[[Tensor, Draws], Tensor]


def _chance(p: float, columns: int, matrices: Callable[[Draws], Tensor], border: tuple[int, float] | None) -> Move:
    """Return a move that happens with probability `p`."""

    def drawn(draws: Draws) -> Tensor:
        happens, moved = draws.happens(p), matrices(draws)
        return torch.where(happens[:, None, None], moved, torch.eye(3, device=moved.device))

    return Move(columns + 1, drawn, border)


def _symmetries(*elements: str) -> Callable[[Any, Size], Move | None]:
    """Return the builder of a transform that draws one of these mirrors and turns."""

    def build(transform: Any, size: Size) -> Move | None:
        if size[0] != size[1] and not {*elements} <= {"h", "v"}:
            return None  # it would exchange height and width
        table = torch.stack([torch.tensor(symmetry_matrix(element, size), dtype=torch.float32) for element in elements])
        on = {torch.device("cpu"): table}

        def matrices(draws: Draws) -> Tensor:
            if draws.device not in on:
                on[draws.device] = table.to(draws.device)
            chosen = draws.integer(0, len(elements) - 1)
            return on[draws.device].index_select(0, chosen.long())

        return _chance(transform.p, 1, matrices, None)

    return build


def _border(transform: Any) -> tuple[int, float] | None:
    """Return the border that a warp here can have; None where it is another, or the interpolation is."""
    fits = transform.border_mode in BORDERS and isinstance(transform.fill, (int, float))
    return (transform.border_mode, transform.fill / 255) if fits and transform.interpolation == LINEAR else None


def _rotate(transform: Any, size: Size) -> Move | None:
    border = _border(transform)
    if border is None or transform.crop_border:
        return None

    def matrices(draws: Draws) -> Tensor:
        angle = draws.uniform(transform.limit)
        zero = torch.zeros_like(angle)
        return _about_center(size, angle, zero + 1, zero + 1, zero, zero, zero, zero)

    return _chance(transform.p, 1, matrices, border)


def _affine(transform: Any, size: Size) -> Move | None:
    border = _border(transform)
    if border is None or transform.fit_output or transform.balanced_scale:
        return None

    def shift(draws: Draws, axis: str, length: int) -> Tensor:
        if transform.translate_px is not None:
            return draws.integer(*map(int, transform.translate_px[axis]))
        return (draws.uniform(transform.translate_percent[axis]) * length).trunc()

    def matrices(draws: Draws) -> Tensor:
        sx, sy = (draws.uniform(transform.scale[axis]) for axis in "xy")
        shear_x, shear_y = (-draws.uniform(transform.shear[axis]) for axis in "xy")
        x, y = shift(draws, "x", size[1]), shift(draws, "y", size[0])
        angle = draws.uniform(transform.rotate)
        return _about_center(size, angle, sx, sx if transform.keep_ratio else sy, shear_x, shear_y, x, y)

    return _chance(transform.p, 7, matrices, border)


def _about_center(
    size: Size, angle: Tensor, sx: Tensor, sy: Tensor, shear_x: Tensor, shear_y: Tensor, x: Tensor, y: Tensor
) -> Tensor:
    """Return matrices (B, 3, 3) that scale, turn by degrees, shear and shift, about the middle of the image."""
    cos, sin = torch.cos(torch.deg2rad(angle)), torch.sin(torch.deg2rad(angle))
    tan_x, tan_y = torch.tan(torch.deg2rad(shear_x)), torch.tan(torch.deg2rad(shear_y))
    a, b = (cos - tan_x * sin) * sx, (sin + tan_x * cos) * sy
    c, d = (tan_y * cos - sin) * sx, (tan_y * sin + cos) * sy
    middle_x, middle_y = (size[1] - 1) / 2, (size[0] - 1) / 2
    x = x + middle_x - a * middle_x - b * middle_y
    y = y + middle_y - c * middle_x - d * middle_y
    zero = torch.zeros_like(a)
    return torch.stack([a, b, x, c, d, y, zero, zero, zero + 1], -1).unflatten(-1, (3, 3))


def _brightness_contrast(transform: Any, size: Size) -> Paint | None:
    if transform.ensure_safe_range:
        return None

    def paint(images: Tensor, draws: Draws) -> Tensor:
        happens = draws.happens(transform.p)
        factor = _wide(torch.where(happens, 1 + draws.uniform(transform.contrast_limit), 1))
        added = _wide(torch.where(happens, draws.uniform(transform.brightness_limit), 0))
        if not transform.brightness_by_max:
            added = added * images.mean((2, 3, 4), keepdim=True)
        return torch.addcmul(added, images, factor).clamp_(0, 1)

    return Paint(3, paint)


def _noise(transform: Any, size: Size) -> Paint | None:
    if transform.noise_scale_factor != 1:
        return None

    def paint(images: Tensor, draws: Draws) -> Tensor:
        happens = draws.happens(transform.p)
        std = _wide(torch.where(happens, draws.uniform(transform.std_range), 0))
        mean = _wide(torch.where(happens, draws.uniform(transform.mean_range), 0))
        count, _, channels, height, width = images.shape
        shape = (count, 1, channels if transform.per_channel else 1, height, width)
        noise = torch.randn(shape, generator=draws.generator, device=images.device)
        return (images + noise.mul_(std).add_(mean)).clamp_(0, 1)

    return Paint(3, paint)


def _blur(transform: Any, size: Size) -> Paint | None:
    largest = max(2 * int(transform.sigma_limit[1] * 3.5) + 1 if transform.blur_limit[0] == 0 else 0,
                  transform.blur_limit[1])  # fmt: skip
    reach = largest // 2
    if reach >= min(size):
        return None

    def paint(images: Tensor, draws: Draws) -> Tensor:
        happens = draws.happens(transform.p)
        sigma = draws.uniform(transform.sigma_limit).clamp(min=1e-3)
        side = draws.integer(*transform.blur_limit)
        radius = torch.where(side == 0, (sigma * 3.5).floor(), (side / 2).floor())
        radius = torch.where(happens, radius, 0)[:, None]
        at = torch.arange(-reach, reach + 1, device=images.device, dtype=torch.float32)
        kernel = torch.where(at.abs() <= radius, torch.exp(-0.5 * (at / sigma[:, None]).square()), 0)
        kernel = kernel / kernel.sum(1, keepdim=True)
        flat = images.flatten(1, 2)
        planes = flat.flatten(0, 1)[None]  # every plane a channel, with a kernel of its own
        kernels = kernel.repeat_interleave(flat.shape[1], 0)
        padded = F.pad(planes, (reach, reach, reach, reach), mode="reflect")
        rows = F.conv2d(padded, kernels[:, None, None, :], groups=len(kernels))
        return F.conv2d(rows, kernels[:, None, :, None], groups=len(kernels))[0].view(images.shape)

    return Paint(3, paint)


def _holes(transform: Any, size: Size) -> Paint | None:
    fewest, most = transform.num_holes_range
    fill = transform.fill
    if most > MOST_HOLES or not (isinstance(fill, (int, float)) or fill in ("random", "random_uniform")):
        return None
    whole = transform.hole_height_range[1] >= 1  # sides in pixels, not in fractions of the image

    def side(draws: Draws, bounds: Sequence[float], length: int) -> Tensor:
        if whole:
            return draws.integer(int(bounds[0]), int(min(bounds[1], length)))
        return (draws.uniform(bounds) * length).floor()

    def paint(images: Tensor, draws: Draws) -> Tensor:
        height, width = images.shape[-2:]
        y = torch.arange(height, device=images.device)[:, None]
        x = torch.arange(width, device=images.device)
        count = torch.where(draws.happens(transform.p), draws.integer(fewest, most), 0)
        for number in range(most):
            high = side(draws, transform.hole_height_range, height)
            wide = side(draws, transform.hole_width_range, width)
            first_row, first_column = draws.integer(0, height - high), draws.integer(0, width - wide)
            draws.holes.append(Hole(first_column, first_row, torch.where(number < count, wide, 0), high))
            top, left = _wide(first_row), _wide(first_column)
            rows = (y >= top) & (y < top + _wide(high)) & _wide(number < count)
            columns = (x >= left) & (x < left + _wide(wide))
            values: Tensor | float = fill / 255 if isinstance(fill, (int, float)) else 0.0
            if isinstance(fill, str):
                shape = (len(images), 1, images.shape[2], *((height, width) if fill == "random" else (1, 1)))
                drawn = torch.rand(shape, generator=draws.generator, device=images.device)
                values = drawn.mul_(256).floor_().clamp_(max=255).div_(255)
            images = torch.where(rows & columns, values, images)
        return images

    return Paint(2 + 4 * most, paint)


def _wide(values: Tensor) -> Tensor:
    """Return values (B,) as (B, 1, 1, 1, 1)."""
    return values[:, None, None, None, None]


_TURNS = ("e", "r90", "r180", "r270")
# What a transform's builder takes from albumentations' transform and the images' size; None: not with these arguments.
BUILDERS: dict[str, Callable[[Any, Size], Move | Paint | None]] = {
    "HorizontalFlip": _symmetries("h"),
    "VerticalFlip": _symmetries("v"),
    "Transpose": _symmetries("t"),
    "RandomRotate90": _symmetries(*_TURNS),
    **dict.fromkeys(("D4", "SquareSymmetry"), _symmetries(*SYMMETRIES)),
    **dict.fromkeys(("Affine", "ShiftScaleRotate"), _affine),
    "Rotate": _rotate,
    "RandomBrightnessContrast": _brightness_contrast,
    "GaussNoise": _noise,
    "GaussianBlur": _blur,
    "CoarseDropout": _holes,
}
