"""Readers of other people's files: each gives rows of the one schema, and names what it cannot read.

Each is a function from files to entries (`entries.py`), of which `load_entries` makes a data set, looked at whole, and
`stream_entries` a stream. Tables and tar files come through `datasets` (`hub.py`).
"""

from .bad_rows import OnError
from .coco import CocoMasks, load_coco, load_coco_captions, load_refcoco, read_coco, read_coco_captions, read_refcoco
from .easy_vqa import easy_vqa_folder, load_easy_vqa, read_easy_vqa
from .entries import Reader, as_stream, keep_entries, load_entries, stream_entries
from .hub import load_hub_dataset, stream_hub_dataset
from .image_folders import (
    load_image_folder,
    load_image_folder_json,
    pictures_in,
    read_image_folder,
    read_image_folder_json,
)
from .opening import open_row
from .rows import Needs

__all__ = [
    "CocoMasks",
    "Needs",
    "OnError",
    "Reader",
    "as_stream",
    "easy_vqa_folder",
    "keep_entries",
    "load_coco",
    "load_coco_captions",
    "load_easy_vqa",
    "load_entries",
    "load_hub_dataset",
    "load_image_folder",
    "load_image_folder_json",
    "load_refcoco",
    "open_row",
    "pictures_in",
    "read_coco",
    "read_coco_captions",
    "read_easy_vqa",
    "read_image_folder",
    "read_image_folder_json",
    "read_refcoco",
    "stream_entries",
    "stream_hub_dataset",
]
