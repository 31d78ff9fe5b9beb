"""Measure training and inference on a GPU, against the course's plain loop. About four minutes; needs no data.

    python benchmarks/speed/gpu.py [--seconds 4] [--workers N] [--out gpu.json]
    python benchmarks/speed/gpu.py --cpu    # a dry run, tiny

Each recipe's training, at each batch size:

- `kpnet`: kpnet's own module, loaders and Trainer, as `kpnet train` has them, with `data.device_transforms`, bfloat16
  where the GPU computes in it, and the moving average. `compiled`: with `train.compile`.
- `waits`: the share of time in which the device waits for data: 1 minus the time of a step whose batch is on the device
  already, over the time of a step with the loaders.
- `plain loop`: a loop as in the course: albumentations in the loader, 32 bits, no compilation, and the loss read in
  each step. It has as many workers.

Inference takes bytes from the host and gives points on the host. Images are 512 drawn faces, again and again. A line of
JSON for each row, then a table in Markdown; a row that does not fit into the time or the memory says so.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate

from kpnet import build_model, load_config
from kpnet.config.schema import Config
from kpnet.core.allocator import keep_freed_memory
from kpnet.core.skeleton import Skeleton
from kpnet.data import KeypointDataset, SyntheticFaces
from kpnet.data.base import unit_images
from kpnet.data.transforms.augment import Augment
from kpnet.data.transforms.device import DeviceAugment
from kpnet.training.freezing import parameter_groups
from kpnet.training.loaders import Loaders
from kpnet.training.module import KeypointModule
from kpnet.training.optim import build_optimizer
from kpnet.training.trainer import create_trainer, resolve_precision, trainer_arguments
from kpnet.training.weight_averaging import weight_average

RECIPES = ("facial_heatmap", "facial_resnet18_heatmap")
BUDGET = 225  # seconds, after which no row begins
WARM_UP = 10  # steps


class Faces(KeypointDataset):
    """Drawn faces in memory, repeated to a length."""

    def __init__(self, drawn: list[tuple[np.ndarray, np.ndarray]], length: int, **options: Any) -> None:
        super().__init__(**options)
        self.skeleton, self.drawn, self.length = Skeleton.load("facial15"), drawn, length

    def __len__(self) -> int:
        return self.length

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, xy = self.drawn[index % len(self.drawn)]
        return image.copy(), xy.copy()


class Same(IterableDataset):
    """One batch, for ever."""

    def __init__(self, batch: dict[str, Any]) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            yield self.batch


class Resident(Loaders):
    """A batch that is on the device already, in place of the loaders."""

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        in_bytes = self.train.in_bytes()
        batch = default_collate([in_bytes[i] for i in range(self.config.train.batch_size)])
        there = {key: value.to(self.trainer.strategy.root_device) for key, value in batch.items()}
        return DataLoader(Same(there), batch_size=None)


class Clock(pl.Callback):
    """Counts steps for some seconds, after a warm-up, and ends the training."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.steps, self.started = seconds, -WARM_UP, 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.steps += 1
        if self.steps == 0:
            synchronize()
            self.started = time.perf_counter()
        elif self.steps > 0 and not trainer.should_stop and time.perf_counter() - self.started > self.seconds:
            synchronize()
            self.seconds_a_step = (time.perf_counter() - self.started) / self.steps
            trainer.should_stop = True


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Benchmark:
    """The rows of the table."""

    def __init__(self, cpu: bool, seconds: float, workers: int, out: Path) -> None:
        self.device = torch.device("cpu" if cpu else "cuda")
        self.cpu, self.seconds, self.workers, self.out = cpu, seconds, workers, out
        self.rows: list[dict[str, Any]] = []
        self.begun = time.perf_counter()
        faces = SyntheticFaces(32 if cpu else 512)
        self.drawn = [faces.read(index) for index in range(len(faces))]

    def row(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Measure a row, print it and keep it; what fails or comes too late says so."""
        values: dict[str, Any] = {"row": name}
        if time.perf_counter() - self.begun > BUDGET:
            values["skipped"] = "no time left"
        else:
            if not self.cpu:
                torch.cuda.reset_peak_memory_stats()
            try:
                values |= measure()
                if not self.cpu:
                    values["peak_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
            except Exception as error:  # one row that does not fit costs no other
                values["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0][:150]}"
        self.rows.append(values)
        print(json.dumps(values), flush=True)
        self.out.write_text(json.dumps(self.rows, indent=1))
        gc.collect()
        if not self.cpu:
            torch.cuda.empty_cache()
        return values

    def config(self, recipe: str, batch: int, *overrides: str) -> Config:
        """Return a recipe with the benchmark's batch size, workers and device."""
        given = [f"train.batch_size={batch}", f"data.workers={self.workers}", "trainer.devices=1", *overrides]
        kind = "cpu" if self.cpu else "gpu"
        config = load_config(recipe, [*given, f"trainer.accelerator={kind}", "data.device_transforms=true"])
        return config.model_copy(update={"trainer": resolve_precision(config.trainer)})

    def faces(self, config: Config, **options: Any) -> Faces:
        """Return the training data: two hundred batches."""
        size, channels = config.model.input_size, config.model.in_channels
        length = config.train.batch_size * (WARM_UP + 5 if self.cpu else 200)
        return Faces(self.drawn, length, image_size=size, in_channels=channels, **options)

    def train(self, config: Config, loaders: type[Loaders]) -> dict[str, Any]:
        """Train with kpnet's own module and loaders."""
        data = self.faces(config)
        augment = DeviceAugment(config.data.transforms, data.skeleton, config.model.input_size)
        module = KeypointModule(build_model(config), config.train, augment)
        clock = Clock(self.seconds)
        callbacks: list[pl.Callback] = [clock]
        if config.train.average is not None:
            callbacks.append(weight_average(config.train.average, config.train.epochs))
        trainer = create_trainer(
            **trainer_arguments(config.trainer) | {"num_sanity_val_steps": 0, "max_epochs": -1, "logger": False},
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            use_distributed_sampler=False,
        )
        trainer.fit(module, loaders(data, None, config))
        batch = config.train.batch_size
        return {"images_s": round(batch / clock.seconds_a_step), "ms": round(1000 * clock.seconds_a_step, 2)}

    def plain_loop(self, config: Config) -> dict[str, Any]:
        """Train as the course does."""
        skeleton, batch = Skeleton.load("facial15"), config.train.batch_size
        data = self.faces(config, transform=Augment(config.data.transforms, skeleton))
        model = build_model(config).to(self.device).train()
        optimizer = build_optimizer(parameter_groups(model, config.train), config.train.optimizer)
        loader = DataLoader(data, batch, shuffle=True, num_workers=self.workers)
        steps, started, losses = -WARM_UP, 0.0, []
        while True:
            for items in loader:
                optimizer.zero_grad()
                loss = model.loss({key: value.to(self.device) for key, value in items.items()})
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                steps += 1
                if steps == 0:
                    started = time.perf_counter()
                elif steps > 0 and time.perf_counter() - started > self.seconds:
                    each = (time.perf_counter() - started) / steps
                    return {"images_s": round(batch / each), "ms": round(1000 * each, 2)}

    def infer(self, config: Config, batch: int) -> dict[str, Any]:
        """Predict batches of bytes."""
        model = build_model(config).to(self.device).eval()
        height, width = config.model.input_size
        images = torch.randint(0, 256, (batch, config.model.in_channels, height, width), dtype=torch.uint8)
        images = images if self.cpu else images.pin_memory()
        count, started, autocast = -3, 0.0, config.trainer.precision == "bf16-mixed"
        while True:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
                model.infer(unit_images(images.to(self.device, non_blocking=True))).keypoints.cpu()
            count += 1
            if count == 0:
                started = time.perf_counter()
            elif count > 0 and time.perf_counter() - started > self.seconds / 2:
                each = (time.perf_counter() - started) / count
                return {"images_s": round(batch / each), "ms": round(1000 * each, 2)}

    def run(self) -> None:
        """Measure all rows, the most important first."""
        for recipe in RECIPES:
            for batch in (4,) if self.cpu else (256, 32, 1024):
                config = self.config(recipe, batch)
                name = f"{recipe}, batch {batch}"
                kpnet = self.row(f"{name}, kpnet", lambda c=config: self.train(c, Loaders))  # type: ignore[misc]
                alone = self.row(f"{name}, on the device", lambda c=config: self.train(c, Resident))  # type: ignore[misc]
                plain = self.row(f"{name}, plain loop", lambda c=config: self.plain_loop(c))  # type: ignore[misc]
                if "ms" in kpnet and "ms" in alone:
                    kpnet["waits"] = round(max(0.0, 1 - alone["ms"] / kpnet["ms"]), 3)
                if "ms" in kpnet and "ms" in plain:
                    kpnet["times_plain"] = round(plain["ms"] / kpnet["ms"], 2)
        for recipe in RECIPES:
            config = self.config(recipe, 4)
            for batch in (1, 4) if self.cpu else (1, 64, 1024):
                self.row(f"{recipe}, inference, batch {batch}", lambda c=config, b=batch: self.infer(c, b))  # type: ignore[misc]
        if not self.cpu:
            config = self.config(RECIPES[0], 256, "train.compile=true")
            self.row(f"{RECIPES[0]}, batch 256, kpnet, compiled", lambda: self.train(config, Loaders))
        self.out.write_text(json.dumps(self.rows, indent=1))

    def table(self) -> str:
        """Return the rows as a table in Markdown."""
        columns = ("images_s", "ms", "times_plain", "waits", "peak_mb")
        lines = [
            "| | images/s | ms a step | times the plain loop | the device waits | peak MB |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for row in self.rows:
            cells = [str(row.get(column, "")) for column in columns]
            note = row.get("failed") or row.get("skipped")
            lines.append(f"| {row['row']} | {note or ' | '.join(cells)} |")
        return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="a dry run on the CPU, tiny")
    parser.add_argument("--seconds", type=float, help="seconds of each row (default 4; on the CPU 0.3)")
    parser.add_argument(
        "--workers", type=int, help="workers of the loaders (default: the cores, at most 12; on the CPU 0)"
    )
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")) / "gpu.json")
    given = parser.parse_args()
    if not given.cpu and not torch.cuda.is_available():
        parser.error("torch finds no GPU here: --cpu makes a dry run")
    warnings.filterwarnings("ignore", module="lightning")
    keep_freed_memory()
    cores = min(12, os.cpu_count() or 1)
    seconds = given.seconds or (0.3 if given.cpu else 4.0)
    workers = (0 if given.cpu else cores) if given.workers is None else given.workers
    benchmark = Benchmark(given.cpu, seconds, workers, given.out)
    name = "cpu" if given.cpu else torch.cuda.get_device_name()
    print(json.dumps({"device": name, "torch": torch.__version__, "cores": os.cpu_count(), "workers": workers}))
    benchmark.run()
    print(benchmark.table())
    print(f"{time.perf_counter() - benchmark.begun:.0f} s")


if __name__ == "__main__":
    main()
