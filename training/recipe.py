"""A recipe: one YAML file with the arguments of a script, before those on its command line."""

import dataclasses
import math
import types
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool
from transformers.integrations import is_trackio_available
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from training.configs import nearest

_NOT_GIVEN = object()
# Of which a recipe of stage 0 with a mixture has some
_OF_STAGE_0 = {"concept_names", "eval_mixture", "max_concepts", "text_model_name_or_path", "vision_model_name_or_path"}


def parse_recipe(classes: Sequence[type], arguments: list[str]) -> tuple:
    """One instance of each dataclass, from a recipe (the first argument, if it is a YAML file) and what follows it.

    On the command line a list or a mapping is YAML (or JSON) in quotes: `--config '{hidden_size: 64}'`, `--mixture
    '[{dataset: emoji_scenes, task: caption}]'`. Lists of words or numbers may also stand without brackets:
    `--trainable detokenizer setok`.

    Raises:
        ValueError: for a file that is no mapping, a key that none of the dataclasses has, or a value of a wrong type.
    """
    parser = HfArgumentParser(tuple(classes))
    hints = {name: hint for cls in classes for name, hint in get_type_hints(cls).items()}
    known = {field.name for cls in classes for field in dataclasses.fields(cls) if field.init}
    recipe = {}
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        recipe, arguments = read_recipe(arguments[0]), arguments[1:]
    unknown = sorted(map(str, set(recipe) - known))
    if unknown:
        hint = nearest(unknown[0], known)
        raise ValueError(f"The recipe has unknown keys {unknown}.{hint} See --help for those there are.")

    required = {action.dest for action in parser._actions if action.required} - set(recipe)
    for action in parser._actions:
        action.required = action.dest in required and not recipe  # with a recipe, not under pages of usage
        if _admits(hints.get(action.dest), (list, dict)):  # their text is read below, whole
            action.type = None
    given = Namespace(**dict.fromkeys(known, _NOT_GIVEN))  # else it would be filled with defaults
    given, unused = parser.parse_known_args(arguments, given)
    if unused:
        names = [text.lstrip("-").partition("=")[0] for text in unused if text.startswith("-")]
        hint = nearest(names[0].replace("-", "_"), known) if names else ""
        raise ValueError(f"The command line has unknown arguments {unused}.{hint} See --help for those there are.")
    line = {name: value for name, value in vars(given).items() if value is not _NOT_GIVEN}
    line = {name: _read_structure(name, value, hints[name]) for name, value in line.items()}
    if lacking := sorted(required - set(line)):
        raise ValueError(f"The recipe lacks {', '.join(lacking)}, and so does the command line.")
    values = {name: as_type(name, value, hints[name]) for name, value in (recipe | line).items()}
    if "use_cpu" in known:  # TrainingArguments wants to be told
        values.setdefault("use_cpu", not torch.accelerator.is_available())
    return tuple(
        cls(**{field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values})
        for cls in classes
    )


def trains_setokim(recipe: Mapping) -> bool:
    """Whether the values of a recipe are those of a Setokim, and not of stage 0, which may have a mixture, too."""
    return "mixture" in recipe and _OF_STAGE_0.isdisjoint(recipe)


def read_recipe(path: str | Path) -> dict:
    """The mapping in a YAML file.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no YAML in UTF-8, no mapping, or has a key twice, of which YAML would take the last.
    """
    try:
        recipe = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_WithoutRepetition)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML in UTF-8: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"A recipe is a mapping of arguments to values, and {path} holds {recipe!r:.200}.")
    return recipe


class _WithoutRepetition(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            message = f"the keys {repeated} stand there twice; leave one of each"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
        try:
            return super().construct_mapping(node, deep)
        except (TypeError, ValueError) as error:  # a key that is a list; a date that is none
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error


def as_type(name: str, value: Any, hint: Any) -> Any:
    """The value of an argument; a text becomes the number that it tells.

    Raises:
        ValueError: it is of another type than the argument's, or a number that is none (NaN) or infinite.
    """
    if isinstance(value, str) and not _fits(value, hint):
        value = _read_number(value, hint)
    if not _fits(value, hint):
        is_text = _admits(hint, (str,)) or any(map(_is_enum, _parts(hint)))
        quotes = " Put it in quotes." if is_text and not isinstance(value, (str, list, dict)) else ""
        raise ValueError(f"{name} must be {_told(hint)}, got {value!r:.200}.{quotes}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}.")
    return value


def check_ranges(arguments: object, **least: float) -> None:
    """Raises a `ValueError` that names the first of these arguments below its least value; `None` is let pass."""
    for name, bound in least.items():
        value = getattr(arguments, name)
        if value is not None and not bound <= value < math.inf:
            raise ValueError(f"{name} must be a number of at least {bound}, got {value}.")


def check_training_arguments(args: TrainingArguments) -> None:
    """Raises a `ValueError` for values with which transformers would train something else, or nothing, in silence."""
    check_ranges(args, learning_rate=0, weight_decay=0, warmup_steps=0, max_grad_norm=0, dataloader_num_workers=0)
    check_ranges(args, per_device_train_batch_size=1, per_device_eval_batch_size=1, gradient_accumulation_steps=1)
    if args.max_steps == 0 or args.max_steps < -1 or (args.max_steps == -1 and not args.num_train_epochs > 0):
        raise ValueError(
            f"max_steps must be a number of steps, or -1 with num_train_epochs above 0; got {args.max_steps} with "
            f"{args.num_train_epochs} epochs."
        )
    if "trackio" in args.report_to and not is_trackio_available():
        raise ValueError("report_to names trackio, which is not installed: pip install trackio, or leave it out.")
    for name in ("save", "logging"):
        steps = getattr(args, f"{name}_steps")
        if getattr(args, f"{name}_strategy") == "steps" and not 0 < steps < math.inf:
            raise ValueError(f"{name}_steps must be above 0, got {steps}; {name}_strategy: 'no' turns it off.")


def _read_structure(name: str, value: Any, hint: Any) -> Any:
    """What stands on the command line for a list or a mapping, where it is one."""
    texts = value if isinstance(value, list) else [value]
    if not _admits(hint, (list, dict)) or not all(isinstance(text, str) for text in texts):
        return value
    if len(texts) == 1 and (texts[0].lstrip()[:1] in ("[", "{") or not _admits(hint, (str, list))):
        try:
            read = yaml.load(texts[0], Loader=_WithoutRepetition)
        except (yaml.YAMLError, RecursionError) as error:
            raise ValueError(f"--{name} is not YAML: {error}") from error
        return [read] if isinstance(value, list) and not isinstance(read, list) else read
    if not isinstance(value, list):
        return value
    elements = [get_args(part)[0] for part in _parts(hint) if get_origin(part) is list]
    return [_read_number(text, elements[0]) if elements else text for text in texts]


def _read_number(text: str, hint: Any) -> Any:
    """The number or truth value that a text tells, where the hint is of such; else the text."""
    readers = {bool: string_to_bool, int: int, float: float}
    for kind in (kind for kind in readers if kind in _parts(hint)):
        try:
            return readers[kind](text)
        except (ValueError, ArgumentTypeError):
            continue
    return text


def _parts(hint: Any) -> tuple:
    """The types of a union; else the type itself. Where some texts are listed, no others count."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return tuple(part for part in parts if part is not str) if any(map(_is_enum, parts)) else parts


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def _admits(hint: Any, kinds: Iterable[type]) -> bool:
    return any((get_origin(part) or part) in kinds for part in _parts(hint))


def _fits(value: Any, hint: Any) -> bool:
    for part in _parts(hint):
        origin = get_origin(part) or part
        if origin is Literal:
            fits = any(value is choice or value == choice for choice in get_args(part))
        elif origin is list:
            element = (*get_args(part), Any)[0]
            fits = isinstance(value, list) and all(_fits(item, element) for item in value)
        elif origin is float:
            fits = type(value) in (int, float)
        elif origin is int:
            fits = type(value) is int
        elif _is_enum(origin):
            fits = value in [member.value for member in origin]
        else:
            fits = origin is Any or isinstance(value, origin)
        if fits:
            return True
    return False


def _told(hint: Any) -> str:
    """The types of a hint in words."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "a mapping"}
    words |= {types.NoneType: "null"}
    told = []
    for part in _parts(hint):
        origin = get_origin(part) or part
        if origin is list:
            told.append(f"a list of {', '.join(_told(element) for element in get_args(part))}")
        elif _is_enum(origin):
            told.append(f"one of {[member.value for member in origin]}")
        else:
            told.append(words.get(origin, getattr(origin, "__name__", str(origin))))
    return " or ".join(dict.fromkeys(told))


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
