"""Good content for each reader, in folders that also hold what no reader should read."""

import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from tests.reader_releases import (
    AOKVQA,
    GQA,
    OKVQA_ANNOTATIONS,
    SA_1B,
    VG_PICTURES,
    VG_QUESTIONS,
    VG_REGIONS,
    VQA_QUESTIONS,
    VQAV2_ANNOTATIONS,
    write_released_pictures,
)
from training.data import (
    FEATURES,
    load_coco,
    load_coco_captions,
    load_image_folder_json,
    load_refcoco,
)
from training.data.entries.entry import Reader, as_stream, keep_entries, load_entries
from training.data.entries.opening import open_row
from training.data.entries.rows import Needs
from training.data.readers.aokvqa import read_aokvqa
from training.data.readers.gqa import read_gqa
from training.data.readers.llava import read_llava
from training.data.readers.sa_1b import read_sa_1b
from training.data.readers.visual_genome import (
    read_visual_genome_captions,
    read_visual_genome_questions,
    read_visual_genome_regions,
)
from training.data.readers.vqa import read_ok_vqa, read_vqa_v2

SIZE = (20, 10)  # width, height


def talk(*turns: object, roles=("user", "assistant"), keys=("role", "content")) -> list[dict]:
    return [{keys[0]: roles[i % 2], keys[1]: turn} for i, turn in enumerate(turns)]


def llava(*turns: str) -> list[dict]:
    return talk(*turns, roles=("human", "gpt"), keys=("from", "value"))


def part(kind: str, text: str | None = None) -> dict:
    return {"type": kind, "text": text}


ROWS = {
    "own": [
        {
            "images": ["red.png"], "masks": ["mask.png"], "concepts": [], "task": "referring", "question_type": None,
            "messages": talk([part("image"), part("text", "Segment it.")], [part("text", "Here: "), part("mask")]),
        },
        {
            "images": ["red.png", "noise.jpg"], "task": "edit",
            "messages": talk([part("image"), part("text", "Make it blue.")], [part("image")]),
        },
        {
            "images": ["red.png"], "masks": ["mask.png", "other_mask.png"], "concepts": ["dog", "cat"],
            "messages": talk("<image> What is it?", "A dog and a cat."),
        },
        {"messages": [{"role": "system", "content": "Be brief."}, *talk("Hi", "Hello", "And?", "Bye")]},
    ],
    "llava": [
        {"id": 1, "image": "red.png", "conversations": llava("<image>\nWhat is it?", "Red.", "Really?", "Yes.")},
        {"image": ["red.png", "noise.jpg"], "conversations": llava("First <image>, then <image>", "Yes.")},
        {"conversations": llava("Hello", "Hi")},
    ],
    "captions": [{"image": "red.png", "caption": "A red picture."}, {"image": "noise.jpg", "caption": "Noise."}],
    "labels": [
        {"image": "red.png", "labels": ["dog", "cat"]},
        {"image": "red.png", "concepts": ["dog"], "masks": ["mask.png"]},
        {"image": "noise.jpg"},
        {"image": "red.png", "label": "dog", "task": "text_to_image"},
    ],
    "edits": [{"image": "red.png", "instruction": "Make it noisy.", "edited_image": "noise.jpg"}],
    "alpaca": [
        {"instruction": "Add.", "input": "1, 2", "output": "3"},
        {"instruction": "Say hello.", "input": "", "output": "Hello."},
    ],
    "documents": [{"text": "A page.\n\nOf two paragraphs.", "meta": {"redpajama_set_name": "RedPajamaC4"}}],
}  # fmt: skip

SQUARE = [[2, 3, 6, 3, 6, 7, 2, 7]]
RUNS = {"size": [10, 20], "counts": [0, 10, 190]}
COMPRESSED = {"size": [10, 20], "counts": "0:n5"}
PICTURES = [
    {"id": 1, "file_name": "red.png", "width": 20, "height": 10},
    {"id": 2, "file_name": "grey.png", "width": 20, "height": 10},
]
INSTANCES = {
    "images": PICTURES,
    "categories": [{"id": 5, "name": "dog"}, {"id": 9, "name": "traffic light"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 5, "segmentation": SQUARE, "iscrowd": 0, "area": 16.0},
        {"id": 2, "image_id": 1, "category_id": 5, "segmentation": RUNS, "iscrowd": 1},
        {"id": 3, "image_id": 2, "category_id": 9, "segmentation": COMPRESSED},
    ],
}
# LVIS: as COCO, with other keys beside
LVIS = {
    "images": [{**picture, "neg_category_ids": [5], "not_exhaustive_category_ids": []} for picture in PICTURES],
    "categories": [
        {"id": 5, "name": "dog", "synset": "dog.n.01", "frequency": "f", "synonyms": ["dog"], "def": "an animal"},
        {"id": 9, "name": "bow_(weapon)", "synset": "bow.n.04", "frequency": "r", "synonyms": ["bow"], "def": "bow"},
    ],
    "annotations": [{**record, "bbox": [2, 3, 4, 4]} for record in INSTANCES["annotations"]],
}  # fmt: skip
CAPTIONS = {
    "images": PICTURES,
    "annotations": [
        {"id": 1, "image_id": 1, "caption": "A dog \n sits."},
        {"id": 2, "image_id": 2, "caption": "Two."},
    ],
}
REFERENCES = [
    {"ann_id": 3, "split": "train", "sentences": [{"sent": "light top right"}, {"sent": "the light."}]},
    {"ann_id": 1, "split": "val", "sentences": [{"sent": "left dog", "tokens": ["left", "dog"]}]},
]


def write_pictures(root: Path) -> Path:
    """`root/data/images` with good pictures and bad ones, and one outside of it."""
    folder = root / "data" / "images"
    folder.mkdir(parents=True)
    Image.new("RGB", SIZE, "red").save(folder / "red.png")
    Image.new("L", SIZE, 90).save(folder / "grey.png")
    Image.new("L", SIZE, 255).save(folder / "mask.png")
    Image.fromarray(np.eye(*SIZE[::-1], dtype=np.uint8) * 255).save(folder / "other_mask.png")
    Image.effect_noise((64, 64), 90).convert("RGB").save(folder / "noise.jpg")
    (folder / "short.png").write_bytes((folder / "red.png").read_bytes()[:50])
    (folder / "text.png").write_text("no picture")
    Image.new("RGB", SIZE).save(root / "outside.png")
    (folder / "link.png").symlink_to(root / "outside.png")
    write_released_pictures(folder)
    return root


def load_rows(root: Path, content: object, on_error: str):
    _write(root / "data", "data.json", content)
    return load_image_folder_json(root / "data", on_error)


def load_llava(root: Path, content: object, on_error: str):
    arguments = {"file": _write(root, "chat.json", content), "images": root / "data" / "images"}
    return load_entries(read_llava, "chat.json", on_error, **arguments)


def load_instances(root: Path, content: object, on_error: str):
    return load_coco(_write(root, "instances.json", content), root / "data" / "images", on_error=on_error)


def load_captions(root: Path, content: object, on_error: str):
    return load_coco_captions(_write(root, "captions.json", content), root / "data" / "images", on_error)


def load_references(root: Path, content: object, on_error: str):
    """Of references and objects."""
    refs, objects = content if isinstance(content, list) and len(content) == 2 else (content, INSTANCES)
    files = (_write(root, "refs.json", refs), _write(root, "instances.json", objects))
    return load_refcoco(*files, root / "data" / "images", on_error=on_error)


def load_released(reader: Reader, arguments: dict[str, object], root: Path, content: object, on_error: str):
    """Of the files that are arguments of a reader: the first has this content, or all have, as a list, if there are
    several; else they have the content given here."""
    whole = isinstance(content, list) and len(content) == len(arguments) > 1
    contents = dict(zip(arguments, content if whole else [content, *list(arguments.values())[1:]], strict=True))
    files = {name: _write(root, f"{name}.json", value) for name, value in contents.items()}
    return load_entries(reader, str(next(iter(files.values()))), on_error, **files, images=root / "data" / "images")


def load_sa_1b(root: Path, content: object, on_error: str):
    folder = root / "data" / "images" / "sa_000000"
    _write(folder, "sa_1.json", content)
    return load_entries(read_sa_1b, str(folder / "sa_1.json"), on_error, "answer", folder=folder, min_area=0.05)


def read_both(reader: Reader, needs: Needs | None = "answer", **arguments) -> tuple[list[dict], list[str]]:
    """The good rows of a reader as a stream has them, pictures as paths; what is wrong with the others, and where. All
    that is loaded at once is the same, but for masks, which a stream draws later."""
    stream = list(as_stream(keep_entries(reader, needs=needs, **arguments)))
    problems = [f"{row['origin']}: {row['problem']}" for row in stream if row["problem"] is not None]
    rows = [row for row in stream if row["problem"] is None]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loaded = load_entries(reader, "the data", "skip", needs=needs, **arguments)
    assert "\n".join(str(warning.message) for warning in told).split("\n  ")[1:] == problems
    for row, lazy in zip(loaded, rows, strict=True):
        assert all(row[key] == lazy[key] for key in FEATURES if key not in ("images", "masks"))
        assert [np.array(mask).tolist() for mask in row["masks"]] == [
            np.array(mask).tolist() for mask in open_row(lazy)["masks"]
        ]
        lazy["images"] = [picture["path"] for picture in lazy["images"]]
        assert [picture.filename for picture in row["images"]] == lazy["images"]
    return rows, problems


def read_entries(reader: Reader, needs: Needs | None = None, **arguments) -> tuple[list[dict], list[str]]:
    """The same, with the columns of the schema alone."""
    rows, problems = read_both(reader, needs, **arguments)
    return [{key: row[key] for key in FEATURES} for row in rows], problems


def turns_of(row: dict) -> list[str | None]:
    """What is said, turn by turn; the picture stands before all of it, and a mask is None."""
    contents = [turn["content"] for turn in row["messages"]]
    assert contents[0].pop(0)["type"] == "image"
    assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"] * (len(contents) // 2)
    return [part["text"] for (part,) in contents]


def _write(root: Path, name: str, content: object) -> Path:
    """Writes content as JSON, or bytes as they are."""
    (root / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return root / name


RELEASES = {
    "vqa_v2": (read_vqa_v2, {"questions": VQA_QUESTIONS, "annotations": VQAV2_ANNOTATIONS}),
    "ok_vqa": (read_ok_vqa, {"questions": VQA_QUESTIONS, "annotations": OKVQA_ANNOTATIONS}),
    "aokvqa": (read_aokvqa, {"questions": AOKVQA}),
    "gqa": (read_gqa, {"questions": GQA}),
    "visual_genome_regions": (read_visual_genome_regions, {"regions": VG_REGIONS, "image_data": VG_PICTURES}),
    "visual_genome_captions": (read_visual_genome_captions, {"regions": VG_REGIONS, "image_data": VG_PICTURES}),
    "visual_genome_questions": (read_visual_genome_questions, {"questions": VG_QUESTIONS, "image_data": VG_PICTURES}),
}


def _released(reader: Reader, arguments: dict[str, object]) -> tuple[Callable, object, list[str]]:
    contents = list(arguments.values())
    good = contents if len(contents) > 1 else contents[0]
    return partial(load_released, reader, arguments), good, [f"{name}.json" for name in arguments]


# Name of a format -> how it is read, good content, and the files of which a refusal names one
FORMATS = {
    **{name: (load_rows, rows, ["data.json"]) for name, rows in ROWS.items()},
    "released llava": (load_llava, ROWS["llava"], ["chat.json"]),
    "coco": (load_instances, INSTANCES, ["instances.json"]),
    "lvis": (load_instances, LVIS, ["instances.json"]),
    "coco captions": (load_captions, CAPTIONS, ["captions.json"]),
    "refcoco": (load_references, [REFERENCES, INSTANCES], ["refs.json", "instances.json"]),
    **{name: _released(*of) for name, of in RELEASES.items()},
    "sa_1b": (load_sa_1b, SA_1B, ["sa_1.json"]),
}
SEVERAL = {name for name, (_, good, files) in FORMATS.items() if len(files) > 1}
"""Formats of several files, of which the content is a list."""
