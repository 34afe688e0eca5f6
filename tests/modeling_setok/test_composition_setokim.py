"""A Setokim made of a SeTok and a language model: what is taken over, what is new, what is refused."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
)

from modeling_setok import SetokimForConditionalGeneration
from tests.setokim_testing import (
    LANGUAGE_MODELS,
    TINY_HEADS,
    inputs_of,
    tiny_language_model,
    tiny_setok,
)


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_text_only_logits_are_the_language_models(processor, kind):
    language_model = tiny_language_model(kind, vocab_size=len(processor.tokenizer))
    inputs = inputs_of(processor, ["Describe the picture.", "It"], side="left")
    with torch.no_grad():
        expected = language_model(**inputs).logits, language_model(**inputs, logits_to_keep=2).logits
        model = SetokimForConditionalGeneration.from_parts(tiny_setok(), language_model, processor, **TINY_HEADS)
        assert torch.equal(model(**inputs).logits, expected[0])
        assert torch.equal(model(**inputs, logits_to_keep=2).logits, expected[1])


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_new_tokens_get_embeddings(processor, kind):
    language_model = tiny_language_model(kind, vocab_size=200)
    old = language_model.get_input_embeddings().weight.detach().clone()
    model = SetokimForConditionalGeneration.from_parts(tiny_setok(), language_model, processor, **TINY_HEADS)
    embedding, size = model.get_input_embeddings(), len(processor.tokenizer)
    assert embedding.num_embeddings == model.config.text_config.vocab_size == size == model.lm_head.out_features
    assert torch.equal(embedding.weight[:200], old)
    tied = kind in ("llama-tied", "gpt2")
    assert model.config.tie_word_embeddings is tied
    assert (model.lm_head.weight is embedding.weight) is tied
    assert model.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id


def test_larger_vocabulary_is_left_alone(processor):
    language_model = tiny_language_model("llama", vocab_size=512)
    model = SetokimForConditionalGeneration.from_parts(tiny_setok(), language_model, processor, **TINY_HEADS)
    assert model.config.text_config.vocab_size == model.lm_head.out_features == 512


def test_parts_are_taken_over_and_the_rest_is_fresh(processor):
    setok, language_model = tiny_setok(), tiny_language_model("llama", vocab_size=len(processor.tokenizer))
    parts = {
        f"model.setok.{name}": value for name, value in setok.setok.state_dict().items()
    } | {f"detokenizer.{name}": value for name, value in setok.detokenizer.state_dict().items()}  # fmt: skip
    model = SetokimForConditionalGeneration.from_parts(
        setok, language_model, processor, text_loss_weight=0.25, **TINY_HEADS
    )
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in parts.items())
    assert model.config.text_loss_weight == 0.25
    assert not any(value.is_meta or not value.isfinite().all() for value in state.values())
    assert not model.training
    std = model.config.initializer_range
    for weight in (model.model.multi_modal_projector.linear2.weight, model.diffusion_head.blocks[0].linear1.weight):
        assert 0.8 * std < weight.std() < 1.2 * std
    assert not model.diffusion_head.linear_out.weight.any()
    for name, value in model.mask_decoder.named_parameters():
        if name.endswith("bias"):
            assert not value.any(), name
        elif "norm" in name:
            assert (value == 1).all(), name
        else:
            assert value.std() > 0, name


@pytest.mark.parametrize(
    "config, message",
    [
        ({"model_type": "gemma2", "head_dim": 8, "query_pre_attn_scalar": 8}, "changes its logits.*capping"),
        ({"model_type": "phi"}, "linear layer without bias"),
    ],
)
def test_refused_language_models(processor, config, message):
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    settings = config | sizes | {"num_key_value_heads": 2 if "gemma" in config["model_type"] else 4}
    language_model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**settings, vocab_size=len(processor.tokenizer), initializer_range=0.3, pad_token_id=0)
    )
    with pytest.raises(ValueError, match=message):
        SetokimForConditionalGeneration.from_parts(tiny_setok(), language_model, processor, **TINY_HEADS)
