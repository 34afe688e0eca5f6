"""Concept tokens in tiny models of many families of transformers: one adaption serves them all, with no table of them.

What each family's language model makes of fewer patches is its own: the tests say what holds for every one.
"""

import copy

import pytest
import torch
from torch.nn.functional import pad
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel
from transformers.generation import GenerateDecoderOnlyOutput

from modeling_setok.adaption import add_concept_tokens, remove_concept_tokens
from modeling_setok.adaption_masks import concept_maps
from tests.modeling_setok.adaption_families import FAMILIES, NO_TEXT, Family

NUM_NEW, NUM_CONCEPTS = 4, 3

NO_BASE = "it is no model with a head around a base model"
NO_FEATURES = "its base model has no get_image_features"
REFUSED = {
    "blip-2": NO_BASE,
    "chameleon": "its language model is not a module of its own",
    "florence2": "its text is decoded against an encoder's",
    "git": NO_FEATURES,
    "inkling2": "attn_implementation='eager' cannot add the weight of a token",
    "instructblip": NO_BASE,
    "kosmos-2": NO_BASE,
    "llama4": NO_BASE,
    "minicpm_ocr": "it does not say which token is a patch",
    "mllama": NO_FEATURES,
}
SETTINGS = {"chameleon": {"vocabulary_map": {"<image>": 4}}}  # without which there is no such model


@pytest.fixture(scope="module", params=FAMILIES)
def template(request) -> Family:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FAMILIES[request.param]()


@pytest.fixture
def family(template) -> Family:
    """A family whose model the test may change."""
    return template._replace(model=copy.deepcopy(template.model))


@torch.no_grad()
def logits(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return model(**inputs).logits


def generated(family: Family) -> GenerateDecoderOnlyOutput:
    """Greedy; without ids that would be read as images."""
    return family.model.generate(
        **family.inputs,
        max_new_tokens=NUM_NEW,
        min_new_tokens=NUM_NEW,
        do_sample=False,
        suppress_tokens=NO_TEXT,
        output_logits=True,
        return_dict_in_generate=True,
    )


def with_generated(family: Family, sequences: torch.LongTensor) -> dict[str, torch.Tensor]:
    """The inputs of one forward over prompts and generated tokens."""
    prompts = family.inputs["input_ids"]
    num_new = sequences.shape[1] - prompts.shape[1]
    longer = {
        name: torch.cat([x, x.new_full((len(x), num_new), 1 if name == "attention_mask" else family.appended)], dim=1)
        for name, x in family.inputs.items()
        if x.shape == prompts.shape
    }
    return family.inputs | longer | {"input_ids": sequences}


def test_as_many_tokens_as_patches_change_nothing(family):
    before, output_before = logits(family.model, family.inputs), generated(family)
    add_concept_tokens(family.model, fixed_tokens=999)
    assert torch.equal(logits(family.model, family.inputs), before)
    output = generated(family)
    assert torch.equal(output.sequences, output_before.sequences)
    assert torch.equal(torch.stack(output.logits), torch.stack(output_before.logits))


def test_generation_sees_what_the_forward_sees(family):
    add_concept_tokens(family.model, fixed_tokens=NUM_CONCEPTS)
    output = generated(family)
    prompts = family.inputs["input_ids"]
    assert torch.equal(output.sequences[:, : prompts.shape[1]], prompts)
    forced = logits(family.model, with_generated(family, output.sequences))[:, -NUM_NEW - 1 : -1]
    means = family.model.base_model.last_seen["image"][0]
    assert means.num_tokens.tolist() == [NUM_CONCEPTS, NUM_CONCEPTS] and (means.sets.sizes > NUM_CONCEPTS).all()
    torch.testing.assert_close(torch.stack(output.logits, dim=1), forced, rtol=1e-4, atol=1e-4)


def test_tokens_weigh_as_much_as_their_patches(family):
    def reduced(token_weight: str) -> torch.Tensor:
        model = add_concept_tokens(copy.deepcopy(family.model), fixed_tokens=NUM_CONCEPTS, token_weight=token_weight)
        return logits(model, family.inputs)[:, -1]

    assert (reduced("size") - reduced("none")).abs().max() > 1e-3


def test_removed_concept_tokens_leave_the_model_as_it_was(family):
    before, model_class = logits(family.model, family.inputs), type(family.model)
    add_concept_tokens(family.model, fixed_tokens=NUM_CONCEPTS)
    assert not torch.equal(logits(family.model, family.inputs), before)
    remove_concept_tokens(family.model)
    assert type(family.model) is model_class
    assert torch.equal(logits(family.model, family.inputs), before)


def test_as_many_tokens_as_patches_change_nothing_where_all_rows_are_padded():
    family = FAMILIES["llava"]()
    padded = {name: pad(x, (2, 0)) if x.ndim == 2 else x for name, x in family.inputs.items()}
    family = family._replace(inputs=padded)
    before, output_before = logits(family.model, padded), generated(family)
    add_concept_tokens(family.model, fixed_tokens=999)
    assert torch.equal(logits(family.model, padded), before)
    assert torch.equal(generated(family).sequences, output_before.sequences)


def test_frames_of_a_video_share_tokens():
    """Each picture of Qwen2.5-VL twice over, as the two frames of a video."""
    family = FAMILIES["qwen2_5_vl"]()
    images, videos = family.model.config.image_token_id, family.model.config.video_token_id
    grids = family.inputs["image_grid_thw"]
    rows = []
    for row, attended in zip(family.inputs["input_ids"], family.inputs["attention_mask"], strict=True):
        row = row[attended.bool()]
        (patches,) = (row == images).nonzero(as_tuple=True)
        rows.append(torch.cat([row[: patches[0]], row.new_full((2 * len(patches),), videos), row[patches[-1] + 1 :]]))
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left")
    frames = family.inputs["pixel_values"].split(grids.prod(1).tolist())
    inputs = {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "pixel_values_videos": torch.cat([x for picture in frames for x in (picture, picture)]),
        "video_grid_thw": grids * torch.tensor([2, 1, 1]),
        "mm_token_type_ids": (ids == videos).long() * 2,
    }
    assert (ids != 0).sum(1).tolist() == [len(row) for row in rows]  # 0 is padding alone
    family = family._replace(inputs=inputs)
    before = logits(family.model, inputs)
    add_concept_tokens(family.model, fixed_tokens=999)
    assert torch.equal(logits(family.model, inputs), before)
    remove_concept_tokens(family.model)
    add_concept_tokens(family.model, fixed_tokens=NUM_CONCEPTS)
    output = generated(family)
    forced = logits(family.model, with_generated(family, output.sequences))[:, -NUM_NEW - 1 : -1]
    torch.testing.assert_close(torch.stack(output.logits, dim=1), forced, rtol=1e-4, atol=1e-4)
    maps = concept_maps(family.model, "video")
    assert [ids.shape for (ids,) in maps] == [(2, h // 2, w // 2) for _, h, w in grids.tolist()]
    assert all(ids.unique().tolist() == list(range(NUM_CONCEPTS)) for (ids,) in maps)


@pytest.mark.parametrize("model_type", REFUSED)
def test_refused_families(model_type):
    config = AutoConfig.for_model(model_type, **SETTINGS.get(model_type, {}))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    with pytest.raises(ValueError, match=REFUSED[model_type]):
        add_concept_tokens(model)
