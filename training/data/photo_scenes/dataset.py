"""PhotoScenes as a dataset, with the interface of EmojiScenes."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from .. import schema
from ..emoji_scenes.scenes import SPLITS
from ..emoji_scenes.tasks import mask_picture
from ..scene_rows import SceneRows
from .folder import photo_concept_names
from .scenes import PhotoScene, PhotoSceneConfig, make_photo_scene

TASKS = ("concepts",)


@dataclass(frozen=True)
class PhotoScenes(SceneRows):
    """A map-style dataset (`len`, `[index]`) whose rows are made on demand; use it as it is in a PyTorch DataLoader.

    Args:
        split: "train", "validation" or "test", of which no two share an object or a ground.
        num_scenes: the number of scenes and of rows.
        config: what the scenes look like, and the folder of their pictures.
        tasks: ("concepts",): a picture with the name and the mask of each object.
        seed: another seed, other scenes.

    Raises:
        FileNotFoundError: the folder is not there yet; the message names the command that makes it.
        ValueError: for an unknown split or task, a number out of range, or a damaged folder.
    """

    split: str
    num_scenes: int
    config: PhotoSceneConfig = PhotoSceneConfig()
    tasks: Sequence[str] = TASKS
    seed: int = 0

    def __post_init__(self):
        self.check(SPLITS, TASKS)
        photo_concept_names(self.split, self.config.folder)  # raises where the folder is not there

    def scene(self, index: int) -> PhotoScene:
        """The scene of a row as arrays: image, masks, boxes."""
        return make_photo_scene(self.split, self.checked(index), self.config, self.seed)

    def __getitem__(self, index: int) -> dict:
        """A row of `schema.FEATURES` with PIL pictures."""
        scene = self.scene(index)
        masks = [mask_picture(mask) for mask in scene.masks]
        return schema.row("concepts", images=[Image.fromarray(scene.image)], masks=masks, concepts=scene.names)
