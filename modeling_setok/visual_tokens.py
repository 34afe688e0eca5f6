"""Visual tokens: SeTok's concept tokens at zero mean and unit variance, which the language model reads and writes.

On the way in: pixel values, concept tokens (SeTok), visual tokens (`TokenStatistics`), embeddings of the language model
(`VisualProjector`). On the way out, what the diffusion head samples are visual tokens, and `denormalize_tokens` makes
the detokenizer's concept tokens of them.
"""

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils.generic import can_return_tuple

from .configuration_setokim import SetokimConfig
from .outputs_setok import SetokModelOutput
from .outputs_setokim import SetokimImageFeatures
from .placeholders import images_of_placeholders
from .vision_encoder import image_size_of

OF_MASKS = ("patch_embeddings", "cluster_ids", "grid_size")  # what masks need of SeTok's output


class TokenStatistics(nn.Module):
    """Mean and standard deviation of concept tokens, by which they become visual tokens; saved with the weights."""

    def __init__(self, token_dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(token_dim))
        self.register_buffer("std", torch.ones(token_dim))

    def normalize(self, tokens: torch.Tensor) -> torch.Tensor:
        return (tokens.float() - self.mean.to(tokens.device).float()) / self.std.to(tokens.device).float()

    def denormalize(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.float() * self.std.to(tokens.device).float() + self.mean.to(tokens.device).float()


class VisualProjector(nn.Module):
    """Visual tokens (..., D) to embeddings of the language model (..., hidden)."""

    def __init__(self, config: SetokimConfig):
        super().__init__()
        hidden_size = config.text_config.hidden_size
        self.linear1 = nn.Linear(config.vision_config.hidden_size, hidden_size)
        self.activation = ACT2FN[config.projector_hidden_act]
        self.linear2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.linear2(self.activation(self.linear1(tokens.to(self.linear1.bias.dtype))))


class VisualTokensMixin:
    """From pixel values to what stands in the places of a text's placeholders.

    Mixed into `SetokimModel`, which has `setok`, `token_statistics` and `multi_modal_projector`.
    """

    def normalize_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """SeTok's concept tokens (..., D) to visual tokens (..., D) float32 of zero mean and unit variance."""
        return self.token_statistics.normalize(tokens)

    def denormalize_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """The inverse of `normalize_tokens`."""
        return self.token_statistics.denormalize(tokens)

    @torch.no_grad()
    def calibrate(self, images) -> None:
        """Sets the mean and standard deviation of the concept tokens from pixel values (B, 3, H, W), or an iterable of
        such batches. Call it once, with some hundred images, before training; both are saved with the weights."""
        batches = [images] if isinstance(images, torch.Tensor) else images
        training = self.setok.training
        self.setok.eval()
        outputs = (self.setok(batch.to(self.input_device)) for batch in batches)
        tokens = [output.last_hidden_state[output.token_mask].float() for output in outputs]
        self.setok.train(training)
        if not tokens:
            raise ValueError("calibrate() needs at least one batch of images.")
        tokens = torch.cat(tokens)
        self.token_statistics.mean.copy_(tokens.mean(0))
        self.token_statistics.std.copy_(tokens.std(0).clamp(min=1e-3))

    @can_return_tuple
    def get_image_features(self, pixel_values: torch.Tensor, **kwargs) -> SetokimImageFeatures:
        """Visual tokens of images (I, 3, H, W).

        Args:
            kwargs: passed to SeTok, such as `output_hidden_states=True` for those of its vision encoder.
        """
        setok_output = self._run_setok(pixel_values, **kwargs)
        tokens = self.normalize_tokens(setok_output.last_hidden_state)
        return self._as_features(setok_output, tokens, setok_output.token_mask)

    def get_placeholder_features(
        self,
        input_ids: torch.LongTensor,
        pixel_values: torch.Tensor | None,
        masks: torch.Tensor | None = None,
        setok_output: SetokModelOutput | None = None,
    ) -> SetokimImageFeatures:
        """Visual tokens of every placeholder of a batch: of an `<image>` all of its image, of a `<mask>` those that the
        mask covers.

        Args:
            input_ids: (B, T), compact.
            pixel_values: (I, 3, H, W), one image per `<image>`, in reading order.
            masks: (M, H, W) in [0, 1], one per `<mask>`, in reading order; each belongs to the image before it.
            setok_output: what SeTok made of the images, in place of `pixel_values`: the concept tokens and their mask,
                and with masks also patch embeddings, cluster ids and grid size (and soft masks, if SeTok's are), which
                count only for images that have a mask.

        Raises:
            ValueError: masks of another shape or range, or without what they need of SeTok's output; and see
                `images_of_placeholders`.
        """
        num_masks = 0 if masks is None else len(masks)
        if num_masks:
            _check_masks(masks)
        num_images = len(pixel_values if setok_output is None else setok_output.token_mask)
        images, is_mask = images_of_placeholders(self.config, input_ids, num_images, num_masks)
        if setok_output is None:
            setok_output = self._run_setok(pixel_values)
        tokens, token_mask = self.normalize_tokens(setok_output.last_hidden_state), setok_output.token_mask
        if num_masks == 0:
            return self._as_features(setok_output, tokens, token_mask)
        if any(setok_output.get(name) is None for name in OF_MASKS):
            raise ValueError(f"masks need {', '.join(OF_MASKS)} of SeTok's output beside its concept tokens.")
        images, is_mask = images.to(tokens.device), is_mask.to(tokens.device)
        tokens, token_mask = tokens[images], token_mask[images]
        concept_masks = self.setok.concept_masks(setok_output)[images[is_mask]]
        covered = covered_tokens(concept_masks, token_mask[is_mask], masks)
        token_mask[is_mask] = covered
        features = self._as_features(setok_output, tokens, token_mask)
        features["mask_prompts"], features["mask_prompt_mask"] = tokens[is_mask], covered
        features["mask_images"] = images[is_mask]
        return features

    def resolve_features(
        self,
        input_ids: torch.LongTensor,
        pixel_values: torch.Tensor | None,
        masks: torch.Tensor | None,
        mm_encoder_outputs: dict | None,
    ) -> SetokimImageFeatures | None:
        """The features of a call (see `SetokimModel.forward`): those that it was given, or those of its pixel values,
        or `None` for a text alone."""
        given = mm_encoder_outputs or {}
        features, setok_output = given.get("image"), given.get("setok")
        if sum(images is not None for images in (pixel_values, features, setok_output)) > 1:
            raise ValueError("Pass pixel_values or mm_encoder_outputs, not both.")
        if setok_output is not None:
            if is_deepspeed_zero3_enabled():
                self._run_blank()
            return self.get_placeholder_features(input_ids, None, masks, SetokModelOutput(**setok_output))
        if pixel_values is not None:
            return self.get_placeholder_features(input_ids, pixel_values, masks)
        if features is None and masks is not None and len(masks):
            raise ValueError("masks were given without pixel_values: pass the images that they belong to.")
        return features

    def idle_features(self) -> torch.Tensor:
        """Zero (), computed with what reads images. Every part takes part in every step, and in the same order,
        whatever a batch holds: so no process waits for another, and none reduces the gradient of one part with that of
        another."""
        if is_deepspeed_zero3_enabled():
            tokens = self._run_blank()
        else:
            tokens = self.token_statistics.mean[None]
        return 0 * self.multi_modal_projector(tokens).sum()

    def _run_blank(self) -> torch.Tensor:
        """The concept tokens (n, D) of a blank image: with ZeRO-3 each process gathers SeTok's weights for all."""
        blank = self.token_statistics.mean.new_zeros(1, 3, *image_size_of(self.config.vision_config))
        return self._run_setok(blank).last_hidden_state[0]

    def _run_setok(self, pixel_values: torch.Tensor, **kwargs) -> SetokModelOutput:
        """Without a graph where SeTok is frozen: gradient checkpointing has the inputs of every encoder require one."""
        trained = pixel_values.requires_grad or any(parameter.requires_grad for parameter in self.setok.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
            return self.setok(pixel_values, return_dict=True, **kwargs)

    def _as_features(self, setok_output: SetokModelOutput, tokens, token_mask) -> SetokimImageFeatures:
        """Features of the visual tokens (I + M, C, D) of all placeholders, those of their mask (I + M, C)."""
        counts, flat = token_mask.sum(1).tolist(), tokens[token_mask]
        return SetokimImageFeatures(
            last_hidden_state=setok_output.last_hidden_state,
            hidden_states=setok_output.hidden_states,
            attentions=setok_output.attentions,
            pooler_output=list(self.multi_modal_projector(flat).split(counts)),
            visual_tokens=list(flat.split(counts)),
            setok_output=setok_output,
        )


def _check_masks(masks: torch.Tensor) -> None:
    if masks.ndim != 3 or 0 in masks.shape:
        raise ValueError(f"masks must be (number of masks, height, width), got {tuple(masks.shape)}.")
    if not bool(((masks >= 0) & (masks <= 1)).all()):  # written so that NaN fails, too
        raise ValueError("masks must lie in [0, 1]: divide masks of 0 and 255 by 255, and look for NaN.")


def covered_tokens(concept_masks: torch.Tensor, token_mask: torch.Tensor, masks: torch.Tensor) -> torch.BoolTensor:
    """(M, C) bool: the tokens whose cluster lies mostly inside each mask, at least the one that it covers most.

    Args:
        concept_masks: (M, C, h, w), of the image of each mask.
        token_mask: (M, C) bool, True for a token.
        masks: (M, H, W) in [0, 1].
    """
    masks = masks.to(concept_masks.device, torch.float32)
    inside = nn.functional.adaptive_avg_pool2d(masks[:, None], concept_masks.shape[-2:]).flatten(1)  # (M, N)
    clusters = concept_masks.flatten(2)  # (M, C, N)
    overlap = torch.einsum("mcn,mn->mc", clusters, inside)
    mostly = (overlap > 0.5 * clusters.sum(2)) & token_mask
    most = nn.functional.one_hot(overlap.masked_fill(~token_mask, -1).argmax(1), overlap.shape[1]).bool()
    return torch.where(mostly.any(1, keepdim=True), mostly, most)
