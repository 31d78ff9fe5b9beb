"""The typed schema of optimizers, schedules and weight averages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kpnet.config.fields import Fraction, NonNegative, Positive, Rate, ShortForm, StrictModel


class SGD(StrictModel):
    """Stochastic gradient descent."""

    name: Literal["sgd"] = "sgd"
    """Name of the optimizer."""
    lr: Rate
    """Learning rate."""
    momentum: NonNegative = 0.9
    """Momentum: the fraction of the last update that is added to the next."""
    nesterov: bool = True
    """Use Nesterov's momentum instead of the plain one."""
    weight_decay: NonNegative = 0.0
    """Weight decay; not applied to biases and norm layers."""


class Adam(StrictModel):
    """Adam (Kingma and Ba 2015), with weight decay as part of the gradient."""

    name: Literal["adam"] = "adam"
    """Name of the optimizer."""
    lr: Rate
    """Learning rate."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay rates of the running means of the gradient and of its square."""
    weight_decay: NonNegative = 0.0
    """Weight decay; not applied to biases and norm layers."""


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    name: Literal["adamw"] = "adamw"  # type: ignore[assignment]
    """Name of the optimizer."""
    weight_decay: NonNegative = 0.01
    """Weight decay; not applied to biases and norm layers."""


class Constant(StrictModel):
    """Constant learning rate."""

    name: Literal["constant"] = "constant"
    """Name of the schedule."""


class OneCycle(StrictModel):
    """One cycle: the learning rate rises to the optimizer's and falls to nearly 0, step by step (Smith 2018)."""

    name: Literal["one_cycle"] = "one_cycle"
    """Name of the schedule."""
    warmup: Fraction = 0.3
    """Fraction of the steps in which the learning rate rises."""
    start_factor: Annotated[float, Field(gt=0, le=1)] = 0.04
    """Start factor: initial lr / lr."""
    final_factor: Annotated[float, Field(gt=0, le=1)] = 1e-5
    """Final factor: lr of the last step / lr."""


class Cosine(StrictModel):
    """Linear warm-up, then half a cosine down to `final_factor` times the learning rate, step by step."""

    name: Literal["cosine"] = "cosine"
    """Name of the schedule."""
    warmup_epochs: NonNegative = 0.0
    """Epochs in which the learning rate rises linearly."""
    final_factor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Final factor: lr of the last step / lr."""


class Plateau(StrictModel):
    """Multiply the learning rate by `factor` after `patience` epochs without a better validation loss."""

    name: Literal["plateau"] = "plateau"
    """Name of the schedule."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Factor by which the learning rate is multiplied."""
    patience: Positive = 10
    """Epochs to wait for a better validation loss."""


class EMA(StrictModel):
    """Exponential moving average of the weights, updated at each step."""

    name: Literal["ema"] = "ema"
    """Name of the average."""
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Fraction of the average that is kept at each step."""


class SWA(StrictModel):
    """Stochastic weight averaging: the mean of the weights at the ends of the last epochs (Izmailov et al. 2018)."""

    name: Literal["swa"] = "swa"
    """Name of the average."""
    start: Fraction = 0.75
    """Fraction of the epochs before averaging starts."""


Optimizer = Annotated[SGD | Adam | AdamW, Field(discriminator="name"), ShortForm("adamw")]
Schedule = Annotated[Constant | OneCycle | Cosine | Plateau, Field(discriminator="name"), ShortForm("one_cycle")]
Average = Annotated[EMA | SWA, Field(discriminator="name"), ShortForm("ema")]
