"""Tokens of photographs: in their own aspect ratio and sharpness, of any granularity and layer, and without names."""

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_setok.density_peaks import feature_scale, unit_directions
from processing import token_colors
from tests.training.demo.demo_testing import SETOK, gradient
from training.demo import photographs
from training.demo.models import load_photograph_model
from training.demo.photographs import Patches, PhotographModel, Tokens
from training.demo.pictures import Picture, load_photographs

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8))


def test_a_photograph_keeps_its_aspect_ratio(photograph_model):
    for size, grid in (((400, 200), (8, 16)), ((30, 60), (16, 8)), ((500, 500), (16, 16)), ((700, 3), (1, 16))):
        patches = photograph_model.encode(gradient(*size))
        assert patches.grid_size == grid
        assert patches.layers[2].shape == (1, grid[0] * grid[1], 16)


def test_the_granularity_suits_the_grid():
    grids = {(37, 37): 16, (25, 37): 11, (16, 16): 4, (74, 74): 64, (1, 1): 4}
    assert {grid: Patches({}, grid).num_neighbors for grid in grids} == grids


def test_it_finds_what_the_model_itself_finds(photograph_model):
    config = photograph_model.model.config
    pixel_values = photograph_model.image_processor(NOISE, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = photograph_model.model.setok(pixel_values)
    tokens = photograph_model.cluster(photograph_model.encode(NOISE), config.num_neighbors)
    assert tokens.number == int(expected.num_tokens) > 1
    assert np.array_equal(tokens.cluster_ids, expected.cluster_ids[0].numpy())


def test_a_small_thing_has_a_token_where_it_is_larger_than_k(photograph_model):
    planted = torch.zeros(1, 144, 16)
    planted[..., 0] = 1
    planted[0, [65, 66, 77, 78], :2] = torch.tensor([0.75, 0.4375**0.5])  # so D2 is 0.5, and S / 4 is 0.0625
    patches = Patches({2: planted}, (12, 12))
    counts = {num_neighbors: photograph_model.cluster(patches, num_neighbors).number for num_neighbors in (2, 64)}
    assert counts == {2: 2, 64: 1}
    by_default = photograph_model.cluster(patches)
    assert np.array_equal(by_default.cluster_ids, photograph_model.cluster(patches, patches.num_neighbors).cluster_ids)
    assert by_default.counts == "2 concept tokens for 144 patches"


def test_another_layer_gives_other_tokens_and_leaves_the_model_alone(photograph_model):
    assert photograph_model.own_layer == 2 and photograph_model.layers == [2]
    patches = photograph_model.encode(NOISE, [1, 2, 3])
    ids = [photograph_model.cluster(patches, 4, layer).cluster_ids for layer in (1, 2, 3)]
    assert not np.array_equal(ids[0], ids[1]) and not np.array_equal(ids[1], ids[2])
    assert np.array_equal(ids[1], photograph_model.cluster(photograph_model.encode(NOISE), 4).cluster_ids)
    assert photograph_model.model.config.vision_feature_layer == [1, 2]


def test_each_layer_has_an_s_of_its_own(photograph_model, monkeypatch):
    monkeypatch.setattr(photographs, "LAYERS", (1, 2, 3, 12))
    assert photograph_model.layers == [1, 2, 3]
    assert photograph_model.scale_of(2) == 0.25 and photograph_model.scale_of(1) is None
    pictures = [NOISE, gradient(200, 100)]
    measured = photograph_model.with_scales_of([Picture("", picture) for picture in pictures])
    expected = [
        float(feature_scale(*unit_directions(photograph_model.encode(picture, [3]).layers[3]))) for picture in pictures
    ]
    assert measured.scale_of(3) == pytest.approx(sum(expected) / 2) and measured.scale_of(2) == 0.25
    assert not photograph_model.scales
    assert "of this picture alone" in photographs.told_of_scale(photograph_model, 3)
    assert "the mean of the examples'" in photographs.told_of_scale(measured, 3)
    assert "0.25, which the model was calibrated to" in photographs.told_of_scale(measured, 2)


@pytest.mark.parametrize(
    ("size", "shown"), [((640, 320), (640, 320)), ((3000, 1500), (1024, 512)), ((60, 40), (512, 341))]
)
def test_each_token_is_a_region_of_the_photograph_in_its_own_sharpness(size, shown):
    ids = np.arange(8)[:, None].repeat(16, 1) // 2 * 2 + np.arange(16) // 8  # two columns of four
    drawn = photographs.draw_tokens(Image.new("RGB", size, (128, 128, 128)), Tokens(ids.ravel(), (8, 16)))
    assert drawn.size == shown
    picture, colors = np.asarray(drawn).astype(int), token_colors(ids)
    for color in colors:
        seen = np.abs(picture - (128 + color.astype(float)) / 2).max(-1) <= 2
        assert 0.07 < seen.mean() < 1 / 8  # the rest is outlines and a number


def test_a_row_shows_tokens_and_finer_ones_without_names(photograph_model):
    row, told = photographs.draw_row(photograph_model, Picture("mine", NOISE))
    patches = photograph_model.encode(NOISE)
    counts = [photograph_model.cluster(patches, num_neighbors).number for num_neighbors in (4, 2)]
    assert told == (f"  mine: {counts[0]} concept tokens for 256 patches; finer (K = 2 instead of 4): {counts[1]}")
    assert row.width == 3 * 512 + 4 * 16


def test_the_packaged_photographs_need_no_download():
    assert {picture.name: picture.image.size for picture in load_photographs()} == {
        "astronaut": (512, 512), "motorcycle": (741, 500), "cat": (451, 300),
    }  # fmt: skip


def test_folders_without_a_model_of_photographs_are_told(photograph_folder, tmp_path):
    assert isinstance(load_photograph_model(str(photograph_folder)), PhotographModel)
    with pytest.raises(ValueError, match="no SeTok of photographs in .*none': `make demo` downloads its encoder"):
        load_photograph_model(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="needs? an encoder of one image_size and patch_size, such as DINOv2"):
        load_photograph_model(SETOK)
