"""SeTok: an image becomes a variable number of concept tokens, and an image again (§2.1)."""

from collections.abc import Iterable
from typing import Unpack

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .attention_of_parts import AttentionOfPartsMixin
from .concept_contrastive import mean_token, unit
from .concept_masks import concept_masks, square_cluster_ids
from .concept_names import ConceptBank, ConceptNamesMixin, make_text_model
from .configuration_setok import SetokConfig
from .detokenizer import SetokDetokenizer
from .forward_arguments import refuse_unknown_arguments, requested_outputs, returned_outputs
from .outputs_setok import SetokForPreTrainingOutput, SetokModelOutput
from .padded_pictures import encode_padded_patches, patches_of_pictures, resized_pictures
from .remote_code import RemoteCodeMixin
from .token_clustering import TokenClustering
from .token_merger import TokenMerger
from .vision_encoder import (
    clustered_dim_of,
    encode_patches,
    image_size_of,
    keep_frozen_statistics,
    load_vision_encoder,
    make_vision_encoder,
    patch_dim_of,
    refuse_other_patch_embeddings,
    unused_parameters,
)


class SetokPreTrainedModel(AttentionOfPartsMixin, RemoteCodeMixin, PreTrainedModel):
    config: SetokConfig
    base_model_prefix = "setok"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["SetokBlock", "TokenMerger"]  # the merger's packing is made for one device
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _auto_map = {"AutoModel": "modeling_setok.SetokModel"}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, TokenMerger) and module.use_positions:
            init.normal_(module.position_embedding)
        elif isinstance(module, TokenClustering):
            init.zeros_(module.feature_scale)
            init.zeros_(module.patch_norm)
        elif isinstance(module, SetokForPreTraining):
            init.constant_(module.logit_scale, module.config.logit_scale_init)
            if module.setok.token_merger.use_positions:  # painting starts with the places that the merger writes
                init.copy_(module.detokenizer.position_embedding, module.setok.token_merger.position_embedding)
        elif isinstance(module, ConceptBank):
            init.zeros_(module.features)


class SetokModel(SetokPreTrainedModel):
    """Vision encoder, token clustering and token merger: pixels to concept tokens.

    Any vision model of transformers that returns a sequence of patches (with or without prefix tokens such as CLS,
    which are dropped) or a feature map can be the encoder.
    """

    _keys_to_ignore_on_load_unexpected = [
        r"^detokenizer\.", r"^visual_projection\.", r"^text_", r"^logit_scale", r"^concept_bank\."
    ]  # fmt: skip

    def __init__(self, config: SetokConfig):
        super().__init__(config)
        self.vision_encoder = make_vision_encoder(config)
        self.token_clustering = TokenClustering(config, clustered_dim_of(config))
        self.token_merger = TokenMerger(config, patch_dim=patch_dim_of(config))
        self.post_init()
        self.train()

    def train(self, mode: bool = True) -> "SetokModel":
        """As ever, but a SeTok that is frozen stays in eval mode, as do frozen normalisations of one that is trained.

        It also freezes what the tokens do not depend on: DDP refuses parameters without gradient. (In `__init__` alone
        that would be undone by `from_pretrained`, which makes all parameters trainable.)
        """
        for parameter in unused_parameters(self.vision_encoder, self.config):
            parameter.requires_grad_(False)
        super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))
        keep_frozen_statistics(self)
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_encoder.get_input_embeddings()

    @classmethod
    def from_vision_pretrained(cls, name: str, config: SetokConfig | None = None, **kwargs) -> "SetokModel":
        """A SeTok around a pretrained vision encoder; merger and clustering start fresh.

        Args:
            name: Hub id or folder of a vision model, or of a two-tower model (CLIP, SigLIP), whose vision half is
                taken.
            config: the rest of SeTok; its `vision_config` is replaced. Default: the paper's, with `num_neighbors`
                scaled to the encoder's grid.
            kwargs: passed to `AutoModel.from_pretrained` (revision, token, dtype, ...).
        """
        encoder = load_vision_encoder(name, **kwargs)
        is_default = config is None
        config = SetokConfig() if is_default else config
        config.vision_config = encoder.config
        model = cls(config).to(device=encoder.device, dtype=encoder.dtype)
        model.vision_encoder = encoder
        if is_default:
            with torch.no_grad():
                blank = torch.zeros(1, 3, *image_size_of(config), device=encoder.device)
                _, (height, width) = model.get_patch_embeddings(blank)
            config.num_neighbors = max(4, round(6 * height * width / 729))
        return model.eval()

    def get_patch_embeddings(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Patch embeddings (B, h * w, Dv) of pixels (B, 3, H, W), and their grid (h, w)."""
        _, patch_embeddings, grid_size = encode_patches(self.vision_encoder, self.config, pixel_values)
        return patch_embeddings, grid_size

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        patch_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        patch_embeddings: torch.Tensor | None = None,
        grid_size: tuple[int, int] | None = None,
        pixel_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SetokModelOutput:
        """
        Args:
            pixel_values: (B, 3, H, W) float, from the image processor; H and W as `encode_patches` takes them.
            pixel_mask: (B, H, W), 1 on the image, 0 on the padding at its bottom and right, from the image processor.
                Images are encoded at their own size: each has the tokens that it has alone.
            patch_embeddings, grid_size: what `get_patch_embeddings` gave, (B, h * w, Dv) and (h, w), in place of the
                pixels: a frozen encoder has to run but once on each picture.
            patch_mask: (B, N) bool, False on patches of padding, which belong to no token.
            output_hidden_states, output_attentions: whether to return the vision encoder's; by default what the config
                says.

        Raises:
            ValueError: the encoder has no hidden states or attentions to return.
        """
        refuse_unknown_arguments(kwargs)
        config = self.config
        requested = requested_outputs(config, output_hidden_states, output_attentions)
        if patch_embeddings is None:
            encoder_outputs, patch_embeddings, grid_size, grid_sizes = self._encode(pixel_values, pixel_mask, requested)
            if grid_sizes is not None:
                own = patches_of_pictures(grid_size, grid_sizes)
                patch_mask = own if patch_mask is None else own & patch_mask.to(own)
        else:
            if pixel_values is not None or pixel_mask is not None or grid_size is None:
                raise ValueError("Give pixel_values alone, or patch_embeddings with their grid_size.")
            refuse_other_patch_embeddings(config, patch_embeddings, grid_size, requested)
            encoder_outputs, requested, grid_sizes = {}, {}, None
            patch_embeddings = patch_embeddings.to(self.token_merger.patch_norm.weight.dtype)
        clusters, soft_masks = self.token_clustering(patch_embeddings, patch_mask)
        tokens, token_mask = self.token_merger(patch_embeddings, clusters, grid_size, soft_masks, grid_sizes)
        return SetokModelOutput(
            last_hidden_state=tokens,
            token_mask=token_mask,
            num_tokens=token_mask.sum(-1),
            cluster_ids=clusters.cluster_ids,
            patch_embeddings=patch_embeddings,
            grid_size=grid_size,
            grid_sizes=grid_sizes,
            scores=clusters.scores,
            soft_masks=soft_masks if config.assignment_mode == "soft" else None,
            **returned_outputs(encoder_outputs, config.vision_config, **requested),
        )

    def _encode(self, pixel_values, pixel_mask, requested: dict[str, bool]):
        """What the encoder returns, the patches (B, N, Dv), their grid (h, w), and with a mask the images' own."""
        if pixel_mask is None:
            return *encode_patches(self.vision_encoder, self.config, pixel_values, **requested), None
        outputs, patches, grid_sizes = encode_padded_patches(
            self.vision_encoder, self.config, pixel_values, pixel_mask, **requested
        )
        return outputs, patches.flatten(1, 2), tuple(patches.shape[1:3]), grid_sizes

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """`pooler_output`: a list with the tokens (n_i, D) of each image; `last_hidden_state`: padded (B, C, D);
        `hidden_states` and `attentions`: the vision encoder's, where `output_hidden_states`, `output_attentions` ask.
        """
        outputs = self(pixel_values, return_dict=True, **kwargs)
        return BaseModelOutputWithPooling(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=[
                image[mask] for image, mask in zip(outputs.last_hidden_state, outputs.token_mask, strict=True)
            ],
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def concept_masks(
        self, outputs: SetokModelOutput, size: tuple[int, int] | list[tuple[int, int]] | None = None
    ) -> torch.Tensor | list[torch.Tensor]:
        """Concept masks M (B, C, h, w) float32 in [0, 1]; they sum to 1 over the tokens of every valid patch.

        `size` (height, width) resizes them to the (padded) image: nearest for hard masks, bilinear for soft ones. B of
        them, such as the original sizes, resize each image's, without its padding: a list of (C, height, width).
        """
        return concept_masks(outputs, size)

    @torch.no_grad()
    def calibrate(self, images: torch.Tensor | Iterable[torch.Tensor]) -> float:
        """Sets the feature scale S (and mean embedding length) of the clustering from images, and returns S.

        Call it once on some hundred images of the kind that the model is for, after the encoder is trained; S is saved
        with the weights. Until then every image is measured by its own S, which cannot tell an empty image from a full
        one.

        Args:
            images: pixel values (B, 3, H, W), or an iterable of such batches.

        Raises:
            ValueError: there is no image.
        """
        batches = [images] if isinstance(images, torch.Tensor) else images
        training = self.training
        self.eval()  # dropout and batch statistics are not part of what is measured
        patch_embeddings = [self.get_patch_embeddings(batch.to(self.device))[0].float() for batch in batches]
        self.train(training)
        if not patch_embeddings:
            raise ValueError("calibrate() needs at least one batch of images.")
        return self.token_clustering.calibrate(patch_embeddings)


class SetokForPreTraining(ConceptNamesMixin, SetokPreTrainedModel):
    """SeTok with its detokenizer and the joint space of tokens and text: what stage 0 trains (Eq. 3).

    Text features come from `text_model` (frozen; where the config has a `text_config`), or from the concept bank, the
    saved text features of `config.concept_names`.
    """

    accepts_loss_kwargs = False  # the loss is a mean over the batch: Trainer divides it by the accumulation steps

    def __init__(self, config: SetokConfig):
        super().__init__(config)
        self.setok = SetokModel(config)
        self.detokenizer = SetokDetokenizer(config.detokenizer_config, token_dim=config.hidden_size)
        self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        self.text_projection = nn.Linear(config.text_feature_dim, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.text_model = make_text_model(config)
        if config.concept_names is not None:
            self.concept_bank = ConceptBank(len(config.concept_names), config.text_feature_dim)
        self.post_init()
        self.train()

    def train(self, mode: bool = True) -> "SetokForPreTraining":
        """As ever, but the text encoder stays frozen and in eval mode, and so does a SeTok that a stage freezes."""
        super().train(mode)
        if self.text_model is not None:
            self.text_model.eval().requires_grad_(False)
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.setok.get_input_embeddings()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        target_pixel_values: torch.Tensor | None = None,
        concept_ids: torch.LongTensor | None = None,
        concept_input_ids: torch.LongTensor | None = None,
        concept_attention_mask: torch.LongTensor | None = None,
        patch_mask: torch.Tensor | None = None,
        return_loss: bool = True,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        patch_embeddings: torch.Tensor | None = None,
        grid_size: tuple[int, int] | None = None,
        pixel_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SetokForPreTrainingOutput:
        """
        Args:
            pixel_values: (B, 3, H, W) float, from the image processor.
            target_pixel_values: (B, 3, S, S), the image that the detokenizer should paint, S =
                `config.detokenizer_config.image_size`. `None`: `pixel_values`, resized; nothing where there are
                `concept_ids`, which are another thing to learn.
            concept_ids: (B, K) long, one number per concept name in the image, -1 for none. Without
                `concept_input_ids` they index `config.concept_names`. (No "labels", without which Trainer would
                evaluate no loss.)
            concept_input_ids: (B, K, L) long, the tokenised prompts of the concepts for the text encoder.
            concept_attention_mask: (B, K, L), 0 on the padding of prompts.
            return_loss: `False` paints nothing and gives no loss: the tokens and what they show, at less cost.
            patch_mask, pixel_mask, output_hidden_states, output_attentions, patch_embeddings, grid_size: see
                `SetokModel.forward`.
        """
        if concept_ids is None and concept_input_ids is not None:
            raise ValueError("The contrastive loss needs concept_ids: which of the batch's concepts are the same.")
        config = self.config
        setok_output = self.setok(
            pixel_values, patch_mask, output_hidden_states, output_attentions, patch_embeddings, grid_size,
            pixel_mask, return_dict=True, **kwargs,
        )  # fmt: skip
        tokens, token_mask = setok_output.last_hidden_state, setok_output.token_mask
        image_features = unit(self.visual_projection(mean_token(tokens, token_mask)))

        losses = {}
        reconstruction = None
        if return_loss and target_pixel_values is None and concept_ids is None:
            if pixel_values is None:
                raise ValueError("patch_embeddings have no pixels to paint: give target_pixel_values, or concept_ids.")
            target_pixel_values = resized_pictures(pixel_values, config.detokenizer_config.image_size, pixel_mask)
        if return_loss and target_pixel_values is not None:
            reconstruction = self.detokenize(tokens, token_mask)
            if target_pixel_values.shape != reconstruction.shape:
                raise ValueError(
                    f"target_pixel_values are {tuple(target_pixel_values.shape)} but the detokenizer paints "
                    f"{tuple(reconstruction.shape)}: resize the targets to config.detokenizer_config.image_size."
                )
            losses["reconstruction_loss"] = nn.functional.mse_loss(reconstruction.float(), target_pixel_values.float())
            if config.placement_weight > 0:
                losses["placement_loss"] = self.placement_loss(setok_output)
        if return_loss and concept_ids is not None:
            losses["contrastive_loss"] = self.contrastive_loss(
                image_features, concept_ids, concept_input_ids, concept_attention_mask
            )
        weights = {
            "reconstruction_loss": config.reconstruction_weight,
            "contrastive_loss": config.contrastive_weight,
            "placement_loss": config.placement_weight,
        }
        loss = sum(weights[name] * loss for name, loss in losses.items()) if losses else None
        if self.training and losses:
            loss = loss + self._idle_parts(losses, tokens, image_features)
        return SetokForPreTrainingOutput(
            loss=loss,
            **losses,
            reconstruction=reconstruction,
            image_features=image_features,
            logits_per_image=self.concept_logits(tokens, token_mask) if config.concept_names is not None else None,
            setok_output=setok_output,
            hidden_states=setok_output.hidden_states,
            attentions=setok_output.attentions,
        )

    def _idle_parts(
        self, losses: dict[str, torch.Tensor], tokens: torch.Tensor, image_features: torch.Tensor
    ) -> torch.Tensor | float:
        """Zero, computed with the parts that no loss of this batch needs: every part takes part in every step, since
        DDP waits for the gradient of each, and stops where there is none."""
        idle = 0.0
        if "contrastive_loss" not in losses:
            text_features = self.text_projection(image_features.new_zeros(1, self.config.text_feature_dim))
            idle = idle + image_features.sum() + text_features.sum() + self.logit_scale
        if "reconstruction_loss" not in losses and any(p.requires_grad for p in self.detokenizer.parameters()):
            idle = idle + self.detokenize(tokens[:1, :1].detach()).sum()
        return 0.0 * idle

    def placement_loss(self, setok_output: SetokModelOutput) -> torch.Tensor:
        """Cross-entropy (), float32, of the detokenizer's placement with the clusters that the tokens were made of;
        with token maps also the mean error, in sixteenths of the picture, of where tokens tell that they lie."""
        tokens, token_mask = setok_output.last_hidden_state, setok_output.token_mask
        size = self.config.detokenizer_config.grid_size
        cells = square_cluster_ids(setok_output, size).flatten(1)
        logits = self.detokenizer.placement(tokens, token_mask)
        loss = nn.functional.cross_entropy(logits.transpose(1, 2), cells, ignore_index=-1)
        if self.detokenizer.with_maps:
            maps = self.detokenizer.pixel_decoder.token_maps
            loss = loss + maps.extent_error(tokens, square_cluster_ids(setok_output, 2 * size))
        return loss

    def detokenize(self, tokens: torch.Tensor, token_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Paints images (B, 3, S, S) from concept tokens (B, C, D) with their mask (B, C)."""
        return self.detokenizer(tokens, token_mask)

    def reconstruct(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Tokenises and paints back: (B, 3, H, W) to (B, 3, S, S), both normalised as by the image processor."""
        outputs = self.setok(pixel_values, pixel_mask=pixel_mask, return_dict=True)
        return self.detokenize(outputs.last_hidden_state, outputs.token_mask)

    def get_image_features(
        self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """See `SetokModel.get_image_features`."""
        return self.setok.get_image_features(pixel_values, **kwargs)
