"""Configuration: the defaults are the paper's model; nesting, round trips, errors."""

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModelForPreTraining,
    BertConfig,
    CLIPConfig,
    ConvNextV2Config,
    Dinov2Config,
    SiglipConfig,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from modeling_setok import SetokConfig, SetokDetokenizerConfig


def test_defaults_are_the_papers_model():
    config = SetokConfig()
    vision, detokenizer = config.vision_config, config.detokenizer_config
    assert isinstance(vision, SiglipVisionConfig)
    assert (vision.image_size, vision.patch_size, vision.hidden_size) == (384, 14, 1152)
    assert (vision.num_hidden_layers, vision.num_attention_heads, vision.intermediate_size) == (27, 16, 4304)
    assert vision.vision_use_head is False
    assert (config.hidden_size, config.num_inner_layers, config.num_inter_layers) == (512, 12, 8)
    assert (config.num_neighbors, config.criterion, config.assignment, config.max_tokens) == (
        6,
        "relative",
        "chain",
        64,
    )
    assert (config.assignment_mode, config.straight_through, config.threshold) == ("hard", False, None)
    assert (config.reconstruction_weight, config.contrastive_weight) == (1.0, 1.0)
    assert config.logit_scale_init == pytest.approx(torch.tensor(1 / 0.07).log().item(), abs=1e-4)
    assert isinstance(detokenizer, SetokDetokenizerConfig)
    assert detokenizer.num_hidden_layers == 12 and detokenizer.image_size == 384
    assert config.text_config is None and config.concept_names is None


def test_parameters_of_the_papers_model():
    """SigLIP-SO400M without its pooling head has 413.0 M parameters; tokens and detokenizer add the rest."""
    with torch.device("meta"):
        model = AutoModelForPreTraining.from_config(SetokConfig())

    def count(module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    block = 4 * (512 * 512 + 512) + 512 * 2048 + 2048 + 2048 * 512 + 512 + 4 * 512
    merger = 20 * block + 2 * 2 * 512 + 2 * 1152 + 1152 * 512 + 512 + 512
    assert count(model.setok.token_merger) == merger == 63_642_880
    assert count(model.setok.vision_encoder) == 412_987_248
    cross_attention = 4 * (512 * 512 + 512) + 2 * 512
    placement = 2 * 512 * 512
    blocks = 12 * (block + cross_attention) + placement + 512 * 512 + 512 + 4 * 512
    assert count(model.detokenizer) == blocks + count(model.detokenizer.pixel_decoder)
    projections = 512 * 512 + 1152 * 512 + 1  # of tokens, of text, and the temperature
    assert count(model) == sum(map(count, (model.setok, model.detokenizer))) + projections == 548_646_388


def tiny_text() -> dict:
    return {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 11}


def test_round_trip(tmp_path):
    config = SetokConfig(
        vision_config={"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 2, "image_size": 56},
        detokenizer_config={"hidden_size": 32, "num_attention_heads": 2, "decoder_channels": [16, 8], "grid_size": 5},
        text_config=tiny_text(),
        hidden_size=48, num_attention_heads=4, threshold=0.0, fixed_tokens=9, concept_names=["cat", "dog"],
        token_order="raster", background_norm=0.5,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    for restored in (SetokConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(restored) is SetokConfig
        assert restored.to_dict() | {"_name_or_path": ""} == config.to_dict()
        assert isinstance(restored.vision_config, Dinov2Config) and restored.vision_config.image_size == 56
        assert isinstance(restored.text_config, BertConfig) and restored.text_config.vocab_size == 11
        assert isinstance(restored.detokenizer_config, SetokDetokenizerConfig)
        assert restored.detokenizer_config.image_size == 10
        assert restored.threshold == 0.0 and restored.fixed_tokens == 9
    changed = SetokConfig.from_pretrained(tmp_path, hidden_size=64, vision_config={"hidden_size": 16})
    assert changed.hidden_size == 64 and changed.vision_config.hidden_size == 16
    assert changed.vision_config.image_size == 56  # what was not named stays


def test_nested_dicts_and_objects_are_the_same():
    as_dict = SetokConfig(vision_config={"model_type": "convnextv2", "hidden_sizes": [8, 16]}, text_config=tiny_text())
    text = tiny_text()
    text.pop("model_type")
    as_object = SetokConfig(vision_config=ConvNextV2Config(hidden_sizes=[8, 16]), text_config=BertConfig(**text))
    assert as_dict.to_dict() == as_object.to_dict()
    assert SetokConfig(vision_config={"hidden_size": 64}).vision_config.model_type == "siglip_vision_model"


def test_two_tower_models_give_their_halves():
    for two_towers in (SiglipConfig(), CLIPConfig()):
        config = SetokConfig(vision_config=two_towers, text_config=two_towers)
        assert config.vision_config.model_type == two_towers.vision_config.model_type
        assert config.text_config.model_type == two_towers.text_config.model_type


def test_text_feature_dim_is_that_of_the_text_encoder():
    assert SetokConfig().text_feature_dim == 1152
    assert SetokConfig(text_config=tiny_text(), text_feature_dim=5).text_feature_dim == 8
    assert SetokConfig(text_config=SiglipTextConfig(hidden_size=8, projection_size=12)).text_feature_dim == 12


def test_vision_head_is_left_out():
    """Pooling heads would have parameters without a gradient."""
    for config in (SiglipVisionConfig(), SiglipVisionConfig(vision_use_head=True)):
        assert SetokConfig(vision_config=config).vision_config.vision_use_head is False
    assert SetokConfig(vision_config={"model_type": "siglip2_vision_model"}).vision_config.vision_use_head is False


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"merger": "max"}, "merger must be one of"),
        ({"criterion": "density"}, "criterion must be one of"),
        ({"assignment": "soft"}, "assignment must be one of"),
        ({"assignment_mode": "mixed"}, "assignment_mode must be one of"),
        ({"token_order": "size"}, "token_order must be one of"),
        ({"contrastive_form": "clip"}, "contrastive_form must be one of"),
        ({"hidden_size": 500}, r"hidden_size \(500\) must be a multiple of 4 \* num_attention_heads"),
        ({"hidden_size": 0}, "hidden_size must be at least 1"),
        ({"num_attention_heads": 0}, "num_attention_heads must be at least 1"),
        ({"num_neighbors": 0}, "num_neighbors must be at least 1"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"fixed_tokens": 0}, "fixed_tokens must be at least 1"),
        ({"num_inner_layers": -1}, "num_inner_layers must be at least 0"),
        ({"background_norm": -0.1}, "background_norm must be at least 0"),
        ({"soft_temperature": 0.0}, "soft_temperature must be positive"),
        ({"soft_sharpness": -1.0}, "soft_sharpness must be positive"),
        ({"straight_through": True, "assignment_mode": "soft"}, "hard masks"),
        ({"concept_names": ["cat", "dog", "cat"]}, r"must not repeat: \['cat'\]"),
        ({"hidden_size": "wide"}, "expected int, got str"),
        ({"detokenizer_config": {"grid_size": 0}}, "grid_size must be at least 1"),
        ({"detokenizer_config": {"hidden_size": 20}}, "must be a multiple of 4"),
        ({"detokenizer_config": {"decoder_channels": []}}, "decoder_channels must be at least 1"),
        ({"detokenizer_config": {"token_noise": -1.0}}, "token_noise must be at least 0"),
        ({"detokenizer_config": {"token_noise": math.nan}}, "token_noise must be finite, got nan"),
        ({"detokenizer_config": {"decoder_channels": [8, 0]}}, "the smallest of decoder_channels must be at least 1"),
        ({"detokenizer_config": {"hidden_act": "x"}}, "hidden_act must be an activation of .* gelu.* got 'x'"),
        ({"detokenizer_config": {"layer_norm_eps": -1e-6}}, "layer_norm_eps must be positive"),
        ({"hidden_act": "x"}, "hidden_act must be an activation"),
        ({"layer_norm_eps": math.inf}, "layer_norm_eps must be finite, got inf"),
        ({"rope_theta": 0.0}, "rope_theta must be positive"),
        ({"initializer_range": -0.02}, "initializer_range must be at least 0"),
        ({"contrastive_weight": -1.0}, "contrastive_weight must be at least 0"),
        ({"placement_weight": math.nan}, "placement_weight must be finite"),
        ({"threshold": math.nan}, "threshold must be finite"),
        ({"logit_scale_init": -math.inf}, "logit_scale_init must be finite"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_errors_name_the_setting(settings, message):
    with pytest.raises(StrictDataclassError, match=message):
        SetokConfig(**settings)


def test_unknown_models_are_refused():
    with pytest.raises(ValueError, match="no_such_model"):
        SetokConfig(vision_config={"model_type": "no_such_model"})
    with pytest.raises(ValueError, match='text_config needs a "model_type"'):
        SetokConfig(text_config={"hidden_size": 8})
