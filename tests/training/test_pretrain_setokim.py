"""Stage I as a user runs it: a new Setokim or one that goes on."""

from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_setok import SetokimForConditionalGeneration
from processing import SetokimProcessor
from tests.setokim_testing import TINY_HEADS, tiny_language_model
from training.data.setokim_collator import SetokimCollator
from training.pretrain_setokim import ModelArguments, build_model, main

WEIGHTS = "model.safetensors"


@pytest.fixture
def recipe(setokim_recipe):
    return partial(setokim_recipe, "pretrain")


def test_a_new_setokim_is_trained_and_saved_whole(recipe, setok_folder, rows, tmp_path):
    options = {"max_steps": 2, "eval_examples": 2, "eval_strategy": "steps", "eval_steps": 2}
    trainer = main([str(recipe(tmp_path, **options))])
    history = {name: value for entry in trainer.state.log_history for name, value in entry.items()}
    assert {"text_loss", "diffusion_loss", "eval_caption_text_loss", "eval_text_to_image_diffusion_loss"} <= set(
        history
    )

    processor = SetokimProcessor.from_pretrained(tmp_path / "run")
    model = SetokimForConditionalGeneration.from_pretrained(tmp_path / "run")
    assert model.config.diffusion_config.num_inference_steps == TINY_HEADS["diffusion_config"]["num_inference_steps"]
    assert model.config.image_token_id == processor.image_token_id
    assert model.config.text_config.vocab_size == len(processor.tokenizer) == 300 + 4
    assert model.lm_head.weight is model.get_input_embeddings().weight
    batch = SetokimCollator(processor)(rows[:4])
    with torch.no_grad():
        expected = trainer.model.eval()(**batch).logits
        torch.testing.assert_close(model(**batch).logits, expected, rtol=1e-5, atol=1e-5)

    # It took over SeTok as it was and measured its tokens
    setok = load_file(setok_folder / WEIGHTS)
    for name, tensor in model.model.setok.state_dict().items():
        assert torch.equal(tensor, setok[f"setok.{name}"]), name
    images = [image for row in trainer.train_dataset for image in row["images"]][:8]
    tokens = model.get_image_features(processor.image_processor(images)["pixel_values"]).visual_tokens
    torch.testing.assert_close(torch.cat(tokens).mean(0), torch.zeros(16), rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.cat(tokens).std(0), torch.ones(16), rtol=0, atol=1e-4)


def test_a_run_that_goes_on_keeps_its_vocabulary(recipe, mixture, tmp_path):
    """Even if the recipe's texts, from which a tokenizer would be learned, are others by then."""
    main([str(recipe(tmp_path, max_steps=2))])
    vocabulary = SetokimProcessor.from_pretrained(tmp_path / "run").tokenizer.get_vocab()
    main([str(recipe(tmp_path, max_steps=3, mixture=mixture[-1:]))])
    assert SetokimProcessor.from_pretrained(tmp_path / "run").tokenizer.get_vocab() == vocabulary


def test_the_mask_decoder_of_a_trained_setokim(recipe, setokim_folder, mixture, tmp_path):
    referring = [part for part in mixture if part["task"] == "referring"]
    path = recipe(
        tmp_path, model_name_or_path=str(setokim_folder), trainable=["mask_decoder"], mixture=referring,
        config={"mask_decoder_config": {"token_noise": 0.3}}, setok_model_name_or_path=None, text_config=None,
    )  # fmt: skip
    trainer = main([str(path)])
    assert trainer.model.mask_decoder.training and not trainer.model.model.setok.training
    before, after = load_file(setokim_folder / WEIGHTS), load_file(tmp_path / "run" / WEIGHTS)
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed and all(name.startswith("mask_decoder.") for name in changed)
    assert before.keys() == after.keys()
    saved = SetokimForConditionalGeneration.from_pretrained(tmp_path / "run")
    assert saved.config.mask_decoder_config.token_noise == 0.3


def test_a_pretrained_language_model_answers_as_before(setok_folder, processor, rows, tmp_path):
    tokenizer = processor.tokenizer
    tiny_language_model("llama", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    args = ModelArguments(
        setok_model_name_or_path=str(setok_folder), language_model_name_or_path=str(tmp_path), config=TINY_HEADS,
        calibration_images=4, attn_implementation="eager",
    )  # fmt: skip
    model, processor = build_model(args, rows)
    inputs = processor(text=["A small dog."], return_tensors="pt")
    expected = AutoModelForCausalLM.from_pretrained(tmp_path)(**inputs).logits
    torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-4, atol=1e-4)
    configs = [part.config for part in (model, model.model.setok.vision_encoder, model.model.language_model)]
    assert {config._attn_implementation for config in configs} == {"eager"}


def test_the_language_model_of_another_setokim(setok_folder, setokim_folder, rows):
    args = ModelArguments(
        setok_model_name_or_path=str(setok_folder), language_model_name_or_path=str(setokim_folder), config=TINY_HEADS,
        calibration_images=4,
    )  # fmt: skip
    model, processor = build_model(args, rows)
    lent = SetokimForConditionalGeneration.from_pretrained(setokim_folder)
    inputs = processor(text=["A small dog."], return_tensors="pt")
    torch.testing.assert_close(model(**inputs).logits, lent(**inputs).logits, rtol=0, atol=0)
    assert processor.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(setokim_folder).get_vocab()
    projectors = [next(whole.model.multi_modal_projector.parameters()) for whole in (model, lent)]
    assert not torch.equal(*projectors)  # which learns to read the tokens of the SeTok at hand


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"setok_model_name_or_path": None}, "needs setok_model_name_or_path"),
        ({"text_config": None}, "needs language_model_name_or_path or text_config"),
        ({"mixture": []}, "needs a mixture"),
        ({"trainable": ["diffusion"]}, "'diffusion'"),
        ({"max_length": 8}, "tokens and max_length is 8"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(recipe, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        main([str(recipe(tmp_path, **overrides))])
