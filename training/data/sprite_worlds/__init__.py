"""Two small worlds in which work on object discovery is measured, drawn after their published descriptions."""

from .multi_dsprites import MultiDSprites
from .scenes import SpriteScene
from .tetrominoes import Tetrominoes

__all__ = ["MultiDSprites", "SpriteScene", "Tetrominoes"]
