"""Readers of other people's files: each gives rows of the one schema, and names what it cannot read."""

from .coco import CocoMasks, load_coco, load_coco_captions, load_refcoco
from .easy_vqa import easy_vqa_folder, load_easy_vqa
from .hub import load_hub_dataset
from .image_folders import load_image_folder, load_image_folder_json, pictures_in

__all__ = [
    "CocoMasks",
    "easy_vqa_folder",
    "load_coco",
    "load_coco_captions",
    "load_easy_vqa",
    "load_hub_dataset",
    "load_image_folder",
    "load_image_folder_json",
    "load_refcoco",
    "pictures_in",
]
