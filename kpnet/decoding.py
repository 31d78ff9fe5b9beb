"""Decode maps to coordinates: pure batched functions.

Maps are (B, K, h, w); any other shape is a `ValueError`. A map covers the image, so cells and pixels share normalised
coordinates. Results are at least float32, also under autocast. A map with a NaN or +inf, or of -inf everywhere, gives
NaN for itself alone; elsewhere -inf is probability 0.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kpnet.coordinates import cell_centers, normalized_to_pixel, pixel_to_normalized
from kpnet.core.runtime import is_tracing

# Maps are processed in chunks of this size in bytes: what a CPU's cache holds, what keeps a GPU busy.
_CHUNK_BYTES, _CHUNK_BYTES_ON_GPU = 2**21, 2**26
# Private to torch; without it, a gradient never takes the probabilities' place.
_graph_is_kept = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)
_is_batched = getattr(torch._C._functorch, "is_legacy_batchedtensor", lambda _: False)


def spatial_softmax2d(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Return the softmax of each map.

    Args:
        logits: Maps (B, K, h, w).
        temperature: Divides the logits: a number or a 0-d tensor.

    Returns:
        Probabilities (B, K, h, w) that sum to 1 over each map.

    Raises:
        ValueError: If a shape or the temperature is wrong.
    """
    _check(logits, temperature)
    return (_at_least_float32(logits).flatten(2) / temperature).softmax(-1).view(logits.shape)


def expected_xy2d(probabilities: Tensor) -> Tensor:
    """Return the mean position of each probability map.

    Args:
        probabilities: Maps (B, K, h, w) that sum to 1.

    Returns:
        Points (B, K, 2), normalised.

    Raises:
        ValueError: If the shape is wrong.
    """
    _check(probabilities)
    probabilities = _at_least_float32(probabilities)
    return _mean(probabilities.sum(-2), probabilities.sum(-1))


def soft_argmax2d(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Return the soft-argmax of each map: the mean position of its spatial softmax.

    Sun et al. 2018, "Integral human pose regression". A flat map gives the centre of the image. A Gaussian cut by the
    border is pulled inwards, by 0.9 cells at the outermost cell for a sigma of 1.5. Only the probabilities are kept for
    the gradient, so there is no second derivative.

    Args:
        logits: Maps (B, K, h, w).
        temperature: Divides the logits: a number, or a 0-d tensor, which gets a gradient.

    Returns:
        Points (B, K, 2) in [-1, 1].

    Raises:
        ValueError: If a shape or the temperature is wrong.
        RuntimeError: If a second derivative is taken.
    """
    _check(logits, temperature)
    if is_tracing():
        return expected_xy2d(spatial_softmax2d(logits, temperature))
    if torch.is_grad_enabled() and any(getattr(t, "requires_grad", False) for t in (logits, temperature)):
        return _SoftArgmax.apply(logits, temperature)
    return _softmax_mean(logits, temperature, None)


def local_soft_argmax2d(logits: Tensor, radius: int, temperature: float | Tensor = 1.0) -> Tensor:
    """Return the soft-argmax of the (2 radius + 1)² cells around each map's peak.

    It is differentiable in the logits of the window and in a tensor `temperature`. It is right to 0.01 cells for a
    Gaussian if the window holds 3.5 sigma. The border cuts the window, and so pulls inwards as far as in
    `soft_argmax2d`.

    Args:
        logits: Maps (B, K, h, w).
        radius: Cells on each side of the peak.
        temperature: Divides the logits: a number, or a 0-d tensor, which gets a gradient.

    Returns:
        Points (B, K, 2), normalised.

    Raises:
        ValueError: If a shape or the temperature is wrong, or the radius is negative.
    """
    _check(logits, temperature)
    if radius < 0:
        raise ValueError(f"expected a radius >= 0 in cells, got {radius}")
    value, cell = _peak(logits)
    window, corner = _window(logits, cell, (radius, radius))
    dx, dy = (corner[:, i, None] + torch.arange(window.shape[2 - i], device=window.device) for i in (0, 1))
    inside = (dy.abs() <= radius)[:, :, None] & (dx.abs() <= radius)[:, None]
    p = torch.where(inside, window / temperature, -math.inf).flatten(1).softmax(-1).view(window.shape)
    shift = torch.stack([(p.sum(-2) * dx).sum(-1), (p.sum(-1) * dy).sum(-1)], -1)
    return _to_normalized(cell + shift, value, logits)


def argmax2d(maps: Tensor) -> Tensor:
    """Return the centre of each map's highest cell, which is right to half a cell.

    If cells are equal, the first one is used, row by row. Not differentiable.

    Args:
        maps: Maps (B, K, h, w).

    Returns:
        Points (B, K, 2), normalised.

    Raises:
        ValueError: If the shape is wrong.
    """
    _check(maps)
    value, cell = _peak(maps)
    return _to_normalized(cell, value, maps)


def quarter_offset2d(maps: Tensor) -> Tensor:
    """Return each map's highest cell, moved by a quarter cell along each axis to the higher neighbour.

    Newell et al. 2016, "Stacked hourglass networks for human pose estimation"; Xiao et al. 2018, "Simple baselines for
    human pose estimation and tracking". It is right to a quarter cell. A cell at the border, or between equal
    neighbours, stays where it is. Not differentiable.

    Args:
        maps: Maps (B, K, h, w).

    Returns:
        Points (B, K, 2), normalised.

    Raises:
        ValueError: If the shape is wrong.
    """
    _check(maps)
    value, cell = _peak(maps)
    middle, reach = _inward(cell, maps)
    near, _ = _window(maps.detach(), middle, reach)
    across, down = near[:, reach[1]], near[:, :, reach[0]]
    rise = torch.stack([across[:, -1] - across[:, 0], down[:, -1] - down[:, 0]], -1)
    side = rise.sign().nan_to_num()  # -inf - -inf is NaN
    return _to_normalized(cell + torch.where(middle == cell, 0.25 * side, 0), value, maps)


def dark_decode2d(log_maps: Tensor, blur: float = 0.0) -> Tensor:
    """Return the peak of the paraboloid through the logarithm of each map around its highest cell.

    DARK, Zhang et al. 2020, "Distribution-aware coordinate representation for human pose estimation": one Newton step,
    exact for any Gaussian, at the border too. With `blur` > 0, the probabilities around the peak are first smoothed by
    a Gaussian, cut at 2.5 sigma (the paper's 11 cells are a blur of 2.0). Beyond the border they are 0, as in the
    paper, which pulls inwards: by 1.1 cells at the outermost cell if map and blur have a sigma of 2. The result is the
    highest cell itself where the map is not concave, and at most 1.5 cells from it. Not differentiable.

    Args:
        log_maps: Logits or log-probabilities (B, K, h, w); for a probability map, its logarithm.
        blur: Sigma of the smoothing in cells; 0 for none.

    Returns:
        Points (B, K, 2), normalised.

    Raises:
        ValueError: If the shape is wrong or the blur is negative.
    """
    _check(log_maps)
    if not blur >= 0:
        raise ValueError(f"expected a blur >= 0 in cells, got {blur}")
    log_maps = log_maps.detach()
    value, cell = _peak(log_maps)
    # At the border the paraboloid is taken one cell inside: that of a Gaussian is the same everywhere.
    middle, reach = _inward(cell, log_maps)
    radius = math.ceil(2.5 * blur)
    logs, corner = _window(log_maps, middle, (reach[0] + radius, reach[1] + radius))
    if blur > 0:
        logs = _smooth(logs.sub_(value[:, None, None]), corner, reach, blur, radius)
    step, concave = _newton_step(logs)
    moved = (middle - cell + step).clamp(-1.5, 1.5)
    return _to_normalized(cell + torch.where(concave[:, None], moved, 0), value, log_maps)


def covariance2d(probabilities: Tensor, xy: Tensor) -> Tensor:
    """Return the second moments of probability maps about given points.

    Args:
        probabilities: Maps (B, K, h, w) that sum to 1.
        xy: Normalised points (B, K, 2).

    Returns:
        Covariances (B, K, 2, 2) in normalised units.
    """
    probabilities = _at_least_float32(probabilities)
    return _second_moments(probabilities, *_offsets(probabilities, xy))


def mass_within2d(probabilities: Tensor, xy: Tensor, radius: float) -> Tensor:
    """Return the probability within a circle around each point.

    A cell counts by the share of its area, to first order: fully where its centre is half a cell inside the circle, not
    at all where it is half a cell outside.

    Args:
        probabilities: Maps (B, K, h, w) that sum to 1.
        xy: Normalised points (B, K, 2), the centres of the circles.
        radius: Radius of the circles as a fraction of the image's longer side.

    Returns:
        Probabilities (B, K).
    """
    probabilities = _at_least_float32(probabilities)
    size = (probabilities.shape[-2], probabilities.shape[-1])
    return _mass_within(probabilities, *_offsets(probabilities, xy), size, radius)


# Maps with several peaks


def peaks2d(maps: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the highest local maxima of each map: cells that none of their eight neighbours exceeds.

    Connected cells of one value count as one peak, at the first of them, row by row. Not differentiable.

    Args:
        maps: Maps (B, K, h, w).
        count: Number N of peaks to return.

    Returns:
        Values (B, K, N), highest first, -inf where a map has fewer peaks; and whole x, y of their cells
        (B, K, N, 2).

    Raises:
        ValueError: If the shape is wrong or the count is not positive.
    """
    _check(maps)
    if count < 1:
        raise ValueError(f"expected a count of at least 1, got {count}")
    maps = _at_least_float32(maps.detach()).nan_to_num(-math.inf, math.inf, -math.inf)
    height, width = maps.shape[-2:]
    top = (maps == F.max_pool2d(maps, 3, 1, 1)) & (maps > -math.inf)
    # The first cell of a plateau is found by handing its number on from neighbour to neighbour. Numbers count down, so
    # that the first is the largest; float64 holds every one of them.
    number = torch.arange(height * width, 0, -1, dtype=torch.float64, device=maps.device).view(height, width)
    first = torch.where(top, number, 0)
    while True:
        spread = torch.where(top, F.max_pool2d(first, 3, 1, 1), 0)
        if torch.equal(spread, first):
            break
        first = spread
    values = torch.where(top & (first == number), maps, -math.inf).flatten(2)
    found = values.topk(min(count, height * width), -1)
    missing = count - found.values.shape[-1]
    value, index = F.pad(found.values, (0, missing), value=-math.inf), F.pad(found.indices, (0, missing))
    row = torch.div(index, width, rounding_mode="floor")
    return value, torch.stack([index - row * width, row], -1)


class LocalMaps(NamedTuple):
    """Probabilities of the cells around points; `local_softmax2d` makes them.

    Attributes:
        logs: Logarithms of the probabilities in windows (N, K, rows, columns), each of sum 1.
        x: Normalised centres (N, K, columns) of the windows' columns.
        y: Normalised centres (N, K, rows) of the windows' rows.
        size: Size (h, w) of the whole maps in cells.
    """

    logs: Tensor
    x: Tensor
    y: Tensor
    size: tuple[int, int]

    @property
    def probabilities(self) -> Tensor:
        """The probabilities (N, K, rows, columns) of the windows' cells."""
        return self.logs.exp()

    def mean(self) -> Tensor:
        """Return the mean positions: the local soft-argmax.

        Returns:
            Points (N, K, 2), normalised.
        """
        p = self.probabilities
        return torch.stack([(p.sum(-2) * self.x).sum(-1), (p.sum(-1) * self.y).sum(-1)], -1)

    def cross_entropy(self, xy: Tensor, sigma: float) -> Tensor:
        """Return the cross-entropy against Gaussians about given points that sum to 1 on the windows.

        Args:
            xy: Normalised points (N, K, 2).
            sigma: Standard deviation of the Gaussians in cells.

        Returns:
            Errors (N, K).
        """
        height, width = self.size
        dx, dy = (self.x - xy[..., :1]) * (width / 2), (self.y - xy[..., 1:]) * (height / 2)
        columns, rows = ((-0.5 * (each / sigma) ** 2).softmax(-1) for each in (dx, dy))
        return -((self.logs * columns[..., None, :]).sum(-1) * rows).sum(-1)

    def covariance(self, xy: Tensor) -> Tensor:
        """Return the second moments about normalised points, as `covariance2d` does.

        Args:
            xy: Normalised points (N, K, 2).

        Returns:
            Covariances (N, K, 2, 2) in normalised units.
        """
        return _second_moments(self.probabilities, self.x - xy[..., :1], self.y - xy[..., 1:])

    def mass_within(self, xy: Tensor, radius: float) -> Tensor:
        """Return the probability within a circle around each point, as `mass_within2d` does.

        Args:
            xy: Normalised points (N, K, 2), the centres of the circles.
            radius: Radius of the circles as a fraction of the image's longer side.

        Returns:
            Probabilities (N, K).
        """
        return _mass_within(self.probabilities, self.x - xy[..., :1], self.y - xy[..., 1:], self.size, radius)


def local_softmax2d(logits: Tensor, around: Tensor, image: Tensor, radius: int, sigma: Tensor) -> LocalMaps:
    """Return the softmax of maps near given points, one of several peaks of a map.

    The probabilities of the (2 radius + 1)² cells around a point are weighted by a Gaussian about it: of two peaks in a
    window, the nearer counts more. At the border the window is moved inside. It is differentiable in the logits and in
    the points.

    Args:
        logits: Maps (B, K, h, w).
        around: Normalised points (N, K, 2).
        image: Index (N,) of the image that each row of points belongs to.
        radius: Cells on each side of a point.
        sigma: Standard deviations (N,) of the Gaussians in cells.

    Returns:
        The probabilities of the cells in the windows, and where these lie.

    Raises:
        ValueError: If a shape is wrong or the radius is not positive.
    """
    _check(logits)
    given = image.shape == sigma.shape == around.shape[:1]
    if around.shape[1:] != (logits.shape[1], 2) or not given or radius < 1:
        raise ValueError(
            f"expected points (N, {logits.shape[1]}, 2), images and sigmas (N,) and a radius >= 1, got "
            f"{tuple(around.shape)}, {tuple(image.shape)}, {tuple(sigma.shape)} and {radius}"
        )
    size, points = (logits.shape[-2], logits.shape[-1]), logits.shape[1]
    limits = torch.stack([image.new_full((), size[1] - 1), image.new_full((), size[0] - 1)])
    cells = normalized_to_pixel(_at_least_float32(around), size).flatten(0, 1)  # (N K, 2)
    cell = (cells.detach().nan_to_num() + 0.5).floor().long().clamp(min=0).minimum(limits)
    rows = (image[:, None] * points + torch.arange(points, device=image.device)).flatten()
    window, corner = _window(logits, cell, (radius, radius), rows)
    x, y = (
        corner[:, i, None] + cell[:, i, None] + torch.arange(window.shape[2 - i], device=window.device) for i in (0, 1)
    )
    precise = (1 / sigma.to(cells)).repeat_interleave(points)[:, None]
    near = [-0.5 * ((each - cells[:, i, None]) * precise) ** 2 for i, each in enumerate((x, y))]
    logs = (window + near[0][:, None] + near[1][:, :, None]).flatten(1).log_softmax(-1).view(window.shape)
    centres = [(2 * each.to(logs.dtype) + 1) / n - 1 for each, n in ((x, size[1]), (y, size[0]))]
    logs, x, y = (each.unflatten(0, around.shape[:2]) for each in (logs, *centres))
    return LocalMaps(logs, x, y, size)


def _second_moments(p: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Return second moments (B, K, 2, 2) of maps whose columns and rows lie at dx (B, K, w) and dy (B, K, h)."""
    xx = (p.sum(-2) * dx * dx).sum(-1)
    yy = (p.sum(-1) * dy * dy).sum(-1)
    cross = ((p * dx[..., None, :]).sum(-1) * dy).sum(-1)
    return torch.stack([xx, cross, cross, yy], -1).unflatten(-1, (2, 2))


def _mass_within(p: Tensor, dx: Tensor, dy: Tensor, size: tuple[int, int], radius: float) -> Tensor:
    """Return the mass (B, K) within a circle around the origin of dx and dy, for maps of `size` cells in all."""
    height, width = size
    squared = (dx * (width / 2))[..., None, :] ** 2 + (dy * (height / 2))[..., None] ** 2  # in cells
    distance = squared.clamp(min=1e-12).sqrt()  # the gradient of sqrt(0) is NaN
    return (p * (radius * max(height, width) - distance + 0.5).clamp(0, 1)).sum((-2, -1)).clamp(0, 1)


class _SoftArgmax(torch.autograd.Function):
    """Mean of the spatial softmax, which keeps one map's worth of memory for the probabilities and their gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, temperature: float | Tensor) -> Tensor:
        probabilities = logits.new_empty(logits.shape, dtype=torch.promote_types(logits.dtype, torch.float32))
        xy = _softmax_mean(logits, temperature, probabilities)
        learnable = isinstance(temperature, Tensor)
        ctx.number = None if learnable else temperature
        ctx.save_for_backward(probabilities, xy, temperature if learnable else None)
        return xy

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return d xy / d logits = p (position - xy) / temperature, and d xy / d temperature = -sum(that * log p)."""
        if torch.is_grad_enabled():
            raise RuntimeError("no second derivative: take expected_xy2d(spatial_softmax2d(...)) for one")
        probabilities, xy, temperature = ctx.saved_tensors
        grad = grad / (ctx.number if temperature is None else temperature)
        dx, dy = _offsets(probabilities, xy)
        if _is_batched(grad):  # a vectorised Jacobian, which can write into no buffer
            factor = (grad[..., :1] * dx)[..., None, :] + (grad[..., 1:] * dy)[..., None]
            slope = -(torch.special.xlogy(probabilities, probabilities) * factor).sum()
            return probabilities * factor, slope if ctx.needs_input_grad[1] else None
        # Fresh memory costs more, in page faults, than the arithmetic: unless the graph is retained, reuse it.
        retained = _graph_is_kept()
        out = torch.empty_like(probabilities) if retained else probabilities
        slope, images = grad.new_zeros(()), _images_per_chunk(probabilities)
        buffer = torch.empty_like(probabilities[:images])
        tensors = (probabilities, grad[..., :1] * dx, grad[..., 1:] * dy, out)
        for p, along_x, along_y, part in zip(*(t.split(images) for t in tensors), strict=True):
            factor = torch.add(along_x[..., None, :], along_y[..., None], out=buffer[: len(p)])
            if ctx.needs_input_grad[1]:
                slope -= (torch.special.xlogy(p, p) * factor).sum()
            torch.mul(p, factor, out=part)
        return out, slope if ctx.needs_input_grad[1] else None


def _softmax_mean(logits: Tensor, temperature: float | Tensor, kept: Tensor | None) -> Tensor:
    """Return means (B, K, 2) of the spatial softmax, and write its probabilities to `kept` if given."""
    images, kind = _images_per_chunk(logits), torch.promote_types(logits.dtype, torch.float32)
    buffer = logits.new_empty(logits[:images].shape, dtype=kind) if kept is None else kept
    columns, rows = [], []
    for i, part in enumerate(logits.split(images)):
        if isinstance(temperature, Tensor) or temperature != 1:
            part = part.to(kind) / temperature
        p = buffer[: len(part)] if kept is None else kept[i * images : i * images + len(part)]
        torch.softmax(part.flatten(2), -1, dtype=kind, out=p.flatten(2))
        columns.append(p.sum(-2))
        rows.append(p.sum(-1))
    return _mean(torch.cat(columns), torch.cat(rows))


def _mean(columns: Tensor, rows: Tensor) -> Tensor:
    """Return means (B, K, 2), normalised, of sums over the columns (B, K, w) and the rows (B, K, h) of maps."""
    # Not by a matrix product: those may be in TF32 or bfloat16, if the user so wished for the network.
    x, y = (cell_centers(sums.shape[-1], device=sums.device, dtype=sums.dtype) for sums in (columns, rows))
    return torch.stack([(columns * x).sum(-1), (rows * y).sum(-1)], -1)


# Below, N = B K: maps one after another.


def _peak(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return values (N,) and whole x, y (N, 2) of the highest cells: the first of equals; NaN counts as the highest."""
    flat = maps.detach().flatten(2).flatten(0, 1)
    if maps.device.type != "cpu" or is_tracing():
        value, index = flat.max(-1)
    else:  # numpy's is vectorised: a tenth of the time of max
        flat = _at_least_float32(flat)
        index = torch.from_numpy(flat.numpy().argmax(-1))
        value = flat.gather(-1, index[:, None]).squeeze(-1)
    row = torch.div(index, maps.shape[-1], rounding_mode="floor")  # not `//` and `%`: ONNX knows no width yet
    return _at_least_float32(value), torch.stack([index - row * maps.shape[-1], row], -1)


def _window(maps: Tensor, cell: Tensor, reach: tuple[int, int], which: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the 2 reach + 1 columns and rows around a cell (N, 2) of each map, and the window's corner relative to it.

    At the border the window is moved inside, and on a smaller map cut: (N, rows, columns), at least float32. The corner
    is (N, 2). `which` (N,) says which of the B K maps each cell belongs to; None: one cell for each map.
    """
    height, width = maps.shape[-2:]
    columns, rows = min(2 * reach[0] + 1, width), min(2 * reach[1] + 1, height)
    left, top = (cell[:, 0] - reach[0]).clamp(0, width - columns), (cell[:, 1] - reach[1]).clamp(0, height - rows)
    across, down = torch.arange(columns, device=maps.device), torch.arange(rows, device=maps.device)
    which = torch.arange(cell.shape[0], device=maps.device) if which is None else which
    first = which * (height * width) + top * width + left
    starts, flat = (first[:, None] + down * width).flatten(), maps.reshape(-1)
    if (torch.is_grad_enabled() and maps.requires_grad) or not flat.numel():
        values = flat.index_select(0, (starts[:, None] + across).flatten())
    else:  # row by row: four times as fast, but its gradient would be `columns` times the maps' size
        values = flat.unfold(0, columns, 1).index_select(0, starts)
    return _at_least_float32(values).view(-1, rows, columns), torch.stack([left, top], -1) - cell


def _inward(cell: Tensor, maps: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Return the nearest cells (N, 2) with neighbours on both sides; for x and y 1, or 0 if there are too few cells."""
    (height, width), (x, y) = maps.shape[-2:], cell.unbind(-1)
    reach = int(width > 2), int(height > 2)
    return torch.stack([x.clamp(1, width - 2) if reach[0] else x, y.clamp(1, height - 2) if reach[1] else y], -1), reach


def _smooth(logs: Tensor, corner: Tensor, reach: tuple[int, int], sigma: float, radius: int) -> Tensor:
    """Return the log of the blurred exp(logs), `reach` cells around the middle of `logs`, which is overwritten."""
    # exp2 is three times as fast as exp, and the floor keeps it from denormals, a hundred times as slow.
    p = logs.mul_(math.log2(math.e)).clamp_(min=-80).exp2_()
    taps = []
    for axis, cells in ((1, p.shape[1]), (0, p.shape[2])):
        columns = torch.arange(cells, device=p.device)
        about = torch.arange(-reach[axis], reach[axis] + 1, device=p.device)
        distance = columns - columns[:, None, None] - about[:, None]  # for each place of the middle in the window
        table = torch.where(distance.abs() <= radius, (-0.5 * (distance / sigma) ** 2).exp(), 0).to(p.dtype)
        taps.append(table.index_select(0, -corner[:, axis]))
    with torch.autocast(p.device.type, enabled=False):
        return (taps[0] @ p @ taps[1].transpose(1, 2)).log()


def _newton_step(logs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the steps (N, 2) from the middle of 3x3 cells (N, 3, 3) to their paraboloid's peak; if it has one (N,)."""
    for axis in (1, 2):
        if logs.shape[axis] == 1:  # too few for a step along it
            logs = torch.cat([logs - 1, logs, logs - 1], axis)
    gx, hxx = (logs[:, 1, 2] - logs[:, 1, 0]) / 2, logs[:, 1, 2] + logs[:, 1, 0] - 2 * logs[:, 1, 1]
    gy, hyy = (logs[:, 2, 1] - logs[:, 0, 1]) / 2, logs[:, 2, 1] + logs[:, 0, 1] - 2 * logs[:, 1, 1]
    hxy = (logs[:, 0, 0] + logs[:, 2, 2] - (logs[:, 0, 2] + logs[:, 2, 0])) / 4
    determinant = hxx * hyy - hxy * hxy
    step = torch.stack([hxy * gy - hyy * gx, hxy * gx - hxx * gy], -1) / determinant[:, None]
    return step, (hxx < 0) & (determinant > 0)  # so hyy < 0 too; not where one is NaN


def _to_normalized(cells: Tensor, value: Tensor, maps: Tensor) -> Tensor:
    """Return cells (N, 2) as normalised points (B, K, 2), NaN where the peak's value (N,) is not finite."""
    xy = pixel_to_normalized(cells.to(value.dtype), (maps.shape[-2], maps.shape[-1]))
    return torch.where(value.isfinite()[:, None], xy, math.nan).view(*maps.shape[:2], 2)


def _at_least_float32(maps: Tensor) -> Tensor:
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


def _offsets(maps: Tensor, xy: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distances of column centres (B, K, w) and row centres (B, K, h) from points (B, K, 2), normalised."""
    y, x = (cell_centers(n, device=maps.device, dtype=maps.dtype) for n in maps.shape[-2:])
    return x - xy[..., :1], y - xy[..., 1:]


def _images_per_chunk(maps: Tensor) -> int:
    chunk = _CHUNK_BYTES if maps.device.type == "cpu" else _CHUNK_BYTES_ON_GPU
    return max(1, chunk // max(1, 4 * maps[:1].numel()))


def _check(maps: Tensor, temperature: float | Tensor = 1.0) -> None:
    if maps.ndim != 4 or 0 in maps.shape[-2:]:
        raise ValueError(f"expected maps (B, K, h, w), got {tuple(maps.shape)}")
    if temperature.ndim if isinstance(temperature, Tensor) else not temperature > 0:
        raise ValueError(f"expected a number > 0 or a 0-d tensor as temperature, got {temperature}")
