"""Stage-0 training as a user runs it: recipes, losses by name, exact resume after a kill, two processes as one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModel

from training.train_setok import main, parse_arguments

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "training" / "recipes").glob("setok_*.yaml"))


def tiny_recipe(folder: Path, **overrides) -> Path:
    """A recipe that trains a very small SeTok, without batch norm or dropout, on CPU in seconds."""
    recipe = {
        "output_dir": str(folder / "run"),
        "config": {
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 32,
                "patch_size": 4,
            },
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_attention_heads": 2,
            "num_inner_layers": 1,
            "num_inter_layers": 1,
            "num_neighbors": 4,
            "projection_dim": 16,
            "detokenizer_config": {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_attention_heads": 2,
                "num_hidden_layers": 1,
                "grid_size": 8,
                "decoder_channels": [16, 8, 8],
                "decoder_blocks": 1,
                "token_noise": 0.1,
            },
        },
        "image_size": 32,
        "train_examples": 64,
        "eval_examples": 0,
        "calibration_images": 16,
        "per_device_train_batch_size": 4,
        "max_steps": 6,
        "learning_rate": 0.001,
        "logging_steps": 1,
        "save_steps": 2,
        "eval_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        **overrides,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def launch(recipe: Path, *arguments: str, processes: int = 1) -> subprocess.Popen:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*launcher, str(ROOT / "training" / "train_setok.py"), str(recipe), *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> None:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]


def losses(folder: Path) -> list[dict[str, float]]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [{k: v for k, v in entry.items() if "loss" in k} for entry in history if "loss" in entry]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_parse_and_the_command_line_goes_first(recipe, tmp_path):
    _, data_args, training_args = parse_arguments(
        [str(recipe), "--max_steps", "3", "--output_dir", str(tmp_path), "--use_cpu", "true"]
    )
    assert training_args.max_steps == 3
    values = yaml.safe_load(recipe.read_text())
    assert training_args.learning_rate == values["learning_rate"]
    assert data_args.image_size == values["image_size"]


def test_recipe_with_a_typo_is_refused(tmp_path):
    recipe = tiny_recipe(tmp_path, learning_rat=0.1)
    with pytest.raises(ValueError, match="learning_rat"):
        parse_arguments([str(recipe)])


def test_every_part_of_the_loss_is_logged_and_adds_up(tmp_path):
    recipe = tiny_recipe(
        tmp_path, max_steps=4, perceptual_weight=0.5, adversarial_weight=0.1, adversarial_start_step=2,
        discriminator_width=8, eval_examples=4, eval_strategy="steps", eval_steps=4, sample_images=2,
    )  # fmt: skip
    trainer = main([str(recipe)])
    steps = losses(tmp_path / "run")
    for step, entry in enumerate(steps):
        total = entry["reconstruction_loss"] + entry["contrastive_loss"] + 0.5 * entry["perceptual_loss"]
        assert ("generator_loss" in entry) == ("discriminator_loss" in entry) == (step >= 2)
        total += 0.1 * entry.get("generator_loss", 0.0)
        assert entry["loss"] == pytest.approx(total, abs=2e-3)
    evaluation = json.loads((tmp_path / "run" / "eval_results.json").read_text())
    assert evaluation["eval_psnr"] > 0
    assert (tmp_path / "run" / "samples" / "step-000004.png").is_file()
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert saved["setok.token_clustering.feature_scale"] > 0
    assert saved["concept_features"].shape == (60, trainer.model.config.text_feature_dim)


def test_accumulation_does_not_scale_the_loss(tmp_path):
    whole = main([str(tiny_recipe(tmp_path, max_steps=1, per_device_train_batch_size=4))])
    first = losses(tmp_path / "run")[0]
    folder = tmp_path / "accumulated"
    folder.mkdir()
    main([str(tiny_recipe(folder, max_steps=1, per_device_train_batch_size=2, gradient_accumulation_steps=2))])
    second = losses(folder / "run")[0]
    assert whole.state.global_step == 1
    assert second["loss"] == pytest.approx(second["reconstruction_loss"] + second["contrastive_loss"], abs=2e-3)
    assert second["reconstruction_loss"] == pytest.approx(first["reconstruction_loss"], rel=0.05)


def test_a_killed_run_resumes_exactly(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    options = {"max_steps": 40, "adversarial_weight": 0.1, "discriminator_width": 8}
    finish(launch(tiny_recipe(whole, **options)))

    recipe = tiny_recipe(killed, **options)
    process = launch(recipe)
    while not list((killed / "run").glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "run" / "model.safetensors").exists(), "the run ended before it could be killed"
    finish(launch(recipe))

    assert losses(killed / "run") == losses(whole / "run")
    expected, resumed = (load_file(folder / "run" / "model.safetensors") for folder in (whole, killed))
    for name, tensor in expected.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0)


def test_two_processes_train_as_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    options = {"max_steps": 4, "save_strategy": "no", "config": None}
    config = yaml.safe_load(tiny_recipe(one).read_text())["config"]
    config["detokenizer_config"]["token_noise"] = 0.0  # each process draws its own noise
    options["config"] = config
    finish(launch(tiny_recipe(one, per_device_train_batch_size=8, **options)))
    finish(launch(tiny_recipe(two, per_device_train_batch_size=4, **options), processes=2))
    for single, double in zip(losses(one / "run"), losses(two / "run"), strict=True):
        assert double["contrastive_loss"] == pytest.approx(single["contrastive_loss"], abs=1e-4)
        assert double["reconstruction_loss"] == pytest.approx(single["reconstruction_loss"], abs=1e-4)
    single, double = (load_file(folder / "run" / "model.safetensors") for folder in (one, two))
    for name, tensor in single.items():
        torch.testing.assert_close(double[name], tensor, rtol=1e-2, atol=1e-3)


def test_own_pictures_and_a_pretrained_encoder(tmp_path):
    """The path of a user's own data: a data.json folder, an encoder with its processor, one broken picture."""
    from PIL import Image
    from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

    config = yaml.safe_load(tiny_recipe(tmp_path).read_text())["config"]
    encoder = SiglipVisionModel(SiglipVisionConfig(**config.pop("vision_config"), vision_use_head=False))
    encoder.save_pretrained(tmp_path / "encoder")
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "encoder")
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    rows = []
    for i in range(12):
        Image.new("RGB", (40 + i, 30), (20 * i, 90, 200)).save(images / f"{i}.png")
        rows.append({"image": f"{i}.png", "labels": [["cat"], ["dog", "cat"], []][i % 3]})
    (images / "3.png").write_bytes(b"not a picture")
    (tmp_path / "data" / "data.json").write_text(json.dumps(rows))
    options = {
        "config": config, "dataset": str(tmp_path / "data"), "vision_model_name_or_path": str(tmp_path / "encoder"),
        "eval_examples": 2, "max_steps": 2,
    }  # fmt: skip
    with pytest.raises(ValueError, match="3.png"):
        main([str(tiny_recipe(tmp_path, **options))])
    with pytest.warns(UserWarning, match="3.png"):
        trainer = main([str(tiny_recipe(tmp_path, on_bad_rows="skip", **options))])
    assert trainer.model.config.concept_names == ["cat", "dog"]
    assert trainer.model.config.vision_config.model_type == "siglip_vision_model"
    assert len(trainer.train_dataset) == 9
    trained = trainer.model.setok.vision_encoder.state_dict()
    moved = [not torch.equal(trained[name], start) for name, start in encoder.state_dict().items()]
    assert any(moved), "the encoder is trained too"
    assert {"loss", "reconstruction_loss", "contrastive_loss"} <= losses(tmp_path / "run")[0].keys()


def test_an_encoder_from_scratch_then_all_of_setok(tmp_path):
    main([str(tiny_recipe(tmp_path, encoder_only=True, max_steps=3))])
    assert {"reconstruction_loss", "contrastive_loss"} <= losses(tmp_path / "run")[0].keys()
    encoder = AutoModel.from_pretrained(tmp_path / "run")
    assert encoder.config.model_type == "siglip_vision_model"
    folder = tmp_path / "second"
    folder.mkdir()
    options = {"vision_model_name_or_path": str(tmp_path / "run"), "learning_rate": 0.0, "max_steps": 1}
    trainer = main([str(tiny_recipe(folder, **options))])
    for name, tensor in trainer.model.setok.vision_encoder.state_dict().items():
        torch.testing.assert_close(tensor, encoder.state_dict()[name], rtol=0, atol=0)


def test_going_on_from_a_model_with_other_settings(tmp_path):
    main([str(tiny_recipe(tmp_path, max_steps=1))])
    folder = tmp_path / "second"
    folder.mkdir()
    start = {"model_name_or_path": str(tmp_path / "run"), "max_steps": 1}
    config = {"num_neighbors": 5, "detokenizer_config": {"token_noise": 0.3}}
    trainer = main([str(tiny_recipe(folder, config=config, **start))])
    assert trainer.model.config.num_neighbors == 5
    assert trainer.model.config.detokenizer_config.token_noise == 0.3
    with pytest.raises(ValueError, match="num_neighbor is not"):
        main([str(tiny_recipe(folder, config={"num_neighbor": 5}, **start))])
