"""Concept names: the joint space of concept tokens and text, for the contrastive loss and to name what tokens show."""

import math
from typing import Unpack

import torch
from torch import nn
from transformers import AutoModel, Siglip2TextModel, SiglipTextModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .attention_of_parts import with_attention_of
from .concept_contrastive import concept_contrastive_loss, mean_token, unit
from .configuration_setok import SetokConfig
from .forward_arguments import refuse_unknown_arguments, requested_outputs, returned_outputs

# Text models that AutoModel does not know
SIGLIP_TEXT_MODELS = {"siglip_text_model": SiglipTextModel, "siglip2_text_model": Siglip2TextModel}


def make_text_model(config: SetokConfig) -> PreTrainedModel | None:
    """The text encoder of `config.text_config`; `None` where there is none."""
    return None if config.text_config is None else with_attention_of(config, _text_model, config.text_config)


def _text_model(text_config, **kwargs) -> PreTrainedModel:
    siglip = SIGLIP_TEXT_MODELS.get(text_config.model_type)
    return (
        AutoModel.from_config(text_config, **kwargs) if siglip is None else siglip._from_config(text_config, **kwargs)
    )


class ConceptBank(nn.Module):
    """Text features of `config.concept_names`, saved with the weights; they are no parameters.

    (A module of their own: device maps name parameters and modules, but no buffers.)
    """

    def __init__(self, num_concepts: int, feature_dim: int):
        super().__init__()
        self.register_buffer("features", torch.zeros(num_concepts, feature_dim))

    def forward(self) -> torch.Tensor:
        return self.features


class ConceptNamesMixin:
    """Mixed into a model of a `SetokConfig` that has `visual_projection`, `text_projection`, `logit_scale`, a
    `text_model` (or `None`) and, where the config has `concept_names`, a `concept_bank`."""

    @property
    def inverse_temperature(self) -> torch.Tensor:
        """1 / tau (), learned, at most 100."""
        return self.logit_scale.clamp(max=math.log(100)).exp()

    def contrastive_loss(
        self,
        image_features: torch.Tensor,
        concept_ids: torch.LongTensor,
        concept_input_ids: torch.LongTensor | None = None,
        concept_attention_mask: torch.LongTensor | None = None,
    ) -> torch.Tensor:
        """Eq. 7 for unit-length image features (B, P); the concepts as in `SetokForPreTraining.forward`."""
        if concept_input_ids is None:
            texts = self.bank_features()[concept_ids.clamp(min=0)]
        else:
            if concept_attention_mask is not None:
                concept_attention_mask = concept_attention_mask.flatten(0, 1)
            texts = self.get_text_features(concept_input_ids.flatten(0, 1), concept_attention_mask, return_dict=True)
            texts = texts.pooler_output.unflatten(0, concept_input_ids.shape[:2])
        texts, concept_ids, scale = (
            x.to(image_features.device) for x in (texts, concept_ids, self.inverse_temperature)
        )
        return concept_contrastive_loss(image_features, texts, concept_ids, scale, form=self.config.contrastive_form)

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.LongTensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """`pooler_output`: unit-length features (V, P) of tokenised prompts (V, L), in the space of the projected
        tokens; `last_hidden_state`, `hidden_states` and `attentions`: the text encoder's."""
        refuse_unknown_arguments(kwargs)
        if self.text_model is None:
            raise ValueError(
                "This model has no text encoder (config.text_config is None); it knows the concepts of "
                "config.concept_names only. Encode other names with the text encoder it was trained with and call "
                "set_concepts()."
            )
        requested = requested_outputs(self.config, output_hidden_states, output_attentions)
        with torch.no_grad():
            outputs = self.text_model(
                input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **requested, **kwargs
            )
        return BaseModelOutputWithPooling(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=unit(self.text_projection(self._pooled_text(outputs, attention_mask))),
            **returned_outputs(outputs, self.config.text_config, **requested),
        )

    def _pooled_text(self, outputs: ModelOutput, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """One vector per prompt: what the text tower of a contrastive model was trained to pool, the mean over the
        tokens of any other encoder (BERT has a pooler too, but for another task)."""
        if self.config.text_config.model_type.endswith("_text_model"):
            return outputs.pooler_output
        hidden_states = outputs.last_hidden_state
        mask = torch.ones_like(hidden_states[..., 0]) if attention_mask is None else attention_mask
        return mean_token(hidden_states, mask)

    def bank_features(self) -> torch.Tensor:
        """Unit-length features (V, P) of the concept bank, in the space of the projected tokens."""
        if self.config.concept_names is None:
            raise ValueError("This model has no concept bank: call set_concepts(names, text_features) first.")
        return unit(self.text_projection(self.concept_bank().to(self.logit_scale.dtype)))

    def set_concepts(self, names: list[str], text_features: torch.Tensor) -> None:
        """Fills the concept bank.

        Args:
            names: V concept names.
            text_features: (V, text_feature_dim), what the frozen text encoder gives for their prompts.
        """
        if text_features.shape != (len(names), self.config.text_feature_dim):
            raise ValueError(
                "text_features must be (len(names), text_feature_dim) = "
                f"({len(names)}, {self.config.text_feature_dim}), got {tuple(text_features.shape)}."
            )
        self.config.concept_names = list(names)
        self.config.validate_concept_names()
        self.concept_bank = ConceptBank(*text_features.shape).to(self.logit_scale)
        self.concept_bank.features.copy_(text_features)

    def token_concept_logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Scaled similarity (B, C, V) of every concept token (B, C, D) to every concept of the bank."""
        features = unit(self.visual_projection(tokens))
        return self.inverse_temperature.to(features.device) * features @ self.bank_features().to(features.device).T

    def concept_logits(self, tokens: torch.Tensor, token_mask: torch.Tensor) -> torch.Tensor:
        """Scaled similarity (B, V) of whole images, V^I of Eq. 5, to every concept of the bank."""
        return self.token_concept_logits(mean_token(tokens, token_mask)[:, None])[:, 0]
