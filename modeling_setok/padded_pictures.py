"""Pictures of different sizes in one batch, padded at the bottom and right: what is done to each at its own size.

An encoder would attend to padding, so pictures are taken out of the batch in groups of equal size: each is encoded as
if it were alone.
"""

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_setok import SetokConfig
from .vision_encoder import encode_patches


def pictures_of_equal_size(
    pixel_values: torch.Tensor, pixel_mask: torch.Tensor
) -> list[tuple[torch.LongTensor, torch.Tensor]]:
    """The pictures of a padded batch (B, 3, H, W) without their padding, in groups: the indices (n,) of the pictures
    of one size, and these pictures (n, 3, h, w).

    Args:
        pixel_mask: (B, H, W), 1 on the picture, 0 on padding, as image processors give it.

    Raises:
        ValueError: a mask of another shape, or one that is no rectangle at the top left.
    """
    batch, _, height, width = pixel_values.shape
    if pixel_mask.shape != (batch, height, width):
        raise ValueError(
            f"pixel_mask must be (batch, height, width) = {(batch, height, width)}, as the pixel values are, got "
            f"{tuple(pixel_mask.shape)}."
        )
    mask = pixel_mask.to(device=pixel_values.device, dtype=torch.bool)
    heights, widths = mask.any(2).sum(1), mask.any(1).sum(1)
    rows, columns = (torch.arange(length, device=mask.device) for length in (height, width))
    rectangle = (rows < heights[:, None])[:, :, None] & (columns < widths[:, None])[:, None, :]
    if not torch.equal(mask, rectangle) or bool((heights == 0).any()):
        raise ValueError(
            "pixel_mask must mark one picture each, a rectangle at the top left with padding below and to its right: "
            "use the image processor's. To leave out parts of a picture use patch_mask."
        )
    sizes, group = torch.stack([heights, widths], dim=1).unique(dim=0, return_inverse=True)
    members = ((group == index).nonzero()[:, 0] for index in range(len(sizes)))
    return [(own, pixel_values[own, :, :h, :w]) for own, (h, w) in zip(members, sizes.tolist(), strict=True)]


def encode_padded_patches(
    encoder: PreTrainedModel,
    config: SetokConfig,
    pixel_values: torch.Tensor,
    pixel_mask: torch.Tensor,
    **requested: bool,
) -> tuple[ModelOutput, torch.Tensor, torch.LongTensor]:
    """As `encode_patches`, for a padded batch.

    Returns:
        What the encoder returns (nothing, where sizes differ); the patch embeddings (B, h, w, Dv) on the smallest grid
        that holds each picture's, 0 on padding; the pictures' own grids (B, 2) long.

    Raises:
        ValueError: hidden states or attentions are asked for of pictures of different sizes; and see `encode_patches`.
    """
    groups = pictures_of_equal_size(pixel_values, pixel_mask)
    if len(groups) > 1 and requested:
        raise ValueError(
            f"{', '.join(requested)} cannot be given for pictures of different sizes, whose patches differ in number: "
            "pass them one by one, or pictures of one size."
        )
    encoded = [(members, *encode_patches(encoder, config, pictures, **requested)) for members, pictures in groups]
    grid_sizes = torch.empty(len(pixel_values), 2, dtype=torch.long, device=pixel_values.device)
    for members, _, _, grid_size in encoded:
        grid_sizes[members] = torch.tensor(grid_size, device=grid_sizes.device)
    height, width = grid_sizes.amax(0).tolist()
    patches = encoded[0][2].new_zeros(len(pixel_values), height, width, encoded[0][2].shape[-1])
    for members, _, embeddings, (h, w) in encoded:
        patches[members, :h, :w] = embeddings.unflatten(1, (h, w))
    return encoded[0][1] if len(groups) == 1 else ModelOutput(), patches, grid_sizes


def patches_of_pictures(grid_size: tuple[int, int], grid_sizes: torch.LongTensor) -> torch.BoolTensor:
    """(B, h * w): True on the patches of each picture, whose grid (B, 2) stands at the top left of a padded one."""
    rows, columns = (torch.arange(length, device=grid_sizes.device) for length in grid_size)
    inside = (rows < grid_sizes[:, :1])[:, :, None] & (columns < grid_sizes[:, 1:])[:, None, :]
    return inside.flatten(1)


def resized_pictures(pixel_values: torch.Tensor, size: int, pixel_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Pictures (B, 3, H, W) as squares (B, 3, size, size) float32, each without its padding."""
    groups = [(None, pixel_values)] if pixel_mask is None else pictures_of_equal_size(pixel_values, pixel_mask)
    squares = pixel_values.new_empty(*pixel_values.shape[:2], size, size, dtype=torch.float32)
    for members, pictures in groups:
        resized = nn.functional.interpolate(pictures.float(), (size, size), mode="bilinear", antialias=True)
        squares[slice(None) if members is None else members] = resized
    return squares
