"""Every benchmark of the room from the files of its release to results, table and submission."""

import json

import pytest

from tests import benchmark_releases as releases
from training.evaluation.benchmark.registry import BENCHMARKS
from training.evaluation.benchmark.understanding import BENCHMARKS as ROOM

# name -> how its files are written, how many examples they hold, which results there are, and the submission's files
RELEASES = {
    "vqav2": (releases.write_vqav2, 3, {"accuracy", "yes/no_accuracy"}, ["vqa_OpenEnded_mscoco_results.json"]),
    "okvqa": (releases.write_okvqa, 1, {"accuracy"}, ["okvqa_OpenEnded_mscoco_results.json"]),
    "aokvqa": (releases.write_aokvqa, 2, {"accuracy"}, ["predictions-da.json"]),
    "vizwiz": (releases.write_vizwiz, 2, {"accuracy", "unanswerable_accuracy"}, ["vizwiz_results.json"]),
    "gqa": (releases.write_gqa, 3, {"accuracy", "open_accuracy", "verify_accuracy"}, ["predictions.json"]),
    "pope": (
        releases.write_pope,
        12,
        {"f1", "random_f1", "popular_yes_ratio", "adversarial_accuracy"},
        [f"coco_pope_{way}_answers.json" for way in ("adversarial", "popular", "random")],
    ),
    "mme": (
        releases.write_mme,
        28,
        {"perception", "cognition", "OCR_score"},
        sorted(f"{category}.txt" for category in (*releases.PERCEPTION, *releases.COGNITION)),
    ),
    "mm-vet": (releases.write_mm_vet, 2, set(), ["mm-vet.json"]),
    "iconqa-choose-txt": (releases.write_iconqa, 2, {"accuracy", "comparing_accuracy"}, ["choose_txt.json"]),
    "iconqa-choose-img": (releases.write_iconqa, 1, {"accuracy", "pattern_accuracy"}, ["choose_img.json"]),
    "iconqa-fill-in-blank": (releases.write_iconqa, 1, {"accuracy"}, ["fill_in_blank.json"]),
    "coco-captions": (releases.write_coco_captions, 1, {"cider_d", "bleu_4", "rouge_l"}, ["captions_results.json"]),
    "flickr30k": (releases.write_flickr30k, 1, {"cider_d", "bleu_1"}, ["captions_results.json"]),
    "mmlu": (releases.write_mmlu, 4, {"accuracy", "subjects_accuracy", "astronomy_accuracy"}, []),
    "easy-vqa": (releases.write_easy_vqa, 3, {"accuracy", "majority", "shape_accuracy"}, []),
}


def test_every_benchmark_is_here():
    assert set(RELEASES) == {benchmark.name for benchmark in ROOM} <= set(BENCHMARKS)


@pytest.mark.parametrize("name", RELEASES)
def test_from_files_to_results(name, run, setokim_folder, tmp_path):
    if name in ("coco-captions", "flickr30k"):
        pytest.importorskip("pycocoevalcap")
    write, count, keys, files = RELEASES[name]
    data = tmp_path / "data"
    data.mkdir()
    measured = run(name, setokim_folder, write(data), tmp_path / "results.json")
    assert measured.results["num_examples"] == count == len(measured.predictions) - 1
    assert keys <= set(measured.results)
    assert sorted(measured.submission) == files
    shown = {row.key for row in BENCHMARKS[name].rows}
    assert keys - {"astronomy_accuracy", "majority"} <= shown
    assert f"{measured.results['num_examples']}" in measured.table.splitlines()[3]
    for text in measured.submission.values():
        assert json.loads(text) if text.startswith(("{\n", "[")) else text
