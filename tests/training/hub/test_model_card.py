import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from training.hub import model_card
from training.hub.model_card import EVALUATION_PAGE, FILL_IN, ROOT, fill_tables, measured_card, new_card, shipped_models

SHIPPED = {folder.name: folder for folder in shipped_models()}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A SeTok with results and without a card."""
    folder = tmp_path / "my-setok"
    folder.mkdir()
    for name in ("config.json", "results.json"):
        shutil.copy(SHIPPED["setok-emoji-tiny"] / name, folder)
    return folder


def run(monkeypatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["model_card", *map(str, arguments)])
    model_card.main()


def change_result(folder: Path, key: str, value: float) -> None:
    path = folder / "results.json"
    written = json.loads(path.read_text())
    written["results"][key] = value
    path.write_text(json.dumps(written))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_cards_say_what_was_measured(name):
    text = (SHIPPED[name] / "README.md").read_text(encoding="utf-8")
    assert text == measured_card(SHIPPED[name])
    assert FILL_IN not in text


def test_page_of_the_evaluation_says_what_was_measured():
    text = EVALUATION_PAGE.read_text(encoding="utf-8")
    assert all(f"/model_cards/{name}/results.json" in text for name in SHIPPED)
    assert text == fill_tables(text, EVALUATION_PAGE.parent)


# What the README's table "What works" says, line by line: the model, and the keys of the figures in order.
README_ROWS = {
    "finds the things": ("setok-dinov2-small", ["setok_ari", "kmeans_ari", "grid_ari"]),
    "gives busier scenes": ("setok-dinov2-small", ["spearman"]),
    "names what is there": ("setok-dinov2-small", ["r_precision", "r_precision_chance"]),
    "paints a scene back": ("setok-dinov2-small", ["psnr"]),
    "captions": ("setokim-dinov2-small", ["caption_f1"]),
    "answers questions": ("setokim-dinov2-small", ["question_accuracy", "question_majority"]),
    "says which of two": ("setokim-dinov2-small", ["two_images_accuracy", "two_images_majority"]),
    "paints what a sentence": (
        "setokim-dinov2-small",
        ["text_to_image_found", "text_to_image_found_chance", "text_to_image_scene_found"],
    ),
    "edits": ("setokim-dinov2-small", ["edit_l1", "edit_unchanged_l1"]),
    "segments": ("setokim-dinov2-small", ["referring_ciou", "referring_clusters_ciou", "referring_ungrounded_ciou"]),
}


def test_readme_says_what_was_measured():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    results = {name: json.loads((folder / "results.json").read_text())["results"] for name, folder in SHIPPED.items()}
    for start, (model, keys) in README_ROWS.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
        cells = line.partition(" | ")[2]
        for key in keys:
            value = results[model][key]
            shown = [f"{value:.{digits}f}" for digits in (1, 2, 3)]
            assert any(re.search(rf"(?<![\d.]){re.escape(form)}(?!\d)", cells) for form in shown), (line, key, value)


@pytest.mark.parametrize("name", SHIPPED)
def test_metadata_of_shipped_cards(name):
    data = ModelCard.load(SHIPPED[name] / "README.md").data
    assert (data.license, data.library_name, data.datasets) == ("apache-2.0", "transformers", ["emoji_scenes"])
    assert data.pipeline_tag in {"image-feature-extraction", "image-text-to-text"} and "setok" in data.tags
    assert data.base_model == (f"your-name/{name.replace('setokim', 'setok')}" if name.startswith("setokim") else None)
    results = json.loads((SHIPPED[name] / "results.json").read_text())["results"]
    assert len(data.eval_results) > 5
    for shown in data.eval_results:
        assert shown.metric_value == pytest.approx(results[shown.metric_type], abs=0.051)
        assert (shown.dataset_split, shown.dataset_args["num_scenes"]) == ("test", 500)


def test_table_follows_the_results(folder):
    text = "before\n<!-- table of results.json -->\nold\n<!-- end of table -->\nafter\n"
    change_result(folder, "psnr", 31.4159)
    filled = fill_tables(text, folder)
    assert "| reconstruction: PSNR (dB) | 31.42 | 19.26 |" in filled and "old" not in filled
    assert filled.startswith("before\n<!-- table of results.json -->\n") and filled.endswith("-->\nafter\n")
    assert fill_tables(filled, folder) == filled
    assert fill_tables(text.replace(" results", " my-setok/results"), folder.parent).count("31.42") == 1


@pytest.mark.parametrize("name", SHIPPED)
def test_new_card_is_filled_and_filled_again(name, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "mine"
    shutil.copytree(SHIPPED[name], folder, ignore=shutil.ignore_patterns("README.md", "*.safetensors"))
    run(monkeypatch, folder, "--license", "cc-by-4.0")
    assert "8 places are left to fill in" in capsys.readouterr().out
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8")
    assert text.count(FILL_IN) == 8 and "{{" not in text and "{%" not in text
    assert '"your-name/mine"' in text and "\n# mine\n" in text
    data = ModelCard(text).data
    assert data.license == "cc-by-4.0" and data.model_name == "mine"
    shipped = ModelCard.load(SHIPPED[name] / "README.md").data
    assert data.eval_results == shipped.eval_results and data.pipeline_tag == shipped.pipeline_tag

    card.write_text(text.replace(f"{FILL_IN}:", "Written:"), encoding="utf-8")
    key = data.eval_results[0].metric_type
    change_result(folder, key, 0.25)
    run(monkeypatch, folder)
    again = card.read_text(encoding="utf-8")
    assert again.count("Written:") == 8 and FILL_IN not in again
    assert ModelCard(again).data.eval_results[0].metric_value == 0.25


def test_new_card_tells_of_each_stage(folder):
    stage = {
        "name": "encoder", "steps": 2000, "rows": 64000, "seconds": 480.2, "processes": 1, "machines": ["a", "b"],
        "torch": "2.13.0", "transformers": "5.23.0",
    }  # fmt: skip
    second = stage | {"name": "all", "first_step": 500, "seconds": 9000, "processes": 2, "machines": ["2 x c"]}
    summary = folder / "training_summary.json"
    summary.write_text(json.dumps({"stages": [stage, second]}))
    text = new_card(folder, "mit")
    assert "hardware and time" not in text and text.count(FILL_IN) == 8
    (folder / "README.md").write_text(text)
    text = measured_card(folder)
    training = text[text.index("## Training") : text.index("## Intended use")]
    software = "torch 2.13.0, transformers 5.23.0"
    assert f"| encoder | 2,000 | 64,000 | 8 min | a; b | {software} |" in training
    assert f"| all | 500 to 2,000 | 64,000 | 2.5 h | 2 x c; 2 processes | {software} |" in training
    assert "reconstruction: PSNR" in text.partition("## Training")[0]
    del second["rows"]
    summary.write_text(json.dumps({"stages": [stage, second]}))
    with pytest.raises(ValueError, match="is not what a training script leaves: KeyError: 'rows'"):
        measured_card(folder)
    summary.unlink()
    with pytest.raises(ValueError, match="training_summary.json is missing; train the model again"):
        measured_card(folder)


def test_pictures_of_ones_own_are_named_as_the_data(folder):
    written = json.loads((folder / "results.json").read_text())
    written["arguments"]["data"] = "somewhere/photographs"
    written["data"] = {"name": "photographs", "rows": "all 3 rows of photographs"}
    written["results"] = {"num_images": 3, "psnr": 20.0, "tokens_mean": 4.0, "tokens_min": 2, "tokens_max": 6}
    (folder / "results.json").write_text(json.dumps(written))
    (folder / "README.md").write_text(new_card(folder, "mit"))
    text = measured_card(folder)
    data = ModelCard(text).data
    assert [result.metric_type for result in data.eval_results] == ["psnr", "tokens_mean"]
    assert {result.dataset_name for result in data.eval_results} == {"photographs"}
    assert "On all 3 rows of photographs.\n\n|" in text and "somewhere" not in text
    assert "| pictures | 3 |  |" in text and "held-out" not in text
    for wrong in ("photographs", {"name": "photographs"}):
        (folder / "results.json").write_text(json.dumps(written | {"data": wrong}))
        with pytest.raises(ValueError, match="is not what training.evaluation.evaluate_setok --output writes"):
            measured_card(folder)


def test_tells_what_is_missing(folder, monkeypatch):
    with pytest.raises(SystemExit, match="under which licence"):
        run(monkeypatch, folder)
    with pytest.raises(ValueError, match="has no model card"):
        measured_card(folder)
    for text, reason in (
        ("<!-- table of results.json -->\n<!-- end of table -->\n", "lacks license, library_name, pipeline_tag"),
        ("---\nlicense: [mit\n---\n<!-- table of results.json -->\n<!-- end of table -->\n", "is not YAML"),
    ):
        (folder / "README.md").write_text(text)
        with pytest.raises(ValueError, match=reason):
            measured_card(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A card\n")
    with pytest.raises(ValueError, match="table of results.json"):
        measured_card(folder)
    (folder / "README.md").write_text(new_card(folder, "mit"))
    other = (SHIPPED["setokim-emoji-tiny"] / "results.json").read_text()
    for text in ("{}", '{"arguments": {}, "results": {}}', other):
        (folder / "results.json").write_text(text)
        with pytest.raises(ValueError, match="is not what training.evaluation.evaluate_setok --output writes"):
            measured_card(folder)
    (folder / "results.json").write_text("[]")
    with pytest.raises(ValueError, match="is not a JSON object"):
        measured_card(folder)
    (folder / "results.json").write_text("nothing")
    with pytest.raises(SystemExit, match="is not JSON"):
        run(monkeypatch, folder)
    (folder / "results.json").unlink()
    with pytest.raises(ValueError, match="results.json is missing; measure the model"):
        measured_card(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is an adapter: .* merge_and_unload"):
        measured_card(folder)
    (folder / "adapter_config.json").unlink()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="a model of type 'llama'"):
        new_card(folder, "mit")
