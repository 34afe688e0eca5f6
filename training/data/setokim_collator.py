"""From rows of the schema to the inputs of SetokimForConditionalGeneration."""

from dataclasses import dataclass

import torch
from PIL import Image

from processing import SetokimProcessor

IGNORED = -100  # the label of a position without a loss


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

    Only parts make marks: what looks like a special token in the text of a row is read and learned as its characters.

    Args:
        processor: makes token ids and pixel values.
        max_length: the most tokens that a row may have, before its images and masks become visual tokens.

    Raises:
        ValueError: for a row without an assistant's turn, with other numbers of images or masks than its messages have
            places for, with a mask that does not fit its image, or longer than `max_length` (nothing is cut off).
    """

    processor: SetokimProcessor
    max_length: int | None = None

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
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
        self._check_length(rows, batch["attention_mask"].sum(1).tolist())
        batch["labels"] = batch["input_ids"].where(is_target, IGNORED)
        if masks:
            batch["masks"] = self._mask_values(masks)
        return batch

    def _check_length(self, rows: list[dict], lengths: list[int]) -> None:
        for row, length in zip(rows, lengths, strict=True):
            if self.max_length is not None and length > self.max_length:
                raise ValueError(
                    f"A row of task {row['task']!r} has {length} tokens and max_length is {self.max_length}. Raise "
                    "max_length or leave such rows out; a row is not cut, since that could cut its images or answer."
                )

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
