"""Patch embeddings of an earlier layer of every kind of encoder: `SetokConfig.vision_feature_layer`."""

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoModel

from modeling_setok import SetokConfig, SetokForPreTraining, SetokModel
from modeling_setok.vision_encoder import patch_dim_of, unused_parameters

DEEP = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 4, "intermediate_size": 48}
PREFIX_TOKENS = {"clip": 1, "dinov2": 1, "dinov2_registers": 4, "vit": 1, "dinov3": 3, "deit": 2, "beit": 1}
LAST_NORM = {"siglip": "post_layernorm", "siglip2": "post_layernorm", "clip": "post_layernorm", "dinov3": "norm",
             "aimv2": "rms_norm"}  # fmt: skip
FLAT = {
    "siglip": {"model_type": "siglip_vision_model", "image_size": 24, **DEEP},
    "siglip2": {"model_type": "siglip2_vision_model", "num_patches": 36, **DEEP},
    "clip": {"model_type": "clip_vision_model", "image_size": 24, **DEEP},
    "dinov2": {"model_type": "dinov2", "image_size": 24, **DEEP},
    "dinov2_registers": {"model_type": "dinov2_with_registers", "image_size": 24, "num_register_tokens": 3, **DEEP},
    "vit": {"model_type": "vit", "image_size": 24, **DEEP},
    "dinov3": {"model_type": "dinov3_vit", "image_size": 24, "num_register_tokens": 2, **DEEP},
    "deit": {"model_type": "deit", "image_size": 24, **DEEP},
    "beit": {"model_type": "beit", "image_size": 24, **DEEP},
    "ijepa": {"model_type": "ijepa", "image_size": 24, **DEEP},
    "aimv2": {"model_type": "aimv2_vision_model", "image_size": 24, "use_head": False, **DEEP},
}
STAGES = {"hidden_sizes": [8, 16, 32], "depths": [1, 1, 1]}
HIERARCHICAL = {
    "convnext": {"model_type": "convnext", "num_stages": 3, "patch_size": 2, **STAGES},
    "convnextv2": {"model_type": "convnextv2", "num_stages": 3, "patch_size": 2, **STAGES},
    "resnet": {"model_type": "resnet", "embedding_size": 4, "layer_type": "basic", **STAGES},
    "regnet": {"model_type": "regnet", "embedding_size": 4, "groups_width": 4, **STAGES},
}
ENCODERS = FLAT | HIERARCHICAL


def tiny_config(encoder: str | dict, layer: int = -1, **settings) -> SetokConfig:
    vision_config = copy.deepcopy(ENCODERS[encoder] if isinstance(encoder, str) else encoder)
    if vision_config["model_type"] not in ("resnet", "regnet"):
        vision_config["initializer_range"] = 0.2
    return SetokConfig(**{
        "vision_config": vision_config, "vision_feature_layer": layer, "hidden_size": 16, "intermediate_size": 24,
        "num_attention_heads": 2, "num_inner_layers": 1, "num_inter_layers": 1, "num_neighbors": 4, "threshold": 0.85,
        "max_tokens": 12, "projection_dim": 8, "text_feature_dim": 6, "initializer_range": 0.2,
        "detokenizer_config": {
            "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
            "grid_size": 3, "decoder_channels": [8, 4], "decoder_blocks": 1, "initializer_range": 0.2,
        },
        **settings,
    })  # fmt: skip


def tiny_setok(encoder: str | dict, layer: int = -1, **settings) -> SetokModel:
    """With norms that are told apart: new ones would all scale by 1 and shift by 0."""
    torch.manual_seed(3)
    model = SetokModel(tiny_config(encoder, layer, **settings)).eval()
    with torch.no_grad():
        for name, parameter in model.vision_encoder.named_parameters():
            if "norm" in name and parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def images(size: tuple[int, int] = (24, 24)) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(4))


def embeddings(model: SetokModel, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.get_patch_embeddings(pixels)[0]


# ------------------------------------------------------------------------------------ which hidden state it is


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
@pytest.mark.parametrize("encoder", FLAT)
def test_a_layers_patches_with_the_last_norm(encoder, layer):
    """The hidden state of the layer, without CLS and registers, through the norm that the last layer's goes through."""
    model, pixels = tiny_setok(encoder, layer), images()
    with torch.no_grad():
        hidden_states = model(pixels, output_hidden_states=True).hidden_states
        norm = getattr(model.vision_encoder, LAST_NORM.get(encoder, "layernorm"))
        expected = norm(hidden_states[layer])[:, PREFIX_TOKENS.get(encoder, 0) :]
    assert len(hidden_states) == 4 and expected.shape == (2, 36, 32)
    torch.testing.assert_close(embeddings(model, pixels), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(embeddings(tiny_setok(encoder, layer - 4), pixels), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("encoder", FLAT)
def test_as_of_an_encoder_that_ends_there(encoder, layer):
    model, pixels = (
        tiny_setok(
            encoder,
            layer,
        ),
        images(),
    )
    short = SetokModel(tiny_config(ENCODERS[encoder] | {"num_hidden_layers": layer})).eval()
    report = short.load_state_dict(model.state_dict(), strict=False)
    assert report.missing_keys == [] and all(f".{layer}." in k or ".2." in k for k in report.unexpected_keys)
    torch.testing.assert_close(embeddings(model, pixels), embeddings(short, pixels), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
@pytest.mark.parametrize("encoder", HIERARCHICAL)
def test_a_stages_map_of_its_own_size_and_width(encoder, layer):
    """As it is, but for the last stage's, whose norm, if there is one, fits no other stage."""
    model, pixels = tiny_setok(encoder, layer), images((32, 48))
    with torch.no_grad():
        feature_map = model(pixels, output_hidden_states=True).hidden_states[layer]
        patches, grid_size = model.get_patch_embeddings(pixels)
    assert grid_size == tuple(feature_map.shape[-2:])
    assert patches.shape == (2, grid_size[0] * grid_size[1], patch_dim_of(model.config))
    expected = feature_map.flatten(2).transpose(1, 2)
    if layer == 3 and encoder.startswith("convnext"):
        expected = model.vision_encoder.layernorm(expected)
    torch.testing.assert_close(patches, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_last_layer_by_its_number(encoder):
    pixels = images()
    last = embeddings(tiny_setok(encoder), pixels)
    torch.testing.assert_close(embeddings(tiny_setok(encoder, 3), pixels), last, rtol=0, atol=1e-6)
    assert tiny_setok(encoder, 2).token_merger.patch_norm.normalized_shape == (16 if encoder in HIERARCHICAL else 32,)


def test_naflex_patches_of_a_wide_image():
    model, pixels = tiny_setok("siglip2", 1), images((16, 40))
    with torch.no_grad():
        outputs = model(pixels)
    assert outputs.grid_size == (4, 10) and outputs.patch_embeddings.shape == (2, 40, 32)


def test_hidden_states_are_returned_only_where_asked_for():
    model, pixels = tiny_setok("siglip", -2), images()
    with torch.no_grad():
        assert model(pixels).hidden_states is None
        assert model.get_image_features(pixels).hidden_states is None
        assert len(model(pixels, output_hidden_states=True).hidden_states) == 4
        model.set_attn_implementation("eager")
        outputs = model(pixels, output_attentions=True)
    assert outputs.hidden_states is None and len(outputs.attentions) == 3


# ------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_trained_parameter_gets_a_gradient(encoder, layer):
    """DDP stops otherwise; what comes after the layer is frozen."""
    model = SetokForPreTraining(tiny_config(encoder, layer)).train()
    without = [name for name, gradient in _gradients(model).items() if gradient is None]
    assert without == []
    frozen = {id(parameter) for parameter in model.setok.parameters() if not parameter.requires_grad}
    assert frozen == {id(parameter) for parameter in unused_parameters(model.setok.vision_encoder, model.config)}


@pytest.mark.filterwarnings("ignore:.*activation_checkpointing:FutureWarning")  # its name in transformers 6
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("encoder", ["siglip", "siglip2", "clip", "dinov2", "vit"])
def test_checkpointing_changes_no_gradient(encoder, reentrant):
    model = SetokForPreTraining(tiny_config(encoder, -2)).train()
    expected = _gradients(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    for name, gradient in _gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-4, msg=name)


def _gradients(model: SetokForPreTraining) -> dict[str, torch.Tensor | None]:
    torch.manual_seed(6)  # some encoders drop or shift something in training
    model.zero_grad()
    model(images(), target_pixel_values=torch.zeros(2, 3, 6, 6)).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("encoder", ["siglip", "dinov2", "convnextv2", "resnet"])
def test_what_comes_after_the_layer_is_frozen(encoder):
    model = tiny_setok(encoder, 1).train()
    stack = {"siglip": "encoder.layers", "dinov2": "encoder.layer"}.get(encoder, "encoder.stages")
    layers = model.vision_encoder.get_submodule(stack)
    assert all(p.requires_grad for p in layers[0].parameters())
    assert not any(p.requires_grad for layer in layers[1:] for p in layer.parameters())
    norm = getattr(model.vision_encoder, LAST_NORM.get(encoder, "layernorm"), None)
    if norm is not None:
        assert all(p.requires_grad == (encoder in FLAT) for p in norm.parameters())
    statistics = [module.training for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(set(statistics)) == (2 if encoder == "resnet" else 0)  # of frozen stages they stay as they are


# -------------------------------------------------------------------------------------- saving, loading, errors


@pytest.mark.parametrize("encoder", ["siglip", "clip", "convnextv2"])
def test_save_and_load(encoder, tmp_path):
    model, pixels = tiny_setok(encoder, 1), images()
    model.save_pretrained(tmp_path)
    restored = SetokModel.from_pretrained(tmp_path)
    assert restored.config.vision_feature_layer == 1
    torch.testing.assert_close(embeddings(restored, pixels), embeddings(model, pixels), rtol=0, atol=1e-5)
    assert [p.requires_grad for p in restored.parameters()] == [p.requires_grad for p in model.parameters()]


def test_around_a_pretrained_encoder(tmp_path):
    torch.manual_seed(5)
    AutoModel.from_config(tiny_config("convnextv2").vision_config).save_pretrained(tmp_path)
    config = tiny_config("siglip", -2)
    model = SetokModel.from_vision_pretrained(str(tmp_path), config)
    assert model.get_patch_embeddings(images())[0].shape == (2, 36, 16)
    assert not any(p.requires_grad for p in model.vision_encoder.encoder.stages[2].parameters())


def test_layers_out_of_range_are_refused():
    for layer in (4, -5):
        with pytest.raises(ValueError, match=rf"vision_feature_layer={layer} is out of range: .* has 3 layers"):
            SetokModel(tiny_config("siglip", layer))
    with pytest.raises(ValueError, match="vision_feature_layer=-5 is out of range"):
        SetokModel(tiny_config("resnet", -5))


def around_one_encoder(encoder: str, *layers: int | list[int], **settings) -> list[SetokModel]:
    models = [tiny_setok(encoder, layer, **settings) for layer in layers]
    for model in models[1:]:
        model.vision_encoder.load_state_dict(models[0].vision_encoder.state_dict())
    return models


@pytest.mark.parametrize("encoder", ["dinov2", "siglip2", "clip"])
def test_of_a_list_all_layers_are_merged_and_the_last_is_clustered(encoder):
    pixels = images()
    both, early, late = around_one_encoder(encoder, [1, 2], 1, 2)
    assert patch_dim_of(both.config) == 2 * patch_dim_of(late.config)
    expected = torch.cat([embeddings(early, pixels), embeddings(late, pixels)], dim=-1)
    torch.testing.assert_close(embeddings(both, pixels), expected, rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(both(pixels).scores, late(pixels).scores, rtol=0, atol=0)
        assert not torch.equal(both(pixels).scores, early(pixels).scores)


def test_calibration_of_a_list_is_that_of_its_last_layer():
    pixels = images()
    both, late = around_one_encoder("dinov2", [0, -1], -1, background_norm=1.0)
    assert both.calibrate(pixels) == late.calibrate(pixels)
    assert both.token_clustering.patch_norm == late.token_clustering.patch_norm


def test_stages_of_a_list_share_the_grid_of_the_last():
    pixels = images()
    both, early, late = around_one_encoder("convnextv2", [1, 3], 1, 3)
    (fine, fine_grid), (coarse, grid) = (model.get_patch_embeddings(pixels) for model in (early, late))
    step = fine_grid[0] // grid[0]
    assert step > 1
    pooled = fine.unflatten(1, (grid[0], step, grid[1], step)).mean((2, 4)).flatten(1, 2)
    patches, both_grid = both.get_patch_embeddings(pixels)
    assert both_grid == grid
    torch.testing.assert_close(patches, torch.cat([pooled, coarse], dim=-1), rtol=0, atol=1e-5)


def test_only_layers_after_the_last_of_a_list_are_not_trained():
    """The order of a list is that of merging: the first named may be the deepest."""
    for layers, frozen in (([0, 2], [2]), ([2, 0], [2]), ([1, -1], [])):
        model = tiny_setok("dinov2", layers)
        blocks = model.vision_encoder.layers if hasattr(model.vision_encoder, "layers") else None
        blocks = blocks or model.vision_encoder.encoder.layer
        assert [i for i, block in enumerate(blocks) if not any(p.requires_grad for p in block.parameters())] == frozen


def test_lists_that_name_no_layer_or_one_twice_are_refused():
    with pytest.raises(StrictDataclassError, match="the number of layers in vision_feature_layer must be at least 1"):
        tiny_config("dinov2", [])
    for layers in ([1, 1], [-1, 3], [0, -4]):
        with pytest.raises(ValueError, match="names a layer twice"):
            SetokModel(tiny_config("dinov2", layers))
    with pytest.raises(ValueError, match="vision_feature_layer=4 is out of range"):
        SetokModel(tiny_config("dinov2", [1, 4]))


@pytest.mark.parametrize("layer", [-1, [1, 2]])
def test_patch_embeddings_in_place_of_pixels(layer):
    model, pixels = tiny_setok("dinov2", layer), images((24, 32))
    with torch.no_grad():
        expected = model(pixels)
        patches, grid_size = model.get_patch_embeddings(pixels)
        outputs = model(patch_embeddings=patches, grid_size=grid_size)
    torch.testing.assert_close(outputs.last_hidden_state, expected.last_hidden_state, rtol=0, atol=0)
    assert torch.equal(outputs.cluster_ids, expected.cluster_ids)
    assert outputs.hidden_states is None


def test_patch_embeddings_that_do_not_fit_are_refused():
    model, pixels = tiny_setok("dinov2", [1, 2]), images()
    patches, grid_size = model.get_patch_embeddings(pixels)
    for arguments, message in (
        ({"pixel_values": pixels, "patch_embeddings": patches, "grid_size": grid_size}, "pixel_values alone"),
        ({"patch_embeddings": patches}, "with their grid_size"),
        ({"patch_embeddings": patches, "grid_size": (5, 6)}, r"\(batch, 30, 64\) on a grid of \(5, 6\)"),
        ({"patch_embeddings": patches[..., :32], "grid_size": grid_size}, r"got \(2, 36, 32\)"),
        ({"patch_embeddings": patches, "grid_size": grid_size, "output_attentions": True}, "need pixel_values"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**arguments)


def test_encoders_without_a_known_norm_are_refused():
    pixtral = {"model_type": "pixtral", "image_size": 24, **DEEP}
    with pytest.raises(ValueError, match="needs an encoder whose layers and whose last norm .* of pixtral it cannot"):
        SetokModel(tiny_config(pixtral, -2))
    hiera = {"model_type": "hiera", "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "num_query_pool": 1}
    with pytest.raises(ValueError, match="hiera does not say how many layers"):
        SetokModel(tiny_config(hiera, -2))


SWIN = {"model_type": "swin", "image_size": 32, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "patch_size": 4,
        "window_size": 2}  # fmt: skip
PVT = {"model_type": "pvt_v2", "image_size": 32, "depths": [1, 1], "hidden_sizes": [16, 32], "num_encoder_blocks": 2,
       "sr_ratios": [2, 1], "patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [2, 2],
       "mlp_ratios": [2, 2]}  # fmt: skip


@pytest.mark.parametrize(
    ("encoder", "layer", "message"),
    [
        (SWIN, -1, "swin gave 16 tokens for a grid of 8 x 8 patches: it merges patches"),
        (SWIN, 1, "swin gave 16 tokens for a grid of 8 x 8 patches: it merges patches"),
        (SWIN, 0, "swin gave embeddings of width 16 for vision_feature_layer=0, where its configuration says 32"),
        (PVT, 0, "pvt_v2 gives 2 hidden states and has 2 layers"),
        (PVT, 1, "pvt_v2 gives 2 hidden states and has 2 layers"),
    ],
    ids=lambda value: str(value.get("model_type")) if isinstance(value, dict) else str(value)[:12],
)
def test_hidden_states_that_are_no_patches_are_refused(encoder, layer, message):
    model = SetokModel(tiny_config(encoder, layer)).eval()
    with pytest.raises(ValueError, match=message):
        model(images((32, 32)))


def test_an_encoder_that_packs_a_batch_into_one_row_is_refused():
    """Pixtral: the images of a batch would silently become one."""
    model = SetokModel(tiny_config({"model_type": "pixtral", "image_size": 24, **DEEP}))
    with pytest.raises(ValueError, match="gave a batch of 1 for 2 images"):
        model(images())


@pytest.mark.parametrize(
    ("pixel_values", "message"),
    [
        (torch.zeros(1, 3, 24, 24, dtype=torch.uint8), "floating point, scaled as the image processor"),
        (torch.zeros(1, 3, 24, 24, dtype=torch.int64), "floating point, scaled as the image processor"),
        (torch.zeros(0, 3, 24, 24), r"got \(0, 3, 24, 24\); none of them may be 0"),
        (torch.zeros(3, 24, 24), r"must be \(batch, channels, height, width\)"),
        (torch.zeros(1, 1, 24, 24), "1 channels, and the encoder sees 3"),
        (torch.full((1, 3, 24, 24), 1e30), "no valid patch"),
        (torch.full((1, 3, 24, 24), torch.nan), "no valid patch"),
    ],
)
def test_what_is_no_batch_of_pictures_is_named(pixel_values, message):
    with pytest.raises(ValueError, match=message):
        tiny_setok("siglip")(pixel_values)


def test_a_mask_of_other_patches_is_named():
    model, pixel_values = tiny_setok("siglip"), torch.rand(2, 3, 24, 24)
    for shape in ((2, 35), (36,), (1, 36), (2, 6, 6)):
        with pytest.raises(ValueError, match=r"patch_mask must be \(batch, patches\) = \(2, 36\)"):
            model(pixel_values, torch.ones(shape, dtype=torch.bool))
