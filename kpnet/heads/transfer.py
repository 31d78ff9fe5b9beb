"""Go on from a trained head: take its weights, those of each point by the point's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kpnet.heads.base import Head, PointBlock
from kpnet.heads.head_report import HeadReport


def load_head(
    head: Head, trained: Head, state: Mapping[str, Tensor], points: Sequence[str], trained_points: Sequence[str]
) -> HeadReport:
    """Take the weights of a trained head where they fit.

    A tensor is taken if the modules that hold it are of the same types and it has the same shape. Rows that belong to
    points (see `Head.point_blocks`) are taken from the points of the same names, in whatever order, and the others keep
    their initial values. Where a head does not say which rows belong to a point, it is taken only if the points are the
    same in the same order.

    Args:
        head: Where the weights go.
        trained: A head built as the trained one was; its own weights are not used.
        state: The trained head's tensors by name.
        points: Names of the points.
        trained_points: Names of the trained head's points.

    Returns:
        What was taken.
    """
    places = _matches(points, trained_points)
    blocks, trained_blocks = head.point_blocks(), trained.point_blocks()
    movable = bool(blocks) or list(points) == list(trained_points)
    kinds, trained_kinds = ({name: type(module) for name, module in each.named_modules()} for each in (head, trained))
    taken: list[str] = []
    new: list[str] = []
    for name, tensor in head.state_dict().items():
        owners = [name[:i] for i, letter in enumerate(name) if letter == "."] + [""]
        known = movable and name in state and all(kinds[o] is trained_kinds.get(o) for o in owners)
        pairs = (blocks.get(name, []), trained_blocks.get(name, []))
        (taken if known and _copy(tensor, state[name], *pairs, places) else new).append(name)
    has_points = any(name in blocks for name in taken) if blocks else bool(taken)
    found = [points[i] for i, _ in places] if has_points else []
    return HeadReport(len(taken), found, [name for name in points if name not in found], new)


def _matches(points: Sequence[str], trained: Sequence[str]) -> list[tuple[int, int]]:
    """Return index pairs of points of the same name. Points without names are the same only if their number is."""
    numbered = any(list(each) == [str(i) for i in range(len(each))] for each in (points, trained))
    if numbered and list(points) != list(trained):
        return []
    return [(i, trained.index(name)) for i, name in enumerate(points) if name in trained]


def _copy(
    to: Tensor,
    trained: Tensor,
    blocks: Sequence[PointBlock],
    trained_blocks: Sequence[PointBlock],
    places: Sequence[tuple[int, int]],
) -> bool:
    """Copy what fits of a tensor; return False if nothing does."""
    if not blocks or not trained_blocks:
        if blocks or trained_blocks or to.shape != trained.shape:
            return False
        to.copy_(trained)
        return True
    axis = blocks[0].axis
    rows, trained_rows = _others(to.shape[axis], blocks), _others(trained.shape[axis], trained_blocks)
    shapes = [[*shape[:axis], *shape[axis + 1 :]] for shape in (to.shape, trained.shape)]
    if shapes[0] != shapes[1] or len(rows) != len(trained_rows):
        return False
    for block, source in zip(blocks, trained_blocks, strict=True):
        for i, j in places:
            rows += range(block.start + i * block.each, block.start + (i + 1) * block.each)
            trained_rows += range(source.start + j * source.each, source.start + (j + 1) * source.each)
    if not rows:
        return False
    index, source_index = (torch.tensor(each, dtype=torch.long, device=to.device) for each in (rows, trained_rows))
    to.index_copy_(axis, index, trained.to(to).index_select(axis, source_index))
    return True


def _others(size: int, blocks: Sequence[PointBlock]) -> list[int]:
    """Return the rows that belong to no point."""
    held = {row for block in blocks for row in range(block.start, block.start + block.points * block.each)}
    return [row for row in range(size) if row not in held]
