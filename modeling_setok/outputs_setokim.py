"""What Setokim's models return."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput

from .outputs_setok import SetokModelOutput
from .placeholders import ExpandedSequence


@dataclass
class SetokimImageFeatures(BaseModelOutputWithPooling):
    """Visual tokens for every placeholder of a batch (`<image>` or `<mask>`), in reading order.

    `pooler_output`: list of (n_i, hidden) embeddings for the language model. `visual_tokens`: list of (n_i, D) of unit
    variance. For the masks alone: `mask_prompts` (M, C, D) and `mask_prompt_mask` (M, C), the visual tokens under them,
    and `mask_images` (M,) long, the image that each belongs to. `setok_output`: of the images.
    """

    visual_tokens: list[torch.FloatTensor] | None = None
    mask_prompts: torch.FloatTensor | None = None
    mask_prompt_mask: torch.BoolTensor | None = None
    mask_images: torch.LongTensor | None = None
    setok_output: SetokModelOutput | None = None


@dataclass
class SetokimModelOutput(ModelOutput):
    """`last_hidden_state` (B, T, hidden), at the compact positions. `past_key_values`, `hidden_states` and `attentions`
    are the language model's, over the expanded sequence. `expanded`: that sequence, and `image_features`: what stands
    in it, where the prompt had images."""

    last_hidden_state: torch.FloatTensor | None = None
    past_key_values: object | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    expanded: ExpandedSequence | None = None
    image_features: SetokimImageFeatures | None = None


@dataclass
class SetokimCausalLMOutput(ModelOutput):
    """`loss` () is the weighted sum of `text_loss`, `diffusion_loss` and `mask_loss`, each () where the labels or masks
    have something for it. `logits` (B, T, V) and `last_hidden_state` (B, T, hidden) are at the compact positions.
    `mask_logits` (M, 4h, 4w): of each mask."""

    loss: torch.FloatTensor | None = None
    text_loss: torch.FloatTensor | None = None
    diffusion_loss: torch.FloatTensor | None = None
    mask_loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    past_key_values: object | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    mask_logits: torch.FloatTensor | None = None
