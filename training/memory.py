"""Memory that a stage needs for weights, gradients and AdamW's states, computed without any weights.

    python -m training.memory                                    # the paper's model, all of its recipes
    python -m training.memory training/recipes/setokim_llama2_7b_pretrain.yaml --language_model Qwen/Qwen2-1.5B
    python -m training.memory training/recipes/setokim_emoji_tiny_finetune.yaml --model build/hub/setokim-emoji-tiny

Activations are not counted: they depend on batch and length, and `activation_checkpointing: true` keeps them small. Nor
are the weights that FSDP2 and ZeRO-3 gather while they compute, nor the networks of the perceptual and the adversarial
loss. With `bf16: true`, as in all recipes.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from modeling_setok import SetokConfig, SetokForPreTraining, SetokimConfig, SetokimForConditionalGeneration
from modeling_setok.configuration_setokim import SPECIAL_TOKEN_IDS
from training.configs import update_config
from training.finetune_setokim import lora_config
from training.freezing import count_parameters, part_sizes, train_only
from training.recipe import read_recipe, trains_setokim

RECIPES = Path(__file__).parent / "recipes"
PAPER = ["setok_so400m_384", *(f"setokim_llama2_7b_{stage}" for stage in ("pretrain", "masks", "finetune", "lora"))]


@dataclass(frozen=True)
class Engine:
    """Bytes per parameter, and which of them are shared out among the devices.

    `weight` is of every parameter, `gradient` and `optimizer` of those that are trained.
    """

    weight: int
    gradient: int
    optimizer: int
    sharded: tuple[str, ...] = ()


# Autocast keeps float32 weights. DDP holds gradients a second time, in the buckets that it sends. DeepSpeed keeps
# bfloat16 weights and gradients, and the float32 weights with the optimizer's states.
ENGINES = {
    "one device": Engine(4, 4, 8),
    "DDP": Engine(4, 8, 8),
    "ZeRO-2": Engine(2, 2, 12, sharded=("gradient", "optimizer")),
    "FSDP2": Engine(4, 4, 8, sharded=("weight", "gradient", "optimizer")),
    "ZeRO-3": Engine(2, 2, 12, sharded=("weight", "gradient", "optimizer")),
}


def bytes_per_device(model: nn.Module, engine: Engine, devices: int = 1) -> dict[str, int]:
    """Bytes of "weight", "gradient" and "optimizer" on each device."""
    total, trained = count_parameters(model)
    counts = {"weight": total, "gradient": trained, "optimizer": trained}
    return {
        name: count * getattr(engine, name) // (devices if name in engine.sharded else 1)
        for name, count in counts.items()
    }


def recipe_model(recipe: dict, config: SetokConfig | SetokimConfig) -> nn.Module:
    """The model of a recipe, on the meta device, with the parts frozen that the recipe freezes.

    Raises:
        ValueError: for a recipe of a vision encoder alone, or of Setokim that does not say what it trains.
    """
    if recipe.get("encoder_only"):
        raise ValueError("A recipe with encoder_only trains no SeTok; there is nothing to count.")
    update_config(config, recipe.get("config") or {})
    is_setokim = trains_setokim(recipe)
    model_class = SetokimForConditionalGeneration if is_setokim else SetokForPreTraining
    with torch.device("meta"):
        model: PreTrainedModel = model_class(config)
    if recipe.get("lora") is not None:
        return get_peft_model(model, lora_config(recipe["lora"]))
    if recipe.get("trainable") is not None:
        train_only(model, recipe["trainable"])
    elif is_setokim:
        raise ValueError("The recipe does not say what it trains: give trainable or lora.")
    return model


def recipe_config(recipe: dict, model: str | None, language_model: str | None) -> SetokConfig | SetokimConfig:
    """The configuration of `model` (folder, config.json or Hub id), by default the paper's, with the language model's
    replaced by that of `language_model`.

    Raises:
        ValueError: for another model than the recipe's, or a file that is no recipe.
    """
    if "output_dir" not in recipe:
        raise ValueError("This is no recipe: it has no output_dir.")
    config_class = SetokimConfig if trains_setokim(recipe) else SetokConfig
    if model is None:
        if "text_config" in recipe:
            raise ValueError("This recipe is not of the paper's model: name one of its size with --model.")
        config = config_class()
    else:
        config = AutoConfig.from_pretrained(model)
        if config.model_type != config_class.model_type:
            raise ValueError(f"The recipe is of a {config_class.model_type}, and {model} is a {config.model_type}.")
    if language_model is None or not trains_setokim(recipe):
        return config
    text_config = AutoConfig.from_pretrained(language_model).get_text_config()
    first = text_config.vocab_size  # the new tokens come after its own
    text_config.vocab_size += len(SPECIAL_TOKEN_IDS)
    values = {"vision_config": config.vision_config, "diffusion_config": config.diffusion_config}
    values |= {"mask_decoder_config": config.mask_decoder_config, "text_config": text_config}
    return SetokimConfig(**values, **{name: first + i for i, name in enumerate(SPECIAL_TOKEN_IDS)})


def size_text(count: int) -> str:
    """ "1.2 GiB", or "34 MiB" of a small one."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=[str(RECIPES / f"{name}.yaml") for name in PAPER])
    parser.add_argument("--model", help="folder, config.json or Hub id of a SeTok or Setokim; default: the paper's")
    parser.add_argument("--language_model", help="folder or Hub id of another language model for Setokim")
    parser.add_argument("--devices", type=int, default=8, help="that share what is sharded")
    options = parser.parse_args(arguments)
    if options.devices < 1:
        parser.error("--devices must be at least 1.")
    try:
        print_table(options)
    except (OSError, ValueError) as error:
        sys.exit(f"Error: {error}")


def print_table(options: argparse.Namespace) -> None:
    """The parts of each recipe's model, and a Markdown table of the bytes."""
    sizes, rows = {}, []
    for path in options.recipes:
        recipe = read_recipe(path)
        model = recipe_model(recipe, recipe_config(recipe, options.model, options.language_model))
        name = Path(path).stem
        sizes[name] = part_sizes(model.get_base_model() if isinstance(model, PeftModel) else model)
        total, trained = count_parameters(model)
        alone = bytes_per_device(model, ENGINES["one device"])
        cells = [f"{total / 1e6:,.1f} M", f"{trained / 1e6:,.1f} M", " + ".join(map(size_text, alone.values()))]
        can_shard = trains_setokim(recipe)  # Setokim's; SeTok is trained with whole weights
        cells += [
            size_text(sum(bytes_per_device(model, engine, options.devices).values()))
            if can_shard or not engine.sharded
            else "-"
            for engine in ENGINES.values()
        ]
        rows.append(f"| `{name}` | {' | '.join(cells)} |")

    for name, text in sizes.items():
        print(f"{name}: {text}")
    names = [name + (f", {options.devices} devices" if engine.sharded else "") for name, engine in ENGINES.items()]
    print("\n| recipe | parameters | trained | weights + gradients + AdamW |", " | ".join(names), "|")
    print("|---" * (4 + len(names)) + "|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
