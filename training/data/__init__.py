"""Data for training and measuring: the worlds that are drawn, readers of other data, and the schema of all rows."""

from .emoji_scenes import (
    TASKS,
    EmojiScenes,
    Layout,
    Scene,
    SceneConfig,
    concept_names,
    is_held_out_pair,
    make_scene,
    render,
)
from .mixture import Mixture, mix
from .photo_scenes import PhotoScene, PhotoSceneConfig, PhotoScenes, make_photo_scene, photo_concept_names
from .readers import (
    CocoMasks,
    easy_vqa_folder,
    load_coco,
    load_coco_captions,
    load_easy_vqa,
    load_hub_dataset,
    load_image_folder,
    load_image_folder_json,
    load_refcoco,
    pictures_in,
)
from .schema import FEATURES
from .sprite_worlds import MultiDSprites, SpriteScene, Tetrominoes

__all__ = [
    "FEATURES",
    "TASKS",
    "CocoMasks",
    "EmojiScenes",
    "Layout",
    "Mixture",
    "MultiDSprites",
    "PhotoScene",
    "PhotoSceneConfig",
    "PhotoScenes",
    "Scene",
    "SceneConfig",
    "SpriteScene",
    "Tetrominoes",
    "concept_names",
    "easy_vqa_folder",
    "is_held_out_pair",
    "load_coco",
    "load_coco_captions",
    "load_easy_vqa",
    "load_hub_dataset",
    "load_image_folder",
    "load_image_folder_json",
    "load_refcoco",
    "make_photo_scene",
    "make_scene",
    "mix",
    "photo_concept_names",
    "pictures_in",
    "render",
]
