"""Data sets of the Hub come out in the one schema, at once and as streams."""

import io

import datasets
import pytest
from PIL import Image

from tests.row_testing import plain
from training.data import TASKS, EmojiScenes, load_hub_dataset
from training.data.entries import open_row
from training.data.readers import stream_hub_dataset


def streamed(*arguments, **options) -> list[dict]:
    return [open_row(lazy) for lazy in stream_hub_dataset(*arguments, **options)]


@pytest.mark.parametrize("read", [load_hub_dataset, streamed])
def test_emoji_scenes_through_parquet(tmp_path, read):
    scenes = EmojiScenes("validation", 2 * len(TASKS), tasks=tuple(TASKS))
    scenes.to_dataset().to_parquet(tmp_path / "train.parquet")
    assert [plain(row) for row in read(str(tmp_path), "train")] == [plain(row) for row in scenes]


def test_hub_columns_classes_and_bad_pictures(tmp_path):
    for label, colour in (("cat", "red"), ("dog", "blue")):
        (tmp_path / label).mkdir()
        for i in range(2):
            Image.new("RGB", (8, 8), colour).save(tmp_path / label / f"{i}.png")
    columns = {"concepts": "label"}
    loaded = list(load_hub_dataset(str(tmp_path), "train", columns=columns))
    assert [row["concepts"] for row in loaded] == [["cat"], ["cat"], ["dog"], ["dog"]]
    assert loaded[0]["images"][0].getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(ValueError, match="no column breed; it has image, label"):
        load_hub_dataset(str(tmp_path), "train", columns={"concepts": "breed"})
    (tmp_path / "cat" / "9.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"row 2: .*9\.png cannot be read"):
        load_hub_dataset(str(tmp_path), "train", columns=columns)
    with pytest.warns(UserWarning, match=r"(?s)skipped 1 .*row 2: .*9\.png cannot be read"):
        assert len(load_hub_dataset(str(tmp_path), "train", columns=columns, on_error="skip")) == 4
    with pytest.raises(ValueError, match="cannot be streamed: needed are files of rows"):
        stream_hub_dataset(str(tmp_path), "train")


def test_streams_name_what_they_cannot_read(tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(picture, "PNG")
    good, broken = {"bytes": picture.getvalue(), "path": None}, {"bytes": b"no picture", "path": None}
    features = datasets.Features({"img": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"img": [good, broken, good], "kind": [1, 0, 0]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "0.parquet")
    (tmp_path / "1.parquet").write_bytes(b"no table")
    columns = {"image": "img", "label": "kind"}
    lazy = list(stream_hub_dataset("parquet", "train", data_files=str(tmp_path / "*"), columns=columns))
    assert [row["concepts"] for row in lazy] == [["dog"], ["cat"], ["cat"], []]
    assert open_row(lazy[0])["images"][0].getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(ValueError, match=r"0\.parquet, row 1: picture .*cannot be read"):
        open_row(lazy[1])
    with pytest.raises(ValueError, match=r"1\.parquet, row 0: the file cannot be read further"):
        open_row(lazy[3])
    wrong = next(iter(stream_hub_dataset(str(tmp_path), "train", columns={"image": "jpg"})))
    assert "has no column jpg; it has img, kind" in wrong["problem"]
    with pytest.raises(ValueError, match="no split 'test': choose one of train"):
        stream_hub_dataset(str(tmp_path), "test")
    with pytest.raises(ValueError, match="nowhere"):
        stream_hub_dataset(str(tmp_path / "nowhere"), "train")


def test_unlabelled_rows_of_a_labelled_set(tmp_path):
    features = datasets.Features({"img": datasets.Image(), "fine": datasets.ClassLabel(names=["cat", "dog"])})
    pictures = [Image.new("RGB", (8, 8))] * 2
    datasets.Dataset.from_dict({"img": pictures, "fine": [1, -1]}, features=features).to_parquet(tmp_path / "x.parquet")
    loaded = load_hub_dataset(str(tmp_path), "train", columns={"image": "img", "labels": "fine"})
    assert loaded["concepts"][:] == [["dog"], []] and loaded["task"][:] == ["concepts", "reconstruction"]


def test_a_caption_that_is_missing_is_named(tmp_path):
    rows = {"image": [Image.new("RGB", (8, 8))] * 2, "caption": ["A square.", None]}
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="row 1: the caption must be text, not None"):
        load_hub_dataset(str(tmp_path), "train")
    with pytest.warns(UserWarning, match="skipped 1 bad rows"):
        assert load_hub_dataset(str(tmp_path), "train", on_error="skip")["task"] == ["caption"]


def test_paths_in_a_table_lead_nowhere_else(tmp_path):
    """Who writes a table names no files of the machine that reads it."""
    (tmp_path / "data").mkdir()
    for place in ("outside.png", "data/inside.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / place)
    paths = [{"bytes": None, "path": path} for path in ("inside.png", str(tmp_path / "outside.png"), "../outside.png")]
    table = tmp_path / "data" / "x.json"
    datasets.Dataset.from_dict({"image": [path["path"] for path in paths]}).to_json(table)
    for source in ({"name": str(tmp_path / "data")}, {"name": "json", "data_files": str(table)}):
        with pytest.warns(UserWarning, match="(?s)skipped 2 bad rows.*row 1: .*leads out.*row 2: .*leads out"):
            assert len(load_hub_dataset(**source, split="train", on_error="skip")) == 1
    table.unlink()
    datasets.Dataset.from_dict({"image": paths}).to_parquet(tmp_path / "data" / "x.parquet")
    with pytest.warns(UserWarning, match="(?s)skipped 2 bad rows.*row 1: .*leads out.*row 2: .*leads out"):
        assert len(load_hub_dataset(str(tmp_path / "data"), "train", on_error="skip")) == 1


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match=f"the data set {tmp_path} .* cannot be read"):
        load_hub_dataset(str(tmp_path), "train")
