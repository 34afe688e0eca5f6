"""Processors and pictures of concept tokens. Importing registers the processors with the Auto classes,
and for being saved with their code."""

from transformers import AutoImageProcessor, AutoProcessor

from modeling_setok import SetokConfig, SetokimConfig

from .image_processing_setok import SetokImageProcessor
from .processing_setokim import SetokimProcessor
from .sharp_tokens import sharpen_tokens
from .visualization import contact_sheet, draw_concept_tokens, draw_mask, side_by_side, token_colors

AutoImageProcessor.register(SetokConfig, image_processor_classes={"pil": SetokImageProcessor}, exist_ok=True)
AutoProcessor.register(SetokimConfig, SetokimProcessor, exist_ok=True)
SetokImageProcessor.register_for_auto_class()
SetokimProcessor.register_for_auto_class()

__all__ = [
    "SetokImageProcessor",
    "SetokimProcessor",
    "contact_sheet",
    "draw_concept_tokens",
    "draw_mask",
    "sharpen_tokens",
    "side_by_side",
    "token_colors",
]
