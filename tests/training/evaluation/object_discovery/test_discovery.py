import json
import sys

import numpy as np
import pytest
import torch

from modeling_setok import SetokConfig
from processing import SetokImageProcessor
from tests.named_setok import named_setok
from tests.training.evaluation.object_discovery.planted import planted_picture
from training.data import Tetrominoes
from training.evaluation.object_discovery import __main__ as script
from training.evaluation.object_discovery.discovery import compare, measure, over_seeds
from training.evaluation.object_discovery.encoding import calibrate, encode, load_model, scaled_neighbors
from training.evaluation.object_discovery.methods import METHODS
from training.evaluation.object_discovery.tables import COLUMNS, TITLES, world_table
from training.evaluation.object_discovery.worlds import Worlds

PICTURES = [planted_picture(number) for number in (1, 2, 4)]


def test_the_truth_gets_full_marks():
    results = measure(METHODS["setok"], PICTURES, seed=0)
    assert results.pop("segments") == pytest.approx((2 + 3 + 5) / 3)
    assert list(results.values()) == pytest.approx([1] * len(results))


def test_patches_are_brought_to_pixels():
    """Half a picture against an object of six patches: 54 of 24 · 12 pixels, in the left half."""
    halves = np.repeat([[0, 1]], 8, axis=0).repeat(4, axis=1)
    results = measure(lambda picture, number, seed: halves, PICTURES[:1], seed=0)
    assert results["mbo"] == pytest.approx(54 / (24 * 12))
    assert results["fg_ari"] == 1


def test_numbers_of_segments():
    """As many as SeTok found in each picture, or their mean in all."""
    asked = []

    def method(picture, number, seed):
        asked.append((number, seed))
        return picture.cluster_ids.reshape(8, 8)

    compare({"kmeans": method}, PICTURES, seed=5)
    assert asked == [(2, 5), (3, 5), (5, 5)]
    asked.clear()
    compare({"dpc_knn": method}, PICTURES, seed=5)
    assert asked == [(3, 5)] * 3


def test_mean_and_deviation_over_seeds():
    summary = over_seeds([{"setok": {"mbo": 0.5}}, {"setok": {"mbo": 0.7}}])["setok"]["mbo"]
    assert summary["mean"] == pytest.approx(0.6)
    assert summary["std"] == pytest.approx(0.02**0.5)
    assert over_seeds([{"setok": {"mbo": 0.5}}])["setok"]["mbo"] == {"mean": 0.5, "std": 0, "values": [0.5]}


def test_table_has_methods_and_published_rows():
    results = over_seeds([compare(METHODS, PICTURES, seed) for seed in (0, 1)])
    table = world_table("multi_dsprites", results).splitlines()
    assert all(line.count("|") == len(COLUMNS) + 2 for line in table if line.startswith("|"))
    assert table[2].startswith("| SeTok | 1.000 ± 0.000 |")
    assert any("GENESIS" in line and "published" in line and "0.69" in line for line in table)
    assert not any("published" in line for line in world_table("tetrominoes", results).splitlines())
    assert {*METHODS, "slots"} == set(TITLES)


def test_encoder_folder_becomes_a_setok(encoder_folder):
    model, image_processor = load_model(encoder_folder, num_neighbors=5, vision_feature_layer=2, assignment="nearest")
    assert image_processor.size == {"height": 32, "width": 32}
    config = model.config
    assert (config.num_neighbors, config.vision_feature_layer, config.assignment) == (5, 2, "nearest")
    model, image_processor = load_model(encoder_folder, image_size=64)
    assert image_processor.size == {"height": 64, "width": 64}
    assert model.config.num_neighbors == 4 and model.config.criterion == SetokConfig().criterion


def test_neighbors_grow_with_the_grid():
    assert scaled_neighbors(6, 27 * 27, 37 * 37) == 11
    assert scaled_neighbors(16, 37 * 37, 27 * 27) == 9
    assert scaled_neighbors(16, 37 * 37, 8 * 8) == 4


def test_encoding_is_what_the_model_does(encoder_folder):
    model, image_processor = load_model(encoder_folder, num_neighbors=5)
    scenes = [Tetrominoes("test", 2).scene(index) for index in range(2)]
    scale = calibrate(model, image_processor, scenes)
    assert scale == pytest.approx(float(model.token_clustering.feature_scale)) and scale > 0
    pixel_values = image_processor([scene.image for scene in scenes])["pixel_values"]
    with torch.no_grad():
        outputs = model(pixel_values)
    for index, picture in enumerate(encode(model, image_processor, scenes)):
        assert picture.scene is scenes[index] and picture.grid_size == (8, 8)
        assert torch.allclose(picture.features, outputs.patch_embeddings[index], atol=1e-5)
        assert picture.num_clusters == int(outputs.num_tokens[index]) and picture.num_neighbors == 5


@pytest.mark.parametrize("name", ["emoji", "multi_dsprites", "tetrominoes"])
def test_worlds_have_what_is_measured(name):
    worlds = Worlds(image_size=64)
    scene = worlds(name, "test", 3, seed=0).scene(1)
    other = worlds(name, "test", 3, seed=1).scene(1)
    assert not np.array_equal(scene.image, other.image)
    assert scene.masks.shape == (len(scene.names), *scene.image.shape[:2])
    first = next(iter(worlds.calibration(name)))
    assert not any(
        np.array_equal(first.image, worlds(name, split, 1, seed=0).scene(0).image) for split in ("train", "test")
    )


def test_unknown_world():
    with pytest.raises(ValueError, match="unknown world 'clevr'"):
        Worlds(64)("clevr", "test", 1, 0)


def test_a_setok_keeps_its_settings_and_its_scale(tmp_path):
    model = named_setok(["cat", "dog"], 32, 8)
    model.setok.token_clustering.feature_scale.fill_(0.7)
    model.save_pretrained(tmp_path)
    SetokImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    loaded, image_processor = load_model(str(tmp_path))
    assert float(loaded.token_clustering.feature_scale) == pytest.approx(0.7)
    with pytest.raises(ValueError, match="own num_neighbors"):
        load_model(str(tmp_path), num_neighbors=5)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["object_discovery", *map(str, arguments)])
    script.main()


def test_command_prints_and_writes_a_table_for_each_world(encoder_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("training.evaluation.object_discovery.worlds.CALIBRATION_SCENES", 2)
    output = tmp_path / "results.json"
    run(
        monkeypatch, "--model", encoder_folder, "--worlds", "tetrominoes", "multi_dsprites", "--num_scenes", 2,
        "--seeds", 0, 1, "--methods", "setok", "kmeans", "slots", "--slot_scenes", 2, "--slot_steps", 2,
        "--device", "cpu", "--output", output,
    )  # fmt: skip
    printed = capsys.readouterr().out
    written = json.loads(output.read_text())
    assert list(written["results"]) == ["tetrominoes", "multi_dsprites"]
    for world, results in written["results"].items():
        assert f"## {world}: 2 × 2 scenes" in printed
        assert list(results) == ["setok", "kmeans", "slots"]
        assert all(set(figures) == set(COLUMNS) for figures in results.values())
        assert f"{results['setok']['mbo']['mean']:.3f} ± " in printed
    assert written["arguments"]["num_scenes"] == 2


def test_command_refuses_unknown_names(encoder_folder, monkeypatch):
    with pytest.raises(ValueError, match="worlds must be some of"):
        run(monkeypatch, "--model", encoder_folder, "--worlds", "clevr")
    with pytest.raises(ValueError, match="methods must be some of"):
        run(monkeypatch, "--model", encoder_folder, "--methods", "dbscan")


def test_photographs_are_calibrated_on_both_grounds(monkeypatch):
    made = []

    class Recorded:
        def __init__(self, split, num_scenes, config, seed):
            made.append((split, num_scenes, config.grounds, config.image_size, config.folder))

        def __len__(self):
            return 1

        def scene(self, index):
            return made[-1]

    monkeypatch.setattr("training.evaluation.object_discovery.worlds.PhotoScenes", Recorded)
    worlds = Worlds(image_size=98, photo_folder="pictures")
    expected = [("validation", 15, (ground,), 98, "pictures") for ground in ("flat", "photo")]
    for name in ("photo_flat", "photo_photo"):
        made.clear()
        assert len(list(worlds.calibration(name))) == 2 and made == expected
    worlds("photo_flat", "test", 3, 0)
    assert made[-1] == ("test", 3, ("flat",), 98, "pictures")
