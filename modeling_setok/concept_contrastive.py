"""Concept-level image-text contrastive loss (Appendix C.2, Eqs. 5-7)."""

import torch
import torch.distributed as dist
from torch import nn


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
    likewise, over the images that lack the concept. A name that an image contains is never its negative, whichever
    image it was drawn for.

    Args:
        image_features: (B, P), unit length: V^I, the mean of an image's concept tokens, projected.
        concept_features: (B, K, P), unit length: the projected text features of up to K concepts of each image.
        concept_labels: (B, K) long, one number per concept name, -1 where an image has fewer than K concepts.
        logit_scale: (), 1 / tau, positive.
        form: `"log_of_sum"` or `"sum_of_logs"`.

    Returns:
        Scalar loss (Eq. 7), float32; images without any concept do not count; 0 where no image has one. Under
        torch.distributed the loss is that of the global batch, the same on every process, and its gradient is scaled so
        that the usual average over processes gives the gradient of one process with the global batch.
    """
    image_features, concept_features = gather_batch(image_features.float()), gather_batch(concept_features.float())
    concept_labels = gather_batch(concept_labels)
    num_images, num_concepts = concept_labels.shape
    labels = concept_labels.flatten()
    valid = labels >= 0
    # contains[i, t]: image i shows the concept that text t names; own[i, t]: t was drawn for image i
    contains = (concept_labels[:, :, None] == labels).any(1)
    owner = torch.arange(num_images, device=labels.device).repeat_interleave(num_concepts)
    own = (owner == torch.arange(num_images, device=labels.device)[:, None]) & valid
    negative = ~contains & valid

    logits = logit_scale.float() * image_features @ concept_features.flatten(0, 1).T  # (B, B * K)
    own_logits = logits.gather(1, torch.arange(len(labels), device=labels.device).view(num_images, num_concepts))
    own_valid = concept_labels >= 0
    counted = own_valid.any(1)
    lowest = torch.finfo(logits.dtype).min

    texts_not_shown = logits.masked_fill(~negative, lowest).logsumexp(1)[:, None].expand_as(own_logits)  # per image
    images_lacking = logits.masked_fill(~negative, lowest).logsumexp(0).view(num_images, num_concepts)  # per text
    loss = 0.0
    for negatives in (texts_not_shown, images_lacking):
        if form == "sum_of_logs":
            per_concept = torch.logaddexp(own_logits, negatives) - own_logits
            per_image = per_concept.masked_fill(~own_valid, 0).sum(1) / own_valid.sum(1).clamp(min=1)
        elif form == "log_of_sum":
            positives = own_logits.masked_fill(~own_valid, lowest).logsumexp(1)
            if negatives is texts_not_shown:  # Eq. 5: one sum of negatives for the image
                total = torch.logaddexp(positives, negatives[:, 0])
            else:  # Eq. 6: each concept brings the images that lack it
                total = torch.logaddexp(positives, negatives.masked_fill(~own_valid, lowest).logsumexp(1))
            per_image = total - positives
        else:
            raise ValueError(f"form must be 'log_of_sum' or 'sum_of_logs', got {form!r}.")
        loss = loss + per_image.masked_fill(~counted, 0).sum() / counted.sum().clamp(min=1)
    return loss


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
    return torch.cat(dist.nn.functional.all_gather(x.contiguous()))


def mean_token(tokens: torch.Tensor, token_mask: torch.Tensor) -> torch.Tensor:
    """V^I (B, D): the mean of each image's concept tokens (B, C, D)."""
    weights = token_mask.to(tokens.dtype)[..., None]
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)


def unit(x: torch.Tensor) -> torch.Tensor:
    """Scales the last dimension to length one."""
    return nn.functional.normalize(x, dim=-1)
