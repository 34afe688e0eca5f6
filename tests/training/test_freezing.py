import copy

import pytest
import torch

from modeling_setok import SetokConfig, SetokForPreTraining, SetokimForConditionalGeneration
from tests.setokim_testing import tiny_language_model, tiny_setok, tiny_setokim
from training.freezing import train_only


def trained(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.fixture
def model(processor):
    return tiny_setokim(processor)


def test_what_is_named_is_trained_and_nothing_else(model):
    train_only(model, ["model.multi_modal_projector", "diffusion_head.blocks"])
    prefixes = ("model.multi_modal_projector.", "diffusion_head.blocks.")
    assert trained(model) == {name for name, _ in model.named_parameters() if name.startswith(prefixes)}
    train_only(model, ["mask_decoder"])
    assert trained(model) == {name for name, _ in model.named_parameters() if name.startswith("mask_decoder.")}


def test_tied_embeddings_are_trained_under_either_name(processor):
    model = tiny_setokim(processor, "llama-tied")
    train_only(model, ["lm_head"])
    assert trained(model) == {"model.language_model.embed_tokens.weight"}


@pytest.mark.parametrize("parts", [["detokeniser"], ["lm_head", "model.lm_head"], ["model.language_model.embed"], []])
def test_unknown_names_are_refused(model, parts):
    before = trained(model)
    with pytest.raises(ValueError, match="the model's parts are .*'mask_decoder'"):
        train_only(model, parts)
    assert trained(model) == before


def test_a_part_without_parameters_is_refused(model):
    with pytest.raises(ValueError, match="activation"):
        train_only(model, ["model.multi_modal_projector.activation"])


def test_the_mode_stays_and_frozen_parts_are_in_eval(model):
    train_only(model, ["mask_decoder"])
    assert not model.training
    model.train()
    train_only(model, ["mask_decoder"])
    assert model.training and model.mask_decoder.training and model.model.language_model.training
    assert not model.model.setok.training and not model.detokenizer.training
    train_only(model, ["model.setok", "detokenizer"])
    assert model.model.setok.training and model.detokenizer.training and not model.mask_decoder.training


@pytest.mark.parametrize("frozen", [True, False])
def test_batch_statistics_of_a_frozen_setok_stay(processor, frozen):
    values = tiny_setok().config.to_dict()
    values["vision_config"] = {
        "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic",
    }  # fmt: skip
    setok = SetokForPreTraining(SetokConfig.from_dict(values))
    language_model = tiny_language_model("llama", len(processor.tokenizer))
    model = SetokimForConditionalGeneration.from_parts(setok, language_model, processor).train()
    train_only(model, ["model.language_model"] if frozen else ["model.setok"])
    before = copy.deepcopy(dict(model.model.setok.named_buffers()))
    model.get_image_features(torch.randn(2, 3, 24, 24))
    changed = [name for name, buffer in model.model.setok.named_buffers() if not torch.equal(buffer, before[name])]
    assert bool(changed) != frozen
    assert all("running" in name or "num_batches" in name for name in changed)


def test_a_parameter_can_be_named():
    model = tiny_setok()
    train_only(model, ["logit_scale", "visual_projection"])
    assert trained(model) == {"logit_scale", "visual_projection.weight"}
