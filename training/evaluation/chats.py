"""Conversations as an image-text-to-text model of transformers reads and answers them, and how many tokens it sees."""

from collections.abc import Sequence

import torch
from transformers import BatchFeature, PreTrainedModel

from modeling_setok import SetokimForConditionalGeneration


@torch.no_grad()
def read_chats(
    model: PreTrainedModel, processor, conversations: Sequence[list[dict]], padding_side: str = "left"
) -> BatchFeature:
    """The inputs of a batch of conversations, as its processor's chat template has them, on the model's device.

    A Setokim's pictures are encoded here, once, which tells how many concept tokens they have.

    Args:
        conversations: turns `{"role", "content": [part, ...]}`; a part is `{"type": "text", "text"}` or
            `{"type": "image", "image": a PIL picture}`.
    """
    inputs = processor.apply_chat_template(
        list(conversations),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": padding_side},
    ).to(model.device, dtype=model.dtype)
    if isinstance(model, SetokimForConditionalGeneration) and "pixel_values" in inputs:
        features = model.get_image_features(inputs.pop("pixel_values"), return_dict=True)
        inputs["mm_encoder_outputs"] = {"image": features}
    return inputs


def written_after(inputs: BatchFeature, sequences: torch.Tensor) -> torch.Tensor:
    """What `generate` wrote after the prompts: (B, T) ids -> (B, T - prompt)."""
    return sequences[:, inputs["input_ids"].shape[1] :]


def ends_of(model: PreTrainedModel, written: torch.Tensor) -> list[int | None]:
    """Where in each row of `written_after` the token stands that ends it; `None` where it was cut before."""
    ids = model.generation_config.eos_token_id  # one, several, or none
    ends = torch.isin(written, torch.tensor([] if ids is None else ids, dtype=torch.long, device=written.device))
    return [row.index(True) if True in row else None for row in ends.tolist()]


def visual_token_counts(model: PreTrainedModel, inputs: BatchFeature) -> list[int | None]:
    """How many visual tokens the language model saw in each row of `read_chats`; `None` where that is not known.

    To be asked after the model read these inputs: of a model with `add_concept_tokens`, that is what tells.
    """
    ids = inputs["input_ids"]
    image_token_id = getattr(model.config, "image_token_id", None)
    if image_token_id is None:
        return [None] * len(ids)
    rows = (ids == image_token_id).nonzero()[:, 0]  # of each placeholder
    if not len(rows):
        return [0] * len(ids)
    seen = getattr(model.base_model, "last_seen", None)  # of `add_concept_tokens`
    if isinstance(model, SetokimForConditionalGeneration):
        tokens = inputs["mm_encoder_outputs"]["image"].visual_tokens
        weights = torch.tensor([len(of_picture) for of_picture in tokens], device=ids.device)
        return rows.bincount(weights, minlength=len(ids)).long().tolist()
    if seen:
        rows = rows[seen["image"][0].seeds.to(rows.device)]
    return rows.bincount(minlength=len(ids)).tolist()


def read_token_counts(model: PreTrainedModel, inputs: BatchFeature) -> list[int | None]:
    """How many tokens the language model read in each row, visual ones included; else as `visual_token_counts`."""
    image_token_id = getattr(model.config, "image_token_id", None)
    texts = (inputs["attention_mask"] * (inputs["input_ids"] != image_token_id)).sum(1).tolist()
    visual = visual_token_counts(model, inputs)
    return [None if of_row is None else text + of_row for text, of_row in zip(texts, visual, strict=True)]
