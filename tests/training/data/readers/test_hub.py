"""Data sets of the Hub come out in the one schema, at once and as streams."""

import datasets
import pytest
from PIL import Image

from tests.row_testing import plain
from training.data import TASKS, EmojiScenes, load_hub_dataset


@pytest.mark.parametrize("streaming", [False, True])
def test_emoji_scenes_through_parquet(tmp_path, streaming):
    scenes = EmojiScenes("validation", 2 * len(TASKS), tasks=tuple(TASKS))
    scenes.to_dataset().to_parquet(tmp_path / "train.parquet")
    loaded = load_hub_dataset(str(tmp_path), "train", streaming=streaming)
    assert isinstance(loaded, datasets.IterableDataset if streaming else datasets.Dataset)
    assert [plain(row) for row in loaded] == [plain(row) for row in scenes]


@pytest.mark.parametrize("streaming", [False, True])
def test_hub_columns_classes_and_bad_pictures(tmp_path, streaming):
    for label, colour in (("cat", "red"), ("dog", "blue")):
        (tmp_path / label).mkdir()
        for i in range(2):
            Image.new("RGB", (8, 8), colour).save(tmp_path / label / f"{i}.png")
    columns = {"concepts": "label"}
    loaded = list(load_hub_dataset(str(tmp_path), "train", streaming=streaming, columns=columns))
    assert [row["concepts"] for row in loaded] == [["cat"], ["cat"], ["dog"], ["dog"]]
    assert loaded[0]["images"][0].getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(ValueError, match="no column breed; it has image, label"):
        load_hub_dataset(str(tmp_path), "train", streaming=streaming, columns={"concepts": "breed"})
    (tmp_path / "cat" / "9.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"row 2: .*9\.png cannot be read"):
        list(load_hub_dataset(str(tmp_path), "train", streaming=streaming, columns=columns))
    with pytest.warns(UserWarning, match=r"(?s)skipped 1 .*row 2: .*9\.png cannot be read"):
        skipped = list(load_hub_dataset(str(tmp_path), "train", streaming=streaming, columns=columns, on_error="skip"))
    assert len(skipped) == 4


def test_unlabelled_rows_of_a_labelled_set(tmp_path):
    features = datasets.Features({"img": datasets.Image(), "fine": datasets.ClassLabel(names=["cat", "dog"])})
    pictures = [Image.new("RGB", (8, 8))] * 2
    datasets.Dataset.from_dict({"img": pictures, "fine": [1, -1]}, features=features).to_parquet(tmp_path / "x.parquet")
    loaded = load_hub_dataset(str(tmp_path), "train", columns={"image": "img", "labels": "fine"})
    assert loaded["concepts"][:] == [["dog"], []] and loaded["task"][:] == ["concepts", "reconstruction"]
