"""Setokim's configuration: defaults are the paper's, any language model fits in, bad values are refused."""

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoConfig, LlamaConfig, Qwen2Config

from modeling_setok import (
    SetokConfig,
    SetokimConfig,
    SetokimDiffusionConfig,
    SetokimForConditionalGeneration,
    SetokimMaskDecoderConfig,
)


def test_default_is_the_papers_model():
    config = SetokimConfig()
    with torch.device("meta"):
        model = SetokimForConditionalGeneration(config)

    def millions(*parts) -> float:
        return sum(p.numel() for part in parts for p in part.parameters()) / 1e6

    llama_7b = 32000 * 4096 * 2 + 32 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) + 4096  # LLaMA-2-7B
    new_tokens = 7 * 4096 * 2
    assert millions(model.model.language_model, model.lm_head) * 1e6 == llama_7b + new_tokens
    assert round(millions(model.model.language_model, model.lm_head) / 1e3, 2) == 6.74
    assert len(model.diffusion_head.blocks) == 3
    assert len(model.mask_decoder.layers) == 2 and model.mask_decoder.mask_token.shape == (256,)
    assert 3.5 < millions(model.mask_decoder) < 4.5  # SAM's has 4.06 M, with four mask tokens
    assert millions(model.model.multi_modal_projector) * 1e6 == 512 * 4096 + 4096 + 4096**2 + 4096
    assert (config.mask_bce_weight, config.mask_dice_weight) == (2.0, 0.5)


@pytest.mark.parametrize("model_type, expected", [("qwen2", Qwen2Config), ("llama", LlamaConfig)])
def test_any_language_model(model_type, expected):
    config = SetokimConfig(text_config={"model_type": model_type, "vocab_size": 32010, "hidden_size": 64})
    assert isinstance(config.text_config, expected) and config.text_config.hidden_size == 64
    assert config.get_text_config() is config.text_config


def test_tying_is_the_language_models_business():
    for tied in (True, False):
        text_config = LlamaConfig(vocab_size=32010, tie_word_embeddings=tied)
        assert SetokimConfig(text_config=text_config, tie_word_embeddings=not tied).tie_word_embeddings is tied


def test_save_and_load(tmp_path):
    config = SetokimConfig(
        vision_config={"hidden_size": 48, "num_attention_heads": 4},
        text_config={"model_type": "qwen2", "hidden_size": 64, "vocab_size": 50, "tie_word_embeddings": True},
        diffusion_config={"num_inference_steps": 7},
        mask_decoder_config={"hidden_size": 64, "num_attention_heads": 2},
        image_start_token_id=40, image_token_id=41, image_end_token_id=42, mask_token_id=43,
        diffusion_loss_weight=0.5,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, SetokimConfig)
    assert loaded.to_dict() == config.to_dict() | {"_name_or_path": str(tmp_path)}
    assert loaded.tie_word_embeddings and loaded.text_config.model_type == "qwen2"
    for part, name in (
        (SetokConfig, "vision_config"),
        (SetokimDiffusionConfig, "diffusion_config"),
        (SetokimMaskDecoderConfig, "mask_decoder_config"),
    ):
        assert part.from_pretrained(tmp_path).to_diff_dict() == getattr(config, name).to_diff_dict()


@pytest.mark.parametrize(
    "config_class, values, message",
    [
        (SetokimConfig, {"image_token_id": 32000}, "must differ"),
        (SetokimConfig, {"mask_token_id": 40000}, "add the tokens to the tokenizer"),
        (SetokimConfig, {"mask_token_id": -1}, "add the tokens to the tokenizer"),
        (SetokimConfig, {"text_config": {"model_type": "llama", "vocab_size": 32000}}, "from_parts"),
        (SetokimConfig, {"diffusion_loss_weight": -1.0}, "diffusion_loss_weight"),
        (SetokimConfig, {"mask_dice_weight": -1.0}, "mask_dice_weight"),
        (SetokimDiffusionConfig, {"prediction_type": "noise"}, "epsilon.*v_prediction.*sample"),
        (SetokimDiffusionConfig, {"hidden_size": 33}, "even"),
        (SetokimDiffusionConfig, {"num_inference_steps": 0}, "num_inference_steps"),
        (SetokimDiffusionConfig, {"condition_dropout": 1.0}, r"\[0, 1\)"),
        (SetokimDiffusionConfig, {"timestep_shift": 0.0}, "timestep_shift must be positive"),
        (SetokimMaskDecoderConfig, {"hidden_size": 250}, "multiple of"),
        (SetokimMaskDecoderConfig, {"num_hidden_layers": 0}, "num_hidden_layers"),
        (SetokimMaskDecoderConfig, {"token_noise": -0.1}, "token_noise"),
        (SetokimConfig, {"text_loss_weight": math.nan}, "text_loss_weight must be finite"),
        (SetokimConfig, {"mask_bce_weight": math.inf}, "mask_bce_weight must be finite"),
        (SetokimConfig, {"projector_hidden_act": "x"}, "projector_hidden_act must be an activation"),
        (
            SetokimConfig,
            {"text_loss_reduction": "answer"},
            "text_loss_reduction must be one of .*square.*, got 'answer'",
        ),
        (SetokimConfig, {"initializer_range": -1.0}, "initializer_range"),
        (SetokimDiffusionConfig, {"beta_schedule": "x"}, "beta_schedule must be one of .*linear.*, got 'x'"),
        (SetokimDiffusionConfig, {"timestep_shift": math.inf}, "timestep_shift must be finite"),
        (SetokimDiffusionConfig, {"num_inference_steps": 1001}, r"num_inference_steps \(1001\) must be at most"),
        (SetokimMaskDecoderConfig, {"token_noise": math.nan}, "token_noise must be finite"),
        (SetokimMaskDecoderConfig, {"hidden_act": "x"}, "hidden_act must be an activation"),
        (SetokimMaskDecoderConfig, {"layer_norm_eps": 0.0}, "layer_norm_eps must be positive"),
        (SetokimMaskDecoderConfig, {"hidden_size": 0}, "hidden_size must be at least 1"),
    ],
)
def test_refused_values(config_class, values, message):
    with pytest.raises((ValueError, StrictDataclassClassValidationError), match=message):
        config_class(**values)
