"""Open Images' CSV files, picture by picture."""

import pytest
from PIL import Image

from tests.reader_testing import read_entries
from training.data import schema
from training.data.readers.open_images import read_open_images

CLASSES = 'LabelName,DisplayName\n/m/011k07,Tortoise\n/m/0c568,"Fungus, edible"\n/m/04yx4,Man\n'
LABELS = """ImageID,Source,LabelName,Confidence
000002b66c9c498e,verification,/m/011k07,0
000002b66c9c498e,verification,/m/0c568,1
000002b66c9c498e,crowdsource-verification,/m/04yx4,1
000002b66c9c498e,verification,/m/0c568,1
000002b97e5471a0,verification,/m/011k07,0
000002c707c9895e,verification,/m/04yx4,1
"""
BOXES = """\
ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside,XClick1X
000002b66c9c498e,xclick,/m/04yx4,1,0.012500,0.195312,0.148438,0.587500,0,1,0,0,0,0.148438
000002b66c9c498e,xclick,/m/011k07,1,0.012500,0.195312,0.148438,0.587500,0,1,0,0,0,0.148438
000002b66c9c498e,activemil,/m/04yx4,1,0.025000,0.276563,0.714063,0.948438,0,1,0,0,0,-1
"""


def write(root, labels=LABELS, classes=CLASSES):
    for picture in ("train_0/000002b66c9c498e", "train_0/000002b97e5471a0", "train_1/000002c707c9895e"):
        (root / picture).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(root / f"{picture}.jpg")
    (root / "labels.csv").write_text(labels)
    (root / "oidv7-class-descriptions.csv").write_text(classes)
    return {
        "labels": str(root / "labels.csv"),
        "classes": str(root / "oidv7-class-descriptions.csv"),
        "images": [str(root / "train_0"), str(root / "train_1")],
    }


def test_verified_names_of_each_picture(tmp_path):
    """A name that two people confirmed counts once; a picture with none is left out."""
    rows, problems = read_entries(read_open_images, **write(tmp_path))
    assert not problems and rows == [
        schema.row("concepts", images=[f"{tmp_path}/train_0/000002b66c9c498e.jpg"], concepts=["Fungus, edible", "Man"]),
        schema.row("concepts", images=[f"{tmp_path}/train_1/000002c707c9895e.jpg"], concepts=["Man"]),
    ]


def test_a_name_for_each_box(tmp_path):
    rows, _ = read_entries(read_open_images, **write(tmp_path, BOXES))
    assert [row["concepts"] for row in rows] == [["Man", "Tortoise", "Man"]]


def test_other_tasks(tmp_path):
    arguments = write(tmp_path, BOXES)
    rows, _ = read_entries(read_open_images, **arguments, task="reconstruction", needs="picture")
    assert [(row["task"], row["concepts"], row["messages"]) for row in rows] == [("reconstruction", [], [])]
    rows, _ = read_entries(read_open_images, **arguments, task="text_to_image", needs="answer")
    assert rows[0]["messages"] == schema.exchange([schema.text("Draw: Man, Tortoise.")], [schema.image()])


def test_bad_lines_are_named_and_do_not_cut_a_picture_in_two(tmp_path):
    first, second, third, *others = LABELS.splitlines()
    lines = [first, second, third, "000002b66c9c498e,verification", *others, "000002d000000000,verification,/m/04yx4,1"]
    lines += ["000002e000000000,verification,/m/9,1"]
    rows, problems = read_entries(read_open_images, **write(tmp_path, "\n".join(lines)))
    assert [row["concepts"] for row in rows] == [["Fungus, edible", "Man"], ["Man"]]
    assert "labels.csv, line 4: 2 values, not 4" in problems[0]
    assert "labels.csv, picture 000002d000000000: picture '000002d000000000.jpg' does not exist" in problems[1]
    assert "labels.csv, picture 000002e000000000: the label '/m/9' has no name" in problems[2] and len(problems) == 3


def test_memory_does_not_grow_with_the_file(tmp_path):
    """An entry comes as soon as its picture's lines end, before what follows is read."""
    arguments = write(tmp_path, LABELS + "000001,not sorted,/m/04yx4,1\n")
    entries = read_open_images(**arguments)
    assert next(entries).where == "labels.csv, picture 000002b66c9c498e"
    with pytest.raises(ValueError, match="labels.csv, line 8: not in the order of ImageID.*sort it"):
        list(entries)


@pytest.mark.parametrize(
    "changed, problem",
    [
        ({"task": "caption"}, "task must be one of"),
        ({"labels": "nowhere.csv"}, "nowhere.csv cannot be read as CSV"),
        ({"labels": "oidv7-class-descriptions.csv"}, "has no column ImageID in its first line"),
        ({"classes": "nowhere.csv"}, "nowhere.csv cannot be read as CSV"),
        ({"images": ["train_0", "train_2"]}, "the folder train_2, to look for pictures in, does not exist"),
    ],
)
def test_what_is_wrong_with_files_is_said(tmp_path, changed, problem, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=problem):
        list(read_open_images(**write(tmp_path) | changed))
