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
from training.data import sources
from training.finetune_setokim import SetokimSFTConfig, lora_config
from training.freezing import train_only
from training.recipe import last_checkpoint, parse_recipe, update_config
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


def test_unknown_keys_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unknown keys \['learning_rat', 'stepps'\]"):
        parse(write(tmp_path, {"dish": "soup", "stepps": [], "learning_rat": 0.1}))
    with pytest.raises(ValueError, match="stepps"):
        parse(write(tmp_path, {"dish": "soup"}), "--stepps", "1")


@pytest.mark.parametrize("values", [["dish"], "dish", None])
def test_a_recipe_is_a_mapping(tmp_path, values):
    with pytest.raises(ValueError, match="A recipe is a mapping"):
        parse(write(tmp_path, values))


def test_update_config_reaches_nested_values_and_no_others():
    config = SetokimConfig()
    update_config(config, {"mask_dice_weight": 2.0, "mask_decoder_config": {"token_noise": 0.3}})
    assert (config.mask_dice_weight, config.mask_decoder_config.token_noise) == (2.0, 0.3)
    assert config.mask_decoder_config.hidden_size == 256
    with pytest.raises(ValueError, match="token_noises is not a value of SetokimMaskDecoderConfig"):
        update_config(config, {"mask_decoder_config": {"token_noises": 0.3}})


def test_the_last_checkpoint_is_the_newest_that_is_whole(tmp_path, caplog):
    args = TrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True)
    assert last_checkpoint(args) is None
    files = {90: "{}", 100: '{"global_step": 100}', 110: '{"global_step": 11', 120: "", 130: None}
    for step, state in files.items():
        folder = tmp_path / "run" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    with caplog.at_level("WARNING"):
        assert last_checkpoint(args) == str(tmp_path / "run" / "checkpoint-100")
    assert [record.args[0].name for record in caplog.records] == ["checkpoint-120", "checkpoint-110"]
    args.resume_from_checkpoint = "elsewhere"
    assert last_checkpoint(args) == "elsewhere"


def script_of(recipe: Path) -> str:
    """A recipe's comment says how it is run."""
    (command,) = re.findall(rf"training/(\w+)\.py training/recipes/{recipe.name}", recipe.read_text())
    return command


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
def test_our_recipes_name_data_parts_and_values_that_exist(recipe, processor, monkeypatch):
    values = yaml.safe_load(recipe.read_text())
    found = [{"images": []}] * 5  # in place of data that are not here; the arguments are checked all the same
    monkeypatch.setattr(sources, "load_hub_dataset", create_autospec(sources.load_hub_dataset, return_value=found))
    for name in ("coco", "coco_captions", "refcoco"):
        monkeypatch.setitem(sources.LOADERS, name, create_autospec(sources.LOADERS[name], return_value=found))
    assert len(sources.load_mixture(values["mixture"], 100)) == 100
    update_config(SetokimConfig(), values.get("config", {}))
    if "lora" in values:
        lora_config(values["lora"])
    else:
        train_only(tiny_setokim(processor), values["trainable"])
