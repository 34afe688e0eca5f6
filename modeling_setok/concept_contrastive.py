"""Concept-level image-text contrastive loss (Appendix C.2, Eqs. 5-7)."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import softplus


def concept_contrastive_loss(
    image_features: torch.Tensor,
    concept_features: torch.Tensor,
    concept_labels: torch.LongTensor,
    logit_scale: torch.Tensor,
    form: str = "log_of_sum",
) -> torch.Tensor:
    """Aligns each image with the names of its concepts, against the names and images of the whole (global) batch.

    With p_ik = exp(v_i . t_ik / tau) for the K concepts of image i and negatives n, image to text is
    -log(sum_k p_ik / (sum_k p_ik + sum n)), as printed in Eq. 5 (`form="log_of_sum"`), or the mean over k of
    -log(p_ik / (p_ik + sum n)) (`"sum_of_logs"`), which is satisfied only when every concept is found. Text to image
    likewise, over the images that lack the concept (as printed, Eq. 6 would repeat Eq. 5). A name that an image
    contains is never its negative, whichever image it was drawn for; an image without concepts is nobody's negative.

    Args:
        image_features: (B, P), unit length: V^I, the mean of an image's concept tokens, projected.
        concept_features: (B, K, P), unit length: the projected text features of up to K concepts of each image.
        concept_labels: (B, K) long, one number per concept name, -1 where an image has fewer than K concepts.
        logit_scale: (), 1 / tau, positive.
        form: `"log_of_sum"` or `"sum_of_logs"`.

    Raises:
        ValueError: an unknown form, or shapes that do not fit.

    Returns:
        Scalar loss (Eq. 7), float32; images without any concept do not count; 0 where no image has one. Under
        torch.distributed the loss is that of the global batch, the same on every process, and its gradient is scaled so
        that the usual average over processes gives the gradient of one process with the global batch.
    """
    if form not in ("log_of_sum", "sum_of_logs"):
        raise ValueError(f"form must be 'log_of_sum' or 'sum_of_logs', got {form!r}.")
    if concept_labels.shape != concept_features.shape[:2] or len(concept_labels) != len(image_features):
        raise ValueError(
            f"concept_labels {tuple(concept_labels.shape)} must be the first two dimensions (images, concepts) of "
            f"concept_features {tuple(concept_features.shape)}, for {len(image_features)} images."
        )
    image_features, concept_features = gather_batch(image_features.float()), gather_batch(concept_features.float())
    concept_labels = gather_batch(concept_labels)
    num_images, num_concepts = concept_labels.shape
    labels = concept_labels.flatten()
    shown = concept_labels >= 0
    counted = shown.any(1)
    # negative[i, t]: text t names a concept that image i does not show
    negative = (concept_labels[:, :, None] != labels).all(1) & (labels >= 0) & counted[:, None]

    with torch.autocast(image_features.device.type, enabled=False):  # bfloat16 logits at 1 / tau = 100 are noise
        logits = logit_scale.float() * image_features @ concept_features.flatten(0, 1).T  # (B, B * K)
    own_logits = logits.gather(1, torch.arange(len(labels), device=labels.device).view(num_images, num_concepts))
    lowest = torch.finfo(logits.dtype).min
    other_logits = logits.masked_fill(~negative, lowest)
    other_texts = other_logits.logsumexp(1)  # (B,), of each image
    other_images = other_logits.logsumexp(0).view(num_images, num_concepts)  # of each text

    # -log(p / (p + n)) = softplus(log n - log p), for image to text and text to image
    if form == "sum_of_logs":
        per_concept = softplus(other_texts[:, None] - own_logits) + softplus(other_images - own_logits)
        per_image = per_concept.masked_fill(~shown, 0).sum(1) / shown.sum(1).clamp(min=1)
    else:
        positives = own_logits.masked_fill(~shown, lowest).logsumexp(1)
        other_images = other_images.masked_fill(~shown, lowest).logsumexp(1)
        per_image = softplus(other_texts - positives) + softplus(other_images - positives)
    return per_image.masked_fill(~counted, 0).sum() / counted.sum().clamp(min=1)


def gather_batch(x: torch.Tensor) -> torch.Tensor:
    """Concatenates x (B, ...) of all processes; gradients flow back to each process's own part. Alone, returns x.

    Batches and concept counts must be the same on every process (the data collator pads K to a fixed number).
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return x
    if not x.is_floating_point():
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)
    from torch.distributed.nn.functional import all_gather  # not there in every build of torch

    return torch.cat(all_gather(x.contiguous()))


def mean_token(tokens: torch.Tensor, token_mask: torch.Tensor) -> torch.Tensor:
    """V^I (B, D): the mean of each image's concept tokens (B, C, D)."""
    weights = token_mask.to(tokens.dtype)[..., None]
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)


def unit(x: torch.Tensor) -> torch.Tensor:
    """Scales the last dimension to length one."""
    return nn.functional.normalize(x, dim=-1)
