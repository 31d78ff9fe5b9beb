"""Write the files of a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from kpnet import __version__
from kpnet.backbones.pretrained import InputSpec
from kpnet.config.loading import to_yaml
from kpnet.core.errors import KpnetError
from kpnet.core.files import write_atomic
from kpnet.core.model_folder import CONFIG, WEIGHTS
from kpnet.core.outputs import check_writable

OWN = "kpnet"  # key of the version in the metadata of weights that kpnet wrote


def write_model(folder: str | Path, module: nn.Module, input_spec: InputSpec, values: dict[str, Any]) -> None:
    """Write a model's weights, and its YAML with `values` and the `input_spec`; no file is ever half written.

    Raises:
        KpnetError: The folder holds the weights of another program, or cannot be written.
    """
    folder = Path(folder)
    check_writable(folder)
    if os.path.lexists(folder / WEIGHTS) and not _is_own(folder / WEIGHTS):
        raise KpnetError(f"{folder / WEIGHTS}: exists, and kpnet did not write it; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    write_atomic(folder / WEIGHTS, save(state, metadata={"format": "pt", OWN: __version__}))
    write_atomic(folder / CONFIG, to_yaml({**values, "input": input_spec.model_dump()}).encode())


def _is_own(weights: Path) -> bool:
    """Return whether kpnet wrote a weight file."""
    try:
        with safe_open(weights, "pt") as file:
            return OWN in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False
