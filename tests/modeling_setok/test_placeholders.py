"""From the compact text to the expanded sequence, and what is refused on the way."""

import random
from types import SimpleNamespace

import pytest
import torch

from modeling_setok.placeholders import expand_placeholders
from tests.setokim_testing import (
    IMAGE,
    MASK,
    pictures,
)


@pytest.mark.parametrize("side", ["left", "right"])
def test_expansion_against_lists(side):
    image_id, mask_id, pad = 90, 91, 3
    config = SimpleNamespace(image_token_id=image_id, mask_token_id=mask_id)
    rng = random.Random(0)
    for _ in range(20):
        rows = [[rng.choice([5, 6, 7, 8, image_id, mask_id]) for _ in range(rng.randint(1, 7))] for _ in range(4)]
        rows[0] = [5, 6]  # without any
        counts = [rng.randint(1, 5) for row in rows for token in row if token >= image_id]
        length = max(map(len, rows))
        padding = [[pad] * (length - len(row)) for row in rows]
        left = side == "left"
        ids = torch.tensor([p + r if left else r + p for p, r in zip(padding, rows, strict=True)])
        mask = torch.tensor(
            [[0] * len(p) + [1] * len(r) if left else [1] * len(r) + [0] * len(p)
             for p, r in zip(padding, rows, strict=True)]
        )  # fmt: skip
        got = expand_placeholders(config, ids, mask, None, counts)

        left_counts, total = iter(counts), got.input_ids.shape[1]
        for number, row in enumerate(rows):
            repeats = [next(left_counts) if token >= image_id else 1 for token in row]
            wanted = [min(t, image_id) for t, n in zip(row, repeats, strict=True) for _ in range(n)]
            real = got.attention_mask[number].bool()
            assert got.input_ids[number][real].tolist() == wanted
            assert got.position_ids[number][real].tolist() == list(range(len(wanted)))
            assert image_id not in got.input_ids[number][~real].tolist()
            offset = length - len(row) if left else 0
            source = [offset + i for i, n in enumerate(repeats) for _ in range(n)]
            assert got.source_positions[number][real].tolist() == source
            ends = [sum(repeats[: i + 1]) - 1 for i in range(len(row))]
            start = int(real.nonzero()[0])
            compact = got.compact_positions[number, offset : offset + len(row)]
            assert compact.tolist() == [start + end for end in ends]
        assert total == max(
            int(ids.shape[1]) + sum(int(n) - 1 for n in c)
            for c in _counts_by_row(rows, counts, image_id)
        )  # fmt: skip


def _counts_by_row(rows: list[list[int]], counts: list[int], first: int) -> list[list[int]]:
    counts = iter(counts)
    return [[next(counts) for token in row if token >= first] for row in rows]


@pytest.mark.parametrize(
    "text, images, message",
    [
        (f"{IMAGE} and {IMAGE}", 1, "do not match"),
        ("none", 1, "do not match"),
        (IMAGE, 0, "there are no pixel_values"),
        (f"{MASK} {IMAGE}", 1, "needs an image before it"),
        (f"{IMAGE} {MASK}", 1, "has 1 <mask> but 0 masks"),
    ],
)
def test_refused_prompts(processor, model, text, images, message):
    inputs = dict(processor(text=[text.replace("<image>", "<|pad|>")], return_tensors="pt"))
    pad, image = processor.tokenizer.convert_tokens_to_ids(["<|pad|>", "<image>"])
    inputs["input_ids"][inputs["input_ids"] == pad] = image
    if images:
        inputs["pixel_values"] = processor.image_processor(pictures(images))["pixel_values"]
    with pytest.raises(ValueError, match=message):
        model(**inputs)


def test_a_wrong_number_of_images_is_never_taken_for_an_expanded_prompt(processor, model):
    """Three `<image>` and one image of three visual tokens are no match."""
    pixels = processor.image_processor(pictures(1))["pixel_values"]
    count = len(model.get_image_features(pixels).pooler_output[0])
    assert count > 1
    ids = processor.tokenizer("a" + IMAGE * count, return_tensors="pt")["input_ids"]
    with pytest.raises(ValueError, match="do not match"):
        model(ids, pixel_values=pixels)
    with pytest.raises(ValueError, match="do not match"):
        model.generate(ids, pixel_values=pixels, max_new_tokens=1)
