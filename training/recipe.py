"""A recipe: one YAML file with the arguments of a script, before those on its command line."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

logger = logging.getLogger(__name__)


def parse_recipe(classes: Sequence[type], arguments: list[str]) -> tuple:
    """One instance of each dataclass, from a recipe (the first argument, if it is a YAML file) and what follows it.

    Values that are lists or mappings can only stand in the recipe.

    Raises:
        ValueError: for a file that is no mapping, or a key that none of the dataclasses has.
    """
    parser = HfArgumentParser(tuple(classes))
    recipe = {}
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        recipe = yaml.safe_load(Path(arguments[0]).read_text(encoding="utf-8"))
        arguments = arguments[1:]
        if not isinstance(recipe, dict):
            raise ValueError(f"A recipe is a mapping of arguments to values, got {recipe!r}.")
    known = {name for cls in parser.dataclass_types for name in cls.__dataclass_fields__}
    unknown = sorted(set(recipe) - known)
    if unknown:
        raise ValueError(f"The recipe has unknown keys {unknown}; see --help for those there are.")
    recipe.setdefault("use_cpu", not torch.accelerator.is_available())  # TrainingArguments wants to be told
    # A recipe's values become the parser's defaults, so that the command line goes first
    parser.set_defaults(**recipe)
    for action in parser._actions:
        action.required = action.required and action.dest not in recipe
    return parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)


def update_config(config, values: dict) -> None:
    """Sets values, nested as the config is, on the config of a model that goes on training.

    Raises:
        ValueError: for a value that the config does not have.
    """
    for name, value in values.items():
        if not hasattr(config, name):
            raise ValueError(f"{name} is not a value of {type(config).__name__}.")
        if isinstance(value, dict):
            update_config(getattr(config, name), value)
        else:
            setattr(config, name, value)


@contextmanager
def whole_weights(args: TrainingArguments) -> Iterator[None]:
    """Within it models have whole weights: with ZeRO-3, transformers shards every model that it loads, but ours are put
    together from whole ones. The Trainer shards the result."""
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if getattr(args, "hf_deepspeed_config", None) is not None:  # a recipe's own; accelerate's is set by the Trainer
            set_hf_deepspeed_config(args.hf_deepspeed_config)


def last_checkpoint(args: TrainingArguments) -> str | None:
    """The newest complete checkpoint in the output folder, from which training goes on exactly.

    The last file of a checkpoint that is written, the trainer's state, tells that it is complete: a run that was killed
    before leaves none, or one that cannot be read.
    """
    if args.resume_from_checkpoint:
        return args.resume_from_checkpoint
    states = Path(args.output_dir).glob("checkpoint-*/trainer_state.json")
    for state in sorted(states, key=lambda state: int(state.parent.name.split("-")[-1]), reverse=True):
        try:
            json.loads(state.read_text(encoding="utf-8"))
        except ValueError:
            logger.warning("%s is incomplete: the run was killed while it was written. It is left out.", state.parent)
        else:
            logger.info("Going on from %s", state.parent)
            return str(state.parent)
    return None
