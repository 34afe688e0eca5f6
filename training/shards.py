"""What a frozen model makes of a data set, computed once: a folder of safetensors, each of some rows.

Any number of processes write it, each its shards, and a run that was stopped goes on with those that are missing.
`cache.json` beside them says what their contents follow from, the fingerprint: another one, another cache.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from training.whole_files import written_whole

INDEX = "cache.json"
# Of configurations: where a model comes from and how it runs, not what it computes
OF_NO_RESULT = (
    "_name_or_path", "architectures", "auto_map", "detokenizer_config", "dtype", "transformers_version", "use_cache"
)  # fmt: skip
_OPEN_SHARDS = 4096  # their pages are the system's to keep or drop


@dataclass(frozen=True)
class ShardContents:
    """Of one shard: its tensors, texts for its header, and what the index is to say beside the fingerprint."""

    tensors: dict[str, torch.Tensor]
    header: Mapping[str, str] | None = None
    facts: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Shards:
    """A folder of shards.

    Args:
        folder: where they lie, or will.
        name: of what is kept: the shards of "patches" are `patches-000000.safetensors` and so on, and
            `training/cache_patches.py` writes them.
        rows_per_shard: all but the last one have so many.
        counted: a tensor of each shard that has one entry for each row.
    """

    folder: Path
    name: str
    rows_per_shard: int
    counted: str

    def path(self, shard: int) -> Path:
        return self.folder / f"{self.name}-{shard:06d}.safetensors"

    def number(self, num_rows: int) -> int:
        """How many shards so many rows take."""
        return math.ceil(num_rows / self.rows_per_shard)

    def check(self, num_rows: int, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
        """The index of a cache that has these rows.

        Raises:
            ValueError: there is no cache, it lacks shards, or it is of something else.
        """
        index = self._index(fingerprint)
        total = self.number(num_rows)
        missing = [path.name for path in map(self.path, range(total)) if not path.is_file()]
        if missing:
            raise ValueError(
                f"{self.folder} lacks {len(missing)} of {total} shards, such as {missing[0]}: run {self._command} with "
                "this recipe; it goes on where it stopped."
            )
        return index

    def write(
        self,
        num_rows: int,
        fingerprint: Mapping[str, Any],
        make: Callable[[range], ShardContents],
        process_index: int = 0,
        num_processes: int = 1,
    ) -> None:
        """Writes the shards that are not there yet; of several processes each writes every so-manieth.

        Args:
            num_rows: of the data set.
            fingerprint: a mapping that JSON can hold, of all that the contents follow from.
            make: the contents of the shard of some rows.

        Raises:
            ValueError: the folder holds a cache of something else.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / INDEX).is_file():
            self._index(fingerprint)
        shards = range(process_index, self.number(num_rows), num_processes)
        for shard in tqdm(shards, desc="shards", disable=process_index > 0):
            rows = range(shard * self.rows_per_shard, min((shard + 1) * self.rows_per_shard, num_rows))
            path = self.path(shard)
            if path.is_file() and self._num_rows(path) >= len(rows):
                continue
            contents = make(rows)
            if not (self.folder / INDEX).is_file():  # before any shard, which nobody could tell the origin of
                text = json.dumps({**(contents.facts or {}), **fingerprint}, indent=1)
                with written_whole(self.folder / INDEX) as part:
                    part.write_text(text, encoding="utf-8")
            with written_whole(path) as part:
                save_file(contents.tensors, part, contents.header)

    @property
    def _command(self) -> str:
        return f"training/cache_{self.name}.py"

    def _index(self, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
        try:
            index = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self.folder} holds no cache of {self.name} ({error}): run {self._command} with this recipe first."
            ) from error
        other = [name for name, value in fingerprint.items() if index.get(name) != value]
        if other:
            raise ValueError(
                f"The cache of {self.name} in {self.folder} is of another {' and another '.join(other)} than this "
                f"recipe asks for: choose another folder, or delete this one, and run {self._command} again."
            )
        return index

    def _num_rows(self, path: Path) -> int:
        """Rows of a shard: the last one of a data set may grow with it."""
        with safe_open(path, framework="pt") as shard:
            return shard.get_slice(self.counted).get_shape()[0]


class ShardedRows(ABC):
    """A map-style dataset (`len`, `[index]`) of the first rows of a cache, whose files are mapped, not read whole.

    Args:
        shards: of the cache.
        num_rows: how many rows are used, those of the data set.
        fingerprint: what the cache must be of.

    Raises:
        ValueError: see `Shards.check`.
    """

    def __init__(self, shards: Shards, num_rows: int, fingerprint: Mapping[str, Any]):
        self.shards, self.num_rows = shards, num_rows
        self.index = shards.check(num_rows, fingerprint)

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -self.num_rows <= index < self.num_rows:
            raise IndexError(f"row {index} of {self.num_rows}")
        shard, row = divmod(int(index) % self.num_rows, self.shards.rows_per_shard)
        return self.read(self.shards.path(shard), row)

    @abstractmethod
    def read(self, path: Path, row: int) -> dict[str, Any]:
        """A row of the shard in this file, see `open_shard`."""


def computing_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration, as a mapping, and those in it say of what is computed, for a fingerprint."""
    return {
        name: computing_settings(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in OF_NO_RESULT
    }


@lru_cache(maxsize=_OPEN_SHARDS)
def open_shard(path: Path):
    """A shard as `safe_open` gives it, open from now on."""
    return safe_open(path, framework="pt")
