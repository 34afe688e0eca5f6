"""What a model with concept tokens looks at: the patches of each token, and how much an answer owes to it."""

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


def concept_maps(model: PreTrainedModel, modality: str = "image") -> list[list[torch.LongTensor]]:
    """The token of each patch of the last images (or videos): for each image, for each tensor that the vision model
    gave of it (one, or its tiles), (h, w) long, or (t, h, w) of several frames; -1 where a patch has no token.

    Raises:
        ValueError: there were no images, or a family's patches are no grid (LLaVA-NeXT adds a column of line ends).
    """
    seen = model.base_model.last_seen.get(modality)
    if seen is None:
        raise ValueError(f"The model has seen no {modality}s with concept tokens: call it, or generate, first.")
    means, grids = seen
    tokens_before = means.num_tokens.cumsum(0) - means.num_tokens
    own = torch.where(means.token_ids < 0, -1, means.token_ids - tokens_before[means.sets.set_ids])
    maps: list[list[torch.LongTensor]] = [[] for _ in means.num_tokens]
    sizes = [math.prod(grid) for grid in grids]
    starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    for ids, grid, owner in zip(own.split(sizes), grids, means.sets.set_ids[starts].tolist(), strict=True):
        if len(grid) == 1:
            raise ValueError(f"{grid[0]} patches of one tensor are no grid of rows and columns that its size explains.")
        ids = ids.unflatten(0, grid)
        maps[owner].append(ids[0] if grid[0] == 1 else ids)
    return maps


def concept_masks(
    model: PreTrainedModel, sizes: list[tuple[int, int]] | None = None, tile: int | None = None
) -> list[torch.BoolTensor]:
    """Masks of the concept tokens of the last images, (C, h, w) of patches or (C, H, W) of pixels each.

    Args:
        sizes: (height, width) in pixels of each image.
        tile: which tile to show of images that were cut into several: the one that shows the whole image is the first
            in some families, the last in others.
    """
    maps = concept_maps(model)
    if sizes is not None and len(sizes) != len(maps):
        raise ValueError(f"{len(maps)} images need as many sizes (height, width), got {len(sizes)}.")
    masks = []
    for index, tiles in enumerate(maps):
        if len(tiles) > 1 and tile is None:
            raise ValueError(f"Image {index} was cut into {len(tiles)} tiles: say which to show, tile=0 or tile=-1.")
        ids = tiles[tile or 0]
        count = max(int(x.max()) for x in tiles) + 1
        mask = ids == torch.arange(count, device=ids.device)[:, None, None]
        if sizes is not None:
            mask = nn.functional.interpolate(mask[None].float(), size=sizes[index], mode="nearest-exact")[0] > 0
        masks.append(mask)
    return masks


def attribution(model: PreTrainedModel, inputs: dict[str, Any], answer_ids: torch.LongTensor) -> list[torch.Tensor]:
    """How much each concept token of each image adds to the log-likelihood of an answer: the gradient with respect to
    the token times the token (Shrikumar et al. 2017, to first order what is lost without it), in nats.

    Args:
        inputs: what the processor made of one conversation, a batch of one row.
        answer_ids: (T,) long, the answer that follows.

    Returns:
        (C,) float32 for each image, in the order of `concept_masks`; draw one as
        `attribution[i][concept_maps(model)[i][0]]`.
    """
    if len(inputs["input_ids"]) != 1:
        raise ValueError(f"Attribution reads one conversation at a time, got a batch of {len(inputs['input_ids'])}.")
    answer = answer_ids.to(inputs["input_ids"].device).view(1, -1)
    inputs = dict(inputs)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], dim=1)
    if inputs.get("attention_mask") is not None:
        inputs["attention_mask"] = nn.functional.pad(inputs["attention_mask"], (0, answer.shape[1]), value=1)
    for name in ("token_type_ids", "mm_token_type_ids"):
        if inputs.get(name) is not None:
            inputs[name] = nn.functional.pad(inputs[name], (0, answer.shape[1]))
    base = model.base_model
    with torch.no_grad():
        short = base.shorten(inputs)
    tokens = short.inputs["mm_encoder_outputs"]["image"]
    features = tokens.pooler_output
    leaves = [x.detach().requires_grad_() for x in features]
    tokens.pooler_output = torch.stack(leaves) if isinstance(features, torch.Tensor) else leaves
    with torch.enable_grad():
        logits = model(**short.inputs).logits[0, -answer.shape[1] - 1 : -1]
        likelihood = torch.log_softmax(logits.float(), dim=-1).gather(1, answer.T).sum()
        gradients = torch.autograd.grad(likelihood, leaves)
    shares = torch.cat([(g * x).sum(-1).flatten().float() for g, x in zip(gradients, leaves, strict=True)])
    return list(shares.detach().split(short.means["image"].num_tokens.tolist()))
