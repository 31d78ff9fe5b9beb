"""Write the files of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from kpnet.backbones.pretrained import InputSpec
from kpnet.config.loading import to_yaml
from kpnet.core.files import write_atomic
from kpnet.core.model_folder import CONFIG, WEIGHTS


def write_model(folder: str | Path, module: nn.Module, input_spec: InputSpec, values: dict[str, Any]) -> None:
    """Write a model's weights, and its YAML with `values` and the `input_spec`; no file is ever half written."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    write_atomic(folder / WEIGHTS, save(state, metadata={"format": "pt"}))
    write_atomic(folder / CONFIG, to_yaml({**values, "input": input_spec.model_dump()}).encode())
