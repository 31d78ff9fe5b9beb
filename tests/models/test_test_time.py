"""Mirrored, scaled and shifted views map back to where they came from."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from kpnet import build_model
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.heads import Keypoints
from kpnet.models.test_time import TestTime, View, average, infer_views

NAMES = ["left", "right", "top"]
SIZE = (48, 64)


def blobs(points: Tensor) -> Tensor:
    """Images (B, 3, H, W) with a Gaussian blob per channel about pixel points (B, 3, 2)."""
    x, y = torch.arange(SIZE[1]), torch.arange(SIZE[0])
    squared = (x - points[..., :1])[..., None, :] ** 2 + (y - points[..., 1:])[..., :, None] ** 2
    return torch.exp(-squared / (2 * 2.5**2))


def centroids(images: Tensor) -> Keypoints:
    """A detector that the image defines: each channel's centroid, and its second moments."""
    p = images / images.sum((-2, -1), keepdim=True)
    x, y = ((2 * torch.arange(n) + 1) / n - 1 for n in (SIZE[1], SIZE[0]))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    xy = torch.einsum("bkhw,hwi->bki", p, grid)
    apart = grid - xy[:, :, None, None]
    return Keypoints(xy, torch.ones(xy.shape[:2]), torch.einsum("bkhw,bkhwi,bkhwj->bkij", p, apart, apart), p)


POINTS = torch.tensor([[[20.0, 17.5], [41.3, 20.2], [30.1, 28.8]]])


@pytest.mark.parametrize("scale", [1.0, 0.9, 1.15])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.0, 0.0), (-2.5, 4.0)])
@pytest.mark.parametrize("flip", [False, True])
def test_a_views_answer_maps_back(flip: bool, shift: tuple[float, float], scale: float) -> None:
    """To a hundredth of a pixel; channels play the labels, so a mirror swaps left and right."""
    images, permutation = blobs(POINTS), [1, 0, 2]
    view = View(flip, scale, shift)
    shown = view.apply(images)
    if flip:
        shown = shown[:, permutation]  # a detector calls the mirrored left one right
    back = view.invert(centroids(shown), images, permutation)
    own = centroids(images)
    pixels = torch.tensor([SIZE[1] / 2, SIZE[0] / 2])
    torch.testing.assert_close(back.keypoints * pixels, own.keypoints * pixels, atol=0.02, rtol=0)
    assert back.covariance is not None
    assert own.covariance is not None
    torch.testing.assert_close(back.covariance, own.covariance, atol=2e-4, rtol=0.06)
    if not view.warps:
        assert back.heatmaps is not None
        torch.testing.assert_close(back.heatmaps, own.heatmaps)


def test_views_are_all_combinations() -> None:
    assert TestTime().views() == [View(False, 1.0, (0.0, 0.0))]
    assert len(TestTime(flip=True, scales=(0.9, 1.0), shift=2).views()) == 2 * 2 * 5
    with pytest.raises(KpnetError, match=r"scales: expected positive numbers, found \[0\]"):
        TestTime(scales=(0,))
    for shift in (-1.0, float("nan"), float("inf")):
        with pytest.raises(KpnetError, match="shift: expected a number of pixels of at least 0"):
            TestTime(shift=shift)
    with pytest.raises(KpnetError, match="24 pixels move half of a 48x64 image out of it"):
        infer_views(centroids, blobs(POINTS), Skeleton.from_names(NAMES), TestTime(shift=24))


def test_the_flip_test_of_a_model_is_equivariant() -> None:
    """Whatever the network: with the flip test, the mirrored image's prediction is the mirrored prediction."""
    torch.manual_seed(0)
    model = build_model(
        backbone="conv_sandwich", head={"name": "heatmap", "stride": 4}, skeleton=NAMES, in_channels=1, input_size=32
    )
    images = torch.rand(2, 1, 32, 32)
    here, there = (model.infer(i, TestTime(flip=True)) for i in (images, images.flip(-1)))
    swap = [1, 0, 2]
    torch.testing.assert_close(there.keypoints, here.keypoints[:, swap] * torch.tensor([-1, 1]), atol=1e-5, rtol=0)
    for name in ("confidence", "covariance", "heatmaps"):
        a, b = getattr(here, name)[:, swap], getattr(there, name)
        if name == "covariance":
            b = b * torch.tensor([[1, -1], [-1, 1]])
        torch.testing.assert_close(b.flip(-1) if name == "heatmaps" else b, a, atol=1e-5, rtol=1e-4)
    plain = model.infer(images)
    assert not torch.allclose(plain.keypoints, here.keypoints)


def test_views_that_disagree_are_less_sure() -> None:
    near = Keypoints(torch.zeros(1, 1, 2), covariance=0.01 * torch.eye(2).view(1, 1, 2, 2))
    far = dataclasses.replace(near, keypoints=torch.tensor([[[1.0, 0.0]]]))
    both = average([near, far], SIZE)
    assert both.covariance is not None
    torch.testing.assert_close(both.keypoints, torch.tensor([[[0.5, 0.0]]]))
    torch.testing.assert_close(both.covariance[0, 0], torch.tensor([[0.26, 0.0], [0.0, 0.01]]))
    assert average([Keypoints(torch.zeros(1, 1, 2)), near], SIZE).covariance is None


@pytest.mark.parametrize("names", [["a", "b"], ["left_eye", "nose"]])
def test_a_flip_needs_pairs(names: list[str]) -> None:
    images = torch.rand(1, 2, *SIZE)
    with pytest.raises(KpnetError, match=r"flip test: the skeleton cannot be mirrored.*give it `pairs`"):
        infer_views(centroids, images, Skeleton.from_names(names), TestTime(flip=True))
