"""Folders that img2dataset wrote: pictures with a text beside each."""

import json

import pytest
from PIL import Image

from tests.reader_testing import read_entries
from training.data import schema
from training.data.readers.captioned_folder import read_captioned_folder

CAPTIONS = {"00000/000000000": "a red square", "00000/000000012": "Two squares.\n", "00001/000010003": "another"}


def write(root):
    """As img2dataset does with `output_format` "files"."""
    for key, caption in CAPTIONS.items():
        (root / key).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), "red").save(root / f"{key}.jpg")
        (root / f"{key}.txt").write_text(caption)
        (root / f"{key}.json").write_text(json.dumps({"caption": caption, "key": key[6:], "status": "success"}))
    (root / "00000.parquet").touch()
    return str(root)


def test_each_picture_with_its_caption(tmp_path):
    rows, problems = read_entries(read_captioned_folder, folder=write(tmp_path))
    asked = [schema.image(), schema.text("Describe the picture.")]
    assert not problems and rows == [
        schema.row("caption", images=[f"{tmp_path}/{key}.jpg"], messages=schema.exchange(asked, [schema.text(caption)]))
        for key, caption in zip(CAPTIONS, ("a red square", "Two squares.", "another"), strict=True)
    ]


def test_captions_to_draw(tmp_path):
    rows, _ = read_entries(read_captioned_folder, folder=write(tmp_path), task="text_to_image")
    assert [row["task"] for row in rows] == ["text_to_image"] * 3
    assert rows[1]["messages"] == schema.exchange([schema.text("Draw: Two squares.")], [schema.image()])


def test_what_is_wrong_is_named(tmp_path):
    folder = write(tmp_path)
    (tmp_path / "00000" / "000000000.txt").unlink()
    (tmp_path / "00000" / "000000012.txt").write_bytes(b"\xff")
    rows, problems = read_entries(read_captioned_folder, folder=folder)
    assert len(rows) == 1 and len(problems) == 2
    assert problems[0].startswith("00000/000000000.jpg: the caption") and "No such file" in problems[0]
    assert problems[1].startswith("00000/000000012.jpg: the caption") and "can't decode" in problems[1]
    with pytest.raises(ValueError, match="task must be one of caption, text_to_image"):
        list(read_captioned_folder(folder, "concepts"))
    with pytest.raises(ValueError, match="holds no pictures"):
        list(read_captioned_folder(tmp_path / "nowhere"))
