"""The patch cache as a user makes it: the losses of pixels, it goes on where it stopped, it refuses other things."""

import json
from pathlib import Path

import pytest
import torch
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from tests.script_testing import finish, launch, losses, write_recipe
from training import patch_cache
from training.cache_patches import main as cache_patches
from training.data import EmojiScenes, SceneConfig
from training.train_setok import main as train

ENCODER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
           "image_size": 32, "patch_size": 4}  # fmt: skip
CONFIG = {
    "vision_feature_layer": [1, 2], "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2,
    "num_inner_layers": 1, "num_inter_layers": 1, "num_neighbors": 4, "projection_dim": 16,
    "detokenizer_config": {
        "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1, "grid_size": 4,
        "patch_size": 4, "map_size": 3,
    },
}  # fmt: skip
TRAINABLE = ["setok.token_merger", "detokenizer", "visual_projection", "text_projection", "logit_scale"]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(patch_cache, "SHARD_ROWS", 8)


def recipe(folder: Path, cache: Path | None, **overrides) -> Path:
    encoder = folder / "encoder"
    if not encoder.exists():
        torch.manual_seed(0)
        SiglipVisionModel(SiglipVisionConfig(**ENCODER, vision_use_head=False)).save_pretrained(encoder)
        SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(encoder)
    values = {
        "vision_model_name_or_path": str(encoder), "config": CONFIG, "trainable": TRAINABLE, "image_size": 32,
        "train_examples": 20, "eval_examples": 2, "calibration_images": 20, "max_steps": 4, "learning_rate": 0.001,
        "save_strategy": "no", "patch_cache": cache and str(cache),
    }  # fmt: skip
    return write_recipe(folder, values | overrides)


def test_training_from_the_cache_gives_the_losses_of_training_from_pixels(tmp_path):
    from_pixels = train([str(recipe(tmp_path, None))])
    cache_patches([str(recipe(tmp_path, tmp_path / "cache"))])
    from_cache = train([str(recipe(tmp_path, tmp_path / "cache", output_dir=str(tmp_path / "cached")))])
    steps = zip(losses(tmp_path / "run"), losses(tmp_path / "cached"), strict=True)
    for of_pixels, of_cache in steps:
        assert of_cache == pytest.approx(of_pixels, abs=2e-3)
    scales = [trainer.model.setok.token_clustering.feature_scale.item() for trainer in (from_pixels, from_cache)]
    assert scales[1] == pytest.approx(scales[0], rel=1e-3)
    assert not from_cache.model.setok.vision_encoder.embeddings.patch_embedding.weight.requires_grad
    assert from_cache.model.logit_scale.requires_grad


def test_a_saved_setok_goes_on_from_the_cache_it_began_with(tmp_path):
    """Its image processor says where its code lies, which changes no pixel."""
    file = recipe(tmp_path, tmp_path / "cache")
    cache_patches([str(file)])
    train([str(file)])
    assert "auto_map" in json.loads((tmp_path / "run" / "preprocessor_config.json").read_text())
    made = {"vision_model_name_or_path": None, "config": None, "model_name_or_path": str(tmp_path / "run")}
    trainer = train([str(recipe(tmp_path, tmp_path / "cache", output_dir=str(tmp_path / "on"), **made))])
    assert trainer.state.global_step == 4


def test_a_row_is_what_the_encoder_gives_for_its_picture(tmp_path):
    path = recipe(tmp_path, tmp_path / "cache")
    cache_patches([str(path)])
    trainer = train([str(path), "--max_steps", "1"])
    cache, model = trainer.train_dataset, trainer.model
    assert len(cache) == 20
    row = EmojiScenes("train", 20, SceneConfig(image_size=32))[13]
    assert cache[13]["concepts"] == row["concepts"] and cache[-7]["concepts"] == row["concepts"]
    pixels = trainer.processing_class(row["images"], return_tensors="pt")["pixel_values"]
    patches, grid_size = model.setok.get_patch_embeddings(pixels)
    assert cache[13]["grid_size"] == grid_size == (8, 8)
    torch.testing.assert_close(cache[13]["patch_embeddings"].float(), patches[0], rtol=1e-3, atol=1e-3)
    size = {"height": 16, "width": 16}
    target = trainer.processing_class(row["images"], size=size, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(cache[13]["target_pixel_values"], target, rtol=0, atol=0)
    with pytest.raises(IndexError, match="row 20 of 20"):
        cache[20]


def test_a_second_run_writes_only_what_is_missing(tmp_path):
    path, cache = recipe(tmp_path, tmp_path / "cache"), tmp_path / "cache"
    cache_patches([str(path)])
    shards = sorted(cache.glob("*.safetensors"))
    assert [shard.name for shard in shards] == [f"patches-{i:06d}.safetensors" for i in range(3)]
    kept, written = shards[0].stat().st_mtime_ns, shards[1].read_bytes()
    shards[1].unlink()
    with pytest.raises(ValueError, match="lacks 1 of 3 shards, such as patches-000001.safetensors"):
        train([str(path)])
    cache_patches([str(path)])
    assert shards[0].stat().st_mtime_ns == kept and shards[1].read_bytes() == written
    cache_patches([str(path), "--train_examples", "22"])  # the last shard grows
    assert shards[0].stat().st_mtime_ns == kept
    assert len(train([str(path), "--train_examples", "22", "--max_steps", "1"]).train_dataset) == 22
    assert sorted(file.suffix for file in cache.iterdir()) == [".json"] + 3 * [".safetensors"]  # no half-written file


def test_a_cache_of_something_else_is_refused(tmp_path):
    path = recipe(tmp_path, tmp_path / "cache")
    cache_patches([str(path)])
    for change, what in (
        (["--vocabulary", "full"], "rows"),
        (["--config", json.dumps(CONFIG | {"vision_feature_layer": 2})], "vision_feature_layer"),
        (["--image_size", "28"], "image_processor and another rows"),
    ):
        for run in (train, cache_patches):
            with pytest.raises(ValueError, match=f"is of another {what} than this recipe"):
                run([str(path), *change])
    torch.manual_seed(1)
    SiglipVisionModel(SiglipVisionConfig(**ENCODER, vision_use_head=False)).save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="is of another encoder than"):
        train([str(path)])


def test_what_cannot_be_cached_is_refused(tmp_path):
    path = recipe(tmp_path, tmp_path / "cache")
    with pytest.raises(ValueError, match="holds no cache of patches .* run training/cache_patches.py"):
        train([str(path)])
    with pytest.raises(ValueError, match="here it is trained"):
        train([str(path), "--trainable", "setok"])
    with pytest.raises(ValueError, match="patch_cache: FOLDER"):
        cache_patches([str(recipe(tmp_path, None))])


def test_two_processes_share_the_work(tmp_path):
    one, two = recipe(tmp_path, tmp_path / "one", train_examples=140), None
    finish(launch("cache_patches.py", one))
    two = recipe(tmp_path, tmp_path / "two", train_examples=140)
    finish(launch("cache_patches.py", two, processes=2))
    files = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert len(files) == 3 and files == sorted(file.name for file in (tmp_path / "two").iterdir())
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
