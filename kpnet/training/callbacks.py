"""Callbacks that write metrics, checkpoints and sample images while a training runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import torch
from lightning.pytorch.callbacks import EarlyStopping
from rich.console import Console

from kpnet import plot
from kpnet.core.errors import KpnetError, first_line
from kpnet.core.files import append_durably, write_atomic, write_json
from kpnet.data import KeypointDataset
from kpnet.data.seen_images import write_seen_images
from kpnet.models.keypoint_model import KeypointModel
from kpnet.training.loggers import log_figure, log_metrics
from kpnet.training.module import KeypointModule

SAMPLES = 12
METRICS = "metrics.csv"


class MetricsLogger(pl.Callback):
    """Writes one row per epoch to `metrics.csv` and TensorBoard, and to the terminal where there is no progress bar."""

    def __init__(self, folder: Path, console: Console, bar: bool) -> None:
        self.folder, self.console, self.bar = folder, console, bar
        self.history: list[dict[str, float]] = []
        self.columns: list[str] = []  # of the file
        self.measured: dict[str, float] = {}  # in this epoch, on the validation data
        self.started = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": len(self.history)}  # the rows stay in the file: a checkpoint does not grow with each epoch

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Read the rows of the checkpoint's epochs; the file may have one more, of an epoch that is trained again."""
        if "epochs" not in state_dict:
            raise KpnetError(f"{self.folder}: its last.ckpt is of another version of kpnet; use --force to start again")
        self.history = read_metrics(self.folder / METRICS, state_dict["epochs"])

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.perf_counter()
        self.measured = {}

    def record(self, trainer: pl.Trainer, train_loss: float, summary: str) -> None:
        """Write the epoch's row; `summary` is printed between its loss and its seconds.

        `lr` is the rate of the first part, the head where it has its own; `lr_backbone`, … are the others' rates.
        """
        rates = {group["part"]: group["lr"] for group in trainer.optimizers[0].param_groups}
        first, *others = rates
        row = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "lr": rates[first],
            **{f"lr_{part}": rates[part] for part in others},
            "train_loss": train_loss,
            **self.measured,
            "seconds": round(time.perf_counter() - self.started, 2),
        }
        if not trainer.is_global_zero:
            return
        self.history.append(row)
        self._write(row)
        metrics = {key: value for key, value in row.items() if key not in ("epoch", "step")}
        log_metrics(trainer.loggers, metrics, trainer.current_epoch)
        if not self.bar:
            epoch = f"epoch {row['epoch'] + 1:3d}/{trainer.max_epochs}"
            self.console.print(f"{epoch}  loss {train_loss:.4g}{summary}  {row['seconds']:.1f} s", highlight=False)

    def _write(self, row: dict[str, float]) -> None:
        """Append the row to the file; one that has a new column writes the file again."""
        path = self.folder / METRICS
        new = [key for key in row if key not in self.columns]
        if new:
            self.columns = [*dict.fromkeys(key for each in self.history for key in each)]
            write_atomic(path, pd.DataFrame(self.history, columns=self.columns).to_csv(index=False).encode())
            return
        line = pd.DataFrame([row], columns=self.columns).to_csv(index=False, header=False)
        append_durably(path, line.encode())  # before the checkpoint, which counts the rows

    def draws(self, trainer: pl.Trainer) -> bool:
        """Return whether figures are drawn in this epoch: about ten times in a training, and in its last epoch."""
        epoch, epochs = trainer.current_epoch, trainer.max_epochs or 1
        return epoch % max(1, epochs // 10) == 0 or epoch == epochs - 1

    def log_figure(self, trainer: pl.Trainer, name: str, figure: Any) -> None:
        if figure is not None:
            log_figure(trainer.loggers, name, figure, trainer.current_epoch)


class RunFolderCallback(MetricsLogger):
    """Writes `metrics.csv`, `best/` (the model with the highest validation score) and TensorBoard's samples.

    Given the training data, it first writes the hashes of all images (`images.json`).

    It must come before the weight average in the list of callbacks: then the weights that it saves and draws after a
    validation are the averaged ones, which were validated.
    """

    def __init__(
        self,
        folder: Path,
        val: KeypointDataset | None,
        console: Console,
        bar: bool,
        train: KeypointDataset | None = None,
    ) -> None:
        super().__init__(folder, console, bar)
        self.train, self.val = train, val
        self.best = -1.0

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.best = state_dict["best"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.train is not None and trainer.is_global_zero:
            write_seen_images(self.folder, self.train, self.val, self.bar)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, KeypointModule)
        pl_module.check_weights()  # before the first process alone draws with them
        result = pl_module.val_metrics.compute()
        self.measured = {
            "val_loss": pl_module.val_loss.compute().item(),
            **{f"val_{name}": result[name].item() for name in ("score", "rmse_px", "mre_px", "nme")},
        }
        pl_module.log_dict(self.measured, logger=False)
        pl_module.log("score", result["score"], prog_bar=True, logger=False)
        if trainer.is_global_zero:
            if self.measured["val_score"] > self.best:
                self.best = self.measured["val_score"]
                save_model(pl_module.model, self.folder / "best", trainer.current_epoch, self.measured)
            if self.draws(trainer):
                self.log_figure(trainer, "val/predictions", draw_samples(pl_module.model, self.val))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, KeypointModule)
        self._warn_if_saturated(pl_module)
        self._warn_of_one_kind(pl_module)
        if pl_module.teaching is not None:
            was_lost = pl_module.teaching.lost
            self.measured |= pl_module.teaching.end_epoch(pl_module.progress())
            if pl_module.teaching.lost and not was_lost and trainer.is_global_zero:
                line = f"warning: {pl_module.teaching.lost_message()}"
                self.console.print(line, style="yellow", highlight=False, soft_wrap=True)
        loss, now = pl_module.train_loss.compute().item(), self.measured
        pl_module.check_epoch(loss)
        summary = f"  val score {now['val_score']:7.1f}  rmse {now['val_rmse_px']:.3f} px" if "val_score" in now else ""
        self.record(trainer, loss, summary)

    def _warn_of_one_kind(self, module: KeypointModule) -> None:
        """Warn if a model that predicts presence has seen only points that are there, or only others."""
        if module.current_epoch != 0 or not module.present.update_called:
            return
        share = module.present.compute().item()
        if not 0 < share < 1 and module.global_rank == 0:
            what = {1.0: "every known point is there", 0.0: "no point is there"}.get(share, "of no point it is known")
            self.console.print(
                f"warning: model.presence: {what} in the first epoch, from which presence is not learned: give "
                "data.transforms CoarseDropout, or Affine with translate_percent; or data.missing=absent where a point "
                "without a label is not there",
                style="yellow",
                soft_wrap=True,
            )

    def _warn_if_saturated(self, module: KeypointModule) -> None:
        check = module.saturation
        if module.current_epoch != 1 or not check.mean_face.update_called:
            return
        network, mean_face = (m.compute().item() for m in (check.network, check.mean_face))
        # By half: a network that learns may stay at the mean face for an epoch or two; one with a saturated tanh has a
        # score around 1. Where all labels are the same, the mean face has no error.
        if network > 2 * mean_face > 0 and module.global_rank == 0:
            self.console.print(
                f"warning: after two epochs the training score {1 / (2 * network):.2f} is less than half the mean "
                f"face's {1 / (2 * mean_face):.2f}: the network may be saturated; "
                f"try a lower train.optimizer.lr than {module.config.optimizer.lr:g}",
                style="yellow",
                soft_wrap=True,
            )


class StopEarly(EarlyStopping):
    """Ends a training without a better score; a training that it has ended stays so where it is resumed."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})  # a resumed run may have another

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop |= self.wait_count >= self.patience


def read_metrics(path: Path, epochs: int) -> list[dict[str, float]]:
    """Return the rows of a run's first epochs, as they were recorded; none where the file is missing."""
    if not path.is_file():
        return []
    try:
        table = pd.read_csv(path, nrows=epochs, float_precision="round_trip")
    except (OSError, ValueError) as error:
        raise KpnetError(f"{path}: not the metrics of a run: {first_line(error)}; delete it to go on without") from None
    return [{str(key): value for key, value in row.items() if value == value} for row in table.to_dict("records")]


def save_model(model: KeypointModel, folder: Path, epoch: int, measured: dict[str, Any]) -> None:
    """Save the model's files, and `training.json` with its epoch and measures."""
    about = folder / "training.json"
    about.unlink(missing_ok=True)  # a crash in between leaves no epoch and measures of another model
    model.save(folder)
    write_json(about, {"epoch": epoch, **measured})


def draw_samples(model: KeypointModel, dataset: KeypointDataset | None) -> Any:
    """Return a figure of the first validation images with true and predicted points; None without data."""
    if dataset is None:
        return None
    items = [dataset[i] for i in range(min(SAMPLES, len(dataset)))]
    images = torch.stack([item["image"] for item in items])
    device = next(model.parameters()).device
    if model.head.finds_instances:
        return _draw_scenes(model, items, device)
    predicted = model.infer(images.to(device)).keypoints.cpu()
    truth = torch.stack([item["keypoints"] for item in items])
    visible = torch.stack([item["visible"] for item in items])
    shown = images if images.ndim == 4 else images[:, model.frame_window[0]]
    return plot.draw_predictions(shown, truth, predicted, visible)


def _draw_scenes(model: KeypointModel, items: list[dict[str, Any]], device: torch.device) -> Any:
    """Return a figure of whole images with the true points of their instances, and those predicted for their boxes."""
    predicted, truth, visible = [], [], []
    for item in items:
        there = item["boxes"].isfinite().all(-1)
        found = model.read(item["image"][None].to(device), item["boxes"][None].to(device)).keypoints.cpu()
        predicted.append(found.flatten(0, 1))
        truth.append(item["keypoints"][there].flatten(0, 1))
        visible.append(item["visible"][there].flatten(0, 1))
    return plot.draw_predictions([item["image"] for item in items], truth, predicted, visible)
