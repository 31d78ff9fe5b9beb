"""Parts for kpnet: importing this registers them."""

from downstream_pose.arrows import Arrows
from downstream_pose.gated import GatedHead

__all__ = ["Arrows", "GatedHead"]
