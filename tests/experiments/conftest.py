"""Configs that comparisons and sweeps train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kpnet.config.loading import load_config


@pytest.fixture
def config(tmp_path: Path, tiny: dict[str, Any]) -> Callable[..., Path]:
    """`config("name", "key=value", …)`: the tiny config's file of that name."""

    def write(name: str, *overrides: str) -> Path:
        values = load_config(tiny, [*overrides, f"name={name}"]).model_dump(mode="json")
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write
