"""SeTok's models around every kind of encoder: tokens, masks, losses, gradients, saving, loading, precision."""

import copy
import logging

import pytest
import torch
from accelerate import cpu_offload, disk_offload, infer_auto_device_map
from accelerate.utils import check_device_map, compute_module_sizes
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, Trainer, TrainingArguments
from transformers.integrations.accelerate import infer_auto_device_map as transformers_device_map
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_setok import SetokConfig, SetokForPreTraining, SetokModel, SetokModelOutput, cluster_tokens
from modeling_setok.concept_contrastive import concept_contrastive_loss, unit
from modeling_setok.modeling_setok import SetokForPreTrainingOutput, keep_frozen_statistics

WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4}
ENCODERS = {
    "siglip": {"model_type": "siglip_vision_model", "image_size": 24, "intermediate_size": 48, **WIDE},
    "siglip2": {"model_type": "siglip2_vision_model", "num_patches": 36, "intermediate_size": 48, **WIDE},
    "clip": {"model_type": "clip_vision_model", "image_size": 24, "intermediate_size": 48, **WIDE},
    "dinov2": {"model_type": "dinov2", "image_size": 24, **WIDE},
    "dinov2_registers": {
        "model_type": "dinov2_with_registers", "image_size": 24, "num_register_tokens": 3, **WIDE
    },
    "vit": {"model_type": "vit", "image_size": 24, "intermediate_size": 48, **WIDE},
    "convnextv2": {
        "model_type": "convnextv2", "hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "patch_size": 2
    },
    "resnet": {
        "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"
    },
}  # fmt: skip
encoders = pytest.mark.parametrize("encoder", ENCODERS)
NAMES = ["cat", "dog", "bird"]
SQUARE, WIDER, TALLER = (24, 24), (24, 40), (32, 20)


def tiny_config(encoder: str = "siglip", **settings) -> SetokConfig:
    """Weights and threshold such that random encoders give images several tokens."""
    vision_config = copy.deepcopy(ENCODERS[encoder])
    if encoder != "resnet":
        vision_config["initializer_range"] = 0.2
    return SetokConfig(**{
        "vision_config": vision_config, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2,
        "num_inner_layers": 2, "num_inter_layers": 1, "num_neighbors": 4, "threshold": 0.85, "max_tokens": 12,
        "projection_dim": 8, "text_feature_dim": 6, "concept_names": NAMES, "initializer_range": 0.2,
        "detokenizer_config": {
            "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
            "grid_size": 3, "decoder_channels": [8, 4], "decoder_blocks": 1, "initializer_range": 0.2,
        },
        **settings,
    })  # fmt: skip


def tiny_model(encoder: str = "siglip", **settings) -> SetokForPreTraining:
    model = SetokForPreTraining(tiny_config(encoder, **settings)).eval()
    if model.config.concept_names is not None:
        model.set_concepts(NAMES, torch.randn(3, 6))
    return model


def images(batch: int = 3, size: tuple[int, int] = SQUARE) -> torch.Tensor:
    """Pictures of a few flat patches of colour, the last one blank."""
    coarse = torch.randn(batch, 3, size[0] // 4, size[1] // 4).mul(1.5)
    coarse[:, :, 1:4, 1:4] = torch.randn(batch, 3, 1, 1)
    pictures = nn.functional.interpolate(coarse, size=size) + 0.1 * torch.randn(batch, 3, *size)
    pictures[-1] = 0.5
    return pictures


def training_step(model: SetokForPreTraining, pixels: torch.Tensor) -> SetokForPreTrainingOutput:
    generator = torch.Generator().manual_seed(5)
    size = model.config.detokenizer_config.image_size
    targets = torch.randn(len(pixels), 3, size, size, generator=generator)
    labels = torch.tensor([[0, 1], [1, -1], [2, 0]])
    model.zero_grad()
    outputs = model(pixels, target_pixel_values=targets, concept_ids=labels)
    outputs.loss.backward()
    return outputs


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(a: SetokModelOutput, b: SetokModelOutput, atol: float = 0.0) -> None:
    """All that two outputs hold; whole numbers are equal, the others within `atol`."""
    assert a.keys() == b.keys() and a.grid_size == b.grid_size
    for name in a:
        if isinstance(a[name], torch.Tensor):
            torch.testing.assert_close(
                a[name], b[name], rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
            )


# -------------------------------------------------------------------------------------------- every encoder


@encoders
@pytest.mark.parametrize("size", [SQUARE, WIDER, TALLER], ids=str)
def test_tokens_of_a_grid_of_any_shape(encoder, size):
    model = tiny_model(encoder).setok
    with torch.no_grad():
        outputs = model(images(3, size))
    height, width = outputs.grid_size
    stride = size[0] // height
    assert stride in (4, 8) and (height, width) == (size[0] // stride, -(-size[1] // stride))
    assert outputs.patch_embeddings.shape == (3, height * width, 32)
    tokens = outputs.last_hidden_state
    assert tokens.shape == (3, int(outputs.num_tokens.max()), 16) and tokens.isfinite().all()
    assert torch.equal(outputs.token_mask.sum(1), outputs.num_tokens)
    assert (tokens[~outputs.token_mask] == 0).all()
    assert outputs.num_tokens[0] > 1 and outputs.num_tokens.max() <= 12
    assert torch.equal(outputs.cluster_ids.amax(1) + 1, outputs.num_tokens) and outputs.cluster_ids.min() == 0
    expected = cluster_tokens(outputs.patch_embeddings, num_neighbors=4, threshold=0.85, max_tokens=12)
    assert torch.equal(outputs.cluster_ids, expected.cluster_ids) and torch.equal(outputs.scores, expected.scores)


@encoders
def test_patch_embeddings_are_the_encoders_patches(encoder):
    """CLS and registers are dropped, the patches stay in reading order."""
    model = tiny_model(encoder).setok
    pixels = images(2)
    with torch.no_grad():
        got, (height, width) = model.get_patch_embeddings(pixels)
        if encoder == "siglip2":
            patches = pixels.unfold(2, 4, 4).unfold(3, 4, 4)  # (B, 3, h, w, 4, 4)
            raw = model.vision_encoder(
                pixel_values=patches.permute(0, 2, 3, 4, 5, 1).reshape(2, 36, 48),
                pixel_attention_mask=torch.ones(2, 36, dtype=torch.long),
                spatial_shapes=torch.tensor([[6, 6], [6, 6]]),
            ).last_hidden_state
        else:
            raw = model.vision_encoder(pixel_values=pixels).last_hidden_state
        prefix = {"clip": 1, "vit": 1, "dinov2": 1, "dinov2_registers": 4}.get(encoder, 0)
        if raw.ndim == 4:
            raw = torch.stack([raw[:, :, row, column] for row in range(height) for column in range(width)], dim=1)
        raw = raw[:, prefix:]
        norm = {"clip": "post_layernorm", "convnextv2": "layernorm"}.get(encoder)
        expected = raw if norm is None else getattr(model.vision_encoder, norm)(raw)
    assert raw.shape[1] == height * width
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@encoders
def test_patches_are_where_they_are_in_the_image(encoder):
    """A change in one corner of a wide image changes the embeddings there most."""
    model = tiny_model(encoder).setok
    pixels = images(2, WIDER)[:1]
    changed = pixels.clone()
    changed[:, :, 16:, :8] += 2 * torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        before, (height, width) = model.get_patch_embeddings(pixels)
        after, _ = model.get_patch_embeddings(changed)
    difference = (after - before).norm(dim=-1).view(height, width)
    corner = torch.zeros(height, width, dtype=torch.bool)
    corner[height * 2 // 3 :, : width // 5] = True
    assert difference[corner].mean() > 2 * difference[~corner].mean()


@encoders
def test_row_alone_is_row_in_batch(encoder):
    model = tiny_model(encoder)
    pixels = images()
    with torch.no_grad():
        together = model(pixels, torch.zeros(3, 3, 6, 6))
        for image in range(3):
            alone = model(pixels[image : image + 1], torch.zeros(1, 3, 6, 6))
            count = int(alone.setok_output.num_tokens)
            row = together.setok_output
            assert int(row.num_tokens[image]) == count
            assert torch.equal(row.cluster_ids[image], alone.setok_output.cluster_ids[0])
            for a, b in (
                (row.last_hidden_state[image, :count], alone.setok_output.last_hidden_state[0]),
                (row.scores[image], alone.setok_output.scores[0]),
                (together.reconstruction[image], alone.reconstruction[0]),
                (together.logits_per_image[image], alone.logits_per_image[0]),
            ):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@encoders
def test_every_parameter_gets_a_gradient(encoder):
    """Otherwise DDP stops; what tokens cannot depend on (mask token, pooler) is frozen. Also after loading."""
    model = tiny_model(encoder).train()
    outputs = training_step(model, images())
    assert outputs.setok_output.num_tokens.max() > 1
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    zero = [name for name, grad in gradients(model).items() if not grad.isfinite().all() or grad.abs().max() == 0]
    assert zero == []
    frozen = {name.rsplit(".", 1)[-1] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"dinov2": {"mask_token"}, "dinov2_registers": {"mask_token"}, "vit": {"weight", "bias"}}.get(
        encoder, set()
    )


@pytest.mark.parametrize("inputs", [(), ("concept_ids",), ("target_pixel_values",)], ids=str)
@pytest.mark.parametrize("bank", [NAMES, None], ids=["bank", "no bank"])
def test_every_part_takes_part_whatever_a_batch_holds(inputs, bank):
    """For DDP: a part that a batch has nothing for gets a gradient of zero."""
    if bank is None and "concept_ids" in inputs:
        pytest.skip("needs a bank")
    model = tiny_model(concept_names=bank).train()
    given = {"concept_ids": torch.tensor([[0], [1], [-1]]), "target_pixel_values": torch.randn(3, 3, 6, 6)}
    outputs = model(images(), **{name: given[name] for name in inputs})
    outputs.loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    idle = {"detokenizer"} if "concept_ids" in inputs else {"visual_projection", "text_projection", "logit_scale"}
    still = {name.split(".")[0] for name, gradient in gradients(model).items() if gradient.abs().max() == 0}
    assert still == idle


def test_pictures_alone_are_what_is_painted():
    """And nothing is painted where no loss is asked for."""
    model = tiny_model()
    pixels = images()
    small = nn.functional.interpolate(pixels, (6, 6), mode="bilinear", antialias=True)
    with torch.no_grad():
        outputs, expected = model(pixels), model(pixels, target_pixel_values=small)
        torch.testing.assert_close(outputs.loss, expected.loss)
        torch.testing.assert_close(outputs.loss, outputs.reconstruction_loss)
        labelled = model(pixels, concept_ids=torch.zeros(3, 1, dtype=torch.long))
        assert labelled.reconstruction is None and labelled.contrastive_loss is not None
        for given in ({}, {"target_pixel_values": small, "concept_ids": torch.zeros(3, 1, dtype=torch.long)}):
            quiet = model(pixels, return_loss=False, **given)
            assert quiet.loss is None and quiet.reconstruction is None and quiet.contrastive_loss is None
            torch.testing.assert_close(quiet.logits_per_image, expected.logits_per_image)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pictures_alone_in_half_precision(dtype):
    model = tiny_model(concept_names=None).to(dtype)
    with torch.no_grad():
        outputs, expected = model(images().to(dtype)), model.float()(images())
    torch.testing.assert_close(outputs.loss, expected.loss, rtol=0.2, atol=0)


def test_a_plain_trainer_on_pictures_alone(tmp_path):
    model = tiny_model(concept_names=None)
    rows = [{"pixel_values": picture} for picture in images(8)]
    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=4, per_device_eval_batch_size=4, max_steps=30, learning_rate=3e-3,
        report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = Trainer(model, args, train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    with torch.no_grad():
        halves = [model(torch.stack([row["pixel_values"] for row in rows[i : i + 4]])).loss for i in (0, 4)]
    assert before == pytest.approx(float(sum(halves)) / 2, rel=1e-4)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.8 * before
    predictions = trainer.predict(rows)
    assert predictions.metrics["test_loss"] == pytest.approx(trainer.evaluate()["eval_loss"], rel=1e-4)


@encoders
def test_save_and_load(encoder, tmp_path):
    """Weights and buffers bit for bit, through every class; feature scale and concept bank are in the folder.

    (What a model computes may change by round-off: loaded weights lie elsewhere in memory.)
    """
    model = tiny_model(encoder)
    model.setok.calibrate(images(2))
    model.save_pretrained(tmp_path)
    pixels = images()
    with torch.no_grad():
        expected = model(pixels, torch.zeros(3, 3, 6, 6))
        for loader in (SetokForPreTraining, AutoModelForPreTraining):
            restored, report = loader.from_pretrained(tmp_path, output_loading_info=True)
            assert type(restored) is SetokForPreTraining and not restored.training
            assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
            assert restored.config.concept_names == NAMES
            assert {k: v.dtype for k, v in restored.state_dict().items()} == {
                k: v.dtype for k, v in model.state_dict().items()
            }
            assert all(torch.equal(v, restored.state_dict()[k]) for k, v in model.state_dict().items())
            got = restored(pixels, torch.zeros(3, 3, 6, 6))
            torch.testing.assert_close(got.reconstruction, expected.reconstruction)
            torch.testing.assert_close(got.logits_per_image, expected.logits_per_image)
            assert_equal(got.setok_output, expected.setok_output, atol=1e-4)
            frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
            assert [name for name, p in restored.named_parameters() if not p.requires_grad] == frozen
        for loader in (SetokModel, AutoModel):
            tokenizer, report = loader.from_pretrained(tmp_path, output_loading_info=True)
            assert type(tokenizer) is SetokModel
            assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
            assert_equal(tokenizer(pixels), expected.setok_output, atol=1e-4)
    assert type(AutoConfig.from_pretrained(tmp_path)) is SetokConfig


# ------------------------------------------------------------------------------------------ what is frozen


def _batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def test_statistics_of_a_frozen_setok_stay():
    """Also for trainers that know nothing of SeTok and call `train()` on the whole model."""
    model = tiny_model("resnet", straight_through=True)
    pixels = images()
    with torch.no_grad():
        expected = model(pixels, torch.zeros(3, 3, 6, 6))
    model.setok.requires_grad_(False)
    model.train()
    assert model.training and model.detokenizer.training and not any(m.training for m in model.setok.modules())
    training = model(pixels, torch.zeros(3, 3, 6, 6))
    assert_equal(training.setok_output, expected.setok_output, atol=1e-5)
    torch.testing.assert_close(training.loss, expected.loss)


def test_statistics_move_where_their_own_weights_are_trained():
    """An adapter beside frozen normalisations leaves them as they are."""
    model = tiny_model("resnet")
    before = {name: value.clone() for name, value in model.setok.vision_encoder.state_dict().items()}
    model.requires_grad_(False)
    model.setok.token_merger.inner_layers[0].self_attn.q_proj.weight.requires_grad_(True)
    trained = _batch_norms(model)[0].requires_grad_(True)
    for mode in (True, False, True):
        model.train(mode)
        assert [norm.training for norm in _batch_norms(model)] == [mode and n is trained for n in _batch_norms(model)]
        assert model.setok.token_merger.training == mode
    model.setok(images())
    after = model.setok.vision_encoder.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    first = next(name for name, module in model.setok.vision_encoder.named_modules() if module is trained)
    assert moved == {f"{first}.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}


def test_a_normalisation_without_weights_follows_the_whole_model():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False)).train()
    keep_frozen_statistics(model)
    assert model[1].training
    keep_frozen_statistics(model.requires_grad_(False))
    assert not model[1].training and model[0].training


# -------------------------------------------------------------------------------------- saving and loading


def test_loading_the_tokenizer_alone_is_silent(tmp_path, caplog):
    tiny_model().save_pretrained(tmp_path)
    library = logging.getLogger("transformers")
    library.addHandler(caplog.handler)
    try:
        SetokModel.from_pretrained(tmp_path)
    finally:
        library.removeHandler(caplog.handler)
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_tokenizer_can_start_pretraining(tmp_path):
    """`SetokForPreTraining` from the folder of a `SetokModel`: the rest is initialised, nothing is left empty."""
    tokenizer = tiny_model(concept_names=None).setok
    tokenizer.save_pretrained(tmp_path)
    model, report = SetokForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert all(torch.equal(v, model.setok.state_dict()[k]) for k, v in tokenizer.state_dict().items())
    parts = {key.split(".")[0] for key in report["missing_keys"]}
    assert parts == {"detokenizer", "visual_projection", "text_projection", "logit_scale"}
    assert all(tensor.isfinite().all() and not tensor.is_meta for tensor in model.state_dict().values())
    assert float(model.logit_scale.detach()) == pytest.approx(2.6592)


@pytest.mark.parametrize("part", ["setok.token_merger", "setok.token_clustering", "detokenizer", "text", "concept"])
def test_missing_weights_are_initialised(part, tmp_path):
    """As `_init_weights` does for a new model: nothing stays on the meta device, NaN, or whatever memory held."""
    fresh = tiny_model(concept_names=NAMES)
    fresh.save_pretrained(tmp_path)
    state = {
        name: value for name, value in load_file(tmp_path / "model.safetensors").items() if not name.startswith(part)
    }
    model = SetokForPreTraining.from_pretrained(None, config=fresh.config, state_dict=state)
    for name, value in model.state_dict().items():
        reference = fresh.state_dict()[name]
        assert value.device == reference.device and value.shape == reference.shape and value.isfinite().all()
        if not name.startswith(part):
            assert torch.equal(value, reference)
        elif value.numel() > 200:
            assert 0.5 < float(value.std() / reference.std()) < 2
    assert float(model.setok.token_clustering.feature_scale) == 0


def test_a_new_model_is_the_same_on_the_meta_device():
    config = tiny_config()
    with torch.device("meta"):
        model = SetokForPreTraining(config)
    real = SetokForPreTraining(config)
    assert {k: (v.shape, v.dtype) for k, v in model.state_dict().items()} == {
        k: (v.shape, v.dtype) for k, v in real.state_dict().items()
    }
    assert all(value.isfinite().all() for value in real.state_dict().values())


@pytest.mark.parametrize("device_map", ["cpu", "auto"])
def test_device_map(device_map, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    placed = SetokForPreTraining.from_pretrained(tmp_path, device_map=device_map)
    pixels = images()
    with torch.no_grad():
        torch.testing.assert_close(placed.reconstruct(pixels), model.reconstruct(pixels))


@pytest.mark.parametrize("model_class", [SetokModel, SetokForPreTraining])
def test_device_maps_that_split_the_model(model_class):
    """A place for every tensor, however little memory there is before the disk; made without weights."""
    with torch.device("meta"):
        model = model_class(tiny_config())
    total = compute_module_sizes(model)[""]
    numbers = []
    for tenths in range(1, 10):
        memory = {"cpu": total * tenths // 10}
        for infer in (infer_auto_device_map, transformers_device_map):
            device_map = infer(model, max_memory=memory, no_split_module_classes=model._no_split_modules)
            check_device_map(model, device_map)
            numbers.append(len(set(device_map.values())))
            assert not [name for name in device_map if "token_merger." in name]  # which stays whole
    assert max(numbers) == 2


@pytest.mark.parametrize("offload", ["cpu", "disk"])
def test_offloaded_weights_are_read_through_their_modules(offload, tmp_path):
    """Each module's weights are there only while it runs."""
    model = tiny_model("resnet")
    pixels, labels = images(), torch.tensor([[0, 1], [1, -1], [2, 0]])
    with torch.no_grad():
        expected = model(pixels, torch.zeros(3, 3, 6, 6), labels)
        reconstruction = model.reconstruct(pixels)
        if offload == "cpu":
            cpu_offload(model, execution_device="cpu", offload_buffers=True)
        else:
            disk_offload(model, tmp_path, execution_device="cpu", offload_buffers=True)
        assert all(parameter.is_meta for parameter in model.parameters())
        got = model(pixels, torch.zeros(3, 3, 6, 6), labels)
        torch.testing.assert_close(model.reconstruct(pixels), reconstruction, rtol=0, atol=1e-5)
    for name in ("loss", "reconstruction", "logits_per_image"):
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-5)


def test_a_loaded_detokenizer_can_be_on_disk(tmp_path):
    """As the device map of a model that is too large does it."""
    model = tiny_model()
    model.save_pretrained(tmp_path)
    device_map = {name: "cpu" for name, _ in model.named_children()} | {"logit_scale": "cpu", "detokenizer": "disk"}
    placed = SetokForPreTraining.from_pretrained(tmp_path, device_map=device_map, offload_folder=tmp_path / "off")
    assert all(parameter.is_meta for parameter in placed.detokenizer.parameters())
    pixels = images()
    with torch.no_grad():
        torch.testing.assert_close(placed.reconstruct(pixels), model.reconstruct(pixels), rtol=0, atol=1e-5)


def test_blocks_are_not_split_over_devices():
    assert {"SetokBlock", "SetokDetokenizer", "SiglipEncoderLayer"} <= set(tiny_model()._no_split_modules)


@encoders
def test_from_vision_pretrained(encoder, tmp_path):
    torch.manual_seed(7)
    source = AutoModel.from_config(tiny_config(encoder).vision_config)
    source.save_pretrained(tmp_path)
    model = SetokModel.from_vision_pretrained(str(tmp_path), tiny_config("siglip", concept_names=None))
    assert model.config.vision_config.model_type == source.config.model_type
    assert not model.training and not model.vision_encoder.training
    state = model.vision_encoder.state_dict()
    assert state.keys() == source.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in source.state_dict().items())
    model.save_pretrained(tmp_path / "setok")
    pixels = images()
    with torch.no_grad():
        assert_equal(SetokModel.from_pretrained(tmp_path / "setok")(pixels), model(pixels), atol=1e-4)


@pytest.mark.parametrize("family", ["siglip", "clip", "siglip2"])
def test_from_the_vision_half_of_two_towers(family, tmp_path):
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 9,
            "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}  # fmt: skip
    towers = AutoModel.from_config(AutoConfig.for_model(family, vision_config=ENCODERS[family], text_config=text))
    towers.save_pretrained(tmp_path)
    model = SetokModel.from_vision_pretrained(str(tmp_path))
    assert model.config.vision_config.model_type == ENCODERS[family]["model_type"]
    assert model.config.hidden_size == 512 and model.config.num_neighbors == 4  # the paper's, but for the small grid
    whole = {k: v for k, v in towers.state_dict().items() if k.startswith("vision_model.")}
    half = model.vision_encoder.state_dict()
    assert len(half) > 20
    for name, value in half.items():
        assert torch.equal(value, whole["vision_model." + name.removeprefix("vision_model.")])
    low = SetokModel.from_vision_pretrained(str(tmp_path), tiny_config(concept_names=None), dtype=torch.bfloat16)
    assert {p.dtype for p in low.parameters()} == {torch.bfloat16}


# -------------------------------------------------------------------------------------- precision, backends


@encoders
def test_bfloat16(encoder, tmp_path):
    """Loaded in bfloat16, cast, and under autocast: finite, and the clustering of the same embeddings in float32."""
    model = tiny_model(encoder)
    model.setok.token_clustering.feature_scale.fill_(0.7123456)
    model.save_pretrained(tmp_path)
    loaded = SetokForPreTraining.from_pretrained(tmp_path, dtype=torch.bfloat16)
    cast = SetokForPreTraining.from_pretrained(tmp_path).to(torch.bfloat16)
    pixels = images()
    for low in (loaded, cast):
        assert {p.dtype for p in low.parameters()} == {torch.bfloat16}
        scale = low.setok.token_clustering.feature_scale
        assert scale.dtype == torch.float32 and float(scale) == pytest.approx(0.7123456, rel=1e-7)
    cast.save_pretrained(tmp_path / "low")
    again = SetokModel.from_pretrained(tmp_path / "low")
    assert float(again.token_clustering.feature_scale) == pytest.approx(0.7123456, rel=1e-7)
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), cast.state_dict().values(), strict=True))
    for low in (loaded, model):
        low.train()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low is model):
            outputs = training_step(low, pixels)
        assert outputs.loss.isfinite() and outputs.reconstruction.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in gradients(low).values())
        tokens = outputs.setok_output
        expected = cluster_tokens(
            tokens.patch_embeddings.float(), num_neighbors=4, threshold=0.85, max_tokens=12, scale=0.7123456
        )
        assert torch.equal(tokens.cluster_ids, expected.cluster_ids) and torch.equal(tokens.scores, expected.scores)


@pytest.mark.parametrize("mode", [{"assignment_mode": "soft"}, {"straight_through": True}], ids=str)
def test_soft_modes_in_bfloat16(mode):
    model = tiny_model(**mode).train()
    for low in (model.to(torch.bfloat16), model.float()):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low.dtype == torch.float32):
            outputs = training_step(low, images())
        assert outputs.loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients(low).values())


@encoders
@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_eager_is_sdpa(encoder, mode):
    model = tiny_model(encoder, assignment_mode=mode)
    pixels, targets = images(), torch.zeros(3, 3, 6, 6)
    with torch.no_grad():
        sdpa = model(pixels, targets)
        assert model.detokenizer.config._attn_implementation == "sdpa"
        model.set_attn_implementation("eager")
        assert model.detokenizer.config._attn_implementation == "eager"
        assert model.setok.token_merger.config._attn_implementation == "eager"
        eager = model(pixels, targets)
    assert_equal(eager.setok_output, sdpa.setok_output, atol=1e-4)
    torch.testing.assert_close(eager.reconstruction, sdpa.reconstruction, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:.*activation_checkpointing:FutureWarning")  # its name in transformers 6
@encoders
def test_gradient_checkpointing(encoder):
    model = tiny_model(encoder).train()
    pixels = images()
    loss = training_step(model, pixels).loss
    expected = gradients(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    calls = []
    model.detokenizer.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append("detokenizer"))
    model.setok.token_merger.inner_layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append("merger"))
    assert torch.equal(training_step(model, pixels).loss, loss)
    assert sorted(calls) == ["detokenizer"] * 2 + ["merger"] * 2  # once more in the backward pass
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_eval_is_deterministic():
    model = tiny_model()
    pixels = images()
    with torch.no_grad():
        first = model(pixels, torch.zeros(3, 3, 6, 6))
        state = torch.get_rng_state()
        torch.rand(7)
        second = model(pixels, torch.zeros(3, 3, 6, 6))
        torch.set_rng_state(state)
        model(pixels, torch.zeros(3, 3, 6, 6))
    assert torch.equal(torch.get_rng_state(), state)
    assert_equal(first.setok_output, second.setok_output)
    assert torch.equal(first.reconstruction, second.reconstruction)


# ---------------------------------------------------------------------------------- what the tokenizer gives


def test_padding_patches_belong_to_no_token():
    model = tiny_model().setok
    pixels = images(2)
    patch_mask = torch.ones(2, 36, dtype=torch.bool)
    patch_mask[0, 20:] = False
    with torch.no_grad():
        outputs = model(pixels, patch_mask)
        whole = model(pixels)
    assert torch.equal(outputs.cluster_ids >= 0, patch_mask)
    masks = model.concept_masks(outputs)
    torch.testing.assert_close(masks.sum(1).flatten(1), patch_mask.float())
    count = int(outputs.num_tokens[1])
    torch.testing.assert_close(outputs.last_hidden_state[1, :count], whole.last_hidden_state[1, :count])


@pytest.mark.parametrize("mode", ["hard", "soft"])
@pytest.mark.parametrize("size", [SQUARE, WIDER], ids=str)
def test_concept_masks(mode, size):
    model = tiny_model(assignment_mode=mode).setok
    with torch.no_grad():
        outputs = model(images(3, size))
    grid = (size[0] // 4, size[1] // 4)
    assert (outputs.soft_masks is not None) == (mode == "soft")
    masks = model.concept_masks(outputs)
    assert masks.shape == (3, outputs.token_mask.shape[1], *grid) and masks.dtype == torch.float32
    torch.testing.assert_close(masks.sum(1), torch.ones(3, *grid), rtol=0, atol=1e-5)
    assert (masks[~outputs.token_mask] == 0).all() and (masks.flatten(2).sum(-1) > 0)[outputs.token_mask].sum() > 3
    if mode == "hard":
        assert torch.equal(masks.argmax(1).flatten(1), outputs.cluster_ids)
        enlarged = model.concept_masks(outputs, size)
        assert torch.equal(enlarged, masks.repeat_interleave(4, 2).repeat_interleave(4, 3))
    for other in ((50, 31), (5, 7)):
        resized = model.concept_masks(outputs, other)
        assert resized.shape[-2:] == other
        torch.testing.assert_close(resized.sum(1), torch.ones(3, *other), rtol=0, atol=1e-5)
        assert mode == "soft" or set(resized.unique().tolist()) == {0.0, 1.0}


def test_resized_hard_masks_are_not_shifted():
    """A mask that is symmetric stays symmetric at a size that is no multiple of the grid."""
    model = tiny_model().setok
    ids = torch.tensor([[0, 1, 1, 1, 0]] * 5).view(1, 25)
    outputs = SetokModelOutput(token_mask=torch.ones(1, 2, dtype=torch.bool), cluster_ids=ids, grid_size=(5, 5))
    masks = model.concept_masks(outputs, (13, 13))
    assert torch.equal(masks, masks.flip(-1)) and torch.equal(masks, masks.flip(-2))


def test_soft_mode_has_one_more_token_for_what_remains():
    hard, soft = tiny_model(), tiny_model(assignment_mode="soft")
    soft.load_state_dict(hard.state_dict())
    pixels = images()
    with torch.no_grad():
        a, b = hard.setok(pixels), soft.setok(pixels)
    assert torch.equal(b.num_tokens, a.num_tokens + 1)
    assert torch.equal(a.cluster_ids, b.cluster_ids)
    assert b.soft_masks.shape[1] == b.token_mask.shape[1] == b.last_hidden_state.shape[1]


def test_straight_through_changes_gradients_not_tokens():
    hard, through = tiny_model().train(), tiny_model(straight_through=True).train()
    through.load_state_dict(hard.state_dict())
    pixels = images()
    a, b = training_step(hard, pixels), training_step(through, pixels)
    torch.testing.assert_close(b.loss, a.loss)
    assert torch.equal(a.setok_output.num_tokens, b.setok_output.num_tokens) and b.setok_output.soft_masks is None
    name = "setok.vision_encoder.embeddings.patch_embedding.weight"
    difference = gradients(through)[name] - gradients(hard)[name]
    assert difference.abs().max() > 1e-3 * gradients(hard)[name].abs().max()


def test_get_image_features_is_a_list_of_tokens_per_image():
    """What transformers expects of image features of varying number."""
    model = tiny_model()
    pixels = images()
    with torch.no_grad():
        outputs = model.setok(pixels)
        for features in (model.get_image_features(pixels), model.setok.get_image_features(pixels)):
            assert isinstance(features, BaseModelOutputWithPooling)
            assert torch.equal(features.last_hidden_state, outputs.last_hidden_state)
            assert [len(tokens) for tokens in features.pooler_output] == outputs.num_tokens.tolist()
            for tokens, padded in zip(features.pooler_output, outputs.last_hidden_state, strict=True):
                assert torch.equal(tokens, padded[: len(tokens)])
        last_hidden_state, pooled = model.get_image_features(pixels, return_dict=False)
        assert torch.equal(last_hidden_state, outputs.last_hidden_state) and len(pooled) == 3
        as_tuple = model.setok(pixels, return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[0], outputs.last_hidden_state)


def test_tuples_where_the_config_asks_for_them():
    model = tiny_model()
    pixels, targets = images(), torch.zeros(3, 3, 6, 6)
    with torch.no_grad():
        expected, features = model(pixels, targets), model.get_image_features(pixels)
        for config in (model.config, model.config.vision_config, model.config.detokenizer_config):
            config.return_dict = False
        assert torch.equal(model(pixels, targets)[0], expected.loss)
        assert torch.equal(model.reconstruct(pixels), expected.reconstruction)
        assert torch.equal(model.setok(pixels)[0], expected.setok_output.last_hidden_state)
        for part in (model, model.setok):
            last_hidden_state, tokens = part.get_image_features(pixels)
            assert torch.equal(last_hidden_state, features.last_hidden_state) and len(tokens) == 3


@encoders
def test_hidden_states_and_attentions_are_the_encoders(encoder):
    model = tiny_model(encoder).setok
    model.set_attn_implementation("eager")
    pixels = images()
    is_cnn = encoder in ("resnet", "convnextv2")
    asked = {"output_hidden_states": True, "output_attentions": not is_cnn}
    with torch.no_grad():
        plain, outputs = model(pixels), model(pixels, **asked)
        features = model.get_image_features(pixels, **asked)
    assert plain.hidden_states is None and plain.attentions is None
    assert torch.equal(outputs.last_hidden_state, plain.last_hidden_state)
    assert len(outputs.hidden_states) == 3 and outputs.hidden_states[0].shape[0] == 3
    for name in ("hidden_states", "attentions"):
        for a, b in zip(features.get(name) or (), outputs.get(name) or (), strict=True):
            assert torch.equal(a, b)
    if is_cnn:
        assert outputs.attentions is None
        with pytest.raises(ValueError, match=f"encoder {model.config.vision_config.model_type} gives no attentions"):
            model(pixels, output_attentions=True)
    else:
        assert len(outputs.attentions) == 2
        torch.testing.assert_close(outputs.attentions[0].sum(-1), torch.ones(outputs.attentions[0].shape[:-1]))


def test_attentions_need_eager_and_defaults_stand_in_the_config():
    model = tiny_model()
    with torch.no_grad():
        with pytest.raises(ValueError, match='no attentions with attn_implementation="sdpa"'):
            model(images(), output_attentions=True)
        model.config.output_hidden_states = True
        assert len(model(images()).setok_output.hidden_states) == 3
        assert len(model.get_image_features(images()).hidden_states) == 3
        assert model.get_image_features(images(), output_hidden_states=False).hidden_states is None


def test_unknown_arguments_are_refused():
    model = tiny_model()
    common = {"num_items_in_batch": torch.tensor(3), "return_dict": True, "output_attentions": False}
    with torch.no_grad():
        model(images(), **common)
        for call in (model, model.setok, model.get_image_features, model.setok.get_image_features):
            with pytest.raises(TypeError, match=r"Unknown arguments \['pixel_masks'\]"):
                call(images(), pixel_masks=torch.ones(3, 24, 24))
    with pytest.raises(TypeError, match="token_type_ids"):
        model.get_text_features(torch.ones(1, 2, dtype=torch.long), token_type_ids=torch.ones(1, 2))


@encoders
def test_calibrate(encoder, tmp_path):
    model = tiny_model(encoder).train()
    pixels = images(6)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    scale = model.setok.calibrate(pixels)
    assert model.training and model.setok.vision_encoder.training
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, weights[name])}
    assert changed == {"setok.token_clustering.feature_scale", "setok.token_clustering.patch_norm"}
    model.eval()
    with torch.no_grad():
        embeddings, _ = model.setok.get_patch_embeddings(pixels)
        z = unit(embeddings.double())
        assert scale == pytest.approx(float(torch.cdist(z, z).square().mean()), rel=1e-4)
        length = float(model.setok.token_clustering.patch_norm)
        assert length == pytest.approx(float(embeddings.double().norm(dim=-1).mean()), rel=1e-5)
        batches = (pixels[start : start + 2] for start in range(0, 6, 2))
        assert model.setok.calibrate(batches) == pytest.approx(scale, rel=1e-5)
        outputs = model.setok(pixels)
        expected = cluster_tokens(embeddings, num_neighbors=4, threshold=0.85, max_tokens=12, scale=scale)
    torch.testing.assert_close(outputs.scores, expected.scores, rtol=0, atol=1e-5)


def test_calibrate_needs_images():
    with pytest.raises(ValueError, match="at least one batch"):
        tiny_model().setok.calibrate([])


def test_scale_does_not_change_in_training():
    model = tiny_model().train()
    model.setok.calibrate(images(4))
    before = model.setok.token_clustering.feature_scale.clone()
    training_step(model, images())
    assert torch.equal(model.setok.token_clustering.feature_scale, before)


def test_errors_of_the_tokenizer():
    model = tiny_model().setok
    with pytest.raises(ValueError, match=r"pixel_values must be \(batch, channels, height, width\), got \(3, 24, 24\)"):
        model(images()[0])
    with pytest.raises(ValueError, match="must be of a vision model, got 'bert'"):
        SetokModel(tiny_config(vision_config={"model_type": "bert", "hidden_size": 8, "num_attention_heads": 1}))
    with pytest.raises(ValueError, match=r"Images \[1\].*NaN"):
        pixels = images()
        pixels[1] = torch.nan
        model(pixels)


# --------------------------------------------------------------------------------------------- pretraining


def test_loss_is_the_weighted_sum_of_its_parts():
    model = tiny_model(reconstruction_weight=0.5, contrastive_weight=3.0)
    pixels, targets = images(), torch.randn(3, 3, 6, 6)
    labels = torch.tensor([[0, 1], [1, -1], [2, 0]])
    with torch.no_grad():
        outputs = model(pixels, targets, labels)
        torch.testing.assert_close(outputs.reconstruction_loss, (model.reconstruct(pixels) - targets).square().mean())
        tokens = outputs.setok_output
        mean = torch.stack([t[m].mean(0) for t, m in zip(tokens.last_hidden_state, tokens.token_mask, strict=True)])
        features = unit(model.visual_projection(mean))
        texts = unit(model.text_projection(model.concept_bank.features))
        torch.testing.assert_close(outputs.image_features, features)
        scale = model.logit_scale.exp()
        torch.testing.assert_close(outputs.logits_per_image, scale * features @ texts.T)
        expected = concept_contrastive_loss(features, texts[labels.clamp(min=0)], labels, scale)
        torch.testing.assert_close(outputs.contrastive_loss, expected)
        torch.testing.assert_close(outputs.loss, 0.5 * outputs.reconstruction_loss + 3.0 * outputs.contrastive_loss)
        only = model(pixels, target_pixel_values=targets)
        assert only.contrastive_loss is None
        torch.testing.assert_close(only.loss, 0.5 * only.reconstruction_loss)


def test_contrastive_form_is_that_of_the_config():
    printed = tiny_model()
    every = tiny_model(contrastive_form="sum_of_logs")
    every.load_state_dict(printed.state_dict())
    pixels, labels = images(), torch.tensor([[0, 1], [1, -1], [2, 0]])
    with torch.no_grad():
        a, b = printed(pixels, concept_ids=labels), every(pixels, concept_ids=labels)
        texts = printed.bank_features()[labels.clamp(min=0)]
        for outputs, form in ((a, "log_of_sum"), (b, "sum_of_logs")):
            loss = concept_contrastive_loss(
                outputs.image_features, texts, labels, printed.inverse_temperature, form=form
            )
            torch.testing.assert_close(outputs.contrastive_loss, loss)
    assert not torch.isclose(a.loss, b.loss)


def test_temperature_is_clamped():
    model = tiny_model()
    assert float(model.inverse_temperature.detach()) == pytest.approx(1 / 0.07, rel=1e-4)
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    assert float(model.inverse_temperature.detach()) == pytest.approx(100)


def test_reconstruct_and_detokenize():
    model = tiny_model()
    pixels = images()
    with torch.no_grad():
        tokens = model.setok(pixels)
        painted = model.detokenize(tokens.last_hidden_state, tokens.token_mask)
        assert painted.shape == (3, 3, 6, 6)
        assert torch.equal(model.reconstruct(pixels), painted)
        one = model.detokenize(model.get_image_features(pixels).pooler_output[0][None])
        torch.testing.assert_close(one[0], painted[0], rtol=1e-4, atol=1e-4)


def test_token_concept_logits_name_tokens():
    model = tiny_model()
    with torch.no_grad():
        tokens = model.setok(images()).last_hidden_state
        logits = model.token_concept_logits(tokens)
        expected = model.inverse_temperature * unit(model.visual_projection(tokens[0, 0])) @ model.bank_features()[1]
    assert logits.shape == (*tokens.shape[:2], 3)
    torch.testing.assert_close(logits[0, 0, 1], expected)


TEXT_MODELS = {
    "bert": {"model_type": "bert"},
    "clip": {"model_type": "clip_text_model", "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2},
    "siglip": {"model_type": "siglip_text_model", "projection_size": 10, "bos_token_id": 0, "eos_token_id": 1},
    "distilbert": {"model_type": "distilbert", "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 12},  # no pooler
}


@pytest.mark.parametrize("text", TEXT_MODELS)
def test_text_encoder(text, tmp_path):
    text_config = {
        "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12, "vocab_size": 20,
        "max_position_embeddings": 8, "hidden_dropout_prob": 0.5, "attention_dropout": 0.5, **TEXT_MODELS[text],
    }  # fmt: skip
    if text == "distilbert":
        text_config = {"vocab_size": 20, "max_position_embeddings": 8, "dropout": 0.5, **TEXT_MODELS[text]}
    model = SetokForPreTraining(tiny_config(text_config=text_config, concept_names=None)).train()
    input_ids = torch.randint(3, 20, (3, 2, 5))
    input_ids[..., 4] = 1
    attention_mask = torch.ones_like(input_ids)
    labels = torch.tensor([[0, 1], [1, -1], [2, 0]])
    features = model.get_text_features(input_ids.flatten(0, 1), attention_mask.flatten(0, 1)).pooler_output
    assert features.shape == (6, 8)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(6))
    again = model.get_text_features(input_ids.flatten(0, 1))  # no dropout in training, no mask is a mask of ones
    torch.testing.assert_close(again.pooler_output, features)
    states = model.text_model(input_ids=input_ids.flatten(0, 1), attention_mask=attention_mask.flatten(0, 1))
    assert torch.equal(again.last_hidden_state, states.last_hidden_state) and again.hidden_states is None
    as_tuple = model.get_text_features(input_ids.flatten(0, 1), return_dict=False)
    assert isinstance(as_tuple, tuple) and len(as_tuple) == 2
    more = model.get_text_features(input_ids.flatten(0, 1), output_hidden_states=True)
    assert len(more.hidden_states) == model.config.text_config.num_hidden_layers + 1
    pooled = states.pooler_output if text in ("clip", "siglip") else states.last_hidden_state.mean(1)
    torch.testing.assert_close(features, unit(model.text_projection(pooled)))

    model.zero_grad()
    outputs = model(images(), concept_ids=labels, concept_input_ids=input_ids, concept_attention_mask=attention_mask)
    outputs.loss.backward()
    expected = concept_contrastive_loss(
        outputs.image_features, features.unflatten(0, (3, 2)), labels, model.inverse_temperature
    )
    torch.testing.assert_close(outputs.contrastive_loss, expected)
    assert model.text_projection.weight.grad.abs().max() > 0
    assert outputs.logits_per_image is None

    model.save_pretrained(tmp_path)
    restored = SetokForPreTraining.from_pretrained(tmp_path).train()
    assert not restored.text_model.training
    for frozen in (model, restored):
        assert all(not p.requires_grad and p.grad is None for p in frozen.text_model.parameters())
    torch.testing.assert_close(restored.get_text_features(input_ids.flatten(0, 1)).pooler_output, features)


def test_text_without_pooled_output_is_its_mean_over_real_tokens():
    model = SetokForPreTraining(tiny_config(
        text_config={"vocab_size": 20, "max_position_embeddings": 8, **TEXT_MODELS["distilbert"]}, concept_names=None
    )).eval()  # fmt: skip
    input_ids = torch.randint(3, 20, (2, 6))
    attention_mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    with torch.no_grad():
        padded = model.get_text_features(input_ids, attention_mask).pooler_output
        alone = model.get_text_features(input_ids[:1, :3]).pooler_output
        hidden = model.text_model(input_ids[:1, :3]).last_hidden_state
        torch.testing.assert_close(alone, unit(model.text_projection(hidden.mean(1))))
    torch.testing.assert_close(padded[0], alone[0])


def test_concept_bank_can_be_replaced(tmp_path):
    model = tiny_model(concept_names=None)
    pixels = images()
    assert model(pixels).logits_per_image is None
    features = torch.randn(5, 6)
    model.set_concepts(["a", "b", "c", "d", "e"], features)
    features.zero_()  # the bank keeps its own copy
    assert model.concept_bank.features.abs().min() > 0
    model.save_pretrained(tmp_path)
    restored = SetokForPreTraining.from_pretrained(tmp_path)
    assert restored.config.concept_names == ["a", "b", "c", "d", "e"]
    with torch.no_grad():
        assert model(pixels).logits_per_image.shape == (3, 5)
        torch.testing.assert_close(restored(pixels).logits_per_image, model(pixels).logits_per_image)
    restored.set_concepts(NAMES, torch.randn(3, 6))
    assert restored(pixels).logits_per_image.shape == (3, 3)


def test_errors_of_pretraining():
    model, bare = tiny_model(), tiny_model(concept_names=None)
    pixels, labels = images(), torch.tensor([[0], [1], [2]])
    with pytest.raises(ValueError, match=r"\(3, 3, 8, 8\) but the detokenizer paints \(3, 3, 6, 6\)"):
        model(pixels, target_pixel_values=torch.zeros(3, 3, 8, 8))
    with pytest.raises(ValueError, match="no concept bank"):
        bare(pixels, concept_ids=labels)
    with pytest.raises(ValueError, match="no text encoder"):
        model(pixels, concept_ids=labels, concept_input_ids=torch.zeros(3, 1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="needs concept_ids"):
        model(pixels, concept_input_ids=torch.zeros(3, 1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\(len\(names\), text_feature_dim\) = \(3, 6\), got \(3, 5\)"):
        model.set_concepts(NAMES, torch.randn(3, 5))
    with pytest.raises(ValueError, match="must not repeat"):
        model.set_concepts(["cat", "cat"], torch.randn(2, 6))


def test_trainer_divides_the_loss_by_accumulation_steps():
    """The loss is a mean over the batch; Trainer would believe otherwise from the signature of `forward`."""
    assert SetokForPreTraining.accepts_loss_kwargs is False


def test_placement_loss_asks_each_cell_for_its_cluster():
    model = SetokForPreTraining(tiny_config(placement_weight=0.5)).eval()
    targets = torch.randn(2, 3, *[model.config.detokenizer_config.image_size] * 2)
    outputs = model(images()[:2], target_pixel_values=targets)
    setok, size = outputs.setok_output, model.config.detokenizer_config.grid_size
    log_shares = model.detokenizer.placement(setok.last_hidden_state, setok.token_mask).log_softmax(-1)
    height, width = setok.grid_size
    rows = ((torch.arange(size) + 0.5) * height / size).long()
    columns = ((torch.arange(size) + 0.5) * width / size).long()
    cells = setok.cluster_ids.unflatten(1, setok.grid_size)[:, rows][:, :, columns].flatten(1)
    expected = -log_shares.gather(2, cells[..., None]).mean()
    torch.testing.assert_close(outputs.placement_loss, expected)
    torch.testing.assert_close(outputs.loss, outputs.reconstruction_loss + 0.5 * outputs.placement_loss)


def test_painting_starts_with_the_places_that_the_merger_writes():
    model = SetokForPreTraining(tiny_config())
    torch.testing.assert_close(
        model.detokenizer.position_embedding, model.setok.token_merger.position_embedding, rtol=0, atol=0
    )
