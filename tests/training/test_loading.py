"""What is in a folder of weights, and what is said where it is not the model that was asked for."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_setok import SetokForPreTraining, SetokimForConditionalGeneration
from training.loading import load_whole, refuse_wrong_index

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def folder(setok_folder, tmp_path):
    return shutil.copytree(setok_folder, tmp_path / "setok")


def load(folder):
    return load_whole(SetokForPreTraining.from_pretrained, str(folder), "setok", dtype=torch.float32)


def test_a_whole_model_is_loaded(folder):
    model = load(folder)
    stored = load_file(folder / WEIGHTS)
    assert all(torch.equal(tensor, stored[name]) for name, tensor in model.state_dict().items())


def test_a_model_of_another_type_is_refused(setokim_folder, setok_folder):
    with pytest.raises(ValueError, match="holds a model of type 'setokim': name a 'setok'"):
        load(setokim_folder)
    with pytest.raises(ValueError, match="holds a model of type 'setok': name a 'setokim'"):
        load_whole(SetokimForConditionalGeneration.from_pretrained, str(setok_folder), "setokim")


def test_missing_and_unexpected_weights_are_named(folder):
    weights = load_file(folder / WEIGHTS)
    name = "visual_projection.weight"
    for wrong, message in (
        ({key: tensor for key, tensor in weights.items() if key != name}, f"lacks 1 weights \\({name}\\)"),
        (weights | {"more": torch.ones(1)}, r"has besides 1 weights \(more\)"),
        ({f"model.{key}": tensor for key, tensor in weights.items()}, r"lacks \d+ weights .*, \.\.\."),
        (weights | {name: torch.ones(3, 3)}, "do not fit its configuration"),
    ):
        save_file(wrong, folder / WEIGHTS, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=message):
            load(folder)


def test_what_is_shipped_without_its_frozen_parts_says_where_it_is_whole(folder):
    (folder / WEIGHTS).rename(folder / "trained.safetensors")
    (folder / "frozen_parts.json").write_text("{}")
    with pytest.raises(ValueError, match="only what was trained .* `make demo` .*, in build/hub/setok; name that"):
        load(folder)


def test_damaged_weights_are_named(folder):
    whole = (folder / WEIGHTS).read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"no weights", whole + b"x"):
        (folder / WEIGHTS).write_bytes(damaged)
        with pytest.raises(ValueError, match="model.safetensors is damaged .*: delete or replace it"):
            load(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "is no index of shards"),
        ("[]", "is no index of shards"),
        ("{}", "is no index of shards"),
        (json.dumps({"weight_map": ["a"]}), "is no index of shards"),
        (json.dumps({"weight_map": {"a": 3}}), "is no index of shards"),
        (json.dumps({"weight_map": {"a": ["b"]}}), "is no index of shards"),
        (json.dumps({"weight_map": {"a": "../other/model.safetensors"}}), "leads out of its folder"),
        (json.dumps({"weight_map": {"a": "/other/model.safetensors"}}), "leads out of its folder"),
        (json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}), "which are not there"),
        (json.dumps({"weight_map": {}}), "which are not there"),
    ],
)
def test_an_index_names_shards_beside_it(folder, content, message):
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(content)
    with pytest.raises(ValueError, match=f"{INDEX} .*{message}"):
        load(folder)


def test_a_right_index_is_let_pass(folder):
    SetokForPreTraining.from_pretrained(folder).save_pretrained(folder / "shards", max_shard_size="20KB")
    refuse_wrong_index(folder / "shards" / INDEX)
    shutil.copy(folder / "preprocessor_config.json", folder / "shards")
    load(folder / "shards")
