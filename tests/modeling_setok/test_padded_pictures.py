"""Pictures of different sizes in one batch: each has the tokens, masks and painting that it has alone."""

import math

import pytest
import torch
from torch import nn

from modeling_setok import SetokConfig, SetokForPreTraining
from modeling_setok.concept_masks import square_cluster_ids

SIZES = [(56, 84), (112, 70), (84, 84), (56, 84)]  # of patches of 14: 4 x 6, 8 x 5, 6 x 6


def tiny_setok(**settings) -> SetokForPreTraining:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "initializer_range": 0.2}
    return SetokForPreTraining(SetokConfig(**{
        "vision_config": {
            "model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "patch_size": 14, "image_size": 70, "initializer_range": 0.2,
        },
        "detokenizer_config": {"num_hidden_layers": 1, "grid_size": 3, "decoder_channels": [8, 4], "decoder_blocks": 1}
        | sizes,
        "num_inner_layers": 2, "num_inter_layers": 1, "num_neighbors": 4, "threshold": 0.85, "max_tokens": 12,
        "projection_dim": 8, "text_feature_dim": 6, **sizes, **settings,
    })).eval()  # fmt: skip


def pictures() -> list[torch.Tensor]:
    coarse = [torch.randn(1, 3, 3, 4) for _ in SIZES]
    return [
        nn.functional.interpolate(colours, size)[0] + 0.1 * torch.randn(3, *size)
        for colours, size in zip(coarse, SIZES, strict=True)
    ]


def padded(images: list[torch.Tensor], value: float = 0.0) -> dict[str, torch.Tensor]:
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    pixel_values = torch.full((len(images), 3, height, width), value)
    pixel_mask = torch.zeros(len(images), height, width, dtype=torch.long)
    for row, mask, image in zip(pixel_values, pixel_mask, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
        mask[: image.shape[1], : image.shape[2]] = 1
    return {"pixel_values": pixel_values, "pixel_mask": pixel_mask}


MODES = [{}, {"background_norm": 0.5}, {"pack_clusters": False}, {"assignment_mode": "soft"}, {"assignment": "nearest"},
         {"vision_feature_layer": [0, -1]}]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("settings", MODES, ids=str)
@pytest.mark.parametrize("padding", [0.0, math.nan])
def test_a_row_is_the_picture_alone(settings, padding):
    model, images = tiny_setok(**settings), pictures()
    batch = padded(images, padding)
    outputs = model.setok(**batch)
    features = model.get_image_features(**batch).pooler_output
    assert outputs.grid_size == (8, 6) and outputs.grid_sizes.tolist() == [[4, 6], [8, 5], [6, 6], [4, 6]]
    masks = model.setok.concept_masks(outputs)
    assert masks.shape[-2:] == (8, 6)
    for row, (image, own_ids) in enumerate(zip(images, outputs.own_cluster_ids(), strict=True)):
        alone = model.setok(image[None])
        count, (height, width) = int(alone.num_tokens), alone.grid_size
        assert count > 1 and int(outputs.num_tokens[row]) == count
        assert torch.equal(own_ids.flatten(), alone.cluster_ids[0])
        ids = outputs.cluster_ids[row].unflatten(0, outputs.grid_size)
        assert (ids[height:] == -1).all() and (ids[:, width:] == -1).all()
        torch.testing.assert_close(
            outputs.last_hidden_state[row, :count], alone.last_hidden_state[0], rtol=0, atol=1e-5
        )
        torch.testing.assert_close(features[row], alone.last_hidden_state[0], rtol=0, atol=1e-5)
        grid = outputs.patch_embeddings[row].unflatten(0, outputs.grid_size)
        torch.testing.assert_close(grid[:height, :width].flatten(0, 1), alone.patch_embeddings[0], rtol=0, atol=1e-5)
        assert (masks[row, :, height:] == 0).all() and (masks[row, :, :, width:] == 0).all()
        own = model.setok.concept_masks(alone)[0]
        torch.testing.assert_close(masks[row, :count, :height, :width], own, rtol=0, atol=1e-5)
        torch.testing.assert_close(masks[row].sum(0)[:height, :width], torch.ones(height, width))


@torch.no_grad()
def test_masks_of_the_pictures_own_sizes():
    model, images = tiny_setok(), pictures()
    outputs = model.setok(**padded(images))
    for masks, image, size in zip(model.setok.concept_masks(outputs, SIZES), images, SIZES, strict=True):
        alone = model.setok.concept_masks(model.setok(image[None]), size)[0]
        assert masks.shape[1:] == size and torch.equal(masks[: len(alone)], alone)
    whole = model.setok.concept_masks(outputs, (112, 84))
    assert torch.equal(whole[0, :, :56, :84], model.setok.concept_masks(outputs, SIZES)[0])
    with pytest.raises(ValueError, match="4 images need as many sizes"):
        model.setok.concept_masks(outputs, SIZES[:2])


def test_losses_are_the_mean_over_the_pictures_alone():
    """Targets are each picture's own square, and so are the clusters that the placement is compared with."""
    model, images = tiny_setok(placement_weight=1.0), pictures()
    together = model(**padded(images, math.nan))
    alone = [model(image[None]) for image in images]
    expected = torch.stack([output.reconstruction_loss for output in alone]).mean()
    torch.testing.assert_close(together.reconstruction_loss, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        together.placement_loss, torch.stack([output.placement_loss for output in alone]).mean(), rtol=0, atol=1e-4
    )
    for row, output in enumerate(alone):
        torch.testing.assert_close(together.reconstruction[row], output.reconstruction[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(model.reconstruct(**padded(images)), together.reconstruction, rtol=0, atol=1e-5)
    together.loss.backward()
    gradient = model.setok.vision_encoder.embeddings.patch_embeddings.projection.weight.grad
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


@torch.no_grad()
def test_clusters_of_a_square():
    """Cells take the patch below their middle: of a grid of 2 x 4, at the top left of 3 x 5."""
    model = tiny_setok()
    outputs = model.setok(torch.randn(1, 3, 42, 70))
    outputs.cluster_ids = torch.tensor([[0, 1, 2, 3, -1, 4, 5, 6, 7, -1, -1, -1, -1, -1, -1]])
    outputs.grid_sizes = torch.tensor([[2, 4]])
    assert square_cluster_ids(outputs, 2).tolist() == [[[1, 3], [5, 7]]]
    assert square_cluster_ids(outputs, 4).tolist() == [[[0, 1, 2, 3]] * 2 + [[4, 5, 6, 7]] * 2]


@torch.no_grad()
def test_a_mask_without_padding_changes_nothing():
    model, pixels = tiny_setok(), torch.randn(2, 3, 56, 70)
    plain = model.setok(pixels, output_hidden_states=True)
    masked = model.setok(pixels, pixel_mask=torch.ones(2, 56, 70), output_hidden_states=True)
    assert torch.equal(plain.last_hidden_state, masked.last_hidden_state) and len(masked.hidden_states) == 3
    patch_mask = torch.rand(2, 20) < 0.7
    plain, masked = (
        model.setok(pixels, patch_mask=patch_mask, pixel_mask=mask) for mask in (None, torch.ones(2, 56, 70))
    )
    assert torch.equal(plain.cluster_ids, masked.cluster_ids) and (masked.cluster_ids[~patch_mask] == -1).all()


@torch.no_grad()
@pytest.mark.parametrize("size", [(224, 224), (518, 518), (770, 1022)])
def test_photographs_of_any_size(size):
    outputs = tiny_setok().setok(torch.randn(1, 3, *size))
    assert outputs.grid_size == (size[0] // 14, size[1] // 14) and outputs.last_hidden_state.isfinite().all()


def test_sizes_and_masks_that_do_not_fit_are_refused():
    model, batch = tiny_setok(), padded(pictures())
    with pytest.raises(ValueError, match=r"768 x 1024 pixels .* end within a patch of 14 x 14.*size_divisor=14"):
        model.setok(torch.randn(1, 3, 768, 1024))
    with pytest.raises(ValueError, match=r"pixel_mask must be \(batch, height, width\)"):
        model.setok(batch["pixel_values"], pixel_mask=torch.ones(4, 8, 6))
    holes = batch["pixel_mask"].clone()
    holes[0, 3, 3] = 0
    for mask in (holes, batch["pixel_mask"].flip(1), torch.zeros_like(holes)):
        with pytest.raises(ValueError, match="rectangle at the top left"):
            model.setok(batch["pixel_values"], pixel_mask=mask)
    with pytest.raises(ValueError, match="output_hidden_states cannot be given for pictures of different sizes"):
        model.setok(**batch, output_hidden_states=True)
    with pytest.raises(ValueError, match="pixel_values alone, or patch_embeddings"):
        model.setok(pixel_mask=batch["pixel_mask"], patch_embeddings=torch.randn(4, 48, 32), grid_size=(8, 6))


@torch.no_grad()
def test_the_size_of_the_encoder_may_end_within_a_patch():
    """SigLIP-SO400M: 384 pixels are 27 patches of 14 and a rest, which its convolution leaves out."""
    encoder = {"model_type": "siglip_vision_model", "image_size": 60, "patch_size": 14, "hidden_size": 32,
               "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}  # fmt: skip
    model = tiny_setok(vision_config=encoder)
    assert model.setok(torch.randn(1, 3, 60, 60)).grid_size == (4, 4)
    with pytest.raises(ValueError, match="end within a patch"):
        model.setok(torch.randn(1, 3, 60, 74))
