"""From rows of the schema to the inputs of SetokimForConditionalGeneration."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from processing import SetokimProcessor

from .row_lengths import RowLengths, conversation_tokens
from .schema import parts_of

IGNORED = -100  # the label of a position without a loss
SETOK_FIELDS = ("last_hidden_state", "token_mask", "cluster_ids", "patch_embeddings")  # one entry for each image


@dataclass
class SetokimCollator:
    """Collates conversations with any number of images for `SetokimForConditionalGeneration.forward`.

    A batch of B rows is a dict of

    - `input_ids`, `attention_mask`: (B, T) int64, padded on the right; an image is ONE `<image>`, a mask one `<mask>`;
    - `labels`: (B, T) int64, the ids of the assistant's turns with the end of each, -100 elsewhere. `<image>` and
      `<mask>` of an assistant's turn are targets and keep their id; the images of other turns are context;
    - `pixel_values`: (number of images, 3, H, W) float32, in reading order over the batch; missing without images;
    - `masks`: (number of masks, H, W) float32, 0 or 1, one per "mask" part in reading order; missing without any.
      Masks that no part stands for (those of task "concepts") are left out.
    - `mm_encoder_outputs`: `{"setok": fields of a SetokModelOutput}`, for rows of a `TokenCache` and in place of their
      `pixel_values`. All rows of a batch are of such a cache, or none.

    Only parts make marks: what looks like a special token in the text of a row is read and learned as its characters.

    Args:
        processor: makes token ids and pixel values.
        lengths: what is too long, and what becomes of it; by default nothing is. A row that is to be cut is cut here;
            one that would have to be left out whole, or to be cut to pieces, is refused: `without_long_rows` and
            streams see to those before.

    Raises:
        ValueError: for a row without an assistant's turn, with other numbers of images or masks than its messages have
            places for, with a mask that does not fit its image, or too long.
    """

    processor: SetokimProcessor
    lengths: RowLengths | None = None

    def __call__(self, rows: list[dict]) -> dict[str, Any]:
        if self.lengths is not None:
            rows = [self._fitted(row) for row in rows]
        if "concept_tokens" in rows[0]:
            return self._cached(rows)
        masks = [mask for row in rows for mask in _masks(row)]
        batch = self.processor.apply_chat_template(
            [row["messages"] for row in rows],
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            processor_kwargs={
                "images": [row["images"] for row in rows],
                # The template's mask is found token by token, which is slow in a tensor; so these stay lists.
                "text_kwargs": {"padding_side": "right", "return_tensors": None},
            },
        )
        batch = {key: torch.as_tensor(value) for key, value in batch.items()}
        is_target = batch.pop("assistant_masks").bool()
        batch["labels"] = batch["input_ids"].where(is_target, IGNORED)
        if masks:
            batch["masks"] = self._mask_values(masks)
        return batch

    def _fitted(self, row: dict) -> dict:
        rows, done = self.lengths.fit(row)
        if len(rows) != 1:
            raise ValueError(f"A row of task {row['task']!r} is too long for a batch: it was to be {done}.")
        return rows[0]

    def _cached(self, rows: list[dict]) -> dict[str, Any]:
        """Rows of a `TokenCache`."""
        ids, learned = zip(*conversation_tokens(self.processor, [row["messages"] for row in rows]), strict=True)
        ids = [torch.tensor(row) for row in ids]
        labels = [row.where(torch.tensor(is_target) == 1, IGNORED) for row, is_target in zip(ids, learned, strict=True)]
        batch = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.processor.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        }
        pictures = [tokens for row in rows for tokens in row["concept_tokens"]]
        if not pictures:
            return batch
        batch["last_hidden_state"] = pad_sequence(pictures, batch_first=True)
        counts = torch.tensor([len(tokens) for tokens in pictures])
        batch["token_mask"] = torch.arange(int(counts.max())) < counts[:, None]
        grid_size = None
        if masked := [row for row in rows if "masks" in row]:
            batch["masks"] = torch.cat([row["masks"] for row in masked]).float()
            patches, grid_size = masked[0]["patch_embeddings"], masked[0]["grid_size"]
            batch["patch_embeddings"] = torch.zeros(len(pictures), *patches.shape)
            batch["cluster_ids"] = torch.full((len(pictures), len(patches)), -1)
            image = 0
            for row in rows:
                if "masks" in row:  # they belong to its first image
                    batch["patch_embeddings"][image] = row["patch_embeddings"]
                    batch["cluster_ids"][image] = row["cluster_ids"]
                image += len(row["concept_tokens"])
        fields = {name: batch.pop(name) for name in SETOK_FIELDS if name in batch}
        return batch | {"mm_encoder_outputs": {"setok": fields | {"grid_size": grid_size}}} if fields else batch

    def _mask_values(self, masks: list[Image.Image]) -> torch.Tensor:
        """(M, H, W) of 0 and 1, with the geometry that images get."""
        pixels = self.processor.image_processor(
            masks, resample=Image.Resampling.NEAREST, do_rescale=True, rescale_factor=1 / 255, do_normalize=False
        )["pixel_values"]
        return torch.as_tensor(pixels)[:, 0]  # grey is repeated over the channels


def _masks(row: dict) -> list[Image.Image]:
    """The masks that parts of the messages stand for, after a check of the row."""
    if not any(turn["role"] == "assistant" for turn in row["messages"]):
        raise ValueError(
            f"A row of task {row['task']!r} has no assistant's turn to learn from; leave such rows out of the mixture."
        )
    parts = [part["type"] for part in parts_of(row["messages"])]
    if parts.count("image") != len(row["images"]):
        raise ValueError(
            f"A row of task {row['task']!r} has {len(row['images'])} images and {parts.count('image')} image parts."
        )
    if "mask" not in parts:
        return []
    if parts.count("mask") != len(row["masks"]):
        raise ValueError(
            f"A row of task {row['task']!r} has {len(row['masks'])} masks and {parts.count('mask')} mask parts."
        )
    images_before = {parts[:position].count("image") for position, kind in enumerate(parts) if kind == "mask"}
    if images_before != {1}:
        raise ValueError(
            f"In a row of task {row['task']!r} a mask does not follow the row's first image, to which masks belong."
        )
    sizes = {mask.size for mask in row["masks"]}
    if sizes != {row["images"][0].size}:
        raise ValueError(
            f"A row of task {row['task']!r} has masks of (width, height) {sorted(sizes)} on an image of "
            f"{row['images'][0].size}; a mask has the size of its image."
        )
    return row["masks"]
