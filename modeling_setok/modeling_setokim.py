"""Setokim (§2.2): a causal language model that reads, and writes, images as concept tokens.

A prompt holds one `<image>` per image. The base model puts each image's visual tokens in its place, runs the language
model over this expanded sequence, and hands back the hidden states of the compact positions (of an image: its last).
"""

from typing import Unpack

import torch
from torch import nn
from transformers import AutoModel
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, is_flash_attention_requested

from .base_setokim import SetokimPreTrainedModel
from .composition_setokim import SetokimCompositionMixin
from .configuration_setokim import SetokimConfig
from .detokenizer import SetokDetokenizer
from .diffusion_head import DiffusionHead
from .forward_arguments import refuse_unknown_arguments
from .generation_setokim import SetokimGenerationMixin
from .losses_setokim import weighted_losses
from .mask_decoder import MaskDecoder
from .modeling_setok import SetokModel
from .outputs_setokim import SetokimCausalLMOutput, SetokimImageFeatures, SetokimModelOutput
from .packed_rows import PackedRows, check_rows_stay_apart, packed_rows
from .placeholders import expand_placeholders, find_special_tokens, gather_positions, learned_positions, past_length
from .tasks_setokim import SetokimTasksMixin
from .vision_encoder import patch_dim_of
from .visual_tokens import TokenStatistics, VisualProjector, VisualTokensMixin


class SetokimModel(VisualTokensMixin, SetokimPreTrainedModel):
    """SeTok, the projector and the language model without its head."""

    modules_not_quantized = ("setok", "multi_modal_projector")
    _frozen_parts = ("setok",)
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\.", r"^detokenizer\.", r"^diffusion_head\.", r"^mask_decoder\."]

    def __init__(self, config: SetokimConfig):
        super().__init__(config)
        self.setok = SetokModel(config.vision_config)
        self.multi_modal_projector = VisualProjector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.token_statistics = TokenStatistics(config.vision_config.hidden_size)
        self._rows_apart_with: str | None = None  # the attention that was seen to keep packed rows apart
        self.post_init()
        self.freeze_parts()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.FloatTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        masks: torch.Tensor | None = None,
        mm_encoder_outputs: dict | None = None,
        use_cache: bool | None = None,
        pack_rows: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SetokimModelOutput:
        """
        Args:
            input_ids: (B, T), with one `<image>` per image; with `mm_encoder_outputs`, also expanded.
            attention_mask: (B, T), 0 on padding.
            position_ids: (B, T), of the compact text; each image takes as many positions as it has tokens.
            inputs_embeds: (B, T, hidden), in place of `input_ids`, whose special tokens are found by their embedding.
            pixel_values: (I, 3, H, W), the batch's images in reading order.
            masks: (M, H, W), the batch's masks in reading order.
            mm_encoder_outputs: in place of `pixel_values`: {"image": what `get_image_features` returned}, or {"setok":
                what SeTok returned, or a mapping of its fields}, of which the projector still makes features.
            pack_rows: whether the language model reads the rows end to end instead of padded, each apart from the
                others: for training, whose result is the same. The output's `hidden_states` and `attentions` are then
                those of the packed sequences.

        Raises:
            ValueError: images, masks and their placeholders do not match, a cache does not fit the rest, or all of it
                is longer than the positions that the language model has learned (rotary ones go on, if badly); rows to
                be packed come with a cache, positions or an attention mask of their own, or in a language model in
                which they would see each other.
        """
        refuse_unknown_arguments(kwargs, self.language_model)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either input_ids or inputs_embeds.")
        if pack_rows and (past_key_values is not None or use_cache or position_ids is not None):
            raise ValueError(
                "Packed rows have no cache, and positions of their own: leave out past_key_values, use_cache and "
                "position_ids (a trainer gives them for context parallelism), or pack_rows."
            )
        ids = input_ids
        if inputs_embeds is not None:
            ids = find_special_tokens(self.config, inputs_embeds, self.get_input_embeddings())
        features, expanded = self.resolve_features(ids, pixel_values, masks, mm_encoder_outputs), None
        has_mask = getattr(attention_mask, "ndim", None) == 2  # with a static cache it is made already, or several are
        past = past_length(past_key_values) if features is not None or has_mask else 0
        if features is not None or pack_rows:
            counts = [] if features is None else [len(tokens) for tokens in features.pooler_output]
            expanded = expand_placeholders(self.config, ids, attention_mask, position_ids, counts, past)
        if expanded is not None:
            ids, position_ids = expanded.input_ids, expanded.position_ids
            attention_mask = expanded.attention_mask
            if past:
                attention_mask = torch.cat([expanded.past_mask, attention_mask], dim=1)
            inputs_embeds = gather_positions(inputs_embeds, expanded.source_positions)
        if past and has_mask and attention_mask.shape[1] != past + ids.shape[1]:
            raise ValueError(
                f"The attention_mask is of {attention_mask.shape[1]} positions, but the cache holds {past} and "
                f"{ids.shape[1]} follow. A cache counts an image's visual tokens, not its one <image>: let generate() "
                "go on from it, or lengthen the mask."
            )
        limit = learned_positions(self.config.text_config)
        if limit is not None and past + ids.shape[1] > limit:
            raise ValueError(
                f"The text has {past + ids.shape[1]} tokens, those of its images included: more than the {limit} "
                "positions of the language model (max_position_embeddings of its config). Shorten it."
            )
        inputs_embeds, packing = self._embed(ids, inputs_embeds, features), None
        if pack_rows:
            if expanded is None:
                raise ValueError("Packed rows must come as text with one <image> for each image, not expanded already.")
            packing = self._packing(inputs_embeds, attention_mask)
            inputs_embeds, attention_mask, use_cache = packing.pack(inputs_embeds), None, False
            position_ids = packing.position_ids.to(inputs_embeds.device)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        if packing is not None:
            hidden_states = packing.unpack(hidden_states)
        if expanded is not None:
            expanded.hidden_states = hidden_states
            hidden_states = gather_positions(hidden_states, expanded.compact_positions)
            if (cache := outputs.get("past_key_values")) is not None:
                inserted = len(ids[0]) - len(expanded.compact_positions[0])
                cache.num_inserted = getattr(cache, "num_inserted", 0) + inserted
        return SetokimModelOutput(
            last_hidden_state=hidden_states,
            past_key_values=outputs.get("past_key_values"),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
            expanded=expanded,
            image_features=features,
        )

    def _embed(
        self,
        input_ids: torch.LongTensor,
        inputs_embeds: torch.Tensor | None,
        features: SetokimImageFeatures | None,
    ) -> torch.Tensor:
        """The embeddings (B, T', hidden) of an expanded sequence, with the features at its visual tokens."""
        is_visual = input_ids == self.config.image_token_id
        if features is None and bool(is_visual.any()):
            raise ValueError(
                f"Image features and image tokens do not match, tokens: {int(is_visual.sum())}, features: 0: the text "
                "has <image> but there are no pixel_values."
            )
        idle = self.idle_features() if features is None and self.training else None  # first, as features come first
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if features is not None:
            visual = torch.cat(list(features.pooler_output)).to(inputs_embeds)
            return inputs_embeds.masked_scatter(is_visual[..., None].to(inputs_embeds.device), visual)
        return inputs_embeds if idle is None else inputs_embeds + idle.to(inputs_embeds)

    def _packing(self, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor) -> PackedRows:
        """How these rows are packed, after a look at the language model when it is the first time."""
        config = self.language_model.config
        if self._rows_apart_with != config._attn_implementation:
            check_rows_stay_apart(self.language_model, inputs_embeds)
            self._rows_apart_with = config._attn_implementation
        return packed_rows(attention_mask, in_one=is_flash_attention_requested(config))


class SetokimForConditionalGeneration(
    SetokimCompositionMixin, SetokimGenerationMixin, SetokimTasksMixin, SetokimPreTrainedModel
):
    """Setokim with its heads: text, visual tokens (diffusion), images (detokenizer) and masks (mask decoder)."""

    accepts_loss_kwargs = False  # the losses are means over a batch: Trainer divides them by the accumulation steps
    modules_not_quantized = (
        "model.setok", "model.multi_modal_projector", "lm_head", "diffusion_head", "detokenizer", "mask_decoder"
    )  # fmt: skip
    _auto_map = SetokimPreTrainedModel._auto_map | {
        "AutoModelForMultimodalLM": "modeling_setokim.SetokimForConditionalGeneration"
    }
    _frozen_parts = ("model.setok", "detokenizer", "mask_decoder")
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: SetokimConfig):
        super().__init__(config)
        self.model = SetokimModel(config)
        text_config, vision_config = config.text_config, config.vision_config
        self.lm_head = nn.Linear(text_config.hidden_size, text_config.vocab_size, bias=False)
        self.detokenizer = SetokDetokenizer(vision_config.detokenizer_config, token_dim=vision_config.hidden_size)
        self.diffusion_head = DiffusionHead(config.diffusion_config, vision_config.hidden_size, text_config.hidden_size)
        self.mask_decoder = MaskDecoder(
            config.mask_decoder_config, patch_dim_of(vision_config), vision_config.hidden_size
        )
        self._tied_weights_keys = {
            "lm_head.weight": f"model.language_model.{_embedding_name(self.model.language_model)}.weight"
        }
        self.post_init()
        self.freeze_parts()

    def train(self, mode: bool = True) -> "SetokimForConditionalGeneration":
        """As ever, but what is frozen stays in eval mode, as SeTok does by itself."""
        super().train(mode)
        for part in (self.detokenizer, self.mask_decoder):
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs) -> SetokimImageFeatures:
        """See `SetokimModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, **kwargs)

    def calibrate(self, images) -> None:
        """See `SetokimModel.calibrate`."""
        self.model.calibrate(images)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.FloatTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        masks: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        mm_encoder_outputs: dict | None = None,
        use_cache: bool | None = None,
        pack_rows: bool = False,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SetokimCausalLMOutput:
        """
        Args:
            input_ids, attention_mask, position_ids, inputs_embeds, pixel_values, masks, mm_encoder_outputs, pack_rows:
                see `SetokimModel.forward`.
            labels: (B, T), the ids to predict, -100 elsewhere. An `<image>` or `<mask>` that keeps its id is a target:
                its visual tokens are learned by the diffusion head, their number by the text loss.
            logits_to_keep: only the last so many positions (0: all), or those of a tensor of indices.
            kwargs: of the language model, and `shift_labels` (B, T): labels that are shifted already, each at the
                position that predicts it, in place of `labels`. A trainer gives them where it cuts a text into pieces
                for several devices.
        """
        shift_labels = kwargs.pop("shift_labels", None)  # not in the signature: Trainer would ask for all its labels
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            masks=masks,
            mm_encoder_outputs=mm_encoder_outputs,
            use_cache=use_cache,
            pack_rows=pack_rows,
            return_dict=True,
            **kwargs,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        losses, mask_logits = {}, None
        if labels is not None or shift_labels is not None:
            losses, mask_logits = weighted_losses(self, outputs, labels, shift_labels, masks)
        return SetokimCausalLMOutput(
            **losses,
            logits=self.lm_head(outputs.last_hidden_state[:, keep]),
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            mask_logits=mask_logits,
        )


def _embedding_name(language_model: PreTrainedModel) -> str:
    """Path of the input embedding within a language model, which differs between families."""
    embedding = language_model.get_input_embeddings()
    return next(name for name, module in language_model.named_modules() if module is embedding)
