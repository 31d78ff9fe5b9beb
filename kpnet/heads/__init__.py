"""Feature pyramids to keypoints. Knows nothing of images or YAML.

Imports core and the function modules: coordinates, decoding, losses, rendering, uncertainty.

To add a head: write a file here with a subclass of `Head` under `@HEADS.register("NAME")`, and import it below;
`tests/heads/test_contract.py` then runs on it. `base.py` says what a head has to do, `regression.py` is the smallest
example, and `heatmap.py` one with a map decoder. To add a map decoder: `kpnet.heads.decoders`.
"""

from __future__ import annotations

from kpnet.core.registry import load_plugins
from kpnet.heads import centers, heatmap, likelihood, multi, offset, regression, rle, simcc, temporal  # noqa: F401 (they register themselves)
from kpnet.heads.base import HEADS, Head, HeadOutput, Keypoints, PointBlock, PyramidInfo, finds_instances, window_of
from kpnet.heads.centers import Detections

__all__ = [
    "HEADS",
    "Detections",
    "Head",
    "HeadOutput",
    "Keypoints",
    "PointBlock",
    "PyramidInfo",
    "finds_instances",
    "list_heads",
    "window_of",
]


def list_heads() -> list[str]:
    """Return the names of all heads, those of plugins too.

    Returns:
        The names that `head` takes in `build_model` and in YAML, sorted.

    Example:
        ```python
        kpnet.list_heads()  # ["gaussian_nll", "heatmap", …]
        ```
    """
    load_plugins()
    return sorted(HEADS)
