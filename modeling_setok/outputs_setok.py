"""What SeTok's models return."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class SetokModelOutput(ModelOutput):
    """Concept tokens of a batch of images.

    `last_hidden_state` (B, C, D): the concept tokens, C = the batch's largest number, zero where an image has fewer.
    `token_mask` (B, C) bool: True for a token.
    `num_tokens` (B,) long: number of tokens of each image.
    `cluster_ids` (B, N) long: token that each patch belongs to, -1 on padding.
    `patch_embeddings` (B, N, Dv): what the vision encoder gave.
    `grid_size` (h, w): the patches form h rows of w, N = h * w.
    `grid_sizes` (B, 2) long: with `pixel_mask`, each image's own rows and columns, at the top left of that grid.
    `scores` (B, N) float32: seed scores of the clustering.
    `soft_masks` (B, C, N) float32: with `assignment_mode="soft"`, the concept masks; they sum to 1 over the tokens.
    `hidden_states`, `attentions`: with `output_hidden_states`, `output_attentions`, the vision encoder's, as it gives
    them: tuples with one of each layer (or stage).
    """

    last_hidden_state: torch.FloatTensor | None = None
    token_mask: torch.BoolTensor | None = None
    num_tokens: torch.LongTensor | None = None
    cluster_ids: torch.LongTensor | None = None
    patch_embeddings: torch.FloatTensor | None = None
    grid_size: tuple[int, int] | None = None
    grid_sizes: torch.LongTensor | None = None
    scores: torch.FloatTensor | None = None
    soft_masks: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None

    def own_cluster_ids(self) -> list[torch.LongTensor]:
        """`cluster_ids` of each image on its own grid, (h_i, w_i), without padding."""
        ids = self.cluster_ids.unflatten(1, self.grid_size)
        if self.grid_sizes is None:
            return list(ids)
        return [image[:height, :width] for image, (height, width) in zip(ids, self.grid_sizes.tolist(), strict=True)]


@dataclass
class SetokForPreTrainingOutput(ModelOutput):
    """`loss` = alpha * `reconstruction_loss` + beta * `contrastive_loss` (Eq. 3), each () where its targets were given.

    `placement_loss` () is a third term where `config.placement_weight` > 0.
    `reconstruction` (B, 3, S, S): the painted image, normalised as the target. `image_features` (B, P): unit length,
    V^I of Eq. 5. `logits_per_image` (B, V): scaled similarity to every concept of the bank, where there is one.
    `setok_output`: the tokens; `hidden_states` and `attentions`: its.
    """

    loss: torch.FloatTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    contrastive_loss: torch.FloatTensor | None = None
    placement_loss: torch.FloatTensor | None = None
    reconstruction: torch.FloatTensor | None = None
    image_features: torch.FloatTensor | None = None
    logits_per_image: torch.FloatTensor | None = None
    setok_output: SetokModelOutput | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
