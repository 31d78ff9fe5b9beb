"""The figure class, mosaics of images, and saving."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib import figure as mpl
from torch import Tensor

from kpnet.core.display import figure_text
from kpnet.core.files import write_atomic


class Figure(mpl.Figure):
    """A matplotlib figure that needs neither a display nor pyplot, and that a notebook shows by itself."""

    def _repr_png_(self) -> bytes:
        return _encoded(self)


def draw_mosaic(images: Tensor, rows: Sequence[str] = (), columns: Sequence[str] = ()) -> Figure:
    """Draw R rows of N images each.

    Args:
        images: Images (R, N, C, H, W) in [0, 1]; other values are clipped. Unless C is 3, the channels are averaged.
        rows: Labels of the rows.
        columns: Labels of the columns.

    Returns:
        The images side by side, with a white edge between them.
    """
    count, across, channels, height, width = images.shape
    images = images.detach().cpu().float().clamp(0, 1)
    tiles = torch.ones(count, across, 3, height + 2, width + 2)  # with a white edge
    tiles[..., 1:-1, 1:-1] = images if channels == 3 else images.mean(2, keepdim=True)
    canvas = tiles.permute(0, 3, 1, 4, 2).reshape(count * (height + 2), across * (width + 2), 3)
    size = (1.3 * bool(rows) + 1.1 * across, 0.3 * bool(columns) + 1.1 * count * height / width)
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(canvas.numpy(), interpolation="bicubic")
    axes.set_yticks([(i + 0.5) * (height + 2) for i in range(len(rows))], list(map(figure_text, rows)))
    axes.set_xticks([(i + 0.5) * (width + 2) for i in range(len(columns))], list(map(figure_text, columns)))
    axes.tick_params(length=0, labelsize=9, top=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    return figure


def save_figure(figure: mpl.Figure, path: str | Path, *, png_compression: int = 6) -> None:
    """Save a figure and close it.

    The file is written under another name and then renamed: a crash leaves no incomplete file.

    Args:
        figure: The figure, which is empty afterwards.
        path: The file; its suffix sets the format (`.png`, `.svg`, `.pdf`). Missing folders are created.
        png_compression: 0 to 9. Photographs take half the time at 1, and a quarter more space.
    """
    path = Path(path)
    data = _encoded(figure, path.suffix[1:] or "png", png_compression)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)
    if "matplotlib.pyplot" in sys.modules:  # pyplot keeps its figures for ever
        sys.modules["matplotlib.pyplot"].close(figure)
    figure.clear()


def _encoded(figure: mpl.Figure, kind: str = "png", compression: int = 6) -> bytes:
    buffer = io.BytesIO()
    options: dict[str, Any] = {"pil_kwargs": {"compress_level": compression}} if kind == "png" else {}
    figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()
