"""Layer-by-layer summary of a network: sizes, parameters, multiply-adds, memory and receptive field."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from kpnet.core.runtime import evaluation_mode
from kpnet.models.receptive_field import Field, ReceptiveFields, tensors_in

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
POOLS = (nn.MaxPool2d, nn.AvgPool2d)


@dataclass(frozen=True)
class Layer:
    """One call of one layer, for one image.

    Attributes:
        name: Path of the layer in the model.
        type: Name of its class.
        input_shape: Shape of its first input, without the batch.
        output_shape: Shape of its first output, without the batch.
        formula: The output size by `(W − K + 2P)/S + 1`, for convolutions and pooling layers.
        warning: Rows and columns that are lost where the stride does not divide.
        parameters: Number of parameters; 0 at a second call.
        macs: Multiply-adds.
        activation_bytes: Bytes of the output; 0 where nothing new is stored, as by in-place layers and views.
        receptive_field: Input pixels that an output cell depends on, (rows, columns); None where unknown, or where
            every cell depends on the whole image.
        jump: Input pixels from one output cell to the next, (rows, columns); None as for `receptive_field`.
        sees_all: Whether every output depends on the whole image.
    """

    name: str
    type: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    formula: str = ""
    warning: str = ""
    parameters: int = 0
    macs: int = 0
    activation_bytes: int = 0
    receptive_field: tuple[int, int] | None = None
    jump: tuple[Fraction, Fraction] | None = None
    sees_all: bool = False


@dataclass(frozen=True)
class Summary:
    """The layers of a model and its totals, for one image.

    Attributes:
        layers: The layers, in the order of their calls.
        parameters: Number of parameters. It may exceed the layers' sum: a model can have some outside its layers, or
            layers that it does not call.
        trainable: Parameters that get a gradient.
        frozen: The other parameters.
        macs: Multiply-adds of convolutions and linear layers.
        activation_bytes: Bytes of the layers' outputs in a forward pass.
        model_bytes: Bytes of parameters and buffers.
    """

    layers: list[Layer]
    parameters: int
    trainable: int
    frozen: int
    macs: int
    activation_bytes: int
    model_bytes: int


def summarize(model: nn.Module, input_shape: tuple[int, int, int]) -> Summary:
    """Pass one blank image through a model in eval mode, and record what every layer does.

    Args:
        model: Any network of images.
        input_shape: Shape (C, H, W) of the image.

    Returns:
        The layers and the totals.

    Example:
        ```python
        summary = summarize(model, (1, 96, 96))
        print(summary.parameters, summary.macs)
        ```
    """
    first = next(model.parameters(), torch.zeros(0))
    image = torch.zeros(1, *input_shape, device=first.device, dtype=first.dtype)
    layers: list[Layer] = []
    counted: set[Tensor] = set()
    hooks = []
    with torch.no_grad(), evaluation_mode(model), ReceptiveFields(image) as fields:
        note = partial(_note, layers=layers, counted=counted, fields=fields)
        for name, module in model.named_modules():
            if not any(True for _ in module.children()):
                hooks.append(module.register_forward_hook(partial(note, name), with_kwargs=True))
        try:
            model(image)
        finally:
            for hook in hooks:
                hook.remove()
    parameters = list(model.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    total = sum(p.numel() for p in parameters)
    return Summary(
        layers=layers,
        parameters=total,
        trainable=trainable,
        frozen=total - trainable,
        macs=sum(layer.macs for layer in layers),
        activation_bytes=sum(layer.activation_bytes for layer in layers),
        model_bytes=sum(t.numel() * t.element_size() for t in [*parameters, *model.buffers()]),
    )


def _note(
    name: str,
    module: nn.Module,
    args: Any,
    kwargs: Any,
    result: Any,
    *,
    layers: list[Layer],
    counted: set[Tensor],
    fields: ReceptiveFields,
) -> None:
    inputs, outputs = list(tensors_in([args, kwargs])), list(tensors_in(result))
    if not inputs or not outputs:
        return
    held = {t.untyped_storage().data_ptr() for t in inputs}
    new = [t for t in outputs if t.untyped_storage().data_ptr() not in held]
    parameters = {p for p in module.parameters() if p not in counted}
    counted |= parameters
    shapes = inputs[0].shape[1:], outputs[0].shape[1:]
    formula, warning = _sizes(module, *shapes)
    layers.append(
        Layer(
            name=name or "(model)",
            type=type(module).__name__,
            input_shape=tuple(shapes[0]),
            output_shape=tuple(shapes[1]),
            formula=formula,
            warning=warning,
            parameters=sum(p.numel() for p in parameters),
            macs=_macs(module, inputs[0], outputs[0]),
            activation_bytes=sum(t.numel() * t.element_size() for t in new),
            **_seen(fields.of(outputs[0]), shapes[1]),
        )
    )


def _seen(field: Field, shape: torch.Size) -> dict[str, Any]:
    if isinstance(field, str):
        return {"sees_all": field == "all"}
    rows, columns = field
    return {
        "receptive_field": (rows.extent(shape[-2]), columns.extent(shape[-1])),
        "jump": (rows.jump, columns.jump),
    }


def _macs(module: nn.Module, x: Tensor, y: Tensor) -> int:
    """Return the multiply-adds of a convolution or linear layer; a bias is not counted."""
    if isinstance(module, CONVOLUTIONS):
        return y.numel() * module.weight[0].numel()  # (out, in / groups, kernel…)
    if isinstance(module, TRANSPOSED):
        return x.numel() * module.weight[0].numel()  # (in, out / groups, kernel…)
    if isinstance(module, nn.Linear):
        return y.numel() * module.in_features
    return 0


def _sizes(module: nn.Module, before: torch.Size, after: torch.Size) -> tuple[str, str]:
    """Return the formula of the output size, once if rows and columns agree, and the warning of a remainder."""
    if not isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, *POOLS)) or len(before) < 3:
        return "", ""
    if isinstance(module, nn.ConvTranspose2d):
        formulas = [_transposed_size(module, d, before[d - 2], after[d - 2]) for d in (0, 1)]
        rests: list[int | None] = [None, None]
    else:
        pairs = [_window_size(module, d, before[d - 2], after[d - 2]) for d in (0, 1)]
        formulas, rests = [formula for formula, _ in pairs], [rest for _, rest in pairs]
    formula = formulas[0] if formulas[0] == formulas[1] else f"H: {formulas[0]}; W: {formulas[1]}"
    lost = [_count(r, what) for r, what in zip(rests, ("row", "column"), strict=True) if r and r > 0]
    outside = [_count(-r, what) for r, what in zip(rests, ("row", "column"), strict=True) if r and r < 0]
    parts = [f"{' and '.join(lost)} lost"] if lost else []
    parts += [f"last window {' and '.join(outside)} outside"] if outside else []
    if not parts and any(r is not None for r in rests):
        parts = ["only padding is skipped"]
    return formula, f"stride does not divide: {', '.join(parts)}" if parts else ""


def _window_size(module: Any, d: int, size: int, out: int) -> tuple[str, int | None]:
    """Return the formula, and the input cells that no window reaches (negative: outside), None without a remainder."""
    stride = _pick(module.stride, d)
    kernel = (_pick(module.kernel_size, d) - 1) * _pick(getattr(module, "dilation", 1), d) + 1
    if isinstance(module.padding, str):
        padding = kernel - 1 if module.padding == "same" else 0
        text = f" + {padding}"
    else:
        padding = 2 * _pick(module.padding, d)
        text = f" + 2·{padding // 2}"
    exact = Fraction(size - kernel + padding, stride) + 1
    formula = f"({size} − {kernel}{text if padding else ''})/{stride} + 1 = "
    if exact.denominator == 1:
        return f"{formula}{exact}", None
    rest = (size - kernel + padding) % stride
    missed = rest - stride if out > exact else max(0, rest - padding // 2)
    return f"{formula}{round(float(exact), 2):g} → {out}", missed


def _transposed_size(module: nn.ConvTranspose2d, d: int, size: int, out: int) -> str:
    stride, kernel, padding = (_pick(v, d) for v in (module.stride, module.kernel_size, module.padding))
    kernel = (kernel - 1) * _pick(module.dilation, d) + 1
    more = out - ((size - 1) * stride - 2 * padding + kernel)
    minus, plus = f" − 2·{padding}" if padding else "", f" + {more}" if more else ""
    return f"({size} − 1)·{stride}{minus} + {kernel}{plus} = {out}"


def _pick(value: Any, d: int) -> int:
    return value[d] if isinstance(value, (list, tuple)) else int(value)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def render(summary: Summary) -> Table:
    """Return a rich table of a summary, about 120 characters wide; print it with `rich.print`."""
    table = Table(caption=_totals(summary), caption_justify="left", caption_style="", box=box.HORIZONTALS, padding=0)
    for title in ("layer", "type", "output"):
        table.add_column(title, overflow="fold")
    table.add_column("(W − K + 2P)/S + 1", min_width=27)
    for title in ("params", "MACs", "memory", "sees px", "jump"):
        table.add_column(title, justify="right", no_wrap=True)
    for layer in summary.layers:
        colour = "dim" if layer.warning.endswith("only padding is skipped") else "yellow"
        table.add_row(
            layer.name,
            layer.type,
            "×".join(map(str, layer.output_shape)),
            Text.assemble(layer.formula, (f"\n{layer.warning}" if layer.warning else "", colour)),
            f"{layer.parameters:,}" if layer.parameters else "",
            _short(layer.macs) if layer.macs else "",
            _bytes(layer.activation_bytes) if layer.activation_bytes else "",
            "all" if layer.sees_all else _pair(layer.receptive_field),
            "" if layer.sees_all else _pair(layer.jump),
        )
    return table


def _totals(summary: Summary) -> str:
    return (
        f"parameters {summary.parameters:,} ({summary.trainable:,} trainable, {summary.frozen:,} frozen), "
        f"{_bytes(summary.model_bytes)} with buffers\n"
        f"MACs {_short(summary.macs)}, activations of a forward pass {_bytes(summary.activation_bytes)}, for one image"
    )


def _pair(values: tuple[Any, Any] | None) -> str:
    if values is None:
        return "–"
    return "×".join(f"{float(v):.4g}" for v in (values[:1] if values[0] == values[1] else values))


def _short(number: float) -> str:
    return _scaled(number, 1000, ("", " k", " M", " G", " T"))


def _bytes(number: float) -> str:
    return _scaled(number, 1024, (" B", " KiB", " MiB", " GiB"))


def _scaled(number: float, base: int, units: tuple[str, ...]) -> str:
    power = 0
    while number >= base and power < len(units) - 1:
        number, power = number / base, power + 1
    return f"{number:.4g}{units[power]}"
