"""Recipes: what is in a YAML file and what stands after it, and that all of ours fit their scripts."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import yaml
from transformers import TrainingArguments

from modeling_setok import SetokimConfig
from tests.setokim_testing import tiny_setokim
from training import finetune_setokim, pretrain_setokim, train_setok
from training.configs import update_config
from training.data import sources
from training.data.skipped_rows import SkippedRows
from training.finetune_setokim import SetokimSFTConfig, lora_config
from training.freezing import train_only
from training.recipe import check_training_arguments, parse_recipe
from training.trainer_setok import SetokTrainingArguments
from training.trainer_setokim import SetokimTrainingArguments

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "training" / "recipes").glob("*.yaml"))
CLASSES = {
    "train_setok": (train_setok.ModelArguments, train_setok.DataArguments, SetokTrainingArguments),
    "pretrain_setokim": (pretrain_setokim.ModelArguments, sources.MixtureArguments, SetokimTrainingArguments),
    "finetune_setokim": (finetune_setokim.ModelArguments, sources.MixtureArguments, SetokimSFTConfig),
}


@dataclass
class Cooking:
    dish: str = field()
    steps: list[str] | None = None
    oven: dict | None = None
    minutes: float = 10.0


def write(folder: Path, values) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def parse(*arguments: str) -> tuple[Cooking, TrainingArguments]:
    return parse_recipe((Cooking, TrainingArguments), list(arguments))


def test_the_command_line_goes_before_the_recipe_and_the_recipe_before_defaults(tmp_path):
    values = {"dish": "soup", "steps": ["cut", "cook"], "oven": {"heat": [200, 180]}, "seed": 3, "learning_rate": 0.5}
    recipe = write(tmp_path, values)
    cooking, training = parse(recipe, "--seed", "4", "--minutes", "2.5", "--use_cpu", "true")
    assert cooking == Cooking("soup", ["cut", "cook"], {"heat": [200, 180]}, 2.5)
    assert (training.seed, training.learning_rate, training.weight_decay) == (4, 0.5, 0.0)


def test_without_a_recipe(capsys):
    cooking, training = parse("--dish", "soup")
    assert cooking == Cooking("soup") and training.seed == 42
    with pytest.raises(SystemExit):
        parse()
    assert "--dish" in capsys.readouterr().err


def test_what_a_recipe_lacks_is_said_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="The recipe lacks dish, and so does the command line"):
        parse(write(tmp_path, {"minutes": 3}))
    assert parse(write(tmp_path, {"minutes": 3}), "--dish", "soup")[0] == Cooking("soup", minutes=3)


def test_unknown_keys_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unknown keys \['learning_rat', 'stepps'\]"):
        parse(write(tmp_path, {"dish": "soup", "stepps": [], "learning_rat": 0.1}))
    with pytest.raises(ValueError, match="stepps"):
        parse(write(tmp_path, {"dish": "soup"}), "--stepps", "1")


@pytest.mark.parametrize("values", [["dish"], "dish", None])
def test_a_recipe_is_a_mapping(tmp_path, values):
    with pytest.raises(ValueError, match="A recipe is a mapping"):
        parse(write(tmp_path, values))


def test_the_nearest_known_key_is_told(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'learning_rate'"):
        parse(write(tmp_path, {"dish": "soup", "learning_rat": 0.1}))
    with pytest.raises(ValueError, match="Did you mean 'minutes'"):
        parse("--dish", "soup", "--minuts", "3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dish: soup\ndish: stew\n", r"keys \['dish'\] stand there twice(.|\n)*line 1"),
        ("dish: soup\noven: {heat: 1, fan: true, heat: 2}\n", r"keys \['heat'\] stand there twice(.|\n)*line 2"),
        ("dish: [soup\n", "is not YAML in UTF-8"),
        ("dish: soup\n? [a]\n: 1\n", "is not YAML in UTF-8"),
        ("dish: \xff", "is not YAML in UTF-8"),
        ("dish: " + 5000 * "[", "is not YAML in UTF-8"),
        ("dish: !!python/object:os.system {}", "is not YAML in UTF-8"),
    ],
)
def test_what_is_no_recipe_is_said(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}(.|\n)*{message}|{message}"):
        parse(str(path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"minutes": [1]}, r"minutes must be a number, got \[1\]"),
        ({"minutes": None}, "minutes must be a number, got None"),
        ({"minutes": float("nan")}, "minutes must be a finite number"),
        ({"learning_rate": float("inf")}, "learning_rate must be a finite number"),
        ({"max_steps": 1.5}, "max_steps must be a whole number, got 1.5"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"seed": "many"}, "seed must be a whole number, got 'many'"),
        ({"steps": "cut"}, "steps must be a list of text or null"),
        ({"steps": [1]}, "steps must be a list of text or null"),
        ({"oven": [200]}, "oven must be a mapping or null"),
        ({"bf16": 1}, "bf16 must be true or false"),
        ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type must be one of .*'cosine'"),
        ({"eval_strategy": False}, "eval_strategy must be .* Put it in quotes"),  # what YAML makes of `no`
    ],
)
def test_values_of_another_type_are_refused(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        parse(write(tmp_path, {"dish": "soup"} | values))


def test_texts_that_tell_numbers_are_numbers(tmp_path):
    """YAML reads 1e-3, without a point, as a text."""
    _, training = parse(write(tmp_path, {"dish": "soup", "learning_rate": "1e-3", "seed": "7", "bf16": "false"}))
    assert (training.learning_rate, training.seed, training.bf16) == (0.001, 7, False)


@dataclass
class Shopping:
    dish: str = "soup"
    parts: list[dict] = field(default_factory=list)
    sizes: list[int] | None = None
    values: dict | None = None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["--values", "{heat: 200, fan: [1, 2]}"], {"values": {"heat": 200, "fan": [1, 2]}}),
        (["--values", '{"heat": 200}'], {"values": {"heat": 200}}),
        (["--values", "null"], {"values": None}),
        (["--parts", "[{a: 1}, {b: 2}]"], {"parts": [{"a": 1}, {"b": 2}]}),
        (["--parts", "{a: 1}"], {"parts": [{"a": 1}]}),
        (["--sizes", "1", "2"], {"sizes": [1, 2]}),
        (["--sizes", "[1, 2]"], {"sizes": [1, 2]}),
        (["--sizes=[1, 2]", "--dish", "stew"], {"sizes": [1, 2], "dish": "stew"}),
    ],
)
def test_lists_and_mappings_on_the_command_line(tmp_path, line, expected):
    recipe = write(tmp_path, {"values": {"heat": 1}, "sizes": [9]})
    (shopping,) = parse_recipe([Shopping], [recipe, *line])
    start = {"dish": "soup", "parts": [], "sizes": [9], "values": {"heat": 1}}
    assert vars(shopping) == start | expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--values", "heat"], "values must be a mapping or null, got 'heat'"),
        (["--values", "{heat: [1}"], "--values is not YAML"),
        (["--values", "{heat: 1, heat: 2}"], "stand there twice"),
        (["--sizes", "1", "big"], "sizes must be a list of a whole number or null"),
        (["--parts", "[1, 2]"], "parts must be a list of a mapping"),
    ],
)
def test_wrong_lists_and_mappings_on_the_command_line(line, message):
    with pytest.raises(ValueError, match=message):
        parse_recipe([Shopping], line)


@pytest.mark.parametrize(
    ("classes", "values", "message"),
    [
        ("train_setok", {"max_concepts": 0}, "max_concepts must be a number of at least 1"),
        ("train_setok", {"eval_examples": -1}, "eval_examples must be a number of at least 0"),
        ("train_setok", {"sample_images": -1}, "sample_images must be a number of at least 0"),
        ("train_setok", {"perceptual_weight": float("nan")}, "perceptual_weight must be a finite number"),
        ("train_setok", {"save_steps": 0}, "save_steps must be above 0"),
        ("train_setok", {"max_steps": 0}, "max_steps must be a number of steps"),
        ("train_setok", {"encoder_only": True, "trainable": ["detokenizer"]}, "leave out trainable"),
        (
            "train_setok",
            {"model_name_or_path": "a", "vision_model_name_or_path": "b"},
            "model_name_or_path goes on from a SeTok",
        ),
        ("train_setok", {"vision_model_name_or_path": "b", "config": {"vision_config": {}}}, "leave that out"),
        (
            "pretrain_setokim",
            {"model_name_or_path": "a", "setok_model_name_or_path": "b", "text_config": {"model_type": "llama"}},
            "setok_model_name_or_path, text_config are of a new one",
        ),
        (
            "pretrain_setokim",
            {"language_model_name_or_path": "b", "text_config": {"model_type": "llama"}},
            "leave out one of them",
        ),
        ("pretrain_setokim", {"visual_learning_rate": -1}, "visual_learning_rate must be a number of at least 0"),
        ("finetune_setokim", {"model_name_or_path": "a", "packing": True}, "rows with images have pack_rows: true"),
        ("finetune_setokim", {"model_name_or_path": "a", "max_length": 0}, "max_length must be a number of at least 1"),
    ],
)
def test_values_that_would_train_something_else_are_refused(classes, values, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        parse_recipe(CLASSES[classes], [write(tmp_path, {"output_dir": str(tmp_path)} | values)])


def script_of(recipe: Path) -> str:
    """A recipe's comment says how it is run, at last by the script that trains."""
    return re.findall(rf"training/(\w+)\.py training/recipes/{recipe.name}", recipe.read_text())[-1]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("error::FutureWarning")  # of a name that transformers is about to drop
def test_our_recipes_fit_their_scripts(recipe, tmp_path):
    model_args, data_args, training_args = parse_recipe(
        CLASSES[script_of(recipe)],
        [str(recipe), "--max_steps", "3", "--output_dir", str(tmp_path), "--use_cpu", "true"],
    )
    assert training_args.max_steps == 3
    values = yaml.safe_load(recipe.read_text())
    assert training_args.learning_rate == values["learning_rate"]
    for part in (model_args, data_args):
        assert all(getattr(part, name) == value for name, value in values.items() if hasattr(part, name))


@pytest.mark.parametrize("recipe", [path for path in RECIPES if "setokim" in path.name], ids=lambda path: path.stem)
def test_our_recipes_name_data_parts_and_values_that_exist(recipe, processor, monkeypatch, tmp_path):
    values = yaml.safe_load(recipe.read_text())
    found = [{"images": []}] * 5  # in place of data that are not here; the arguments are checked all the same
    for name in ("load_hub_dataset", "load_entries"):
        monkeypatch.setattr(sources, name, create_autospec(getattr(sources, name), return_value=found))
    for name in ("coco", "refcoco"):
        monkeypatch.setitem(sources.LOADERS, name, create_autospec(sources.LOADERS[name], return_value=found))
    for name in ("stream_hub_dataset", "keep_entries", "as_stream"):
        monkeypatch.setattr(sources, name, create_autospec(getattr(sources, name)))
    args = sources.MixtureArguments(values["mixture"], 100, streaming=values.get("streaming", False))
    rows = sources.load_rows(args, 0, SkippedRows(tmp_path / "skipped_rows.jsonl"))
    if args.streaming:
        assert [part.weight for part in rows.parts.values()] == [part.get("weight", 1) for part in values["mixture"]]
    else:
        assert len(rows) == 100
    update_config(SetokimConfig(), values.get("config", {}))
    if "lora" in values:
        lora_config(values["lora"])
    else:
        train_only(tiny_setokim(processor), values["trainable"])


def test_a_tracker_that_is_not_installed_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("training.recipe.is_trackio_available", lambda: False)
    check_training_arguments(TrainingArguments(str(tmp_path), report_to="tensorboard", use_cpu=True))
    with pytest.raises(ValueError, match="report_to names trackio, which is not installed: pip install trackio"):
        check_training_arguments(TrainingArguments(str(tmp_path), report_to=["trackio"], use_cpu=True))
