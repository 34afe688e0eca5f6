"""EmojiScenes as a dataset."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from ..scene_rows import SceneRows
from .scenes import SPLITS, Scene, SceneConfig, make_scene, scene_rng
from .tasks import TASKS, Draw
from .wordings import reword_requests


@dataclass(frozen=True)
class EmojiScenes(SceneRows):
    """A map-style dataset (`len`, `[index]`) whose rows are made on demand; use it as it is in a PyTorch DataLoader.

    Row i is about scene `i // rows_per_scene`; its task is `tasks[i % len(tasks)]`, so a task given twice gets twice
    the rows.

    Args:
        split: "train", "validation" or "test": disjoint streams. In "train" no `is_held_out_pair` occurs,
            and requests come in many `wordings`.
        num_scenes: the number of scenes.
        config: what the scenes look like.
        tasks: names in `tasks.TASKS`: "concepts", "caption", "question", "text_to_image", "edit", "referring",
            "two_images", "text_only", "conversation", "presence", "outlines", "placement", "relation", "relations",
            "places", "two_captions", "comparisons", "out_of_scope".
        seed: another seed, other scenes.
        rows_per_scene: rows about a scene, one after the other, each with random choices of its own. With more than
            one, a task that needs another scene takes one of those that follow: a picture then costs an encoder once
            for many rows (see `training/token_cache.py`).

    Raises:
        ValueError: for an unknown split or task, no task, or a number out of range.
    """

    split: str
    num_scenes: int
    config: SceneConfig = SceneConfig()
    tasks: Sequence[str] = ("concepts",)
    seed: int = 0
    rows_per_scene: int = 1

    def __post_init__(self):
        self.check(SPLITS, tuple(TASKS))

    def scene(self, index: int) -> Scene:
        """The scene of a row as arrays: image, masks, boxes, layout."""
        return self._scene(self.checked(index) // self.rows_per_scene)

    def __getitem__(self, index: int) -> dict:
        """A row of `schema.FEATURES` with PIL pictures."""
        index = self.checked(index)
        task = self.tasks[index % len(self.tasks)]
        rng = scene_rng(self.split, index, self.seed, task)
        others = self._after(index // self.rows_per_scene) if self.rows_per_scene > 1 else None
        row = TASKS[task](self.scene(index), Draw(rng, self.config, self.split != "train", others))
        if self.split == "train":
            reword_requests(row, scene_rng(self.split, index, self.seed, stream="wordings"))
        return row

    def presence_pair(self, index: int, scene: Scene) -> tuple[str, str]:
        """Names of two objects to ask about, one in the scene of a row and one not, as POPE does; always the same."""
        draw = Draw(scene_rng(self.split, index, self.seed, "presence_evaluation"), self.config, allow_held_out=True)
        return draw.one_of(scene.names), draw.absent_names(scene)[0]

    def _scene(self, number: int) -> Scene:
        return make_scene(self.split, number, self.config, self.seed)

    def _after(self, number: int) -> Iterator[Scene]:
        return (self._scene(following % self.num_scenes) for following in count(number + 1))
