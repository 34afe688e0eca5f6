"""What all worlds of scenes share as datasets: map-style, materialised and streaming, with the same rows."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import datasets

from .schema import FEATURES

_CHUNK = 1024  # rows held as pictures at a time while materialising


class SceneRows(ABC):
    """A map-style dataset (`len`, `[index]`) of rows made on demand, in the three forms of a dataset."""

    split: str
    num_scenes: int
    tasks: Sequence[str]
    seed: int
    rows_per_scene: int = 1

    @abstractmethod
    def __getitem__(self, index: int) -> dict:
        """A row of `schema.FEATURES` with PIL pictures."""

    def __len__(self) -> int:
        return self.num_scenes * self.rows_per_scene

    def __iter__(self) -> Iterator[dict]:
        return map(self.__getitem__, range(len(self)))

    def to_dataset(self) -> datasets.Dataset:
        """All rows in memory as a `datasets.Dataset` (pictures as PNG); `save_to_disk` keeps it."""
        chunks = [
            datasets.Dataset.from_list(
                [self[i] for i in range(start, min(start + _CHUNK, len(self)))], features=FEATURES
            )
            for start in range(0, len(self), _CHUNK)
        ]
        return datasets.concatenate_datasets(chunks)

    def to_iterable_dataset(self, num_shards: int = 1) -> datasets.IterableDataset:
        """The rows as a stream, in order; up to `num_shards` workers or processes share the work."""
        if num_shards < 1:
            raise ValueError(f"num_shards must be at least 1, got {num_shards}")
        bounds = [len(self) * i // num_shards for i in range(num_shards + 1)]
        shards = [range(*pair) for pair in zip(bounds[:-1], bounds[1:], strict=True)]
        return datasets.IterableDataset.from_generator(
            _stream, features=FEATURES, gen_kwargs={"scenes": self, "shards": shards}
        )

    def check(self, splits: Sequence[str], tasks: Sequence[str]) -> None:
        """Raises ValueError for a split or a task that is none of these, no task, or a number out of range."""
        if self.split not in splits:
            raise ValueError(f"unknown split {self.split!r}; choose one of {', '.join(splits)}")
        if self.num_scenes < 1 or self.rows_per_scene < 1 or self.seed < 0:
            raise ValueError(
                f"needed: num_scenes >= 1, rows_per_scene >= 1 and seed >= 0, got {self.num_scenes}, "
                f"{self.rows_per_scene} and {self.seed}"
            )
        if isinstance(self.tasks, str) or not self.tasks or not set(self.tasks) <= set(tasks):
            raise ValueError(f"tasks must be a sequence of some of {', '.join(tasks)}; got {self.tasks!r}")

    def checked(self, index: int) -> int:
        """The index of a row, counted from the front."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return int(index) % len(self)


def _stream(scenes: SceneRows, shards: list[range]) -> Iterator[dict]:
    for shard in shards:
        for index in shard:
            yield scenes[index]
