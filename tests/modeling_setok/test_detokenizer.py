"""Detokenizer: sizes, what the painting depends on, noise on the tokens; of both painters."""

import re

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from modeling_setok import SetokDetokenizer, SetokDetokenizerConfig
from modeling_setok.detokenizer import PixelDecoder
from modeling_setok.transformer import place_code

MAPS = {"patch_size": 4, "map_size": 3, "map_hidden_size": 8, "initializer_range": 0.15}
painters = pytest.mark.parametrize("painter", [{}, MAPS], ids=["cnn", "maps"])


def make_detokenizer(attention: str = "sdpa", **settings) -> SetokDetokenizer:
    settings = {
        "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2, "grid_size": 3,
        "decoder_channels": [12, 8, 4], "decoder_blocks": 1, "initializer_range": 0.3, **settings,
    }  # fmt: skip
    torch.manual_seed(3)
    return SetokDetokenizer._from_config(
        SetokDetokenizerConfig(**settings), token_dim=12, attn_implementation=attention
    ).eval()


@pytest.mark.parametrize(
    ("grid_size", "channels", "image_size"), [(3, [12, 8, 4], 12), (5, [8], 5), (4, (16, 16), 8), (1, [64, 32, 3], 4)]
)
def test_image_size(grid_size, channels, image_size):
    model = make_detokenizer(grid_size=grid_size, decoder_channels=channels)
    assert model.config.image_size == image_size
    assert model(torch.randn(2, 7, 12)).shape == (2, 3, image_size, image_size)


@painters
def test_padding_tokens_are_not_seen(painter):
    """A row in a batch is the row alone, whatever stands in the padding."""
    model = make_detokenizer(**painter)
    tokens = torch.randn(3, 6, 12)
    token_mask = torch.arange(6) < torch.tensor([6, 1, 4])[:, None]
    images = model(tokens, token_mask)
    torch.testing.assert_close(model(tokens.masked_fill(~token_mask[..., None], 99.0), token_mask), images)
    for image, count in enumerate([6, 1, 4]):
        alone = model(tokens[image : image + 1, :count])
        torch.testing.assert_close(images[image], alone[0], rtol=0, atol=1e-5)


@painters
def test_tokens_are_a_set_and_every_token_counts(painter):
    model = make_detokenizer(**painter)
    tokens = torch.randn(1, 6, 12)
    image = model(tokens)
    torch.testing.assert_close(model(tokens[:, torch.randperm(6)]), image, rtol=0, atol=1e-5)
    for token in range(6):
        changed = tokens.clone()
        changed[0, token] += 1
        assert (model(changed) - image).abs().max() > 1e-3


def test_positions_tell_the_mask_tokens_apart():
    model = make_detokenizer(decoder_channels=[12], grid_size=4)
    grids = []
    model.pixel_decoder.register_forward_pre_hook(lambda module, inputs: grids.append(inputs[0]))
    model(torch.randn(1, 3, 12))
    cells = grids[0].flatten(2)[0].T
    distances = torch.cdist(cells, cells) + torch.eye(16)
    assert distances.min() > 1e-3


def test_a_cell_starts_nearest_to_the_token_that_carries_its_place():
    model = make_detokenizer(grid_size=4)
    code = place_code(model.position_embedding, 4, 4)
    placement = model.placement(code[None])
    assert placement.shape == (1, 16, 16) and placement.dtype == torch.float32
    assert placement[0].argmax(-1).tolist() == list(range(16))
    token_mask = torch.arange(16)[None] < 5
    shares = model.placement(code[None], token_mask).softmax(-1)
    assert (shares[..., 5:] == 0).all()
    torch.testing.assert_close(shares[0], placement[0, :, :5].softmax(-1) @ torch.eye(5, 16))


def test_token_dimension_without_room_for_two_axes_is_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        SetokDetokenizer(SetokDetokenizerConfig(hidden_size=16, num_attention_heads=2), token_dim=10)


@painters
def test_eager_is_sdpa(painter):
    tokens, token_mask = torch.randn(2, 5, 12), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    sdpa, eager = make_detokenizer("sdpa", **painter), make_detokenizer("eager", **painter)
    assert eager.config._attn_implementation == "eager"
    torch.testing.assert_close(eager(tokens, token_mask), sdpa(tokens, token_mask), rtol=0, atol=1e-5)


@painters
def test_noise_is_in_units_of_the_tokens_and_only_in_training(painter):
    quiet, noisy = make_detokenizer(**painter), make_detokenizer(token_noise=0.5, **painter)
    tokens = 7 * torch.randn(64, 8, 12)
    token_mask = torch.ones(64, 8, dtype=torch.bool)
    token_mask[:, 5:] = False
    tokens[:, 5:] = 1000.0  # padding does not count
    torch.testing.assert_close(noisy(tokens, token_mask), quiet(tokens, token_mask), rtol=0, atol=0)
    seen = []
    noisy.token_projection.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    if painter:
        maps = noisy.pixel_decoder.token_maps
        maps.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    noisy.train()(tokens, token_mask)
    assert not painter or torch.equal(seen[0], seen[-1])  # the maps unfold from the same noisy tokens
    assert (seen[0] - tokens)[:, :5].std() == pytest.approx(0.5 * 7, rel=0.05)
    state = torch.get_rng_state()
    quiet.train()(tokens, token_mask)
    assert torch.equal(torch.get_rng_state(), state)


def test_decoder_depth_and_normalisation_follow_the_config():
    decoder = PixelDecoder(SetokDetokenizerConfig(decoder_channels=(512, 256, 30, 3), decoder_blocks=3))
    blocks = [m for m in decoder.modules() if type(m).__name__ == "ResidualBlock"]
    assert len(blocks) == 4 * 3
    groups = {block.norm1.num_channels: block.norm1.num_groups for block in blocks}
    assert groups == {512: 32, 256: 32, 30: 6, 3: 1}


def test_every_weight_is_initialised_and_trained():
    model = make_detokenizer(initializer_range=0.02).train()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert 0.01 < model.mask_token.std() < 0.04 and model.position_embedding.std() > 0.3
    assert float(model.layers[0].mlp.fc1.weight.detach().std()) == pytest.approx(0.02, rel=0.2)
    model(torch.randn(2, 5, 12)).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_a_map_size_paints_by_maps_without_the_cnn():
    model = make_detokenizer(**MAPS).train()
    assert model.config.image_size == 3 * 4
    tokens = torch.randn(2, 7, 12)
    assert model(tokens).shape == (2, 3, 12, 12)
    assert not any(isinstance(module, PixelDecoder) for module in model.modules())
    model(tokens).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"map_size": 8}, "patch_size and map_size go together, got None and 8: give both, or neither for the CNN."),
        ({"patch_size": 8}, "patch_size and map_size go together, got 8 and None: give both, or neither for the CNN."),
        ({"map_size": 8, "patch_size": 5}, "patch_size must be even, got 5: maps have half the pixels."),
        ({"map_size": 8, "patch_size": 0}, "patch_size must be at least 2, got 0"),
        ({"map_size": 1, "patch_size": 8}, "map_size must be at least 2, got 1"),
        ({"map_hidden_size": 0}, "map_hidden_size must be at least 1, got 0"),
    ],
)
def test_sizes_that_no_map_has_are_refused(settings, sentence):
    with pytest.raises(StrictDataclassError, match=re.escape(sentence)):
        SetokDetokenizerConfig(**settings)


def test_a_cell_paints_its_patch_and_four_pixels_around():
    """As far as its two convolutions over places of 2 x 2 pixels reach: neighbours meet without a seam."""
    painter = make_detokenizer(**MAPS | {"patch_size": 6}).pixel_decoder
    grid, tokens, placement = torch.randn(1, 16, 3, 3), torch.randn(1, 4, 12), torch.randn(1, 9 * 9, 4)
    changed = grid.clone()
    changed[0, :, 1, 2] += 1
    moved = (painter(changed, tokens, placement) != painter(grid, tokens, placement))[0].any(0)
    rows, columns = moved.any(1).nonzero().flatten(), moved.any(0).nonzero().flatten()
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (6 - 4, 11 + 4, 12 - 4, 17)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_maps_in_two_bytes_a_number(dtype):
    model = make_detokenizer(**MAPS)
    tokens, token_mask = torch.randn(2, 5, 12), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    expected = model(tokens, token_mask)
    image = model.to(dtype)(tokens.to(dtype), token_mask)
    assert image.dtype == dtype and image.isfinite().all()
    assert (image.float() - expected).abs().mean() < 0.05 * expected.std()
