"""The smallest config, and what loading it with bad overrides says."""

from __future__ import annotations

from typing import Any

import pytest

from kpnet.config.loading import load_config
from kpnet.core.errors import KpnetError

BASE: dict[str, Any] = {"model": {"backbone": "conv_sandwich", "head": "heatmap"}}


def fails(*overrides: str, source: Any = BASE) -> str:
    with pytest.raises(KpnetError) as caught:
        load_config(source, overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert "pydantic" not in message
    return message
