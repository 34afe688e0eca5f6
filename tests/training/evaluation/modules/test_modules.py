"""Each folder by `evaluate.load`, beside the metric that it wraps."""

from pathlib import Path

import evaluate
import numpy as np
import pytest
from evaluate.loading import get_imports

from training.evaluation import modules
from training.evaluation.metrics import (
    CaptionScores,
    ForegroundAdjustedRandIndex,
    ReferringIoU,
    VqaAccuracy,
    YesNo,
)

FOLDER = Path(modules.__file__).parent
NAMES = ["cider_d", "fg_ari", "pope", "referring_iou", "vqa_accuracy"]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """`evaluate.load` of a folder, which then keeps its files to itself."""
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("modules")
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", cache)
        patch.syspath_prepend(cache)
        (cache / "__init__.py").touch()
        yield lambda name: evaluate.load(str(FOLDER / name), cache_dir=str(tmp_path_factory.mktemp(name)))


def test_every_folder_is_a_module():
    assert sorted(path.name for path in FOLDER.iterdir() if (path / f"{path.name}.py").exists()) == NAMES
    assert all((FOLDER / name / "README.md").read_text("utf-8").startswith("---\ntitle: ") for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_whoever_lacks_the_project_is_told_how_to_install_it(name):
    """And not to install what PyPI has under the name of our package."""
    libraries = {library: hint for _, library, hint, _ in get_imports(FOLDER / name / f"{name}.py")}
    assert libraries["training"] == '-e "FOLDER_OF_SETOK[eval]"'


def test_vqa_accuracy(load):
    predictions, answers = ["two dogs", "red"], [["2 dogs"] * 4 + ["dogs"] * 6, ["red"] * 2 + ["orange"] * 8]
    module = load("vqa_accuracy")
    result = module.compute(predictions=predictions, references=answers)
    assert result == VqaAccuracy().compute(predictions=predictions, references=answers)
    assert result == pytest.approx({"accuracy": 0.8})
    result = module.compute(predictions=predictions, references=answers, leave_one_out=False)
    assert result == VqaAccuracy(leave_one_out=False).compute(predictions=predictions, references=answers)
    result = module.compute(predictions=predictions, references=answers, kinds=["number", "other"])
    assert result == pytest.approx({"accuracy": 0.8, "number_accuracy": 1, "other_accuracy": 0.6})


def test_cider_d(load):
    predictions, captions = ["a red dog", "an owl"], [["a red dog", "the dog is red"], ["an owl on a tree"]]
    result = load("cider_d").compute(predictions=predictions, references=captions)
    assert result == CaptionScores().compute(predictions=predictions, references=captions)


def test_pope_in_batches(load):
    predictions, references = ["Yes, there is.", "no", "yes"], ["yes", "yes", "no"]
    module = load("pope")
    module.add_batch(predictions=predictions[:2], references=references[:2])
    module.add(prediction=predictions[2], reference=references[2])
    assert module.compute() == YesNo().compute(predictions=predictions, references=references)


def test_referring_iou_of_masks_of_several_sizes(load):
    rng = np.random.default_rng(0)
    predictions, references = ([rng.random(size) > 0.4 for size in ((4, 6), (5, 3))] for _ in range(2))
    result = load("referring_iou").compute(predictions=predictions, references=references)
    assert result == ReferringIoU().compute(predictions=predictions, references=references)


def test_fg_ari_of_maps_of_several_sizes(load):
    rng = np.random.default_rng(0)
    predictions, references = ([rng.integers(0, 3, size) for size in ((4, 6), (5, 3))] for _ in range(2))
    result = load("fg_ari").compute(predictions=predictions, references=references)
    assert result == ForegroundAdjustedRandIndex().compute(predictions=predictions, references=references)


def test_strings_are_no_lists_of_answers(load):
    with pytest.raises(ValueError, match="match the expected format|expected a list"):
        load("vqa_accuracy").compute(predictions=["2"], references=["two"])
