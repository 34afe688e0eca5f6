"""Recipes, configurations and command lines as they should not be."""

import dataclasses
import json
import math
import random
import string
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from modeling_setok import SetokConfig, SetokimConfig
from tests.robustness.campaign import campaign
from tests.training.test_recipe import CLASSES, RECIPES, script_of
from training.configs import new_config, update_config
from training.finetune_setokim import lora_config
from training.recipe import parse_recipe

pytestmark = pytest.mark.slow

WRONG = (None, [], {}, "", "many", 1.5, -1, 0, math.nan, math.inf, True, [[1]], {"a": {"b": 1}}, "1e-3", "\x00", [None])
# Transformers and TRL hand these to DeepSpeed, accelerate, torch.distributed and int, whose own words come back
OF_OTHERS = {"deepspeed", "accelerator_config", "ddp_backend", "pad_to_multiple_of"}
REQUIRED = {
    "train_setok": {},
    "pretrain_setokim": {},
    "finetune_setokim": {"model_name_or_path": "nowhere"},
}


def parse(script: str, path: Path, *line: str) -> tuple:
    return parse_recipe(CLASSES[script], [str(path), *line])


def mutated(text: str, source: random.Random) -> str:
    """A recipe's text with one thing changed: lines, characters, the end."""
    lines = text.splitlines(keepends=True)
    at, other = source.randrange(len(lines)), source.randrange(len(lines))
    position = source.randrange(len(text))
    ways = (
        lambda: "".join(lines[:at] + lines[at + 1 :]),
        lambda: "".join(lines[:at] + [lines[at]] + lines[at:]),
        lambda: "".join(lines[:at] + [" " + lines[at]] + lines[at + 1 :]),
        lambda: "".join([*lines[:at], lines[other].partition(":")[0], ":", lines[at].partition(":")[2], *lines[at:]]),
        lambda: text[:position],
        lambda: text[:position] + source.choice("[]{}:,-'\"\t\x00#&*!|>%@`\ud7ff") + text[position:],
        lambda: text[:position] + source.choice(string.printable) + text[position + 1 :],
    )
    return source.choice(ways)()


def test_texts_of_recipes(tmp_path):
    """Each is parsed, with the values that YAML reads, or the file or its key is named."""
    source, path = random.Random(0), tmp_path / "recipe.yaml"
    with campaign("texts of recipes", least=700) as cases:
        for recipe in RECIPES:
            script, text = script_of(recipe), recipe.read_text(encoding="utf-8")
            for _ in range(60):
                path.write_text(mutated(text, source), encoding="utf-8")
                keys = (line.partition(":")[0] for line in path.read_text(encoding="utf-8").split("\n"))
                words = {word for key in keys for word in key.replace("-", " ").split() if len(word) > 3}

                def holds(parsed, path=path):
                    read = yaml.safe_load(path.read_text(encoding="utf-8"))
                    known = {field.name for part in parsed for field in dataclasses.fields(part)}
                    return set(read) <= known

                cases.run(
                    f"{recipe.name}: {path.read_text(encoding='utf-8')[-200:]!r}",
                    lambda script=script: parse(script, path),
                    check=holds,
                    names=[str(path), "unknown keys", *words],
                )


def test_values_of_recipes(tmp_path):
    """Every argument of every script with values of other types."""
    source, path = random.Random(1), tmp_path / "recipe.yaml"
    with campaign("values of recipes", least=1000) as cases:
        for script, classes in CLASSES.items():
            hints = {name: hint for cls in classes for name, hint in get_type_hints(cls).items()}
            names = {field.name for cls in classes for field in dataclasses.fields(cls) if field.init}
            for name in sorted(names - OF_OTHERS):
                for value in source.sample(WRONG, 3):
                    path.write_text(yaml.safe_dump(REQUIRED[script] | {"output_dir": str(tmp_path), name: value}))
                    is_nan = isinstance(value, float) and not math.isfinite(value)
                    cases.run(
                        f"{script} {name}={value!r} ({hints[name]})",
                        lambda script=script: parse(script, path),
                        names=[name, name.replace("_", " "), *name.split("_")],
                        must_refuse=is_nan,
                    )


def configurations() -> list[tuple[type, dict]]:
    found = []
    for recipe in RECIPES:
        values = yaml.safe_load(recipe.read_text(encoding="utf-8")).get("config")
        if values:
            found.append((SetokimConfig if "setokim" in recipe.name else SetokConfig, values))
    return found


def paths(values: dict, start: tuple = ()) -> list[tuple]:
    found = []
    for key, value in values.items():
        found.append((*start, key))
        if isinstance(value, dict):
            found += paths(value, (*start, key))
    return found


def changed(values: dict, path: tuple, key: str | None = None, value: object = ...) -> dict:
    """A copy with another key, or another value, at a path."""
    copy = json.loads(json.dumps(values))
    part = copy
    for step in path[:-1]:
        part = part[step]
    old = part.pop(path[-1])
    part[key or path[-1]] = old if value is ... else value
    return copy


def misspelt(key: str, source: random.Random) -> str:
    at = source.randrange(len(key))
    return source.choice([key[:at] + key[at + 1 :] + "_", key + "s", key[:at] + "q" + key[at:], key.upper()])


def test_configurations():
    """Misspelt names are refused, wherever they stand; values are taken or refused by name."""
    source, known = random.Random(2), configurations()
    with campaign("configurations", least=600) as cases:
        for number in range(300):
            config_class, values = source.choice(known)
            path = source.choice(paths(values))
            wrong = misspelt(path[-1], source)
            if wrong.lower() == "model_type_":
                continue
            broken = changed(values, path, key=wrong)
            # Without its model_type a part is another, whose names these are not
            names = [wrong, "is not a value of", "needs a model_type"] if path[-1] == "model_type" else [wrong]
            make = new_config if number % 2 else lambda cls, values: update_config(cls(), values)
            if make is not new_config and "vision_config" in values:
                make = new_config
            cases.run(
                f"{config_class.__name__} {path} as {wrong}",
                lambda make=make, config_class=config_class, broken=broken: make(config_class, broken),
                names=names,
                must_refuse=True,
            )
        for _ in range(350):
            config_class, values = source.choice(known)
            path = source.choice(paths(values))
            value = source.choice([item for item in WRONG if not isinstance(item, float) or math.isfinite(item)])
            broken = changed(values, path, value=value)
            cases.run(
                f"{config_class.__name__} {path}={value!r}",
                lambda config_class=config_class, broken=broken: new_config(config_class, broken),
                names=[*path, "is not a value of", "hidden_size", "decoder_channels"],
            )


def test_values_of_lora():
    source = random.Random(3)
    with campaign("values of lora", least=100) as cases:
        for _ in range(60):
            wrong = misspelt(source.choice(["r", "lora_alpha", "lora_dropout", "target_modules"]), source)
            cases.run(f"lora {wrong}", lambda wrong=wrong: lora_config({wrong: 4}), names=[wrong], must_refuse=True)
        for name in ("r", "lora_alpha", "lora_dropout"):
            for value in WRONG:
                cases.run(f"{name}={value!r}", lambda n=name, v=value: lora_config({n: v}), names=[name])


def random_value(source: random.Random, depth: int = 2) -> object:
    kinds = [
        lambda: source.randrange(-9, 9),
        lambda: source.random(),
        lambda: source.choice(["a b", "x: y", "no", "1"]),
    ]
    kinds += [lambda: None, lambda: source.random() < 0.5]
    if depth:
        kinds += 2 * [lambda: [random_value(source, depth - 1) for _ in range(source.randrange(3))]]
        kinds += 2 * [lambda: {word: random_value(source, depth - 1) for word in source.sample("abcd", 2)}]
    return source.choice(kinds)()


def test_command_lines(tmp_path):
    """What is written as JSON or YAML comes out as it was; what is not YAML is refused."""
    source = random.Random(4)
    with campaign("command lines", least=300) as cases:
        for number in range(300):
            value = {word: random_value(source) for word in source.sample(["a", "b", "c"], source.randrange(1, 4))}
            text = json.dumps(value) if number % 2 else yaml.safe_dump(value, default_flow_style=True, width=math.inf)
            name, expected = source.choice([("config", value), ("mixture", [value])])
            text = text if name == "config" else f"[{text.strip()}]"
            broken = number % 3 == 0
            if broken:
                at = source.randrange(len(text))
                text = text[:at] + source.choice("[]{}:,'\"\x00") + text[at:]

            def check(parsed, name=name, expected=expected, broken=broken):
                found = next(getattr(part, name) for part in parsed if hasattr(part, name))
                return isinstance(found, type(expected)) if broken else found == expected

            cases.run(
                f"--{name} {text}",
                lambda name=name, text=text: parse_recipe(
                    CLASSES["pretrain_setokim"], ["--output_dir", str(tmp_path), f"--{name}", text]
                ),
                check=check,
                names=[name],
            )
