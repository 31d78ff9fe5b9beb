"""The shipped recipes by the command that takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kpnet.config import list_configs, load_config
from kpnet.pretrain_config import load_pretrain_config

TRAINED = [name for name in list_configs() if not name.startswith("pretrain_")]


def loader(name: str) -> Callable[..., Any]:
    """What reads the recipe."""
    return load_config if name in TRAINED else load_pretrain_config
