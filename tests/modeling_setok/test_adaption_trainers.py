"""A LLaVA with concept tokens in what people run models by: pipelines, TRL, device maps, precision, quantisation."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    TorchAoConfig,
    pipeline,
)
from trl import SFTConfig, SFTTrainer

from modeling_setok.adaption import add_concept_tokens, remove_concept_tokens
from tests.quantization_testing import needs_bitsandbytes, torchao_int8
from training.evaluation.tiny_llava import tiny_llava

PROMPT = "user : <image> What colour is it ? assistant : "


@pytest.fixture
def tiny():
    return tiny_llava()


@pytest.fixture
def model(tiny) -> LlavaForConditionalGeneration:
    return tiny[0]


@pytest.fixture
def processor(tiny) -> LlavaProcessor:
    return tiny[1]


def conversation(colour: str, answered: bool = True) -> dict:
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What colour is it ?"}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": colour}]}
    return {"images": [Image.new("RGB", (40, 40), colour)], "messages": [question] + [answer] * answered}


def test_a_pipeline_answers(model, processor):
    add_concept_tokens(model)
    answer = pipeline("image-text-to-text", model=model, processor=processor)
    row = conversation("red", answered=False)
    messages = [dict(row["messages"][0])]
    messages[0]["content"] = [{"type": "image", "image": row["images"][0]}, messages[0]["content"][1]]
    (output,) = answer(text=messages, max_new_tokens=4, return_full_text=False)
    inputs = processor(images=row["images"], text=PROMPT, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=4)[0, inputs["input_ids"].shape[1] :]
    assert output["generated_text"].strip() == processor.decode(ids, skip_special_tokens=True).strip()


def test_trl_with_lora_learns_and_keeps_the_settings(model, processor, tmp_path):
    torch.manual_seed(0)
    rows = Dataset.from_list([conversation(colour) for colour in ("red", "green", "blue")] * 8)
    arguments = SFTConfig(
        output_dir=tmp_path, max_steps=16, per_device_train_batch_size=6, learning_rate=2e-2, bf16=False, use_cpu=True,
        logging_steps=1, report_to="none", max_length=None, save_strategy="no", gradient_checkpointing=False,
    )  # fmt: skip
    trainer = SFTTrainer(
        add_concept_tokens(model, threshold=0.4), arguments, train_dataset=rows, processing_class=processor,
        peft_config=LoraConfig(r=8, target_modules=["q_proj", "v_proj", "up_proj", "linear_1"]),
    )  # fmt: skip
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    merged = trainer.model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", trust_remote_code=True)
    assert loaded.config.concept_tokens["threshold"] == 0.4
    inputs = processor(images=rows[0]["images"], text=PROMPT, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, merged(**inputs).logits)


def test_a_model_that_was_dispatched_has_them_too(model, processor, tmp_path):
    """Hooks of accelerate hold the forward of the class before: they are put around the new one."""
    model.save_pretrained(tmp_path)
    places = {"model.vision_tower": "cpu", "model.multi_modal_projector": "cpu", "lm_head": "cpu"}
    dispatched = AutoModelForImageTextToText.from_pretrained(
        tmp_path, device_map=places | {"model.language_model": "disk"}, offload_folder=tmp_path / "offload"
    )
    assert hasattr(dispatched, "_hf_hook")
    inputs = processor(images=[Image.new("RGB", (40, 40), "red")], text=PROMPT, return_tensors="pt")
    with torch.no_grad():
        bare = model(**inputs).logits
        expected = add_concept_tokens(model)(**inputs).logits
        torch.testing.assert_close(add_concept_tokens(dispatched)(**inputs).logits, expected)
        torch.testing.assert_close(remove_concept_tokens(dispatched)(**inputs).logits, bare)


def test_half_precision_goes_on_in_half_precision(model, processor):
    model = model.bfloat16()
    inputs = processor(images=[Image.new("RGB", (40, 40), "red")], text=PROMPT, return_tensors="pt").to(torch.bfloat16)
    with torch.no_grad():
        bare = model(**inputs).logits
        assert torch.equal(add_concept_tokens(model, fixed_tokens=64)(**inputs).logits, bare)
        remove_concept_tokens(model)
        output = add_concept_tokens(model, fixed_tokens=5).generate(
            **inputs, max_new_tokens=3, min_new_tokens=3, return_dict_in_generate=True, output_logits=True
        )
        inputs["input_ids"] = output.sequences
        inputs["attention_mask"] = torch.ones_like(output.sequences)
        forced = model(**inputs).logits[:, -4:-1]
    assert forced.dtype == torch.bfloat16
    torch.testing.assert_close(torch.stack(output.logits, 1), forced.float(), rtol=0, atol=0.03)


def int8_weights(llm_int8_skip_modules: list[str]) -> TorchAoConfig:
    return torchao_int8(modules_to_not_convert=llm_int8_skip_modules)


def eight_bits(**kept) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(load_in_8bit=True, **kept)


def four_bits(**kept) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", **kept)


@pytest.mark.parametrize(
    "make_config",
    [
        pytest.param(eight_bits, marks=needs_bitsandbytes),
        pytest.param(four_bits, marks=needs_bitsandbytes),
        int8_weights,
    ],
)
def test_a_quantised_language_model_goes_on(model, processor, make_config, tmp_path):
    model.save_pretrained(tmp_path / "plain")
    config = make_config(llm_int8_skip_modules=["vision_tower", "multi_modal_projector", "lm_head"])
    quantised = AutoModelForImageTextToText.from_pretrained(tmp_path / "plain", quantization_config=config).eval()
    weight = quantised.model.language_model.layers[0].self_attn.q_proj.weight
    assert type(weight) is not torch.nn.Parameter
    blocks = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(blocks).resize((112, 112), Image.Resampling.NEAREST)
    inputs = processor(images=[picture], text=PROMPT, return_tensors="pt")
    with torch.no_grad():
        bare = quantised(**inputs).logits
        assert torch.equal(add_concept_tokens(quantised, fixed_tokens=64)(**inputs).logits, bare)
        assert torch.equal(remove_concept_tokens(quantised)(**inputs).logits, bare)
        add_concept_tokens(quantised, fixed_tokens=5).save_pretrained(tmp_path / "quantised")
        few = quantised(**inputs).logits[:, -4:]
        expected = add_concept_tokens(model, fixed_tokens=5)(**inputs).logits[:, -4:]
        clusters, plain = (each.base_model.last_seen["image"][0].token_ids for each in (quantised, model))
        assert torch.equal(clusters, plain)
        assert (few - expected).abs().mean() < 0.25 * expected.abs().mean()  # 4 bits are that rough
        output = quantised.generate(
            **inputs, max_new_tokens=3, min_new_tokens=3, return_dict_in_generate=True, output_logits=True
        )
        ids = output.sequences
        forced = quantised(**inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[:, -4:-1]
        torch.testing.assert_close(torch.stack(output.logits, 1), forced, rtol=0, atol=0.02)
        loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "quantised", trust_remote_code=True).eval()
        torch.testing.assert_close(loaded(**inputs).logits[:, -4:], few)
