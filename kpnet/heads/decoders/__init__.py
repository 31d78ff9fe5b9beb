"""Map decoders: feature pyramids to K logit maps at one stride."""

from __future__ import annotations

from kpnet.heads.decoders import deconv, top_down  # noqa: F401 (they register themselves)
from kpnet.heads.decoders.base import DECODERS

__all__ = ["DECODERS"]
