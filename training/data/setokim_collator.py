"""From rows of the schema to the inputs of SetokimForConditionalGeneration."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from processing import SetokimProcessor

IGNORED = -100  # the label of a position without a loss
LongRows = Literal["refuse", "skip", "cut"]
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
        max_length: the most tokens that a row may have, before its images and masks become visual tokens.
        long_rows: what becomes of longer ones: "cut" leaves out what comes after the limit, and whole what would lose
            a part of an image or mask; the answer then has no end, so that nobody learns to end there. Else they are
            refused: "skip" has `without_long_rows` leave them out before.

    Raises:
        ValueError: for a row without an assistant's turn, with other numbers of images or masks than its messages have
            places for, with a mask that does not fit its image, longer than `max_length`, or cut without a rest of an
            answer; for an unknown word in `long_rows`.
    """

    processor: SetokimProcessor
    max_length: int | None = None
    long_rows: LongRows = "refuse"

    def __post_init__(self):
        if self.long_rows not in get_args(LongRows):
            raise ValueError(f"long_rows must be one of {', '.join(get_args(LongRows))}, not {self.long_rows!r}")

    def __call__(self, rows: list[dict]) -> dict[str, Any]:
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
        return self._within_length(rows, batch)

    def tokens(self, conversations: list[list[dict]]) -> list[tuple[list[int], list[int]]]:
        """Of each conversation its ids and which of them are to be learned (0 or 1), as in a batch, but whole and
        without its pictures: one pixel stands for each."""
        pixel = Image.new("RGB", (1, 1))
        parts = [[part["type"] for turn in messages for part in turn["content"]] for messages in conversations]
        batch = self.processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            processor_kwargs={
                "images": [[pixel] * kinds.count("image") for kinds in parts],
                "images_kwargs": {"do_resize": False, "do_center_crop": False},
                "text_kwargs": {"padding": False, "return_tensors": None},
            },
        )
        return list(zip(batch["input_ids"], batch["assistant_masks"], strict=True))

    def cut_length(self, ids: list[int]) -> int:
        """How many tokens of a row are left of it: at most `max_length`, without the beginning of an image."""
        processor = self.processor
        unfinished = (processor.image_start_token_id, processor.image_token_id, processor.mask_token_id)
        length = min(len(ids), self.max_length)
        while length < len(ids) and length and ids[length - 1] in unfinished:
            length -= 1
        return length

    def _cached(self, rows: list[dict]) -> dict[str, Any]:
        """Rows of a `TokenCache`."""
        ids, learned = zip(*self.tokens([row["messages"] for row in rows]), strict=True)
        ids = [torch.tensor(row) for row in ids]
        labels = [row.where(torch.tensor(is_target) == 1, IGNORED) for row, is_target in zip(ids, learned, strict=True)]
        batch = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.processor.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        }
        pictures = [tokens for row in rows for tokens in row["concept_tokens"]]
        if not pictures:
            return self._within_length(rows, batch)
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
        batch = self._within_length(rows, batch)
        fields = {name: batch.pop(name) for name in SETOK_FIELDS if name in batch}
        return batch | {"mm_encoder_outputs": {"setok": fields | {"grid_size": grid_size}}} if fields else batch

    def _within_length(self, rows: list[dict], batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch with no row longer than `max_length`."""
        lengths = batch["attention_mask"].sum(1).tolist()
        if self.max_length is None or max(lengths) <= self.max_length:
            return batch
        ids, labels = batch["input_ids"], batch["labels"]
        kept = [self.cut_length(row[:length].tolist()) for row, length in zip(ids, lengths, strict=True)]
        for row, length, rest, learned in zip(rows, lengths, kept, labels != IGNORED, strict=True):
            if length > self.max_length and not (self.long_rows == "cut" and learned[:rest].any()):
                raise ValueError(
                    f"A row of task {row['task']!r} has {length} tokens and max_length is {self.max_length}. Raise "
                    "max_length, or set long_rows to skip or cut; a row that is cut has to keep some of its answer."
                )
        is_kept = torch.arange(ids.shape[1]) < torch.tensor(kept)[:, None]
        marks = dict.fromkeys(("pixel_values", *SETOK_FIELDS), self.processor.image_token_id)
        marks["masks"] = self.processor.mask_token_id
        for name, token_id in marks.items():
            if name in batch:
                batch[name] = batch[name][is_kept[ids == token_id]]
                if not len(batch[name]):
                    del batch[name]
        padding = {"input_ids": self.processor.pad_token_id, "attention_mask": 0, "labels": IGNORED}
        cut = {name: batch[name].where(is_kept, value)[:, : max(kept)] for name, value in padding.items()}
        return batch | cut

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
    parts = [part["type"] for turn in row["messages"] for part in turn["content"]]
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
