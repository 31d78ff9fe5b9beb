"""Measure what a temporal head gains on synthetic moving faces, over the same model run frame by frame.

    python benchmarks/accuracy/temporal.py [--seeds 0 1] [--threads 1]

A small heatmap model is trained on single frames of 100 clips. Then it is frozen, and temporal layers are trained on
windows of its predictions for those clips: nine frames, either past ones only (no delay) or four of them future ones.
All are measured on the same frames of 40 clips of other faces; the seed is that of the training, the test clips are
always the same. Each row goes to `benchmarks/results/temporal.csv`. rmse_px is per coordinate, in pixels of the 64x64
images; jitter_px is the mean absolute second difference of the error over time.
"""

from __future__ import annotations

import argparse
import csv
from typing import Any

import numpy as np
import torch
from running import RESULTS
from torch import Tensor

from kpnet import build_model
from kpnet.coordinates import normalized_to_pixel
from kpnet.data import SyntheticClips
from kpnet.heads.temporal import TemporalHead
from kpnet.losses import l1
from kpnet.models.keypoint_model import KeypointModel
from kpnet.smoothing import one_euro, savgol

TABLE = RESULTS / "temporal.csv"
SIDE, FRAMES, TRAIN_CLIPS, TEST_CLIPS = 64, 24, 100, 40
FRAME_STEPS, LAYER_STEPS = 400, 600
LAYERS = ("rnn", "gru", "lstm", "conv")
AROUND = {"past 8": (8, 0), "past 4, future 4": (4, 4)}
FIRST, LAST = 8, FRAMES - 4  # frames that every row predicts
Clips = tuple[Tensor, Tensor]  # images (N, T, 1, H, W) and points (N, T, K, 2)


def draw(clips: int, seed: int) -> Clips:
    """Draw clips of synthetic moving faces."""
    data = SyntheticClips(clips, frames=FRAMES, seed=seed, image_size=(SIDE, SIDE), in_channels=1)
    items = [data[i] for i in range(len(data))]
    images, points = (torch.stack([item[key] for item in items]) for key in ("image", "keypoints"))
    return images.unflatten(0, (clips, FRAMES)), points.unflatten(0, (clips, FRAMES))


def build(head: Any) -> KeypointModel:
    """Build the small model with a head."""
    backbone = {"name": "conv_sandwich", "channels": [16, 32, 64, 128], "norm": "batch"}
    return build_model(backbone=backbone, head=head, in_channels=1, input_size=SIDE, skeleton="facial15")


INNER = {"name": "heatmap", "decoder": {"name": "top_down", "width": 32}, "loss": {"l1": 1.0, "cross_entropy": 0.1}}


def fit(parameters: Any, loss: Any, steps: int, lr: float) -> None:
    """Minimise a loss with AdamW and a one-cycle schedule."""
    optimizer = torch.optim.AdamW(parameters, lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()


def train_frames(clips: Clips) -> KeypointModel:
    """Train the per-frame model on single frames."""
    model = build(INNER).train()
    images, points = (each.flatten(0, 1) for each in clips)

    def loss() -> Tensor:
        rows = torch.randint(len(images), (32,))
        terms = model.head.loss(model.output(images[rows]), points[rows], torch.ones(32, 15))
        return torch.stack(list(terms.values())).sum()

    fit(model.parameters(), loss, FRAME_STEPS, 4e-3)
    return model.eval()


@torch.no_grad()
def frame_tokens(model: KeypointModel, head: TemporalHead, images: Tensor) -> Tensor:
    """Return the temporal head's inputs (N, T, D) for clips, as the per-frame model predicts them."""
    found = []
    for clip in images:
        features = model.features(clip)
        found.append(head.tokens(model.head(features), features[-1]))
    return torch.stack(found)


def windows(values: Tensor, past: int, future: int) -> Tensor:
    """Return the windows (N, predicted frames, past + 1 + future, D) of values (N, T, D)."""
    return values.unfold(1, past + 1 + future, 1).transpose(2, 3)


def train_layer(
    model: KeypointModel, layer: str, around: tuple[int, int], tokens: Tensor, points: Tensor
) -> TemporalHead:
    """Train a temporal layer on the tokens of the frozen per-frame model."""
    past, future = around
    head = build({"name": "temporal", "head": INNER, "layer": layer, "past": past, "future": future}).head
    assert isinstance(head, TemporalHead)
    head.head.load_state_dict(model.head.state_dict())
    inputs = windows(tokens, past, future).flatten(0, 1)
    target = points[:, past : FRAMES - future].flatten(0, 1)

    def loss() -> Tensor:
        rows = torch.randint(len(inputs), (128,))
        xy = inputs[rows, past, :30].unflatten(1, (15, 2))
        return l1(xy + head.correct(inputs[rows]), target[rows], torch.ones(128, 15))

    learned = [p for name, p in head.named_parameters() if not name.startswith("head.")]
    fit(learned, loss, LAYER_STEPS, 2e-3)
    return head.eval()


def measure(xy: Tensor, points: Tensor) -> dict[str, float]:
    """Return the error and jitter of points (N, T, K, 2), on the frames that every row predicts."""
    error = normalized_to_pixel(xy, (SIDE, SIDE)) - normalized_to_pixel(points, (SIDE, SIDE))
    error = error[:, FIRST:LAST]
    jitter = error.diff(n=2, dim=1).abs().mean()
    return {"rmse_px": round(error.square().mean().sqrt().item(), 4), "jitter_px": round(jitter.item(), 4)}


def rows_of(seed: int, test: Clips) -> list[dict[str, Any]]:
    """Train and measure every row with one seed."""
    torch.manual_seed(seed)
    train = draw(TRAIN_CLIPS, seed=1000 + seed)
    model = train_frames(train)
    probe = build({"name": "temporal", "head": INNER}).head
    assert isinstance(probe, TemporalHead)
    tokens, seen = frame_tokens(model, probe, train[0]), frame_tokens(model, probe, test[0])
    xy = seen[..., :30].unflatten(-1, (15, 2))
    measured = {"frame by frame": measure(xy, test[1])}
    pixels = normalized_to_pixel(xy.double(), (SIDE, SIDE)).numpy()
    for name, smoother in (("one_euro", one_euro), ("savgol", savgol)):
        smooth = torch.from_numpy(np.stack([smoother(clip) for clip in pixels])).float()
        measured[f"frame by frame, {name}"] = measure((2 * smooth + 1) / SIDE - 1, test[1])
    for name, around in AROUND.items():
        for layer in LAYERS:
            head = train_layer(model, layer, around, tokens, train[1])
            with torch.no_grad():
                offset = head.correct(windows(seen, *around).flatten(0, 1)).unflatten(0, (TEST_CLIPS, -1))
            corrected = xy.clone()
            corrected[:, around[0] : FRAMES - around[1]] += offset
            measured[f"temporal {layer}, {name}"] = found = measure(corrected, test[1])
            print(seed, layer, name, measured["frame by frame"], found, flush=True)
    return [{"row": name, "seed": seed, **found} for name, found in measured.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    test = draw(TEST_CLIPS, seed=1)
    rows = []
    for seed in given.seeds:
        rows += rows_of(seed, test)
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
