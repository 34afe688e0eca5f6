"""Several datasets as one, by weight."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np


class MapDataset(Protocol):
    """Anything with rows: `EmojiScenes`, a `datasets.Dataset`, another mixture."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...


@dataclass(frozen=True, eq=False)
class Mixture:
    """A map-style dataset (`len`, `[index]`) whose rows are rows of several others; `mix` makes it.

    Args:
        names: what the parts are called.
        parts: the datasets.
        part_of: (num_rows,) which of `parts` each row comes from.
        row_of: (num_rows,) which row of that part it is.
    """

    names: tuple[str, ...]
    parts: tuple[MapDataset, ...]
    part_of: np.ndarray
    row_of: np.ndarray

    def __len__(self) -> int:
        return len(self.part_of)

    def __getitem__(self, index: int) -> dict:
        return self.parts[self.part_of[index]][int(self.row_of[index])]

    def __iter__(self) -> Iterator[dict]:
        return map(self.__getitem__, range(len(self)))

    def keep(self, part: int, rows: Sequence[int]) -> "Mixture":
        """The same mixture with some rows of a part alone, in this order, again and again: no other part changes.

        Raises:
            ValueError: without rows.
        """
        if not len(rows):
            raise ValueError(f"{self.names[part]}: no row is left; give the part the weight 0")
        places = np.flatnonzero(self.part_of == part)
        row_of = self.row_of.copy()
        row_of[places] = np.asarray(rows)[np.arange(len(places)) % len(rows)]
        return replace(self, row_of=row_of)


def mix(parts: Mapping[str, MapDataset], weights: Mapping[str, float], num_rows: int, seed: int = 0) -> Mixture:
    """Mixes map-style datasets by weight. The rows of each part stay in order and start again after its last; so
    shuffle a part that is sorted before mixing it.

    Each part has its share of the rows to within one row, spread evenly: a window of n rows that should have m of a
    part has about m, whatever n, but in irregular order, so that no two parts beat against batch size or world size.

    Streams have no rows to count: mix those with `datasets.interleave_datasets(streams, probabilities, seed)`.

    Args:
        parts: name -> dataset with `len` and `[index]`. All have rows of the same schema.
        weights: name -> share of the rows, at least 0, relative to the sum over all parts.
        num_rows: length of the mixture, any number.
        seed: another seed, another order of the parts. The same arguments give the same mixture.

    Raises:
        ValueError: names that differ, a weight or number out of range, a part that has no rows or is a stream.
    """
    if not parts or set(parts) != set(weights):
        raise ValueError(f"parts and weights must have the same names, got {list(parts)} and {list(weights)}")
    shares = np.array([weights[name] for name in parts], dtype=float)
    if not (np.isfinite(shares).all() and shares.min() >= 0 and shares.sum() > 0):
        raise ValueError(f"weights must be numbers of at least 0 and one above 0, got {dict(weights)}")
    if num_rows < 1 or seed < 0:
        raise ValueError(f"needed: num_rows >= 1 and seed >= 0, got {num_rows} and {seed}")
    if streams := [name for name, part in parts.items() if not hasattr(part, "__len__")]:
        raise ValueError(f"{', '.join(streams)}: a stream has no length; mix with datasets.interleave_datasets instead")
    if empty := [name for name, part in parts.items() if weights[name] and not len(part)]:
        raise ValueError(f"{', '.join(empty)}: a part without rows; give it the weight 0")

    # Rounding the sums, not the counts, makes these add up to num_rows.
    ends = np.round(np.cumsum(shares) / shares.sum() * num_rows).astype(int)
    counts = np.diff(ends, prepend=0)
    part_of = np.repeat(np.arange(len(counts)), counts)
    index = np.concatenate([np.arange(count) for count in counts])
    # Row j of a part's n falls somewhere into the j-th of n equal pieces of the mixture.
    order = np.argsort((index + np.random.default_rng(seed).random(num_rows)) / counts[part_of], kind="stable")
    lengths = np.array([max(len(part), 1) for part in parts.values()])
    return Mixture(tuple(parts), tuple(parts.values()), part_of[order], (index % lengths[part_of])[order])
