"""Readers of other people's files: of each data set those that were released, as they were.

Each is a function from files to entries (see `entries/`), and `READERS` tells by what name a recipe asks for it. Tables
and tar files come through `datasets` (`hub.py`).
"""

from ..entries import Reader
from .alpaca import read_alpaca
from .aokvqa import read_aokvqa
from .captioned_folder import read_captioned_folder
from .coco import CocoMasks, load_coco, load_coco_captions, load_refcoco, read_coco, read_coco_captions, read_refcoco
from .easy_vqa import easy_vqa_folder, load_easy_vqa, read_easy_vqa
from .gqa import read_gqa
from .hub import load_hub_dataset, stream_hub_dataset
from .image_folders import (
    load_image_folder,
    load_image_folder_json,
    pictures_in,
    read_image_folder,
    read_image_folder_json,
)
from .imagenet import read_imagenet
from .llava import read_llava
from .open_images import read_open_images
from .sa_1b import read_sa_1b
from .text_files import read_text_files
from .visual_genome import read_visual_genome_captions, read_visual_genome_questions, read_visual_genome_regions
from .vqa import read_ok_vqa, read_vqa_v2

__all__ = [
    "READERS",
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
    "stream_hub_dataset",
]

READERS: dict[str, Reader] = {
    "alpaca": read_alpaca,
    "aokvqa": read_aokvqa,
    "captioned_folder": read_captioned_folder,
    "coco": read_coco,
    "coco_captions": read_coco_captions,
    "easy_vqa": read_easy_vqa,
    "folder": read_image_folder_json,
    "gqa": read_gqa,
    "imagenet": read_imagenet,
    "llava": read_llava,
    "ok_vqa": read_ok_vqa,
    "open_images": read_open_images,
    "pictures": read_image_folder,
    "refcoco": read_refcoco,
    "sa_1b": read_sa_1b,
    "text_files": read_text_files,
    "visual_genome_captions": read_visual_genome_captions,
    "visual_genome_questions": read_visual_genome_questions,
    "visual_genome_regions": read_visual_genome_regions,
    "vqa_v2": read_vqa_v2,
}
