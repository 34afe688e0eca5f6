"""PhotoScenes: photographic cut-outs with exact masks and names, composed from pictures on the user's own machine."""

from .dataset import PhotoScenes
from .folder import photo_concept_names
from .scenes import PhotoScene, PhotoSceneConfig, make_photo_scene

__all__ = ["PhotoScene", "PhotoSceneConfig", "PhotoScenes", "make_photo_scene", "photo_concept_names"]
