"""Which attention each part of a model gets when it is loaded or set: encoders that lack one keep their own.

The shipped SeTok is real, its encoder a CNN, and so is that of a Setokim around it; two more encoders have some
implementations only.
"""

import logging

import pytest
import torch
from transformers import PreTrainedModel

from modeling_setok import (
    SetokConfig,
    SetokForPreTraining,
    SetokimForConditionalGeneration,
    SetokModel,
)
from tests.setokim_testing import EMOJI as SETOK
from tests.setokim_testing import save_emoji_setokim

CHOICES = ("sdpa", "flex_attention", "eager")
ENCODERS = {  # name -> configuration, and what it uses where it lacks what is asked of all
    "beit": ({"model_type": "beit", "use_mask_token": False}, "sdpa"),
    "focalnet": ({"model_type": "focalnet", "embed_dim": 8, "depths": [1, 1], "hidden_sizes": [8, 16]}, "eager"),
}


@pytest.fixture(scope="module")
def setokim(tmp_path_factory) -> str:
    """Folder of a Setokim around that SeTok."""
    save_emoji_setokim(folder := tmp_path_factory.mktemp("setokim"))
    return str(folder)


@pytest.fixture(autouse=True)
def silence(caplog):
    """Nothing here may warn."""
    library = logging.getLogger("transformers")
    library.addHandler(caplog.handler)
    yield
    library.removeHandler(caplog.handler)
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def attentions(model: PreTrainedModel) -> dict[str, str]:
    return {
        name: part.config._attn_implementation
        for name, part in model.named_modules()
        if isinstance(part, PreTrainedModel)
    }


def with_encoder(name: str, **kwargs) -> SetokForPreTraining:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    vision_config = {**sizes, "image_size": 16, "patch_size": 4, **ENCODERS[name][0]}
    detokenizer = {**sizes, "grid_size": 2, "decoder_channels": [4]}
    config = SetokConfig(
        vision_config=vision_config, detokenizer_config=detokenizer, hidden_size=8, intermediate_size=8,
        num_attention_heads=2, num_inner_layers=1, num_inter_layers=1,
    )  # fmt: skip
    return SetokForPreTraining._from_config(config, **kwargs)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("model_class", [SetokModel, SetokForPreTraining])
def test_a_cnn_keeps_its_own_in_setok(model_class, choice):
    model = model_class.from_pretrained(SETOK, attn_implementation=choice)
    encoder = "vision_encoder" if model_class is SetokModel else "setok.vision_encoder"
    for _ in range(2):
        found = attentions(model)
        assert found.pop(encoder) == "eager" and set(found.values()) == {choice}
        model.set_attn_implementation("eager")
        assert set(attentions(model).values()) == {"eager"}
        model.set_attn_implementation(choice)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_cnn_keeps_its_own_in_setokim(choice, setokim):
    model = SetokimForConditionalGeneration.from_pretrained(setokim, attn_implementation=choice)
    for _ in range(2):
        found = attentions(model)
        assert found.pop("model.setok.vision_encoder") == "eager" and set(found.values()) == {choice}
        assert {"model.setok", "model.language_model", "detokenizer", "mask_decoder"} <= found.keys()
        model.set_attn_implementation("eager")
        assert set(attentions(model).values()) == {"eager"}
        model.set_attn_implementation(choice)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_encoder_that_has_some(encoder):
    _, own = ENCODERS[encoder]
    for model in (with_encoder(encoder, attn_implementation="flex_attention"), with_encoder(encoder)):
        model.set_attn_implementation("flex_attention")
        found = attentions(model)
        assert found.pop("setok.vision_encoder") == own and set(found.values()) == {"flex_attention"}
    model.set_attn_implementation("eager")
    assert set(attentions(model).values()) == {"eager"}


def test_parts_can_be_named():
    settings = {"": "sdpa", "vision_config": "eager", "detokenizer_config": "flex_attention"}
    loaded = SetokForPreTraining.from_pretrained(SETOK, attn_implementation=settings)
    changed = SetokForPreTraining.from_pretrained(SETOK, attn_implementation="eager")
    changed.set_attn_implementation(settings)
    assert attentions(loaded) == attentions(changed) == {
        "": "sdpa", "setok": "sdpa", "setok.vision_encoder": "eager", "detokenizer": "flex_attention"
    }  # fmt: skip
    changed.set_attn_implementation({"detokenizer_config": "eager"})  # the others stay
    assert attentions(changed) == attentions(loaded) | {"detokenizer": "eager"}


def test_an_encoder_asked_by_name_refuses():
    model = SetokForPreTraining.from_pretrained(SETOK)
    with pytest.raises(ValueError, match="ResNetModel does not support"):
        model.set_attn_implementation({"vision_config": "sdpa"})
    with pytest.raises(ValueError, match="ResNetModel does not support"):
        SetokModel.from_pretrained(SETOK, attn_implementation={"": "eager", "vision_config": "sdpa"})
    with pytest.raises(ValueError, match="nonsense"):
        model.set_attn_implementation("nonsense")


def test_sdpa_and_eager_give_the_same_tokens():
    """But for round-off. (Flex attention, which is compiled, has its tests with tiny models.)"""
    model = SetokForPreTraining.from_pretrained(SETOK)
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    results = []
    for choice in ("sdpa", "eager"):
        model.set_attn_implementation(choice)
        with torch.no_grad():
            outputs = model.setok(pixels)
            results.append((outputs.last_hidden_state, model.detokenize(outputs.last_hidden_state, outputs.token_mask)))
    for sdpa, eager in zip(*results, strict=True):
        torch.testing.assert_close(eager, sdpa, rtol=0, atol=1e-3)


def test_configurations_without_a_part_follow(setokim):
    """Such as the detokenizer's of a SetokModel: what is saved says what was set."""
    model = SetokModel.from_pretrained(SETOK)
    model.set_attn_implementation("sdpa")
    assert model.config.detokenizer_config._attn_implementation == "sdpa"
    whole = SetokimForConditionalGeneration.from_pretrained(setokim, attn_implementation="eager")
    whole.set_attn_implementation({"diffusion_config": "sdpa"})
    assert whole.config.diffusion_config._attn_implementation == "sdpa"
    assert whole.config.mask_decoder_config._attn_implementation == "eager"
