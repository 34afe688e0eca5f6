"""Setokim's models: what they read and return, saving, freezing, precision, refusals."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
)
from transformers.utils import is_flash_attn_2_available

from modeling_setok import SetokimForConditionalGeneration, SetokimModel
from tests.setokim_testing import (
    BATCHES,
    IMAGE,
    MASK,
    TEXTS,
    embeddings_of,
    inputs_of,
    pictures,
    targets_of,
    training_step,
)


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gpt2"])
def test_save_and_load(processor, make_model, tmp_path, kind):
    model = make_model(kind)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, loading = SetokimForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    tied = kind != "llama"
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) is tied
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) is not tied
    inputs = inputs_of(processor, TEXTS)
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


def test_auto_classes(processor, model, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    whole, base = AutoModelForImageTextToText.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)
    assert type(whole) is SetokimForConditionalGeneration and type(base) is SetokimModel
    inputs = inputs_of(AutoProcessor.from_pretrained(tmp_path), TEXTS)
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
        assert torch.equal(whole(**inputs).last_hidden_state, expected)
        assert torch.equal(base(**inputs).last_hidden_state, expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_language_model_reads_the_visual_tokens_in_place_of_the_image(processor, model, side):
    inputs = inputs_of(processor, TEXTS, side)
    with torch.no_grad():
        outputs = model(**inputs)
        visual = iter(model.get_image_features(inputs["pixel_values"]).visual_tokens)
        for row, (ids, mask) in enumerate(zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)):
            ids = ids[mask].tolist()
            images = [next(visual) for _ in range(TEXTS[row].count("<image>"))]
            embeds, _, ends = embeddings_of(model, ids, images)
            hidden = model.model.language_model(inputs_embeds=embeds[None]).last_hidden_state[0, ends]
            torch.testing.assert_close(outputs.last_hidden_state[row][mask], hidden, rtol=0, atol=1e-4)
            torch.testing.assert_close(outputs.logits[row][mask], model.lm_head(hidden), rtol=0, atol=1e-4)


def test_every_row_alone(processor, model):
    images = iter(pictures(6))
    inputs = inputs_of(processor, TEXTS)
    with torch.no_grad():
        logits = model(**inputs).logits
        for row, text in enumerate(TEXTS):
            own = [next(images) for _ in range(text.count("<image>"))]
            alone = model(**processor(images=own or None, text=[text])).logits[0]
            torch.testing.assert_close(logits[row, : len(alone)], alone, rtol=0, atol=1e-4)


def test_precomputed_features_in_place_of_pixels(processor, model):
    inputs = inputs_of(processor, TEXTS)
    with torch.no_grad():
        expected = model(**inputs).logits
        features = model.get_image_features(inputs.pop("pixel_values"))
        assert torch.equal(model(**inputs, mm_encoder_outputs={"image": features}).logits, expected)


def test_what_setok_returned_in_place_of_pixels(processor, model):
    """Of a text with masks as well, and as a mapping; the projector still learns from it, and SeTok does not run."""
    inputs, masks = inputs_of(processor, [f"{IMAGE} dog: {MASK}", f"{IMAGE} to {IMAGE}"]), torch.ones(1, 24, 24)
    labels = targets_of(inputs, start=4)
    with torch.no_grad():
        output = model.model.setok(inputs["pixel_values"])
    fields = ("last_hidden_state", "token_mask", "cluster_ids", "patch_embeddings", "grid_size")
    found = []
    for given in (
        {"pixel_values": inputs.pop("pixel_values")},
        {"mm_encoder_outputs": {"setok": output}},
        {"mm_encoder_outputs": {"setok": {name: output[name] for name in fields}}},
    ):
        torch.manual_seed(0)
        model.zero_grad()
        outputs = model(**inputs, **given, masks=masks, labels=labels)
        outputs.loss.backward()
        found.append((outputs.loss.item(), model.model.multi_modal_projector.linear1.weight.grad.clone()))
        model.model.setok.forward = None
    del model.model.setok.forward
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-6)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-5, atol=1e-6)
    output["cluster_ids"] = None
    with pytest.raises(ValueError, match="masks need patch_embeddings, cluster_ids, grid_size of SeTok's output"):
        model(**inputs, mm_encoder_outputs={"setok": output}, masks=masks)
    features = model.get_image_features(pixel_values=torch.zeros(3, 3, 24, 24))
    with pytest.raises(ValueError, match="not both"):
        model(**inputs, mm_encoder_outputs={"setok": output, "image": features})


def test_frozen_parts_stay_in_eval_mode(model):
    for part in (model.model.setok, model.detokenizer, model.mask_decoder):
        part.requires_grad_(True)
        model.train()
        assert part.training
        part.requires_grad_(False)
        model.train()
        assert not any(module.training for module in part.modules())
        assert model.model.language_model.training and model.diffusion_head.training
    model.model.train()
    assert not model.model.setok.training


def test_gradient_checkpointing(processor, model):
    gradients = []
    model.model.setok.requires_grad_(True)
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        torch.manual_seed(1)
        training_step(processor, model, [f"{IMAGE} to {IMAGE}", "text"])
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 50
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def test_attention_implementations_agree(processor, model):
    inputs = inputs_of(processor, [f"{IMAGE} dog: {MASK}", f"{IMAGE}{IMAGE}"])
    masks = torch.ones(1, 24, 24)
    outputs = {}
    for name in ("eager", "sdpa"):
        model.set_attn_implementation(name)
        assert model.mask_decoder.layers[0].self_attn.config._attn_implementation == name
        with torch.no_grad():
            outputs[name] = model(**inputs, masks=masks, labels=targets_of(inputs, start=4))
    for name in ("logits", "text_loss", "mask_logits"):
        torch.testing.assert_close(outputs["eager"][name], outputs["sdpa"][name], rtol=0, atol=1e-4)


def test_bfloat16(processor, model):
    half = copy.deepcopy(model).to(torch.bfloat16)
    inputs = inputs_of(processor, [f"{IMAGE} dog: {MASK}", f"{IMAGE} to {IMAGE}"])
    masks, labels = torch.ones(1, 24, 24), targets_of(inputs, start=4)
    with torch.no_grad():
        # One set of visual tokens: rounding changes which patches belong together
        features = model.model.get_placeholder_features(inputs["input_ids"], inputs["pixel_values"], masks)
        full = model(inputs["input_ids"], inputs["attention_mask"], mm_encoder_outputs={"image": features})
        rounded = half(inputs["input_ids"], inputs["attention_mask"], mm_encoder_outputs={"image": features})
    assert rounded.logits.dtype == torch.bfloat16
    difference = (rounded.logits.float() - full.logits)[inputs["attention_mask"].bool()]
    assert difference.abs().mean() < 0.05 * full.logits.std()
    outputs = half(**inputs, masks=masks, labels=labels)
    assert all(outputs[name].isfinite() for name in ("loss", "text_loss", "diffusion_loss", "mask_loss"))
    outputs.loss.backward()


def test_refused_arguments(processor, model):
    inputs = inputs_of(processor, [f"a {IMAGE}"])
    features = model.get_image_features(inputs["pixel_values"])
    with pytest.raises(ValueError, match="not both"):
        model(**inputs, mm_encoder_outputs={"image": features})
    with pytest.raises(ValueError, match="position_ids must be those of the text before"):
        model(**inputs, position_ids=torch.arange(inputs["input_ids"].shape[1] + 1)[None])
    with pytest.raises(ValueError, match=r"\(batch, length\)"):
        model(inputs["input_ids"], attention_mask=torch.ones(1, 1, 9, 9), pixel_values=inputs["pixel_values"])
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()


def test_language_model_base_is_a_pretrained_model(model):
    assert isinstance(model.model, PreTrainedModel) and isinstance(model.model.language_model, PreTrainedModel)
    assert model.base_model is model.model and isinstance(model.get_output_embeddings(), nn.Linear)


def test_loaded_in_bfloat16(processor, model, tmp_path):
    """Loaded in bfloat16, every part is, and it learns and answers nearly as in float32."""
    model.config.vision_config.vision_config.dtype = "float32"  # as in a SeTok that was trained in float32
    model.save_pretrained(tmp_path)
    low = SetokimForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in low.parameters()} == {torch.bfloat16}
    for texts in BATCHES.values():
        outputs = training_step(processor, low.train(), texts)
        assert outputs.loss.isfinite()
        expected = training_step(processor, model.train(), texts)
        assert outputs.text_loss.item() == pytest.approx(expected.text_loss.item(), rel=0.1)
    assert isinstance(low.eval().caption(processor, pictures(1)[0], max_new_tokens=3), str)


@pytest.mark.skipif(is_flash_attn_2_available(), reason="flash-attn is installed")
def test_says_what_flash_attention_needs(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ImportError, match="FlashAttention2 .* doesn't seem to be installed"):
        SetokimForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="flash_attention_2")
    SetokimForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="eager")
