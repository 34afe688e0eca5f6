"""Folders of models for the demo."""

import json
import pickle

import pytest
from transformers import GPT2Config

from tests.training.demo.demo_testing import PROCESSOR
from training.demo.models import load_setok


def test_folders_without_a_trained_model_are_refused(model, tmp_path):
    def refused(reason):
        with pytest.raises(ValueError, match=reason) as caught:
            load_setok(str(tmp_path / "model"))
        assert f"{tmp_path / 'model'}" in str(caught.value)
        assert "python training/train_setok.py training/recipes/setok_emoji_tiny.yaml" in str(caught.value)

    refused("no such folder")
    (tmp_path / "model").mkdir()
    refused("config.json|model_type")
    GPT2Config().save_pretrained(tmp_path / "model")
    refused("it holds a model of type 'gpt2'")
    model.config.save_pretrained(tmp_path / "model")
    refused("model.safetensors")
    (tmp_path / "model" / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    refused("header")
    model.setok.save_pretrained(tmp_path / "model")
    refused(r"weights lack \d+ tensors, such as concept_bank.features")
    (tmp_path / "model" / "model.safetensors").unlink()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(pickle.dumps({"weights": print}))
    refused("UnpicklingError: Weights only load failed")


def test_damaged_configurations_are_refused(model, tmp_path):
    def refused(file, content, reason):
        model.save_pretrained(tmp_path)
        PROCESSOR.save_pretrained(tmp_path)
        (tmp_path / file).write_text(json.dumps(content))
        with pytest.raises(ValueError, match=f"(?s)holds no trained SeTok: .*{reason}"):
            load_setok(str(tmp_path))

    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    refused(
        "config.json", config | {"projection_dim": 7}, r"tensors are not of the shapes .* \(8, 8\) instead of \(7, 8\)"
    )
    refused("config.json", config | {"hidden_act": "x"}, "x")
    refused("config.json", config | {"num_neighbors": "x"}, "num_neighbors")
    refused("config.json", 5, "config.json|not iterable")
    refused("preprocessor_config.json", [], "list")
    # its code is never run, and nobody is asked on the terminal whether it may
    foreign = {"model_type": "other", "auto_map": {"AutoConfig": "code.Config"}}
    refused("config.json", foreign, "contains custom code")
