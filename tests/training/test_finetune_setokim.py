"""Stage II as a user runs it, in full and with LoRA: what is saved and works afterwards."""

from functools import partial

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from modeling_setok import SetokimForConditionalGeneration
from processing import SetokimProcessor
from tests.setokim_testing import pictures
from training.finetune_setokim import main
from training.trainer_setokim import VISUAL_HEADS

WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"


@pytest.fixture
def recipe(setokim_recipe):
    return partial(setokim_recipe, "finetune")


def caption_and_tokens(model, processor) -> tuple[str, torch.Tensor]:
    """A text about a picture, and the visual tokens of a picture that was asked for."""
    caption = model.caption(processor, pictures(1)[0], max_new_tokens=8)
    inputs = processor(text=["Draw: a dog.[Img]"], return_tensors="pt")
    output = model.generate(
        **inputs, max_new_tokens=8, return_dict_in_generate=True, generator=torch.Generator().manual_seed(1)
    )
    return caption, output.visual_tokens[0][0]


def test_the_language_model_and_the_visual_heads_are_trained_and_saved(recipe, setokim_folder, tmp_path):
    trainer = main([str(recipe(tmp_path, eval_examples=2, eval_strategy="steps", eval_steps=4))])
    history = {name for entry in trainer.state.log_history for name in entry}
    assert {"text_loss", "mask_loss", "eval_text_only_text_loss", "eval_referring_mask_loss"} <= history
    before, after = (load_file(folder / WEIGHTS) for folder in (setokim_folder, tmp_path / "run"))
    assert before.keys() == after.keys()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    trained = ("model.language_model", "lm_head", *VISUAL_HEADS)
    assert all(any(name.startswith(part) for name in changed) for part in trained)
    assert all(name.startswith(trained) for name in changed)
    assert not (tmp_path / "run" / "README.md").exists()  # TRL's card would tell how to generate text
    processor = SetokimProcessor.from_pretrained(tmp_path / "run")
    saved = SetokimForConditionalGeneration.from_pretrained(tmp_path / "run")
    caption, tokens = caption_and_tokens(saved, processor)
    expected_caption, expected_tokens = caption_and_tokens(trainer.model.eval(), processor)
    assert caption == expected_caption
    torch.testing.assert_close(tokens, expected_tokens, rtol=1e-4, atol=1e-4)


def test_an_adapter_is_saved_loaded_and_merged(setokim_recipe, setokim_folder, tmp_path):
    trainer = main([str(setokim_recipe("lora", tmp_path))])
    run = tmp_path / "run"
    assert not (run / WEIGHTS).exists()
    processor = SetokimProcessor.from_pretrained(run)
    base = SetokimForConditionalGeneration.from_pretrained(setokim_folder)
    untrained_caption, untrained_tokens = caption_and_tokens(base, processor)
    weights = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    with trainer.model.eval().disable_adapter():  # all else stayed as it was
        caption, tokens = caption_and_tokens(trainer.model, processor)
    assert caption == untrained_caption
    torch.testing.assert_close(tokens, untrained_tokens, rtol=1e-4, atol=1e-4)

    # What was trained is what was saved: adapters of the language model, and the visual heads whole
    adapter = load_file(run / ADAPTER)
    heads = {f"base_model.model.{name}" for name in weights if name.startswith(VISUAL_HEADS)}
    lora = {name for name in adapter if "lora_" in name}
    assert set(adapter) == heads | lora and all(".language_model." in name for name in lora)
    assert {name.split(".")[-3] for name in lora} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    for head in VISUAL_HEADS:
        names = [name for name in heads if name.startswith(f"base_model.model.{head}.")]
        assert any(not torch.equal(adapter[n], weights[n.removeprefix("base_model.model.")]) for n in names), head

    loaded = PeftModel.from_pretrained(base, run)
    caption, tokens = caption_and_tokens(loaded, processor)
    expected_caption, expected_tokens = caption_and_tokens(trainer.model, processor)
    assert caption == expected_caption != untrained_caption
    torch.testing.assert_close(tokens, expected_tokens, rtol=1e-4, atol=1e-4)

    # One model, like any other Setokim
    merged = loaded.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    again = SetokimForConditionalGeneration.from_pretrained(tmp_path / "merged")
    for model in (merged, again):
        assert type(model) is SetokimForConditionalGeneration
        merged_caption, merged_tokens = caption_and_tokens(model, processor)
        assert merged_caption == caption
        torch.testing.assert_close(merged_tokens, tokens, rtol=1e-3, atol=1e-3)
    assert load_file(tmp_path / "merged" / WEIGHTS).keys() == weights.keys()
    images = again.decode_images([tokens])
    assert processor.image_processor.postprocess(images)[0].size == images.shape[-2:]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"lora": {"r": 4}, "trainable": ["diffusion_head"]}, "leave trainable out"),
        ({"config": {"mask_dice": 1}}, "mask_dice is not a value of SetokimConfig"),
        ({"mixture": []}, "needs a mixture"),
        ({"max_length": 8}, "tokens and max_length is 8"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(recipe, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        main([str(recipe(tmp_path, **overrides))])
