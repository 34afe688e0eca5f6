"""RefCOCO's files as the `refer` API has them, its refs as JSON."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.entries.segmentations import mask_of
from training.evaluation.benchmark.benchmark import Networks
from training.evaluation.benchmark.segmentation.refcoco import REFCOCO, REFCOCO_PLUS, REFCOCOG

SIZE = (20, 10)  # width, height
OBJECTS = {1719310: (2, 3, 6, 7), 1719311: (10, 0, 20, 4), 1719312: (0, 0, 2, 10)}  # left, top, right, bottom
REFS = [
    (0, 1719310, "val", ["navy blue shirt", "woman on left."]),
    (1, 1719311, "testA", ["man  in red"]),
    (2, 1719312, "testB", ["the pole"]),
    (3, 1719312, "train", ["pole"]),
]


def write(root: Path, name: str = "refcoco", split_by: str = "unc", splits: dict | None = None) -> list[dict]:
    """Three objects in one picture; the refs, which are written as JSON."""
    pictures, folder = root / "images/mscoco/images/train2014", root / name
    pictures.mkdir(parents=True, exist_ok=True)
    folder.mkdir()
    file_name = "COCO_train2014_000000581857.jpg"
    Image.new("RGB", SIZE, "navy").save(pictures / file_name)
    refs = [
        {
            "sent_ids": [10 * ref_id + i for i in range(len(sentences))],
            "file_name": f"COCO_train2014_000000581857_{ref_id}.jpg",
            "ann_id": ann_id,
            "ref_id": ref_id,
            "image_id": 581857,
            "split": (splits or {}).get(split, split),
            "sentences": [
                {"tokens": sentence.split(), "raw": sentence, "sent_id": 10 * ref_id + i, "sent": sentence}
                for i, sentence in enumerate(sentences)
            ],
            "category_id": 1,
        }
        for ref_id, ann_id, split, sentences in REFS
    ]
    instances = {
        "info": {"description": "This is stable 1.0 version of the 2014 MS COCO dataset."},
        "images": [
            {"license": 1, "file_name": file_name, "id": 581857, "width": SIZE[0], "height": SIZE[1]},
        ],
        "annotations": [
            {
                "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                "area": (right - left) * (bottom - top),
                "iscrowd": 0,
                "image_id": 581857,
                "bbox": [left, top, right - left, bottom - top],
                "category_id": 1,
                "id": ann_id,
            }
            for ann_id, (left, top, right, bottom) in OBJECTS.items()
        ],
        "categories": [{"supercategory": "person", "id": 1, "name": "person"}],
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / f"refs({split_by}).json").write_text(json.dumps(refs))
    return refs


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros(SIZE[::-1], bool)
    mask[top:bottom, left:right] = True
    return mask


def test_a_sentence_of_the_split_is_an_example(tmp_path):
    write(tmp_path)
    examples = REFCOCO.read(tmp_path, "val")
    assert [(example.key, example.request) for example in examples] == [
        ("val-0", "navy blue shirt"),
        ("val-1", "woman on left"),
    ]
    assert all(np.array_equal(example.truth(), box(*OBJECTS[1719310])) for example in examples)
    assert examples[0].pictures()[0].size == SIZE
    assert [example.request for example in REFCOCO.read(tmp_path, "testA")] == ["man in red"]
    assert [example.request for example in REFCOCO.read(tmp_path, "testB")] == ["the pole"]


@pytest.mark.parametrize(
    "benchmark, split_by, splits",
    [(REFCOCO_PLUS, "unc", {"val": 2, "testA": 1, "testB": 1}), (REFCOCOG, "umd", {"val": 2, "test": 1})],
)
def test_the_others_lie_in_their_own_folders(tmp_path, benchmark, split_by, splits):
    write(tmp_path, benchmark.name, split_by, splits={} if "testA" in splits else {"testA": "test"})
    assert {split: len(benchmark.read(tmp_path, split)) for split in benchmark.splits} == splits


def test_scores_by_hand(tmp_path):
    write(tmp_path)
    examples = [*REFCOCO.read(tmp_path, "val")[:1], *REFCOCO.read(tmp_path, "testA")]
    perfect = REFCOCO.score(examples, [example.truth() for example in examples], Networks())
    assert perfect["num_examples"] == 2
    assert {value for key, value in perfect.items() if key != "num_examples"} == {1.0}
    # 12 of 16 pixels and none beside them; of 40 pixels 20, and 4 more that are wrong
    answers = [box(2, 3, 6, 6), box(9, 0, 15, 4)]
    found = REFCOCO.score(examples, answers, Networks())
    assert found["ciou"] == pytest.approx((12 + 20) / (16 + 44))
    assert found["giou"] == pytest.approx((12 / 16 + 20 / 44) / 2)
    assert [found[f"precision_{percent}"] for percent in (50, 60, 70, 80, 90)] == [0.5, 0.5, 0.5, 0, 0]


def test_a_pickle_is_refused_unread(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    write(tmp_path)
    (tmp_path / "refcoco/refs(unc).json").unlink()
    (tmp_path / "refcoco/refs(unc).p").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match=r"is a pickle, .* as refcoco/refs\(unc\).json once"):
        REFCOCO.read(tmp_path, "val")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("missing", ["refs(unc).json", "instances.json"])
def test_a_missing_file_is_named(tmp_path, missing):
    write(tmp_path)
    (tmp_path / "refcoco" / missing).unlink()
    with pytest.raises(ValueError) as error:
        REFCOCO.read(tmp_path, "val")
    assert f"There is no refcoco/{missing} in" in str(error.value)


def test_through_the_command(run, setokim_folder, tmp_path):
    write(tmp_path)
    measured = run("refcoco", setokim_folder, tmp_path, tmp_path / "results.json", "--split", "val")
    examples = REFCOCO.read(tmp_path, "val")
    masks = [mask_of(line["answer"]) for line in measured.predictions[1:]]
    assert [mask.shape for mask in masks] == [SIZE[::-1]] * 2
    expected = REFCOCO.score(examples, masks, Networks())
    assert {key: measured.results[key] for key in expected} == expected
    assert all(row.title in measured.table for row in REFCOCO.rows)
