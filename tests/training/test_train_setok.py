"""Stage-0 training as a user runs it: recipes, losses by name, exact resume after a kill, two processes as one."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel, SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from modeling_setok import SetokModel
from processing import SetokImageProcessor
from tests.named_setok import named_setok
from tests.script_testing import assert_same_runs, finish, kill_after_a_checkpoint, launch, losses, write_recipe
from tests.training.data.photo_scenes.conftest import write_packages
from training import train_setok
from training.data import PhotoSceneConfig, concept_names, photo_concept_names
from training.data.photo_scenes.fetch import fetch
from training.evaluation.evaluate_setok import evaluate_setok
from training.losses import PerceptualLoss, lpips
from training.losses.lpips import LpipsNetwork
from training.train_setok import DataArguments, ModelArguments, build_model, load_data, main

SCRIPT = "train_setok.py"


def tiny_recipe(folder: Path, **overrides) -> Path:
    """A recipe that trains a very small SeTok, without batch norm or dropout, on CPU in seconds."""
    recipe = {
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
        "max_steps": 6,
        "learning_rate": 0.001,
        "save_steps": 2,
    }
    return write_recipe(folder, recipe | overrides)


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
    assert saved["concept_bank.features"].shape == (60, trainer.model.config.text_feature_dim)


def test_lpips_is_measured_where_its_network_is_named(tmp_path, monkeypatch):
    """As it is measured elsewhere: with all layers and without shifts, which the loss may have."""
    monkeypatch.setattr(lpips, "VGG16", ((4,), (6,)))
    network = tmp_path / "lpips.safetensors"
    weights = LpipsNetwork(lpips.VGG16).state_dict()
    save_file({name: weight.abs() for name, weight in weights.items()}, network)
    options = {"perceptual_model_name_or_path": str(network), "eval_examples": 3, "max_steps": 1}
    layers = {"perceptual_weight": 0.5, "perceptual_layers": [1], "perceptual_shift": 3}
    for folder, loss in (("loss", layers), ("measured", {})):
        trainer = main([str(tiny_recipe(tmp_path / folder, **options | loss))])
        evaluation = json.loads((tmp_path / folder / "run" / "eval_results.json").read_text())
        examples = trainer.evaluate_fn.keywords["examples"]
        whole = PerceptualLoss.lpips(str(network))
        expected = evaluate_setok(trainer.model, trainer.processing_class, examples, lpips=whole)
        assert evaluation["eval_lpips"] == pytest.approx(expected["lpips"]) and expected["lpips"] > 0
    assert "eval_lpips" not in main([str(tiny_recipe(tmp_path / "none", eval_examples=3, max_steps=1))]).evaluate()
    with pytest.raises(ValueError, match="python -m training.packaged_models.lpips_vgg"):
        main([str(tiny_recipe(tmp_path, **options | {"perceptual_model_name_or_path": "there.is.none.safetensors"}))])


def test_accumulation_does_not_scale_the_loss(tmp_path):
    whole = main([str(tiny_recipe(tmp_path, max_steps=1, per_device_train_batch_size=4))])
    first = losses(tmp_path / "run")[0]
    folder = tmp_path / "accumulated"
    main([str(tiny_recipe(folder, max_steps=1, per_device_train_batch_size=2, gradient_accumulation_steps=2))])
    second = losses(folder / "run")[0]
    assert whole.state.global_step == 1
    assert second["loss"] == pytest.approx(second["reconstruction_loss"] + second["contrastive_loss"], abs=2e-3)
    assert second["reconstruction_loss"] == pytest.approx(first["reconstruction_loss"], rel=0.05)


@pytest.mark.parametrize("accumulated", [2, 4])
def test_accumulation_does_not_scale_the_gradient_of_the_discriminator(accumulated, tmp_path, monkeypatch):
    """Ten pictures in steps of eight: the second step of an epoch has fewer batches to accumulate."""
    found, step = [], torch.optim.AdamW.step

    def record(optimizer, *args, **kwargs):
        if optimizer.defaults["betas"] == (0.5, 0.9):  # the discriminator's
            parameters = optimizer.param_groups[0]["params"]
            found.append(torch.cat([parameter.grad.flatten() for parameter in parameters]))
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    config = yaml.safe_load(tiny_recipe(tmp_path).read_text())["config"]
    config["detokenizer_config"]["token_noise"] = 0.0
    options = {
        "config": config, "train_examples": 10, "max_steps": 2, "learning_rate": 0.0, "save_strategy": "no",
        "adversarial_weight": 0.1, "adversarial_learning_rate": 0.0, "lecam_weight": 0.0, "discriminator_width": 8,
    }  # fmt: skip
    for count in (1, accumulated):
        batch = {"per_device_train_batch_size": 8 // count, "gradient_accumulation_steps": count}
        main([str(tiny_recipe(tmp_path / str(count), **options | batch))])
    assert len(found) == 4 and found[0].norm() > 0
    for whole, parts in zip(found[:2], found[2:], strict=True):
        assert (parts - whole).norm() < 1e-3 * whole.norm()


def test_a_killed_run_resumes_exactly(tmp_path):
    options = {"max_steps": 40, "save_steps": 8, "adversarial_weight": 0.1, "discriminator_width": 8}
    finish(launch(SCRIPT, tiny_recipe(tmp_path / "whole", **options)))
    recipe = tiny_recipe(tmp_path / "killed", **options)
    kill_after_a_checkpoint(launch(SCRIPT, recipe), tmp_path / "killed" / "run")
    finish(launch(SCRIPT, recipe))
    assert_same_runs(tmp_path / "killed" / "run", tmp_path / "whole" / "run")


def test_two_processes_train_as_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    config = yaml.safe_load(tiny_recipe(one).read_text())["config"]
    config["detokenizer_config"]["token_noise"] = 0.0  # each process draws its own noise
    options = {"max_steps": 4, "save_strategy": "no", "config": config}
    finish(launch(SCRIPT, tiny_recipe(one, per_device_train_batch_size=8, **options)))
    finish(launch(SCRIPT, tiny_recipe(two, per_device_train_batch_size=4, **options), processes=2))
    for single, double in zip(losses(one / "run"), losses(two / "run"), strict=True):
        assert double["contrastive_loss"] == pytest.approx(single["contrastive_loss"], abs=1e-4)
        assert double["reconstruction_loss"] == pytest.approx(single["reconstruction_loss"], abs=1e-4)
    single, double = (load_file(folder / "run" / "model.safetensors") for folder in (one, two))
    for name, tensor in single.items():
        torch.testing.assert_close(double[name], tensor, rtol=1e-2, atol=1e-3)


def test_pictures_without_labels_on_two_processes(tmp_path):
    """The projections of the contrastive loss have nothing to learn, and DDP, with checkpointing, waits for them."""
    from PIL import Image

    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(24):
        Image.new("RGB", (40 + i, 30), (10 * i, 90, 200)).save(folder / f"{i}.png")
    options = {"dataset": str(folder), "max_steps": 3, "save_strategy": "no", "activation_checkpointing": True}
    finish(launch(SCRIPT, tiny_recipe(tmp_path, **options), processes=2))
    steps = losses(tmp_path / "run")
    assert len(steps) == 3 and all(
        step["loss"] == pytest.approx(step["reconstruction_loss"], abs=1e-3) for step in steps
    )


def save_encoder(folder: Path, config: dict) -> SiglipVisionModel:
    """A vision encoder with random weights, and its image processor beside it."""
    encoder = SiglipVisionModel(SiglipVisionConfig(**config, vision_use_head=False))
    encoder.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return encoder


def test_own_pictures_and_a_pretrained_encoder(tmp_path):
    """The path of a user's own data: a data.json folder, an encoder with its processor, one broken picture."""
    config = yaml.safe_load(tiny_recipe(tmp_path).read_text())["config"]
    encoder = save_encoder(tmp_path / "encoder", config.pop("vision_config"))
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


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_pretrained_encoder_is_taken_as_it_is(tmp_path, monkeypatch, attention):
    """And SeTok is built around it once."""
    values = yaml.safe_load(tiny_recipe(tmp_path).read_text())["config"]
    encoder = save_encoder(tmp_path / "encoder", values.pop("vision_config"))
    built, init = [], SetokModel.__init__
    monkeypatch.setattr(SetokModel, "__init__", lambda self, config: (built.append(self), init(self, config))[1])
    arguments = ModelArguments(
        vision_model_name_or_path=str(tmp_path / "encoder"), config=values, attn_implementation=attention
    )
    model, _ = build_model(arguments, DataArguments(image_size=32), names=None, text_features=None)
    assert len(built) == 1
    loaded = model.setok.vision_encoder
    assert {loaded.config._attn_implementation, model.config._attn_implementation} == {attention}
    assert loaded.state_dict().keys() == encoder.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], weight) for name, weight in encoder.state_dict().items())


def test_an_encoder_from_scratch_then_all_of_setok(tmp_path):
    model = main([str(tiny_recipe(tmp_path, encoder_only=True, max_steps=3))]).model
    model.zero_grad()
    model(torch.rand(2, 3, 32, 32), concept_ids=torch.tensor([[0], [1]])).loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []  # DDP would wait
    assert {"reconstruction_loss", "contrastive_loss"} <= losses(tmp_path / "run")[0].keys()
    encoder = AutoModel.from_pretrained(tmp_path / "run")
    assert encoder.config.model_type == "siglip_vision_model"
    folder = tmp_path / "second"
    config = yaml.safe_load(tiny_recipe(tmp_path).read_text())["config"]
    del config["vision_config"]
    options = {
        "vision_model_name_or_path": str(tmp_path / "run"),
        "config": config,
        "learning_rate": 0.0,
        "max_steps": 1,
    }
    trainer = main([str(tiny_recipe(folder, **options))])
    for name, tensor in trainer.model.setok.vision_encoder.state_dict().items():
        torch.testing.assert_close(tensor, encoder.state_dict()[name], rtol=0, atol=0)


def test_an_encoder_from_scratch_needs_concepts_and_no_encoder(tmp_path):
    for name in ("model_name_or_path", "vision_model_name_or_path"):
        with pytest.raises(ValueError, match="leave out model_name_or_path and vision_model_name_or_path"):
            main([str(tiny_recipe(tmp_path, encoder_only=True, **{name: "anything"}))])
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        Image.new("RGB", (32, 32), (80 * i, 0, 0)).save(tmp_path / "pictures" / f"{i}.png")
    with pytest.raises(ValueError, match="a dataset with concepts"):
        main([str(tiny_recipe(tmp_path, encoder_only=True, dataset=str(tmp_path / "pictures")))])


def test_going_on_from_a_model_with_other_settings(tmp_path):
    main([str(tiny_recipe(tmp_path, max_steps=1))])
    folder = tmp_path / "second"
    start = {"model_name_or_path": str(tmp_path / "run"), "max_steps": 1}
    config = {"num_neighbors": 5, "detokenizer_config": {"token_noise": 0.3}}
    trainer = main([str(tiny_recipe(folder, config=config, **start))])
    assert trainer.model.config.num_neighbors == 5
    assert trainer.model.config.detokenizer_config.token_noise == 0.3
    with pytest.raises(ValueError, match="num_neighbor is not"):
        main([str(tiny_recipe(folder, config={"num_neighbor": 5}, **start))])


def test_the_detokenizer_alone(tmp_path):
    """The rest of a trained SeTok, and with it the scale of its features, stays as it is."""
    main([str(tiny_recipe(tmp_path, max_steps=1))])
    folder = tmp_path / "second"
    options = {"model_name_or_path": str(tmp_path / "run"), "trainable": ["detokenizer"], "max_steps": 2}
    main([str(tiny_recipe(folder, **options))])
    before, after = (load_file(path / "run" / "model.safetensors") for path in (tmp_path, folder))
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed and all(name.startswith("detokenizer.") for name in changed)
    with pytest.raises(ValueError, match="'detokeniser'"):
        main([str(tiny_recipe(folder, **options | {"trainable": ["detokeniser"]}))])


def test_the_shift_of_the_perceptual_loss_is_the_recipes(tmp_path):
    options = {"perceptual_weight": 0.5, "perceptual_shift": 3, "perceptual_layers": [1], "max_steps": 1}
    trainer = main([str(tiny_recipe(tmp_path, **options))])
    assert (trainer.perceptual_loss.max_shift, trainer.perceptual_loss.layers) == (3, (1,))
    assert losses(tmp_path / "run")[0]["perceptual_loss"] > 0


def test_the_encoder_looks_at_pictures_as_the_image_processor_makes_them():
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    processor = SetokImageProcessor(size={"height": 28, "width": 28}, image_mean=mean, image_std=std)
    model, weighted = named_setok(["owl"], 32, 8), SimpleNamespace(perceptual_weight=1.0)
    for size, expected in ((None, 28), (56, 56)):
        loss = train_setok.build_perceptual_loss(ModelArguments(perceptual_size=size), weighted, model, processor)
        assert loss.image_size == expected
        assert torch.equal(loss.image_mean.flatten(), torch.tensor(mean))
        assert torch.equal(loss.image_std.flatten(), torch.tensor(std))


def test_photographs_are_added_to_the_drawings(tmp_path, monkeypatch):
    """With the names of all cut-outs, of which those of the training split alone are drawn."""
    stamps, examples = write_packages(tmp_path / "packages")
    fetch(tmp_path / "build" / "photo-scenes", str(stamps), str(examples))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_setok, "PhotoSceneConfig", partial(PhotoSceneConfig, max_objects=2))  # of three
    options = {"image_size": 64, "train_examples": 8, "photo_examples": 4, "eval_examples": 1}
    rows, _, names = load_data(DataArguments(**options))
    assert len(rows) == 12 and {row["images"][0].size for row in rows} == {(64, 64)}
    photographed = [name for row in rows for name in row["concepts"] if name not in concept_names()]
    assert photographed and set(photographed) <= set(photo_concept_names("train"))
    assert set(names) == {*concept_names(), *photo_concept_names()} and len(names) == len(set(names))
