"""Read weight files without executing anything in them, and load the weights that fit a module."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kpnet.core.errors import KpnetError, first_line
from kpnet.core.hub_address import format_path, hub_hint

_WRAPPERS = ("state_dict", "model_state_dict", "model")


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file or a torch pickle.

    A pickle is opened with `weights_only=True`: one that holds anything but weights is refused, not run.

    Args:
        path: The file.

    Returns:
        Names to tensors on the CPU; half precision becomes float32.

    Raises:
        KpnetError: The file is missing, corrupt, truncated or refused.
    """
    path = Path(path)
    if not path.is_file():
        raise KpnetError(f"{format_path(path)}: no such weight file{hub_hint(path)}")
    state = _read_safetensors(path) if _is_safetensors(path) else _read_pickle(path)
    tensors = {k: _float32(v) for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        raise KpnetError(f"{path}: no weights found; expected a state dict (names to tensors)")
    return tensors


class MismatchError(KpnetError):
    """Raised when the weights do not match the network."""


@dataclass(frozen=True)
class LoadReport:
    """What a module took from a weight file.

    Attributes:
        source: Where the weights came from, for messages.
        tensors: How many tensors were loaded.
        unused: Names of the file's tensors that the module has no place for.
    """

    source: str
    tensors: int
    unused: list[str]

    def __str__(self) -> str:
        parts = ", ".join(dict.fromkeys(name.split(".")[0] for name in self.unused))
        return f"{self.source}: {self.tensors} tensors" + (f"; not used: {parts}" if parts else "")


def load_matching_weights(module: nn.Module, state: Mapping[str, Tensor], source: str) -> LoadReport:
    """Load all of a module's parameters and buffers from a state dict that may hold more, such as a classifier.

    A prefix common to the file's names (`module.`, `backbone.`, …) is removed, and timm's flattened names
    (`blocks_0.0` for `blocks.0.0`) are matched. Weights that `torch.nn.utils.prune` has split are multiplied by their
    masks.

    Args:
        module: Where the weights go.
        state: Names to tensors.
        source: Where the weights came from, for messages.

    Returns:
        How many tensors were loaded, and the names of those in the file that were not.

    Raises:
        MismatchError: A shape differs, a parameter is missing, or the file has more layers inside one of the module's
            own. Nothing is loaded then.
        KpnetError: The weights hold NaN.
    """
    wanted = {k: v for k, v in module.state_dict().items() if isinstance(v, Tensor)}
    state = _without_pruning(state, wanted)
    flat = _strip_prefix({_flat(k): k for k in state}, wanted)
    found = {k: flat[_flat(k)] for k in wanted if _flat(k) in flat}
    for key, name in found.items():
        if state[name].shape != wanted[key].shape:
            raise MismatchError(
                f'{source}: "{name}" does not fit: the file has {tuple(state[name].shape)}, '
                f"the model expects {tuple(wanted[key].shape)}"
            )
    # Files from before PyTorch 0.4.1 lack BatchNorm's counter, which no computation here uses.
    missing = [k for k in wanted if k not in found and not k.endswith("num_batches_tracked")]
    if missing:
        raise MismatchError(
            f"{source}: {len(missing)} of the {len(wanted)} tensors of the model are not in the file, "
            f'first "{missing[0]}"; expected the weights of the same network'
        )
    _refuse_deeper(flat, wanted, source)
    for name in found.values():
        if state[name].is_floating_point() and state[name].isnan().any():
            raise KpnetError(f'{source}: "{name}" holds NaN: the weights are of a training that diverged')
    module.load_state_dict({k: state[name] for k, name in found.items()}, strict=False)
    used = set(found.values())
    return LoadReport(source, len(used), [name for name in state if name not in used])


def _without_pruning(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the weights with the products of `NAME_orig` and `NAME_mask` for those that the module does not prune."""
    names = {name.removesuffix("_mask") for name in state if name.endswith("_mask") and name not in wanted}
    pruned = {name for name in names if f"{name}_orig" in state}
    try:
        products = {name: state[f"{name}_orig"] * state[f"{name}_mask"] for name in pruned}
    except RuntimeError:  # of other shapes: no masks
        return state
    split = {f"{name}{ending}" for name in pruned for ending in ("_orig", "_mask")}
    return {name: value for name, value in state.items() if name not in split} | products if pruned else state


def _refuse_deeper(flat: Mapping[str, str], wanted: Mapping[str, Tensor], source: str) -> None:
    """Raise MismatchError for more layers in a stage: a resnet34's file has all the tensors that a resnet18 needs."""
    used = {_flat(key) for key in wanted}
    children = {key.split(".")[0] for key in wanted if key.count(".") > 1}
    stages = tuple(f"{name}." for child in children for name in (child, re.sub(r"_(\d+)$", r".\1", child)))
    for key, name in flat.items():
        # `key` lacks the file's prefix and dots; the name's last len(key) characters lack the prefix alone.
        if key not in used and key.endswith("_weight") and name[-len(key) :].startswith(stages):
            raise MismatchError(
                f'{source}: holds layers that the model does not have, first "{name}": weights of another network'
            )


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _strip_prefix(flat: dict[str, str], wanted: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the file's names without the prefix under which most of the wanted ones are found."""
    keys = [_flat(k) for k in wanted]
    prefixes = {""}
    for key in keys[:1]:
        prefixes |= {name[: -len(key)] for name in flat if name.endswith("_" + key)}
    # The shortest of equally good prefixes: the file's own level before a copy further down.
    best = max(sorted(prefixes, key=len), key=lambda p: sum(p + key in flat for key in keys))
    return {name[len(best) :]: original for name, original in flat.items() if name.startswith(best)}


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _is_safetensors(path: Path) -> bool:
    """Detect the format by content (eight bytes of length, then a JSON header), or else by the suffix."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" or path.suffix == ".safetensors"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise KpnetError(
            f"{path}: not a readable safetensors file, corrupt or truncated ({first_line(error)})"
        ) from None


def _read_pickle(path: Path) -> dict[Any, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise KpnetError(_why_refused(path, error)) from None
    for key in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        raise KpnetError(f"{path}: expected a state dict (names to tensors), found a {type(state).__name__}")
    return dict(state)


def _why_refused(path: Path, error: Exception) -> str:
    text = str(error).lower()
    # In a true pickle, which starts with 0x80, an instruction that torch refuses; elsewhere, no pickle at all.
    foreign = "unsupported operand" in text and path.read_bytes()[:1] == b"\x80"
    if foreign or any(phrase in text for phrase in ("unsupported global", "unsupported class", "is blocked")):
        return f"{path}: refused and not run: this pickle holds more than weights; save its state dict as safetensors"
    # torch puts a page of advice before what happened.
    reason = first_line(str(error).rpartition("WeightsUnpickler error:")[2].strip() or error)
    return f"{path}: not a readable weight file (safetensors or torch), corrupt or truncated ({reason})"
