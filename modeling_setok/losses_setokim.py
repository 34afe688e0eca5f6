"""The losses of Setokim (§2.2, Appendix D.1): of text, of visual tokens (diffusion) and of masks, and their sum."""

import torch
from torch import nn

from .configuration_setokim import SetokimConfig
from .copy_attention import CopySources
from .diffusion_head import DiffusionHead
from .mask_decoder import MaskDecoder, mask_losses
from .outputs_setokim import SetokimImageFeatures, SetokimModelOutput
from .placeholders import ExpandedSequence

IGNORED = -100  # the label of what is no target


def weighted_losses(
    model,
    outputs: SetokimModelOutput,
    labels: torch.LongTensor | None,
    shift_labels: torch.LongTensor | None,
    masks: torch.Tensor | None,
) -> tuple[dict[str, torch.Tensor | None], torch.Tensor | None]:
    """Every loss by its name in `SetokimCausalLMOutput`, `None` where a batch has nothing for it; and mask logits.

    In training a head without a loss runs all the same, and adds zero (see `VisualTokensMixin.idle_features`); so the
    heads run in one order: language model head, diffusion head, mask decoder.

    Args:
        model: a `SetokimForConditionalGeneration`, of which the heads and the weights are.
        outputs: of its base model.
        labels, shift_labels, masks: see `SetokimForConditionalGeneration.forward`.
    """
    _check_labels(labels if shift_labels is None else shift_labels, outputs.last_hidden_state)
    config, hidden_states, idle = model.config, _learning_states(outputs), []
    labels = _expand_labels(config, labels, shift_labels, outputs.expanded)
    targets = labels[:, 1:]
    if outputs.expanded is not None:  # the first token of a row has nothing before it, in a padded row as in one alone
        targets = targets.masked_fill(outputs.expanded.attention_mask == 0, IGNORED)
    targets = targets.to(hidden_states.device)

    losses = {"text_loss": _text_loss(model.lm_head, hidden_states, targets, config.text_loss_reduction)}
    losses["diffusion_loss"] = _diffusion_loss(config, model.diffusion_head, outputs, labels, targets)
    if model.training and losses["diffusion_loss"] is None:
        idle.append(_idle_diffusion(model.diffusion_head, hidden_states))
    losses["mask_loss"], mask_logits = _mask_loss(config, model.mask_decoder, outputs.image_features, masks)
    if model.training and losses["mask_loss"] is None:
        idle.append(_idle_mask(model.mask_decoder, outputs.last_hidden_state))

    weights = {"text_loss": config.text_loss_weight, "diffusion_loss": config.diffusion_loss_weight, "mask_loss": 1.0}
    parts = [weights[name] * value for name, value in losses.items() if value is not None] + idle
    zero = outputs.last_hidden_state.new_zeros(())
    return losses | {"loss": sum((part.to(zero.device) for part in parts), start=zero)}, mask_logits


def _check_labels(labels: torch.Tensor, hidden_states: torch.Tensor) -> None:
    """Raises unless labels are integers (B, T), one for each position of the text before its images are expanded."""
    expected = tuple(hidden_states.shape[:2])
    if tuple(labels.shape) != expected or labels.is_floating_point():
        raise ValueError(
            f"labels (or shift_labels) must be integers of the shape of the text, (batch, length) = {expected}, got "
            f"{labels.dtype} of the shape {tuple(labels.shape)}."
        )


def _learning_states(outputs: SetokimModelOutput) -> torch.Tensor:
    """The hidden states from which all losses come: of the expanded sequence where there are images. Whatever has no
    loss takes part through them, too, since ZeRO-3 counts the outputs that have a gradient."""
    return outputs.last_hidden_state if outputs.expanded is None else outputs.expanded.hidden_states


def _expand_labels(
    config: SetokimConfig,
    labels: torch.LongTensor | None,
    shift_labels: torch.LongTensor | None,
    expanded: ExpandedSequence | None,
) -> torch.LongTensor:
    """(B, T' + 1): the label of each position of the sequence, and of what comes after the last. Every visual token,
    also one under a `<mask>`, has the label `<image>`."""
    if shift_labels is None:
        after = torch.full_like(labels[:, -1:], IGNORED)
    else:
        labels, after = nn.functional.pad(shift_labels[:, :-1], (1, 0), value=IGNORED), shift_labels[:, -1:]
    if expanded is not None:
        labels = labels.gather(1, expanded.source_positions).masked_fill(expanded.attention_mask == 0, IGNORED)
        labels = labels.masked_fill(labels == config.mask_token_id, config.image_token_id)
    return torch.cat([labels, after], dim=1)


def _text_loss(
    lm_head: nn.Module, hidden_states: torch.Tensor, targets: torch.LongTensor, reduction: str
) -> torch.Tensor | None:
    """Mean cross-entropy () of the targets (B, T'), each at the position that predicts it; how they are weighed, see
    `SetokimConfig.text_loss_reduction`."""
    counted, vocab_size = targets != IGNORED, lm_head.weight.shape[0]
    wrong = counted & ((targets < 0) | (targets >= vocab_size))
    any_counted, any_wrong = torch.stack([counted.any(), wrong.any()]).tolist()  # waits for the device once
    if any_wrong:
        raise ValueError(
            f"labels must be ids of the vocabulary, 0 to {vocab_size - 1}, or {IGNORED} where nothing is to be "
            f"predicted, got {targets[wrong][:5].tolist()}."
        )
    if not any_counted:
        return None
    logits = lm_head(hidden_states[counted])
    losses = nn.functional.cross_entropy(logits.float(), targets[counted].to(logits.device), reduction="none")
    if reduction == "token":
        return losses.mean()
    weights = _answer_lengths(counted).to(losses).rsqrt()
    return (weights * losses).sum() / weights.sum()


def _answer_lengths(counted: torch.BoolTensor) -> torch.LongTensor:
    """Of each target, in the order of `counted` (B, T'), how many there are in its answer: targets side by side."""
    begins = counted & ~nn.functional.pad(counted[:, :-1], (1, 0))
    answers = begins.flatten().cumsum(0)[counted.flatten()] - 1
    return answers.bincount()[answers]


def _diffusion_loss(
    config: SetokimConfig,
    diffusion_head: DiffusionHead,
    outputs: SetokimModelOutput,
    labels: torch.LongTensor,
    targets: torch.LongTensor,
) -> torch.Tensor | None:
    """Diffusion loss () of the visual tokens that are targets, each from the hidden state before it.

    Raises:
        ValueError: labels ask for an image that the batch does not have, or that nothing stands before.
    """
    image_token_id, expanded = config.image_token_id, outputs.expanded
    is_image, is_image_after = (labels == image_token_id).split([labels.shape[1] - 1, 1], dim=1)
    if not (bool(is_image.any()) or bool(is_image_after.any())):
        return None
    if expanded is None:
        raise ValueError("The labels ask for an image, but there are no pixel_values of it.")
    is_visual = expanded.input_ids == image_token_id
    if bool((is_image & ~is_visual).any()):
        raise ValueError("The labels ask for an image where the text has none: only an <image> can keep its id.")
    has_before = nn.functional.pad(expanded.attention_mask[:, :-1], (1, 0)) != 0
    if bool((is_image & ~has_before).any()):
        raise ValueError("An image cannot come first in a text: its first visual token has nothing before it.")
    if bool(is_image_after.any()):
        raise ValueError("shift_labels end with an image, whose visual tokens are in another piece of the text.")
    images = outputs.image_features.visual_tokens
    visual_tokens = torch.cat(images)
    is_target = is_image[is_visual].to(visual_tokens.device)  # of each visual token
    sources = None
    if diffusion_head.copy_attention is not None:
        sources = CopySources.of_images(images, _stand_before(is_visual, is_target.to(is_visual.device)))
    return diffusion_head.loss(visual_tokens[is_target], expanded.hidden_states[targets == image_token_id], sources)


def _stand_before(is_visual: torch.BoolTensor, is_target: torch.BoolTensor) -> torch.BoolTensor:
    """(n, m) bool: for n of the m visual tokens of a batch (B, T') those that stand before them in the same row."""
    rows, positions = is_visual.nonzero().unbind(1)
    return (rows == rows[is_target][:, None]) & (positions < positions[is_target][:, None])


def _mask_loss(
    config: SetokimConfig, mask_decoder: MaskDecoder, features: SetokimImageFeatures | None, masks: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Weighted loss () of the masks (M, H, W) that the text names, and their logits (M, 4h, 4w)."""
    if features is None or features.get("mask_prompts") is None:
        return None, None
    logits = mask_decoder(
        features.setok_output.patch_embeddings[features.mask_images],
        features.setok_output.grid_size,
        features.mask_prompts,
        features.mask_prompt_mask,
    )
    cross_entropy, dice = mask_losses(logits, masks.to(logits.device))
    return config.mask_bce_weight * cross_entropy + config.mask_dice_weight * dice, logits


def _idle_diffusion(diffusion_head: DiffusionHead, hidden_states: torch.Tensor) -> torch.Tensor:
    """Zero (), for a batch without visual tokens to learn."""
    tokens = hidden_states.new_zeros(1, diffusion_head.token_dim)
    sources = CopySources.of_images([tokens], torch.ones(1, 1, dtype=torch.bool, device=tokens.device))
    return 0 * diffusion_head.loss(tokens, hidden_states[:1, 0], sources)


def _idle_mask(mask_decoder: MaskDecoder, hidden_states: torch.Tensor) -> torch.Tensor:
    """Zero (), for a batch without masks."""
    patches = hidden_states.new_zeros(1, 1, mask_decoder.patch_projection.in_features)
    prompts = hidden_states.new_zeros(1, 1, mask_decoder.prompt_projection.in_features)
    present = torch.ones(1, 1, dtype=torch.bool, device=hidden_states.device)
    return 0 * mask_decoder(patches, (1, 1), prompts, present).sum()
