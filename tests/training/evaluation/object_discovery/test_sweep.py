import json
import sys

import pytest
import torch
from PIL import Image

from training.data import Tetrominoes
from training.evaluation.object_discovery import sweep as script
from training.evaluation.object_discovery.encoding import load_model


def arguments(**changed):
    return script.Arguments(model="", output="", **changed)


def test_panels_change_one_setting():
    panels = script.settings_of_panels(arguments(num_neighbors=[16, 4, 20], layer=[2], image_size=[32, 16]))
    assert [setting.num_neighbors for setting in panels["num_neighbors"]] == [4, 16, 20]
    assert [setting.image_size for setting in panels["image_size"]] == [16, 32]
    assert [setting.criterion for setting in panels["criterion"]] == ["relative", "product"]
    first = script.Setting(16, 2, 32, "relative", "chain")
    assert all(first in panel for panel in panels.values())
    with pytest.raises(ValueError, match="needs a value"):
        script.settings_of_panels(arguments(layer=[]))


def test_layers_are_those_of_models_with_that_layer(encoder_folder):
    model, image_processor = load_model(encoder_folder, num_neighbors=5)
    scene = Tetrominoes("test", 1).scene(0)
    features, grid_size = script.LayersOfPictures(model, image_processor, [1, 3])(scene, 16)
    assert grid_size == (4, 4)
    for layer in (1, 3):
        other, _ = load_model(encoder_folder, num_neighbors=5, vision_feature_layer=layer)
        pixel_values = image_processor([scene.image], size={"height": 16, "width": 16})["pixel_values"]
        with torch.no_grad():
            expected, _ = other.get_patch_embeddings(pixel_values)
        assert torch.allclose(features[layer], expected, atol=1e-5)


def test_command_draws_and_writes(encoder_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("training.evaluation.object_discovery.worlds.CALIBRATION_SCENES", 2)
    output = tmp_path / "sweep.png"
    command = (
        f"sweep --model {encoder_folder} --output {output} --worlds tetrominoes multi_dsprites --num_scenes 2 "
        "--num_neighbors 5 4 --layer 3 1 --image_size 32 16 --device cpu"
    )
    monkeypatch.setattr(sys, "argv", command.split())
    script.main()
    with Image.open(output) as picture:
        assert picture.width > 3 * picture.height
    results = json.loads(output.with_suffix(".json").read_text())["results"]
    assert list(results) == ["tetrominoes", "multi_dsprites"]
    for panels in results.values():
        assert list(panels) == list(script.PANELS)
        assert [row["value"] for row in panels["layer"]] == [1, 3]
        middle = {
            panel: next(r for r in rows if r["value"] == first)
            for (panel, rows), first in zip(panels.items(), (5, 3, 32, "relative", "chain"), strict=True)
        }
        assert len({(row["fg_ari"], row["mbo"]) for row in middle.values()}) == 1, "the same setting in every panel"
    assert "layer" in capsys.readouterr().out
