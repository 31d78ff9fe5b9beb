"""Map decoders: feature pyramids to one map at one stride, for heads that need a map.

To add one: write a file here with a subclass of `Decoder` under `@DECODERS.register("NAME")`, and import it below;
`tests/heads/test_contract.py` then runs every head with a decoder on it. `base.py` says what a decoder has to do, and
`upsample.py` is the smallest example.
"""

from __future__ import annotations

from kpnet.heads.decoders import aspp, deconv, top_down, unet, upsample  # noqa: F401 (they register themselves)
from kpnet.heads.decoders.base import DECODERS

__all__ = ["DECODERS"]
