"""Image processor and pictures of concept tokens. Importing registers the processor with `AutoImageProcessor`."""

from transformers import AutoImageProcessor

from modeling_setok import SetokConfig

from .image_processing_setok import SetokImageProcessor
from .visualization import contact_sheet, draw_concept_tokens, side_by_side, token_colors

AutoImageProcessor.register(SetokConfig, image_processor_classes={"pil": SetokImageProcessor}, exist_ok=True)

__all__ = ["SetokImageProcessor", "contact_sheet", "draw_concept_tokens", "side_by_side", "token_colors"]
