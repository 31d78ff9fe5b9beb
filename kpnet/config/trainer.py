"""The typed schema of `trainer`: which of Lightning's Trainer arguments a YAML may set, and to what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from kpnet.config.fields import ShortForm, StrictModel
from kpnet.core.errors import did_you_mean

PRECISIONS = {
    **{"auto": "auto", "16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"},
    **{name: name for name in ("16-mixed", "bf16-mixed", "16-true", "bf16-true", "32-true", "64-true")},
}
MOST = 10**6  # devices, steps and batches; a larger number is a slip
# Trainer arguments that kpnet sets itself, and where.
ELSEWHERE = {
    **{"max_epochs": "train.epochs", "gradient_clip_val": "train.clip_norm", "default_root_dir": "--out"},
    **{"overfit_batches": "--overfit", "fast_dev_run": "trainer.limit_train_batches"},
}


def _precision(value: Any) -> Any:
    """Return Lightning's full name of a precision, of which 16, 32, 64 and bf16 are short forms."""
    name = "" if isinstance(value, bool) else str(value)
    if name not in PRECISIONS:
        raise PydanticCustomError(
            "precision", f"expected one of {', '.join(PRECISIONS)}{did_you_mean(name, PRECISIONS)}"
        )
    return PRECISIONS[name]


def _devices(value: Any) -> Any:
    """Check the number of devices, or the list of their indices, which may be a text such as "0,1"."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,6}( *, *\d{1,6})+", value, re.ASCII):
        value = [int(index) for index in value.split(",")]
    indices = value if isinstance(value, list) else []
    numbers = [value] if isinstance(value, int) else indices
    whole = all(isinstance(number, int) and not isinstance(number, bool) and number <= MOST for number in numbers)
    count = not indices and numbers and (value == -1 or value > 0)
    several = indices and all(isinstance(i, int) and i >= 0 for i in indices) and len({*indices}) == len(indices)
    if value != "auto" and not (whole and (count or several)):
        raise PydanticCustomError(
            "devices", "expected a number of devices, -1 (all), auto, or different indices such as [0, 1]"
        )
    return value


def _amount(value: Any) -> Any:
    """Check a number of batches (an integer) or a fraction of them (a float)."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= (MOST if isinstance(value, int) else 1):
        raise PydanticCustomError("amount", "expected a number of batches, or a fraction from 0.0 to 1.0")
    return value


def _above_0(value: Any) -> Any:
    if _amount(value) == 0:
        raise PydanticCustomError("amount", "expected a number of batches, or a fraction, above 0")
    return value


def _duration(value: Any) -> Any:
    """Check a duration. Without quotes, YAML takes 1:00:00:00 for a number in base 60."""
    fits = isinstance(value, str) and re.fullmatch(r"\d{1,4}(:\d\d){3}", value, re.ASCII)
    if not fits or not value.strip("0:"):
        raise PydanticCustomError("duration", 'expected "days:hours:minutes:seconds" in quotes, such as "00:12:00:00"')
    return value


class TensorBoard(StrictModel):
    """Files for TensorBoard, in the folder `tensorboard` of the run."""

    name: Literal["tensorboard"] = "tensorboard"
    """Name of the logger."""


class CSV(StrictModel):
    """The file `metrics.csv` alone, which every run has."""

    name: Literal["csv"] = "csv"
    """Name of the logger."""


class Wandb(StrictModel):
    """Weights & Biases; `pip install "kpnet[wandb]"`."""

    name: Literal["wandb"] = "wandb"
    """Name of the logger."""
    project: str = "kpnet"
    """Project in which the run appears, under the run's `name`."""
    entity: str | None = None
    """User or team that owns the project; null: your default one."""
    offline: bool = False
    """Write to the run folder alone; `wandb sync` uploads it later."""


class MLflow(StrictModel):
    """MLflow, on the server of MLFLOW_TRACKING_URI or in `mlflow.db` in the run; `pip install "kpnet[mlflow]"`."""

    name: Literal["mlflow"] = "mlflow"
    """Name of the logger."""
    experiment: str = "kpnet"
    """Experiment in which the run appears, under the run's `name`."""


def _several(value: Any) -> Any:
    """Return one logger as a list of one; null and false as an empty one."""
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None or value is False else [value]


Logger = Annotated[TensorBoard | CSV | Wandb | MLflow, Field(discriminator="name"), ShortForm("tensorboard")]
Loggers = Annotated[
    list[Logger], BeforeValidator(_several, json_schema_input_type=list[Logger] | Logger | Literal[False] | None)
]
Count = Annotated[int, Field(strict=True, gt=0, le=MOST)]
_Devices = Annotated[int, Field(ge=-1)] | Literal["auto"] | list[Annotated[int, Field(ge=0)]]
_Batches = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)]
Precision = Annotated[
    Literal["auto", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "32-true", "64-true"],
    BeforeValidator(_precision, json_schema_input_type=Literal[16, 32, 64, *PRECISIONS]),
]


class TrainerConfig(StrictModel):
    """Arguments of Lightning's Trainer. kpnet sets the others, or they make no sense in a run of kpnet."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    """Kind of device; auto: a GPU if there is one."""
    devices: Annotated[_Devices, BeforeValidator(_devices, json_schema_input_type=_Devices | str)] = "auto"
    """Number of devices, -1 for all, or a list of their indices; auto: all GPUs, one processor."""
    num_nodes: Count = 1
    """Number of machines."""
    strategy: Literal["auto", "ddp", "ddp_fork", "ddp_notebook"] = "auto"
    """How several devices train together; auto: `ddp`, in a notebook `ddp_notebook`."""
    precision: Precision | None = None
    """Bits that the network computes in; null: bfloat16 autocast on a GPU that computes in it, else 32 bits; auto: on
    a CPU too."""
    logger: Loggers = [TensorBoard()]  # noqa: RUF012 (pydantic copies it)
    """Where measures, hyper-parameters and images go besides `metrics.csv`: one logger or several; null: nowhere."""
    max_steps: Count | None = None
    """Optimizer steps after which the training ends, if `train.epochs` are not over before; null: no limit."""
    max_time: Annotated[str, BeforeValidator(_duration)] | None = None
    """Time after which the training ends, as "days:hours:minutes:seconds"; null: no limit."""
    min_epochs: Count | None = None
    """Epochs that are trained even if `train.early_stopping` would stop before; null: no minimum."""
    limit_train_batches: Annotated[_Batches, BeforeValidator(_above_0)] = 1.0
    """Training batches of an epoch: a number, or a fraction of them."""
    limit_val_batches: Annotated[_Batches, BeforeValidator(_amount)] = 1.0
    """Validation batches: a number, or a fraction of them; 0: no validation."""
    val_check_interval: Annotated[_Batches, BeforeValidator(_above_0)] = 1.0
    """Validate after so many training batches, or after this fraction of an epoch."""
    check_val_every_n_epoch: Count = 1
    """Validate in every Nth epoch."""
    accumulate_grad_batches: Count = 1
    """Batches whose gradients are summed for one step."""
    gradient_clip_algorithm: Literal["norm", "value"] = "norm"
    """What `train.clip_norm` limits: the norm of the gradient, or each of its values."""
    sync_batchnorm: bool | None = None
    """Batch norm statistics over all processes; null: on GPUs."""
    deterministic: bool | Literal["warn"] = False
    """Use deterministic algorithms alone; warn: where there are some."""
    benchmark: bool = False
    """Let cuDNN search for the fastest algorithms, for inputs of one size."""
    detect_anomaly: bool = False
    """Find the operation whose gradient is NaN; slow."""
    profiler: Literal["simple", "advanced"] | None = None
    """Write how long each part of the training takes to `fit-profile.txt` in the run; null: do not measure."""
    enable_progress_bar: bool = True
    """Show a progress bar in a terminal; false: a line for each epoch."""
    enable_model_summary: bool = False
    """Print the layers of the network before the training."""

    @model_validator(mode="before")
    @classmethod
    def _set_elsewhere(cls, values: Any) -> Any:
        for key in ELSEWHERE.keys() & (values.keys() if isinstance(values, Mapping) else ()):
            raise PydanticCustomError("elsewhere", f"{key} is not set here: use {ELSEWHERE[key]}")
        return values

    @model_serializer(mode="wrap")
    def _as_given(self, handler: SerializerFunctionWrapHandler) -> Any:
        return {key: value for key, value in handler(self).items() if key in self.model_fields_set}
