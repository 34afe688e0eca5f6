"""EmojiScenes: the small world in which every stage can be trained and measured, drawn from a seed."""

from .dataset import EmojiScenes
from .scenes import Layout, Scene, SceneConfig, is_held_out_pair, make_scene, render
from .sprites import concept_names
from .tasks import TASKS

__all__ = [
    "TASKS",
    "EmojiScenes",
    "Layout",
    "Scene",
    "SceneConfig",
    "concept_names",
    "is_held_out_pair",
    "make_scene",
    "render",
]
