"""EmojiScenes as a dataset: map-style, materialised and streaming, with the same rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import datasets

from ..schema import FEATURES
from .scenes import SPLITS, Scene, SceneConfig, make_scene, scene_rng
from .tasks import TASKS, Draw
from .wordings import reword_requests

_CHUNK = 1024  # rows held as pictures at a time while materialising


@dataclass(frozen=True)
class EmojiScenes:
    """A map-style dataset (`len`, `[index]`) whose rows are made on demand; use it as it is in a PyTorch DataLoader.

    Row i is about scene i; its task is `tasks[i % len(tasks)]`, so a task given twice gets twice the rows.

    Args:
        split: "train", "validation" or "test": disjoint streams. In "train" no `is_held_out_pair` occurs,
            and requests come in many `wordings`.
        num_scenes: the number of scenes and of rows.
        config: what the scenes look like.
        tasks: names in `tasks.TASKS`: "concepts", "caption", "question", "text_to_image", "edit", "referring",
            "two_images", "text_only", "conversation", "presence", "outlines".
        seed: another seed, other scenes.

    Raises:
        ValueError: for an unknown split or task, no task, or a number out of range.
    """

    split: str
    num_scenes: int
    config: SceneConfig = SceneConfig()
    tasks: Sequence[str] = ("concepts",)
    seed: int = 0

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ValueError(f"unknown split {self.split!r}; choose one of {', '.join(SPLITS)}")
        if self.num_scenes < 1 or self.seed < 0:
            raise ValueError(f"needed: num_scenes >= 1 and seed >= 0, got {self.num_scenes} and {self.seed}")
        if isinstance(self.tasks, str) or not self.tasks or not set(self.tasks) <= set(TASKS):
            raise ValueError(f"tasks must be a sequence of some of {', '.join(TASKS)}; got {self.tasks!r}")

    def __len__(self) -> int:
        return self.num_scenes

    def scene(self, index: int) -> Scene:
        """The scene of a row as arrays: image, masks, boxes, layout."""
        return make_scene(self.split, self._checked(index), self.config, self.seed)

    def __getitem__(self, index: int) -> dict:
        """A row of `schema.FEATURES` with PIL pictures."""
        index = self._checked(index)
        task = self.tasks[index % len(self.tasks)]
        draw = Draw(scene_rng(self.split, index, self.seed, task), self.config, self.split != "train")
        row = TASKS[task](self.scene(index), draw)
        if self.split == "train":
            reword_requests(row, scene_rng(self.split, index, self.seed, stream="wordings"))
        return row

    def __iter__(self) -> Iterator[dict]:
        return map(self.__getitem__, range(self.num_scenes))

    def to_dataset(self) -> datasets.Dataset:
        """All rows in memory as a `datasets.Dataset` (pictures as PNG); `save_to_disk` keeps it."""
        chunks = [
            datasets.Dataset.from_list(
                [self[i] for i in range(start, min(start + _CHUNK, self.num_scenes))], features=FEATURES
            )
            for start in range(0, self.num_scenes, _CHUNK)
        ]
        return datasets.concatenate_datasets(chunks)

    def to_iterable_dataset(self, num_shards: int = 1) -> datasets.IterableDataset:
        """The rows as a stream, in order; up to `num_shards` workers or processes share the work."""
        if num_shards < 1:
            raise ValueError(f"num_shards must be at least 1, got {num_shards}")
        bounds = [self.num_scenes * i // num_shards for i in range(num_shards + 1)]
        shards = [range(*pair) for pair in zip(bounds[:-1], bounds[1:], strict=True)]
        return datasets.IterableDataset.from_generator(
            _stream, features=FEATURES, gen_kwargs={"scenes": self, "shards": shards}
        )

    def _checked(self, index: int) -> int:
        if not -self.num_scenes <= index < self.num_scenes:
            raise IndexError(f"row {index} of {self.num_scenes}")
        return int(index) % self.num_scenes


def _stream(scenes: EmojiScenes, shards: list[range]) -> Iterator[dict]:
    for shard in shards:
        for index in shard:
            yield scenes[index]
