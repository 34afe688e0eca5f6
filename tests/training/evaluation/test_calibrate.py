"""S of pictures, written into a SeTok's folder, or told of an encoder; and what a photograph costs."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import Dinov2Config, Dinov2Model
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from modeling_setok import SetokConfig, SetokForPreTraining, SetokModel
from processing import SetokImageProcessor
from training.evaluation.calibrate import Arguments, calibrate, draw_pictures
from training.evaluation.cost_photograph import Arguments as CostArguments
from training.evaluation.cost_photograph import measure, print_costs

ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14, "image_size": 56}


@pytest.fixture
def pictures(tmp_path):
    generator = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    (folder / "inside").mkdir(parents=True)
    for index in range(5):
        pixels = generator.integers(0, 256, (40 + index, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("inside" if index > 2 else "") / f"{index}.png")
    return folder


@pytest.fixture(params=["fixed", "aspect kept"])
def setok(request, tmp_path):
    config = SetokConfig(
        vision_config={"model_type": "dinov2", **ENCODER}, hidden_size=16, intermediate_size=24, num_attention_heads=2,
        num_inner_layers=1, num_inter_layers=1, projection_dim=8, text_feature_dim=6, background_norm=0.5,
        detokenizer_config={"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "grid_size": 2,
                            "num_attention_heads": 2, "decoder_channels": [8, 4], "decoder_blocks": 1},
    )  # fmt: skip
    folder = tmp_path / "setok"
    SetokForPreTraining(config).save_pretrained(folder)
    size = {"height": 56, "width": 56} if request.param == "fixed" else {"longest_edge": 84}
    SetokImageProcessor(size=size, size_divisor=14).save_pretrained(folder)
    return folder


@pytest.fixture
def encoder(tmp_path):
    folder = tmp_path / "encoder"
    Dinov2Model(Dinov2Config(**ENCODER)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}).save_pretrained(folder)
    return folder


def arguments(model, pictures, **others) -> Arguments:
    return Arguments(model=str(model), data=str(pictures), device="cpu", **others)


@pytest.mark.parametrize("copy", [False, True])
def test_the_scale_is_that_of_the_model_and_nothing_else_changes(setok, pictures, tmp_path, copy):
    before = load_file(setok / "model.safetensors")
    output = tmp_path / "copy" if copy else setok
    scale = calibrate(arguments(setok, pictures, batch_size=2, output=str(output) if copy else None))
    after = load_file(output / "model.safetensors")
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"setok.token_clustering.feature_scale", "setok.token_clustering.patch_norm"}
    assert set(after) == set(before) and {path.name for path in output.iterdir()} == {
        path.name for path in setok.iterdir()
    }

    model, processor = SetokModel.from_pretrained(setok), SetokImageProcessor.from_pretrained(setok)
    model.token_clustering.feature_scale.zero_()
    model.token_clustering.patch_norm.zero_()
    paths = sorted(map(str, pictures.rglob("*.png")))
    expected = model.calibrate(processor(path)["pixel_values"] for path in paths)
    assert scale == pytest.approx(expected, rel=1e-5) and 0 < scale < 4
    loaded = SetokModel.from_pretrained(output).token_clustering
    assert float(loaded.feature_scale) == pytest.approx(expected, rel=1e-5)
    assert float(loaded.patch_norm) == pytest.approx(float(model.token_clustering.patch_norm), rel=1e-5)
    if copy:
        assert load_file(setok / "model.safetensors")["setok.token_clustering.feature_scale"] == 0


def test_the_layers_of_an_encoder_have_their_own(encoder, pictures, capsys):
    files = {path: path.read_bytes() for path in encoder.iterdir()}
    scales = {layer: calibrate(arguments(encoder, pictures, layer=layer)) for layer in (None, -1, 0)}
    assert scales[None] == scales[-1] != scales[0]
    assert f"S = {scales[0]:.6f}, of 5 pictures" in capsys.readouterr().out
    assert files == {path: path.read_bytes() for path in encoder.iterdir()}


def test_pictures_are_drawn(pictures):
    every = draw_pictures(str(pictures), 512, seed=0)
    assert len(every) == 5 and every == sorted(every)
    some = [draw_pictures(str(pictures), 3, seed) for seed in range(5)]
    assert all(len(set(drawn)) == 3 and set(drawn) < set(every) for drawn in some) and len(set(map(tuple, some))) > 1


def test_what_cannot_be_calibrated_is_named(setok, encoder, pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    for bad, message in [
        (arguments(tmp_path / "none", pictures), "no model in"),
        (arguments(setok, tmp_path / "empty"), "holds no pictures"),
        (arguments(setok, pictures, num_images=0), "num_images must be at least 1"),
        (arguments(setok, pictures, layer=-1), "leave --layer out"),
        (arguments(setok, pictures, output=str(tmp_path / "empty")), "there already"),
        (arguments(encoder, pictures, output=str(tmp_path / "new")), "no place for S"),
    ]:
        with pytest.raises(ValueError, match=message):
            calibrate(bad)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("keep_aspect_ratio", "patches"), [(False, [4, 4]), (True, [3, 4])])
def test_the_cost_of_a_photograph(setok, tmp_path, keep_aspect_ratio, patches):
    Image.new("RGB", (80, 60), "red").save(tmp_path / "red.png")
    settings = {"picture": str(tmp_path / "red.png"), "keep_aspect_ratio": keep_aspect_ratio, "repeats": 1}
    for part, tokens in (("encoder", 0), ("setok", 1)):
        measured = measure(CostArguments(str(setok), part=part, **settings), size=60)
        assert [measured["height"], measured["width"], measured["tokens"]] == [*patches, tokens]
        assert measured["seconds"] > 0 and measured["mib"] >= 0


@pytest.mark.slow
def test_costs_are_compared_in_processes_of_their_own(encoder, capfd):
    print_costs(CostArguments(str(encoder), sizes=[60], repeats=1))
    heading, figures = capfd.readouterr().out.splitlines()
    assert heading.split() == ["pixels", "patches", "tokens", "encoder", "SeTok", "ratio", "encoder", "SeTok", "ratio"]
    assert figures.split()[:4] == ["60", "4", "x", "4"]


def test_a_picture_smaller_than_a_patch_has_no_cost(encoder):
    with pytest.raises(ValueError, match="5 pixels are less than a patch of 14"):
        measure(CostArguments(str(encoder), part="encoder"), size=5)
