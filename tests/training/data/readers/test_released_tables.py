"""Data sets that come as tables and tar files need the names of their columns alone: each here in the columns and files
of its release, through `datasets` as `load_hub_dataset` goes."""

import io
import json
import tarfile

import datasets
import pytest
from PIL import Image

from training.data import load_hub_dataset, schema
from training.data.entries.rows import to_row


def jpeg(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def rows_of(
    builder: str, files: object, columns: dict | None = None, task: str | None = None, **arguments
) -> list[dict]:
    """Rows of a stream, pictures as bytes."""
    stream = datasets.load_dataset(builder, data_files=files, split="train", streaming=True, **arguments)
    for key, feature in (stream.features or {}).items():  # not known in advance of texts and of lists in JSON
        if isinstance(feature, datasets.Image):
            stream = stream.cast_column(key, datasets.Image(decode=False))
    return [to_row(_renamed(raw, columns or {}), task=task, look=False) for raw in stream]


def _renamed(raw: dict, columns: dict[str, str]) -> dict:
    others = {key: key for key in raw if key not in columns.values()}
    return {key: raw[column] for key, column in (others | columns).items()}


def pictures(row: dict) -> list[bytes]:
    return [picture["bytes"] for picture in row["images"]]


CAPTIONS = [("red", "A red square."), ("blue", "a blue square")]


def details(key: int, caption: str) -> dict:
    """What img2dataset notes of each."""
    return {
        "caption": caption, "url": f"http://a.com/{key}.jpg", "key": f"{key:09}", "status": "success",
        "error_message": None, "width": 8, "height": 8, "original_width": 8, "original_height": 8, "exif": "{}",
    }  # fmt: skip


@pytest.fixture
def shards(tmp_path) -> str:
    """CC3M, CC12M or LAION as img2dataset writes them to tar files, one row in each here, with its tables beside."""
    for shard, (colour, caption) in enumerate(CAPTIONS):
        key = f"{shard:05}0000"
        members = {"jpg": jpeg(colour), "txt": caption.encode(), "json": json.dumps(details(shard, caption)).encode()}
        with tarfile.open(tmp_path / f"{shard:05}.tar", "w") as tar:
            for ending, content in members.items():
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        datasets.Dataset.from_list([details(shard, caption)]).to_parquet(tmp_path / f"{shard:05}.parquet")
    return str(tmp_path / "*.tar")


def test_tar_files_of_img2dataset(shards):
    columns = {"image": "jpg", "caption": "txt"}
    rows = rows_of("webdataset", shards, columns)
    assert [pictures(row) for row in rows] == [[jpeg("red")], [jpeg("blue")]]
    assert [row["messages"][1]["content"] for row in rows] == [[schema.text(caption)] for _, caption in CAPTIONS]
    drawn = rows_of("webdataset", shards, columns, "text_to_image")
    assert [row["messages"] for row in drawn] == [
        schema.exchange([schema.text("Draw: A red square.")], [schema.image()]),
        schema.exchange([schema.text("Draw: a blue square.")], [schema.image()]),
    ]
    loaded = load_hub_dataset("webdataset", "train", data_files=shards, columns=columns)
    assert [row["messages"] for row in loaded] == [row["messages"] for row in rows]


def test_parquet_of_img2dataset(tmp_path):
    """The pictures are bytes; a row that could not be fetched has none."""
    rows = [details(i, caption) | {"jpg": jpeg(colour), "txt": caption} for i, (colour, caption) in enumerate(CAPTIONS)]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "00000.parquet")
    columns = {"image": "jpg", "caption": "txt"}
    read = rows_of("parquet", str(tmp_path / "00000.parquet"), columns)
    assert [pictures(row) for row in read] == [[jpeg("red")], [jpeg("blue")]]
    assert [row["task"] for row in read] == ["caption"] * 2
    failed = details(2, "gone") | {"status": "failed_to_download", "jpg": None, "txt": None}
    datasets.Dataset.from_list([*rows, failed]).to_parquet(tmp_path / "00000.parquet")
    with pytest.warns(UserWarning, match="skipped 1 bad rows"):
        loaded = load_hub_dataset(
            "parquet", "train", data_files=str(tmp_path / "00000.parquet"), columns=columns, on_error="skip"
        )
    assert len(loaded) == 2


EDITS = [
    (
        {"original_prompt": "a square", "original_image": "red", "edit_prompt": "make it blue"},
        {"edited_prompt": "a blue square", "edited_image": "blue"},
        {"image": "original_image", "instruction": "edit_prompt"},
    ),
    (
        {"img_id": "327807", "turn_index": 1, "source_img": "red", "mask_img": "white", "instruction": "make it blue"},
        {"target_img": "blue"},
        {"image": "source_img", "edited_image": "target_img"},
    ),
]


@pytest.mark.parametrize("before, after, columns", EDITS, ids=["InstructPix2Pix", "MagicBrush"])
def test_edits(tmp_path, before, after, columns):
    row = before | after
    of_pictures = [key for key in row if key.endswith(("_image", "_img"))]
    table = datasets.Dataset.from_list([row | {key: {"bytes": jpeg(row[key]), "path": None} for key in of_pictures}])
    for key in of_pictures:
        table = table.cast_column(key, datasets.Image())
    table.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    (read,) = rows_of("parquet", str(tmp_path / "*.parquet"), columns)
    assert pictures(read) == [jpeg("red"), jpeg("blue")] and read["task"] == "edit" and read["masks"] == []
    assert read["messages"] == schema.exchange([schema.image(), schema.text("make it blue")], [schema.image()])
    (loaded,) = load_hub_dataset(str(tmp_path), "train", columns=columns)
    assert loaded["messages"] == read["messages"] and len(loaded["images"]) == 2


def test_class_labels_to_draw(tmp_path):
    """ImageNet of the Hub (ILSVRC/imagenet-1k): numbers of classes with their names."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["tench", "crane"])})
    picture = {"bytes": jpeg("red"), "path": "n02012849_1.JPEG"}
    datasets.Dataset.from_list([{"image": picture, "label": 1}], features).to_parquet(tmp_path / "train.parquet")
    (loaded,) = load_hub_dataset(str(tmp_path), "train")
    assert loaded["task"] == "concepts" and loaded["concepts"] == ["crane"]
    (row,) = [to_row({"image": picture, "label": "crane"}, task="text_to_image")]
    assert row["messages"] == schema.exchange([schema.text("Draw: crane.")], [schema.image()])


def test_alpaca(tmp_path):
    rows = [
        {"instruction": "Give three tips.", "input": "", "output": "1. Eat well."},
        {"instruction": "Name the odd one out.", "input": "Twitter, Telegram", "output": "Telegram"},
    ]
    (tmp_path / "alpaca_data.json").write_text(json.dumps(rows, indent=4))
    read = rows_of("json", str(tmp_path / "alpaca_data.json"))
    assert [(row["task"], row["messages"]) for row in read] == [
        ("conversation", schema.exchange([schema.text(asked)], [schema.text(answer)]))
        for asked, answer in (
            ("Give three tips.", "1. Eat well."),
            ("Name the odd one out.\nTwitter, Telegram", "Telegram"),
        )
    ]


DOCUMENTS = ["A page.\n\nIts second paragraph, with <image> in it.", "Another page."]


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "parquet", "txt"])
def test_documents(tmp_path, form):
    """SlimPajama and any other corpus: a row for each document, all of it to be learned."""
    table = datasets.Dataset.from_list(
        [{"text": text, "meta": {"redpajama_set_name": "RedPajamaCommonCrawl"}} for text in DOCUMENTS]
    )
    file, arguments = str(tmp_path / f"example_train_0.{form}"), {}
    if form == "parquet":
        table.to_parquet(file)
    elif form == "txt":
        arguments, file = {"sample_by": "document"}, str(tmp_path / "*.txt")
        for i, text in enumerate(DOCUMENTS):
            (tmp_path / f"{i}.txt").write_text(text)
    else:
        table.to_json(file, compression="gzip" if form.endswith("gz") else None)
    builder = {"parquet": "parquet", "txt": "text"}.get(form, "json")
    rows = rows_of(builder, file, **arguments)
    assert [row["messages"] for row in rows] == [
        [{"role": "assistant", "content": [schema.text(text)]}] for text in DOCUMENTS
    ]
    assert {row["task"] for row in rows} == {"text_only"} and not any(row["images"] for row in rows)
