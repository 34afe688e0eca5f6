"""Concept masks (Algorithm 1): how much of each patch belongs to each token."""

import torch
from torch import nn

from .density_peaks import TokenClusters, resolve_scale, unit_directions
from .outputs_setok import SetokModelOutput


def concept_masks(
    outputs: SetokModelOutput, size: tuple[int, int] | list[tuple[int, int]] | None = None
) -> torch.Tensor | list[torch.Tensor]:
    """See `SetokModel.concept_masks`."""
    masks = outputs.soft_masks
    if masks is None:
        tokens = torch.arange(outputs.token_mask.shape[1], device=outputs.cluster_ids.device)
        masks = (outputs.cluster_ids[:, None, :] == tokens[:, None]).float()
    masks = masks.unflatten(2, outputs.grid_size)
    how = {"mode": "nearest-exact"} if outputs.soft_masks is None else {"mode": "bilinear", "align_corners": False}
    if size is None:
        return masks
    if isinstance(size[0], int):
        return nn.functional.interpolate(masks, size=size, **how)
    if len(size) != len(masks):
        raise ValueError(f"{len(masks)} images need as many sizes (height, width), got {len(size)}.")
    grids = [outputs.grid_size] * len(masks) if outputs.grid_sizes is None else outputs.grid_sizes.tolist()
    return [
        nn.functional.interpolate(image[None, :, :rows, :columns], size=(int(height), int(width)), **how)[0]
        for image, (rows, columns), (height, width) in zip(masks, grids, size, strict=True)
    ]


def square_cluster_ids(outputs: SetokModelOutput, size: int) -> torch.LongTensor:
    """(B, size, size): the cluster of the patch below the middle of each cell of a square over the image."""
    middles = torch.arange(size, device=outputs.cluster_ids.device) + 0.5
    grids = outputs.grid_sizes
    if grids is None:
        grids = torch.tensor([outputs.grid_size], device=middles.device).expand(len(outputs.cluster_ids), -1)
    places = (middles * grids[:, :, None] / size).long()  # (B, 2, size)
    indices = places[:, 0, :, None] * outputs.grid_size[1] + places[:, 1, None, :]
    return outputs.cluster_ids.gather(1, indices.flatten(1)).unflatten(1, (size, size))


def soft_token_masks(
    patch_embeddings: torch.Tensor,
    clusters: TokenClusters,
    *,
    scale: float | torch.Tensor | None = None,
    sharpness: float = 2.0,
    threshold: float = 0.5,
    penalty: float = 0.0,
    temperature: float = 0.2,
) -> torch.Tensor:
    """Soft concept masks: Algorithm 1 for the seeds and order of `clusters`, without its loop.

    With phi_c(i) = 2^(-sharpness * D2_ic / S) and alpha_c(i) = sigmoid((phi_c(i) - threshold - penalty * s_i) /
    temperature), alpha_c = 1 at its seed, the masks are M_c = alpha_c * prod_{c' < c} (1 - alpha_c'), an exclusive
    cumulative product; what no seed claims is the mask after the image's last token.

    Args:
        patch_embeddings: (B, N, Dv). Gradients reach the patches and the seeds; scores are constants.
        clusters: the seeds, from `cluster_tokens` on the same embeddings.
        scale: S, as in `cluster_tokens`.

    Returns:
        (B, C + 1, N) float32 in [0, 1], C = `clusters.centers.shape[1]`: image b's masks are its first
        `num_tokens[b] + 1` rows, the others are 0. They sum to 1 on every valid patch and are 0 on padding.
    """
    valid = clusters.cluster_ids >= 0
    is_token = clusters.centers >= 0
    num_patches = valid.shape[1]
    with torch.autocast(patch_embeddings.device.type, enabled=False):
        directions, _ = unit_directions(patch_embeddings, valid)
        image_scale = resolve_scale(scale, directions.detach(), valid)[:, None, None]
        seeds = directions.gather(1, clusters.centers.clamp(min=0)[:, :, None].expand(-1, -1, directions.shape[-1]))
        similarity = seeds @ directions.transpose(1, 2)  # (B, C, N); |u - v|^2 = |u|^2 + |v|^2 - 2uv
        norms = directions.square().sum(-1)
        distances = norms.gather(1, clusters.centers.clamp(min=0))[:, :, None] + norms[:, None, :] - 2 * similarity
        kernel = torch.exp2(-sharpness * distances.clamp(min=0) / image_scale)
        logits = (kernel - threshold - penalty * clusters.scores[:, None, :]) / temperature
        at_seed = clusters.centers[:, :, None] == torch.arange(num_patches, device=valid.device)
        alpha = torch.where(at_seed, 1.0, logits.sigmoid()) * is_token[:, :, None]
        scope = torch.cumprod(1 - alpha, dim=1)
        scope_before = torch.cat([torch.ones_like(scope[:, :1]), scope[:, :-1]], dim=1)
        masks = torch.cat([alpha * scope_before, torch.zeros_like(scope[:, :1])], dim=1)
        # What remains after the last seed goes to the row after it; padding tokens have alpha 0 and pass it on
        remainder_row = torch.arange(masks.shape[1], device=valid.device) == clusters.num_tokens[:, None]
        masks = masks + remainder_row[:, :, None] * scope[:, -1:]
    return masks * valid[:, None, :]


def literal_token_masks(
    patch_embeddings: torch.Tensor,
    *,
    num_neighbors: int = 6,
    kernel_scale: float = 8.0,
    penalty: float = 0.0,
    max_masks: int = 64,
    min_scope: float = 0.01,
) -> list[torch.Tensor]:
    """Algorithm 1 and Eqs. 1-2 to the letter, for the record: not usable as a tokenizer.

    phi is a similarity, so Eq. 1 calls isolated patches dense; and sigmoid(phi - beta * s) stays within [0.27, 0.73]
    where 0 <= beta * s <= 1 (for every beta, here `penalty`, up to 1: phi, rho and with them s are within [0, 1]), so
    that the masks are nearly uniform and their number is a constant of `min_scope`. C of footnote 2 is `kernel_scale`,
    and the loop stops when no patch has more than `min_scope` of its scope left, or at `max_masks` (the paper leaves
    the stop condition open).

    Args:
        patch_embeddings: (N, Dv), one image.

    Returns:
        The masks M, each (N,) float32; they sum to 1.

    Raises:
        ValueError: patch_embeddings is not one image.
    """
    if patch_embeddings.ndim != 2:
        raise ValueError(f"patch_embeddings must be one image (patches, dim), got {tuple(patch_embeddings.shape)}.")
    x = patch_embeddings.float()
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
    similarity = torch.exp2(-kernel_scale * distances)
    density = torch.exp(-similarity.topk(min(num_neighbors, len(x)), dim=-1).values.mean(-1))  # Eq. 1
    denser = density[None, :] > density[:, None]
    to_denser = similarity.masked_fill(~denser, torch.inf).amin(-1)
    scores = density * torch.where(denser.any(-1), to_denser, similarity.amax(-1))  # Eq. 2
    masks, scope = [], torch.ones(len(x), device=x.device)
    while len(masks) < max_masks - 1 and scope.max() > min_scope:
        alpha = torch.sigmoid(similarity[torch.argmax(scope * scores)] - penalty * scores)
        masks.append(scope * alpha)
        scope = scope * (1 - alpha)
    return [*masks, scope]
