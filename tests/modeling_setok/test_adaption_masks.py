"""Which patches the tokens of a model with concept tokens stand for, and what an answer owes to them."""

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from modeling_setok.adaption import add_concept_tokens
from modeling_setok.adaption_masks import attribution, concept_maps, concept_masks
from modeling_setok.patch_features import patch_grids
from training.evaluation.tiny_llava import tiny_llava

IMAGE = 4


@pytest.fixture
def model() -> LlavaForConditionalGeneration:
    return add_concept_tokens(tiny_llava()[0], threshold=0.4)


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    pixels = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[5] + [IMAGE] * 64 + [6] + [IMAGE] * 64 + [7]])
    return {"input_ids": ids, "pixel_values": pixels.repeat_interleave(28, 2).repeat_interleave(28, 3)}


def test_masks_part_the_patches(model, inputs):
    with pytest.raises(ValueError, match="has seen no images"):
        concept_maps(model)
    model(**inputs)
    means, _ = model.model.last_seen["image"]
    masks = concept_masks(model)
    assert [mask.shape for mask in masks] == [(count, 8, 8) for count in means.num_tokens]
    assert all((mask.sum(0) == 1).all() for mask in masks)
    assert torch.cat([mask.sum((1, 2)) for mask in masks]).tolist() == means.sizes.tolist()
    large = concept_masks(model, sizes=[(24, 16), (8, 8)])
    assert torch.equal(large[0], masks[0].repeat_interleave(3, 1).repeat_interleave(2, 2))
    with pytest.raises(ValueError, match="2 images need as many sizes"):
        concept_masks(model, sizes=[(8, 8)])


def test_generation_is_what_was_seen_last(model, inputs):
    model(**inputs)
    first = concept_maps(model)
    other = inputs | {"pixel_values": inputs["pixel_values"].flip(0)}
    model.generate(**other, max_new_tokens=2, do_sample=False)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(concept_maps(model), first[::-1], strict=True))


def test_tiles_of_one_image_share_tokens(model, inputs):
    inputs["input_ids"] = inputs["input_ids"][:, inputs["input_ids"][0] != 6]  # no text between: two tiles
    model(**inputs)
    ((one, two),) = concept_maps(model)
    assert one.shape == two.shape == (8, 8)
    assert torch.cat([one, two]).unique().tolist() == list(range(int(model.model.last_seen["image"][0].num_tokens)))
    with pytest.raises(ValueError, match="cut into 2 tiles"):
        concept_masks(model)
    assert torch.equal(concept_masks(model, tile=-1)[0].sum(0), torch.ones(8, 8, dtype=torch.long))


def test_attribution_is_what_is_lost_without_a_token(model, inputs):
    """To first order, against a small step towards no token, of one token after the other."""
    answer = torch.tensor([8, 9])
    model.double()
    inputs["pixel_values"] = inputs["pixel_values"].double()
    shares = attribution(model, inputs, answer)
    assert [len(x) for x in shares] == model.model.last_seen["image"][0].num_tokens.tolist()
    whole = inputs | {"input_ids": torch.cat([inputs["input_ids"], answer[None]], 1)}
    short = model.model.shorten(whole)
    tokens = short.inputs["mm_encoder_outputs"]["image"]
    bare = [x.detach() for x in tokens.pooler_output]

    def likelihood(image: int, token: int, factor: float) -> torch.Tensor:
        features = [x.clone() for x in bare]
        features[image][token] *= factor
        tokens.pooler_output = features
        with torch.no_grad():
            logits = model(**short.inputs).logits[0, -3:-1]
        return torch.log_softmax(logits, -1).gather(1, answer[:, None]).sum()

    for image, token in [(0, 0), (0, 1), (1, 0)]:
        step = (likelihood(image, token, 1.02) - likelihood(image, token, 0.98)) / 0.04  # norms are in float32
        torch.testing.assert_close(shares[image][token].double(), step, rtol=0.02, atol=2e-5)


def test_grids_follow_the_processors_sizes():
    frames = torch.tensor([[1, 8, 12], [2, 4, 4]])
    assert patch_grids({"image_grid_thw": frames}, "image", [24, 8]) == [(1, 4, 6), (2, 2, 2)]
    assert patch_grids({"image_sizes": torch.tensor([[64, 96]])}, "image", [24]) == [(1, 4, 6)]
    assert patch_grids({}, "image", [49, 50]) == [(1, 7, 7), (50,)]
    # LLaVA-NeXT: a small picture, and a large one with a line end in each row
    assert patch_grids({"image_sizes": torch.tensor([[336, 672]])}, "image", [576 + 24 * 49]) == [(1752,)]
