"""Write the files of a model."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn, uint8

from kpnet import __version__
from kpnet.backbones.pretrained import InputSpec
from kpnet.config.loading import to_yaml
from kpnet.core.errors import KpnetError, first_line
from kpnet.core.files import write_atomic
from kpnet.core.hub import in_hub_cache
from kpnet.core.model_folder import CONFIG, WATCH, WEIGHTS
from kpnet.core.outputs import check_writable
from kpnet.core.yaml import read_yaml

OWN = "kpnet"  # key of the version in the metadata of weights that kpnet wrote
EXTRA_STATE = "extra_state"  # key of the file's metadata for what modules give to `get_extra_state`, as JSON


def write_model(
    folder: str | Path, module: nn.Module, input_spec: InputSpec, values: dict[str, Any], watch: bytes | None = None
) -> None:
    """Write a model's weights, and its YAML with `values` and the `input_spec`; no file is ever half written.

    `watch` is the content of the summary of held-out data; None: that of an earlier model is removed.

    Raises:
        KpnetError: The folder holds the weights of another program, is in the hub's cache, or cannot be written; or the
            state has values that are neither tensors nor JSON, such as those of a quantised layer.
    """
    folder = Path(folder)
    if in_hub_cache(folder):  # its address would give what is written, in place of what the hub has
        raise KpnetError(f"{folder}: in the hub's cache, read-only; save the model to a folder of your own")
    tensors, extra = _state(module)
    check_writable(folder)
    own = (WEIGHTS, _are_own_weights), (CONFIG, _is_own_config), (WATCH, _are_own_weights)
    for path, is_own in ((folder / name, check) for name, check in own):
        if os.path.lexists(path) and not is_own(path):
            raise KpnetError(f"{path}: exists, and kpnet did not write it; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt", OWN: __version__} | ({EXTRA_STATE: extra} if extra else {})
    write_atomic(folder / CONFIG, to_yaml({**values, "input": input_spec.model_dump()}).encode())
    if watch is None:
        (folder / WATCH).unlink(missing_ok=True)
    else:
        write_atomic(folder / WATCH, watch)
    # Last: a folder that has them is complete.
    write_atomic(folder / WEIGHTS, save(tensors, metadata=metadata))


def weights_digest(module: nn.Module, without: str | None = None) -> str:
    """Return the SHA-256 of a module's weights with their names; `without` leaves out those of one part."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        if isinstance(value, Tensor) and (without is None or not name.startswith(f"{without}.")):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(uint8).numpy().tobytes())
    return digest.hexdigest()


def _is_own_config(path: Path) -> bool:
    """Return whether a YAML describes a saved model; one that is to be trained says nothing of input statistics."""
    try:
        values = read_yaml(path, "the config of a saved model")
    except KpnetError:
        return False
    return isinstance(values, dict) and {"model", "input"} <= values.keys()


def _are_own_weights(weights: Path) -> bool:
    """Return whether kpnet wrote a weight file."""
    try:
        with safe_open(weights, "pt") as file:
            return OWN in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def load_extra_state(module: nn.Module, file: Path) -> None:
    """Give the modules what they gave to `get_extra_state` when the weight file was written.

    Raises:
        KpnetError: It is damaged, or a module does not take it.
    """
    with safe_open(file, framework="pt") as weights:
        text = (weights.metadata() or {}).get(EXTRA_STATE)
    try:
        module.load_state_dict(json.loads(text or "{}"), strict=False)
    except Exception as error:  # what modules raise for values that they do not know
        raise KpnetError(f"{file}: the state of its modules: {first_line(error, with_type=True)}") from None


def _state(module: nn.Module) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a module's state, each with memory of its own, and the rest of it as JSON."""
    tensors: dict[str, Tensor] = {}
    extra: dict[str, Any] = {}
    stored: set[int] = set()
    for key, value in module.state_dict().items():
        name = key.replace("_orig_mod.", "")  # of a part that torch.compile has wrapped
        if not isinstance(value, Tensor) or value.is_quantized:
            extra[name] = value
            continue
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        # Tied weights are written for each of their names; safetensors refuses tensors that share memory.
        tensors[name] = tensor.clone() if storage in stored else tensor
        stored.add(storage)
    try:
        return tensors, json.dumps(extra) if extra else ""
    except (TypeError, ValueError):
        found = next(name for name, value in extra.items() if not _is_json(value))
        raise KpnetError(
            f'"{found}" is a {type(extra[found]).__name__}, expected tensors, or JSON from get_extra_state: '
            "a quantised model cannot be saved; save it before, and quantise it after it is loaded"
        ) from None


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
