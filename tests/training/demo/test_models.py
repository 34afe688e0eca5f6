"""Folders of models for the demo."""

import pytest
from transformers import GPT2Config

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
