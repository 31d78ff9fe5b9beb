"""The typed schema of optimizers, schedules and weight averages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kpnet.config.fields import Fraction, Positive, Rate, ShortForm, StrictModel


class SGD(StrictModel):
    """Stochastic gradient descent."""

    name: Literal["sgd"] = "sgd"
    lr: Rate
    """Learning rate."""
    momentum: Annotated[float, Field(ge=0)] = 0.9
    """Share of the last step that the next one keeps."""
    nesterov: bool = True
    """Nesterov's momentum instead of the plain one."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of weights alone: biases and norms have none."""


class Adam(StrictModel):
    """Adam (Kingma and Ba 2015); weight decay as part of the gradient."""

    name: Literal["adam"] = "adam"
    lr: Rate
    """Learning rate."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay of the gradient's mean and of its square."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of weights alone: biases and norms have none."""


class AdamW(Adam):
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter 2019)."""

    name: Literal["adamw"] = "adamw"  # type: ignore[assignment]
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Of weights alone: biases and norms have none."""


class Constant(StrictModel):
    """The optimizer's lr throughout."""

    name: Literal["constant"] = "constant"


class OneCycle(StrictModel):
    """Up to the optimizer's lr and down to nearly 0, each step (Smith 2018)."""

    name: Literal["one_cycle"] = "one_cycle"
    warmup: Fraction = 0.3
    """Share of the steps."""
    start_factor: Annotated[float, Field(gt=0, le=1)] = 0.04
    """Of the lr, at the first step."""
    final_factor: Annotated[float, Field(gt=0, le=1)] = 1e-5
    """Of the lr, at the last step."""


class Cosine(StrictModel):
    """Linear warm-up, then half a cosine to `final_factor` of the lr, each step."""

    name: Literal["cosine"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs in which the lr rises linearly."""
    final_factor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of the lr, at the last step."""


class Plateau(StrictModel):
    """lr times `factor` after `patience` epochs without a better validation loss."""

    name: Literal["plateau"] = "plateau"
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Of the lr."""
    patience: Positive = 10
    """Epochs."""


class EMA(StrictModel):
    """Exponential moving average of the weights, each step."""

    name: Literal["ema"] = "ema"
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Share of the average that each step keeps."""


class SWA(StrictModel):
    """Mean of the weights at the ends of the last epochs, from `start`, a share of them, on (Izmailov et al. 2018)."""

    name: Literal["swa"] = "swa"
    start: Fraction = 0.75
    """Share of the epochs before the first that counts."""


Optimizer = Annotated[SGD | Adam | AdamW, Field(discriminator="name"), ShortForm("adamw")]
Schedule = Annotated[Constant | OneCycle | Cosine | Plateau, Field(discriminator="name"), ShortForm("one_cycle")]
Average = Annotated[EMA | SWA, Field(discriminator="name"), ShortForm("ema")]
