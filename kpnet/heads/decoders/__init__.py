"""Map decoders: feature pyramids to one map at one stride."""

from __future__ import annotations

from kpnet.heads.decoders import aspp, deconv, top_down, unet, upsample  # noqa: F401 (they register themselves)
from kpnet.heads.decoders.base import DECODERS

__all__ = ["DECODERS"]
