"""Visual tokens: their statistics, and which of them stand for a mask."""

import pytest
import torch

from tests.setokim_testing import (
    IMAGE,
    MASK,
    inputs_of,
    pictures,
)


def test_calibration_makes_unit_variance(processor, model):
    pixels = processor.image_processor(pictures(5))["pixel_values"]
    model.calibrate([pixels[:2], pixels[2:]])
    tokens = torch.cat(model.get_image_features(pixels).visual_tokens)
    torch.testing.assert_close(tokens.mean(0), torch.zeros(16), rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens.std(0), torch.ones(16), rtol=0, atol=1e-4)
    raw = torch.cat(model.model.setok.get_image_features(pixels).pooler_output)
    torch.testing.assert_close(model.model.denormalize_tokens(tokens), raw, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="at least one batch"):
        model.calibrate([])


@pytest.fixture
def masked(processor, model):
    """A row of two images, a mask of the second, with the clusters of that one (C, h, w)."""
    inputs = inputs_of(processor, ["text", f"{IMAGE}{IMAGE} dog {MASK}"])
    with torch.no_grad():
        outputs = model.model.setok(inputs["pixel_values"])
    clusters = model.model.setok.concept_masks(outputs, size=(24, 24))[1, : outputs.num_tokens[1]]
    tokens = model.model.normalize_tokens(outputs.last_hidden_state[1])
    return inputs, clusters, tokens


def prompts_of(model, inputs, mask: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        features = model.model.get_placeholder_features(inputs["input_ids"], inputs["pixel_values"], mask[None])
    assert features.mask_images.tolist() == [1] and len(features.visual_tokens) == 3
    prompts = features.mask_prompts[features.mask_prompt_mask]
    assert torch.equal(prompts, features.visual_tokens[2])
    return prompts


def test_mask_stands_for_the_tokens_it_covers(model, masked):
    inputs, clusters, tokens = masked
    assert len(clusters) > 2
    for number in range(len(clusters)):
        torch.testing.assert_close(prompts_of(model, inputs, clusters[number]), tokens[[number]], rtol=0, atol=1e-5)
    both = clusters[0] + clusters[2]
    torch.testing.assert_close(prompts_of(model, inputs, both), tokens[[0, 2]], rtol=0, atol=1e-5)
    everything = torch.ones(24, 24)
    torch.testing.assert_close(prompts_of(model, inputs, everything), tokens[: len(clusters)], rtol=0, atol=1e-5)


def test_a_mask_of_little_stands_for_the_token_it_covers_most(model, masked):
    inputs, clusters, tokens = masked
    number = int(clusters.sum((1, 2)).argmax())
    row, column = clusters[number].nonzero()[-1].tolist()
    speck = torch.zeros(24, 24)
    speck[row, column] = 1
    torch.testing.assert_close(prompts_of(model, inputs, speck), tokens[[number]], rtol=0, atol=1e-5)
    assert len(prompts_of(model, inputs, torch.zeros(24, 24))) == 1  # of nothing, some token


def test_masks_need_places(processor, model):
    inputs = inputs_of(processor, [f"{IMAGE} dog"])
    with pytest.raises(ValueError, match="0 <mask> but 1 masks"):
        model(**inputs, masks=torch.ones(1, 24, 24))
    del inputs["pixel_values"]
    with pytest.raises(ValueError, match="without pixel_values"):
        model(**inputs, masks=torch.ones(1, 24, 24))
