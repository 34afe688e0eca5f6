"""Runs over data of which some rows are too long: they are counted, and a run that was killed goes on exactly."""

import importlib
import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file


@pytest.mark.parametrize(
    ("stage", "long_rows", "counted"),
    [("pretrain", "cut", "1 are cut, 1 left out"), ("finetune", "skip", "0 are cut, 2 left out")],
)
def test_a_run_over_long_rows_goes_on_exactly(stage, long_rows, counted, setokim_recipe, tmp_path, caplog):
    main = importlib.import_module(f"training.{stage}_setokim").main
    talks = [["Hi", "One."], ["Hi", "Two.", "Why?", "So " * 600], ["Why " * 600, "Lost."], ["Who", "Three."]]
    rows = [
        {"conversations": [{"from": ("human", "gpt")[turn % 2], "value": said} for turn, said in enumerate(talk)]}
        for talk in talks
    ]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.json").write_text(json.dumps(rows))
    scenes = {"dataset": "emoji_scenes", "task": "caption", "image_size": 24}
    mixture = [{"dataset": str(tmp_path / "data"), "name": "talk"}, scenes]
    weights = []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        recipe = setokim_recipe(stage, folder, mixture=mixture, max_length=250, long_rows=long_rows)
        if weights:
            shutil.copytree(tmp_path / "whole" / "run" / "checkpoint-2", folder / "run" / "checkpoint-2")
        with caplog.at_level(logging.INFO):
            caplog.clear()
            main([str(recipe)])
        assert f"talk: 2 of 4 rows have more than max_length = 250 tokens: {counted}" in caplog.text
        weights.append(load_file(folder / "run" / "model.safetensors"))
    whole, killed = weights
    for name, tensor in whole.items():
        torch.testing.assert_close(killed[name], tensor, rtol=1e-5, atol=1e-6)
