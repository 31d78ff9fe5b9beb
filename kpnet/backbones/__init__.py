"""Images to feature pyramids. Knows nothing of keypoints.

Imports core, config and no other kpnet package.

To add a backbone: write a file here with a subclass of `Backbone` under `@BACKBONES.register("NAME")`, import it below,
and subclass `Contract` in `tests/backbones/test_contract.py` for it. `base.py` says what a backbone has to do, and
`conv_sandwich.py` is an example. Networks of timm and torchvision need no file: `factory.py` finds them by name.
"""

from __future__ import annotations

from kpnet.backbones import conv_sandwich, mlp  # noqa: F401 (they register themselves)
from kpnet.backbones.base import BACKBONES, Backbone
from kpnet.backbones.factory import build_backbone, list_backbones

__all__ = ["BACKBONES", "Backbone", "build_backbone", "list_backbones"]
