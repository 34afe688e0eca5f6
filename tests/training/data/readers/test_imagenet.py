"""ImageNet-1K in folders of classes, for stage 0 and to draw."""

import pytest
from PIL import Image

from tests.reader_testing import read_entries
from training.data import schema
from training.data.readers.imagenet import read_imagenet

SYNSETS = "n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\nn04356056 sunglasses, dark glasses, shades\n"
PICTURES = ["n01440764/n01440764_18.JPEG", "n01440764/n01440764_9.JPEG", "n04356056/n04356056_1.JPEG"]


def write(root, synsets=SYNSETS):
    """The folder of pictures, with a file that is none and a folder of no class, and the file of names."""
    for picture in PICTURES:
        (root / "train" / picture).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(root / "train" / picture)
    (root / "train" / "n01440764" / "notes.txt").touch()
    (root / "train" / "lost+found").mkdir()
    (root / "LOC_synset_mapping.txt").write_text(synsets)
    return {"folder": str(root / "train"), "synsets": str(root / "LOC_synset_mapping.txt")}


@pytest.mark.parametrize("task", ["concepts", "reconstruction", "text_to_image"])
def test_a_row_for_each_picture(tmp_path, task):
    rows, problems = read_entries(read_imagenet, **write(tmp_path), task=task)
    names = [] if task == "reconstruction" else ["tench", "tench", "sunglasses"]
    assert not problems and rows == [
        schema.row(
            task,
            images=[f"{tmp_path}/train/{picture}"],
            concepts=names[i : i + 1],
            messages=schema.exchange([schema.text(f"Draw: {names[i]}.")], [schema.image()])
            if task == "text_to_image"
            else [],
        )
        for i, picture in enumerate(PICTURES)
    ]


def test_reconstruction_needs_no_names(tmp_path):
    rows, _ = read_entries(read_imagenet, folder=write(tmp_path)["folder"], task="reconstruction", needs="picture")
    assert len(rows) == 3


def test_a_picture_that_leads_elsewhere_is_named(tmp_path):
    arguments = write(tmp_path)
    (tmp_path / "train" / "n01440764" / "n01440764_2.JPEG").symlink_to(tmp_path / "LOC_synset_mapping.txt")
    rows, problems = read_entries(read_imagenet, **arguments)
    assert len(rows) == 3 and len(problems) == 1
    assert problems[0].startswith("n01440764/n01440764_2.JPEG: ") and "leads out of the folder" in problems[0]


@pytest.mark.parametrize(
    "changed, problem",
    [
        ({"task": "caption"}, "task must be one of reconstruction, concepts, text_to_image, not 'caption'"),
        ({"synsets": None}, "concepts needs the names of the classes: give synsets"),
        ({"synsets": "nowhere.txt"}, "nowhere.txt cannot be read"),
        ({"folder": "nowhere"}, "nowhere cannot be read"),
        ({"folder": "train/n01440764"}, "no folders of classes such as n01440764"),
        ({"text": "n01440764 tench\n"}, "has no line for the class n04356056"),
        ({"text": "n01440764\ttench\n"}, "line 1: must be as 'n01440764 tench, Tinca tinca', not 'n01440764"),
        ({"text": "n01440764 \n"}, "line 1: must be as"),
    ],
)
def test_what_is_wrong_with_files_is_said(tmp_path, changed, problem, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = write(tmp_path, changed.pop("text", SYNSETS)) | changed
    with pytest.raises(ValueError, match=problem):
        list(read_imagenet(**arguments))
