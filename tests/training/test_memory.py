"""The table of memory: what it computes without weights is what a real model, and a real AdamW, take."""

import pytest
import torch
import yaml
from transformers import AutoConfig

from modeling_setok import SetokimForConditionalGeneration
from tests.script_testing import ROOT
from training import finetune_setokim
from training.memory import ENGINES, bytes_per_device, count_parameters, main, recipe_config, recipe_model, size_text

RECIPES = ROOT / "training" / "recipes"


def bytes_of(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("stage", ["finetune", "lora"])
def test_computed_bytes_are_those_of_a_real_step(setokim_recipe, setokim_folder, tmp_path, stage):
    recipe_path = setokim_recipe(stage, tmp_path, max_steps=1, save_strategy="no")
    trainer = finetune_setokim.main([str(recipe_path)])
    recipe = yaml.safe_load(recipe_path.read_text())
    if stage == "finetune":
        recipe["trainable"] = ["model.language_model", "lm_head", "model.multi_modal_projector", "diffusion_head"]
        recipe["trainable"] += ["mask_decoder"]
    computed = recipe_model(recipe, recipe_config(recipe, str(setokim_folder), None))
    expected = bytes_per_device(computed, ENGINES["one device"])

    parameters = list(trainer.model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    states = [
        tensor for state in trainer.optimizer.state.values() for tensor in (state["exp_avg"], state["exp_avg_sq"])
    ]
    assert all(parameter.is_meta for parameter in computed.parameters())
    assert expected == {"weight": bytes_of(parameters), "gradient": bytes_of(trained), "optimizer": bytes_of(states)}


def test_tied_weights_count_once(setokim_emoji_tiny):
    model = SetokimForConditionalGeneration.from_pretrained(setokim_emoji_tiny)
    recipe = yaml.safe_load((RECIPES / "setokim_emoji_tiny_finetune.yaml").read_text())
    computed = recipe_model(recipe, recipe_config(recipe, str(setokim_emoji_tiny), None))
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert count_parameters(computed)[0] == model.num_parameters()


def test_what_engines_share_out():
    model = torch.nn.ModuleList([torch.nn.Linear(100, 10, bias=False), torch.nn.Linear(100, 30, bias=False)])
    model[1].requires_grad_(False)
    bytes_of_engine = {name: bytes_per_device(model, engine, devices=4) for name, engine in ENGINES.items()}
    assert bytes_of_engine == {
        "one device": {"weight": 16000, "gradient": 4000, "optimizer": 8000},
        "DDP": {"weight": 16000, "gradient": 8000, "optimizer": 8000},
        "ZeRO-2": {"weight": 8000, "gradient": 500, "optimizer": 3000},
        "FSDP2": {"weight": 4000, "gradient": 1000, "optimizer": 2000},
        "ZeRO-3": {"weight": 2000, "gradient": 500, "optimizer": 3000},
    }


def test_the_papers_model(capsys):
    main([])
    lines = capsys.readouterr().out.splitlines()
    assert "vision_encoder 412.99 M (trained), token_merger 63.64 M (trained)" in lines[0]
    assert "language_model 6607.37 M (trained)" in lines[1]
    table = {line.split("`")[1]: line.split(" | ")[1:] for line in lines if line.startswith("| `")}
    assert len(table) == 5
    assert table["setokim_llama2_7b_pretrain"][:3] == ["7,334.3 M", "6,782.5 M", "27.3 GiB + 25.3 GiB + 50.5 GiB"]
    assert table["setokim_llama2_7b_masks"][1] == "3.9 M"


def test_another_language_model(tmp_path, capsys):
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    AutoConfig.for_model("qwen2", **sizes, vocab_size=500, tie_word_embeddings=True).save_pretrained(tmp_path)
    main([str(RECIPES / "setokim_llama2_7b_lora.yaml"), "--language_model", str(tmp_path), "--devices", "2"])
    printed = capsys.readouterr().out
    assert "lm_head 0.03 M," in printed  # 504 x 64
    assert "ZeRO-3, 2 devices" in printed


def test_what_cannot_be_counted_is_said():
    encoder = yaml.safe_load((RECIPES / "setok_emoji_tiny_encoder.yaml").read_text())
    with pytest.raises(ValueError, match="encoder_only"):
        recipe_model(encoder, recipe_config(encoder, None, None))
    empty = {"mixture": [], "output_dir": "run"}
    with pytest.raises(ValueError, match="trainable or lora"):
        recipe_model(empty, recipe_config(empty, None, None))
    with pytest.raises(ValueError, match="no recipe"):
        recipe_config({"num_machines": 8}, None, None)
    with pytest.raises(ValueError, match="not of the paper's model"):
        recipe_config(empty | {"text_config": {"model_type": "llama"}}, None, None)
    with pytest.raises(ValueError, match="of a setokim, and .* is a setok"):
        recipe_config(empty, str(ROOT / "model_cards" / "setok-emoji-tiny"), None)
    for arguments, reason in ((["none.yaml"], "none.yaml"), (["--devices", "0"], "2")):
        with pytest.raises(SystemExit, match=reason):
            main(arguments)


def test_sizes_in_words():
    assert [size_text(2**20), size_text(3 * 2**29)] == ["1.0 MiB", "1.5 GiB"]
