"""Reading a sweep's YAML, and checking its search space."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kpnet.config.loading import flatten, load_as, load_config
from kpnet.config.schema import Config
from kpnet.config.sweep import Range, SweepConfig
from kpnet.core.errors import KpnetError, did_you_mean
from kpnet.core.resources import shipped_configs
from kpnet.models.build import build_model


def load_sweep(source: str | Path, overrides: Sequence[str] = ()) -> tuple[SweepConfig, Config]:
    """Load a sweep and the config that it varies.

    Args:
        source: A YAML file, or the name of a shipped sweep.
        overrides: Config values, applied after the sweep's own.

    Returns:
        The sweep's settings and the config.

    Raises:
        KpnetError: If the sweep or the config is wrong, or a key of the space is in no config or takes other values.
    """
    sweep = load_as(SweepConfig, _sweep_file(str(source)))
    sweep = sweep.model_copy(update={"overrides": [*sweep.overrides, *overrides]})
    config = load_config(sweep.config, sweep.overrides)
    for key, values in sweep.space.items():
        _check(sweep, config, key, [values.low, values.high] if isinstance(values, Range) else values)
    return sweep, config


def _sweep_file(source: str) -> str:
    """Return the path of a shipped sweep by its name, or `source` itself if it is a file."""
    if Path(source).is_file() or Path(source).suffix:
        return source
    known = shipped_configs("sweeps")
    if source not in known:
        raise KpnetError(
            f'unknown sweep "{source}"{did_you_mean(source, known)}; there are: {", ".join(known)}; or give a YAML file'
        )
    return str(known[source])


def config_with_values(sweep: SweepConfig, values: dict[str, Any]) -> Config:
    """Return the sweep's config with these values of the space's keys."""
    return load_config(sweep.config, [*sweep.overrides, *(f"{key}={json.dumps(v)}" for key, v in values.items())])


def _check(sweep: SweepConfig, config: Config, key: str, values: list[Any]) -> None:
    """Raise KpnetError if the config does not take one of the values."""
    for value in values:
        try:
            tried = config_with_values(sweep, {key: value})
            if key.startswith("model."):
                build_model(tried, num_keypoints=tried.model.num_keypoints or 1)
        except KpnetError as error:
            known = list(flatten(config.model_dump()))
            hint = "" if key in known else did_you_mean(key, known)
            raise KpnetError(f"sweep {sweep.name}: {key}{hint}: {error}") from None
