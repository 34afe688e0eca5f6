"""Streams of rows: data that no process could hold, mixed by weight, each row read by one worker of one process.

Who reads is a consumer: of P processes with W workers each there are P * W. A consumer reads its own shards (where a
part has fewer shards than there are consumers: every so-manieth row), in blocks of `shuffle_buffer` rows that are
shuffled in memory, and opens a row's pictures when its turn comes. A part begins again when it is at its end, with its
shards in another order; so each pass has every row once. All that is random follows from the seed, the consumer, and
how far it is: a state is a few numbers, and who goes on from it meets the same rows.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import datasets
import numpy as np
from datasets.distributed import split_dataset_by_node

from .entries.bad_rows import OnError
from .row_lengths import RowLengths
from .skipped_rows import SkippedRows

_DRAWN = 4096  # parts that are drawn together
_BAD_PASSES = 5  # through a part without a good row, before it is given up
_PASSES = 1_000_000  # more than any part is read, so that two seeds have no order of shards in common


@dataclass(frozen=True)
class StreamPart:
    """A part of a mixture of streams.

    Args:
        rows: of `schema.LAZY_FEATURES`, or what `open` takes.
        open: makes of each a row of `schema.FEATURES` with PIL pictures; a ValueError says what is wrong with it.
        weight: its share of the rows, relative to the others'.
        on_error: what becomes of rows that cannot be opened: "raise", or "skip", which notes them.
    """

    rows: datasets.IterableDataset
    open: Callable[[dict], dict]
    weight: float = 1.0
    on_error: OnError = "raise"


@dataclass(frozen=True)
class RowStream:
    """Rows of several streams without end; `consumer` gives those of one of its readers.

    Args:
        parts: by name.
        seed: another seed, another order.
        shuffle_buffer: rows that are shuffled together, unopened; 1 keeps the order of the files.
        lengths: what is too long, and what becomes of it.
        skipped: takes note of the rows that were left out or cut.

    Raises:
        ValueError: without parts, for a weight or a number out of range.
    """

    parts: Mapping[str, StreamPart]
    seed: int = 0
    shuffle_buffer: int = 1000
    lengths: RowLengths | None = None
    skipped: SkippedRows | None = None

    def __post_init__(self):
        weights = {name: part.weight for name, part in self.parts.items()}
        if not weights or not all(np.isfinite(w) and w >= 0 for w in weights.values()) or not any(weights.values()):
            raise ValueError(f"weights must be numbers of at least 0 and one above 0, got {weights}")
        if self.seed < 0 or self.shuffle_buffer < 1:
            raise ValueError(f"needed: seed >= 0, shuffle_buffer >= 1, got {self.seed} and {self.shuffle_buffer}")

    def consumer(self, index: int, number: int, state: dict | None = None) -> "StreamConsumer":
        """The rows that are for one of a number of consumers, from where it was when it gave this state."""
        return StreamConsumer(self, index, number, state)

    def __iter__(self) -> Iterator[dict]:
        """All rows, as a single consumer reads them."""
        return self.consumer(0, 1)


class StreamConsumer:
    """An iterator, without end, over the rows of a `RowStream` that are for one consumer.

    Raises:
        ValueError: from `next`, for a row that cannot be opened or is too long, where such are to be refused; for a
            part that has no row, or no good one, for this consumer.
    """

    def __init__(self, stream: RowStream, index: int, number: int, state: dict | None):
        self.stream, self.index = stream, index
        state = state or {"drawn": 0, "given": 0, "parts": {}}
        self.parts = {name: part for name, part in stream.parts.items() if part.weight}
        weights = np.array([part.weight for part in self.parts.values()])
        self.names, self.shares = list(self.parts), tuple(weights / weights.sum())
        self.readers = {
            name: _PartReader(name, part.rows, stream, (place, index), number, state["parts"].get(name))
            for place, (name, part) in enumerate(self.parts.items())
        }
        self.drawn, self.given = state["drawn"], 0
        self.rows: list[dict] = []  # of the row that was drawn last: itself, or its pieces that are still to be given
        if state["given"]:
            self._draw()
            self.given, self.rows = state["given"], self.rows[state["given"] :]

    def __iter__(self) -> Iterator[dict]:
        return self

    def __next__(self) -> dict:
        while not self.rows:
            self._draw()
        self.given += 1
        return self.rows.pop(0)

    def state_dict(self) -> dict:
        """Where the consumer is, as JSON can hold it."""
        parts = {name: reader.position for name, reader in self.readers.items()}
        if not self.rows:
            return {"drawn": self.drawn, "given": 0, "parts": parts}
        name, position = self.last  # the row will be drawn again, for the pieces that are left of it
        return {"drawn": self.drawn - 1, "given": self.given, "parts": parts | {name: position}}

    def _draw(self) -> None:
        name = self._next_part()
        part, reader = self.parts[name], self.readers[name]
        self.last = name, reader.position
        self.drawn, self.given, self.rows = self.drawn + 1, 0, []
        lazy = next(reader)
        try:
            row = part.open(lazy)
        except ValueError as error:
            if part.on_error == "raise":
                raise ValueError(f'{name}: {error} (on_error="skip" leaves such rows out)') from error
            self._note(name, lazy, str(error))
            return
        reader.bad_passes = -1  # this one is not
        self.rows = [row]
        if self.stream.lengths is not None:
            self.rows, done = self.stream.lengths.fit(row)
            if done is not None:
                self._note(name, lazy, done)

    def _next_part(self) -> str:
        block, place = divmod(self.drawn, _DRAWN)
        return self.names[_drawn_parts(self.stream.seed, self.index, block, self.shares)[place]]

    def _note(self, name: str, lazy: dict, reason: str) -> None:
        if self.stream.skipped is not None:
            self.stream.skipped.note(name, lazy.get("origin", ""), reason)


class _PartReader:
    """The unopened rows of one part that are for one consumer, without end; `position` is where it stands."""

    def __init__(
        self,
        name: str,
        rows: datasets.IterableDataset,
        stream: RowStream,
        key: tuple[int, int],
        num_consumers: int,
        position: dict | None,
    ):
        self.name, self.stream, self.key, self.num_consumers = name, stream, key, num_consumers
        if rows.num_shards < num_consumers:
            rows = rows.reshard()
        strategy = "shards" if rows.num_shards >= num_consumers else "examples"
        self.rows = split_dataset_by_node(rows, rank=key[1], world_size=num_consumers, strategy=strategy)
        self.position = position or {"pass": 0, "block": 0, "taken": 0, "rows": None}
        self.bad_passes = 0  # that have shown no good row, one after the other
        self._iterator = self._read()

    def __next__(self) -> dict:
        return next(self._iterator)

    def _read(self) -> Iterator[dict]:
        at = self.position
        while True:
            self.rows.set_epoch(self.stream.seed * _PASSES + at["pass"] + 1)
            if at["rows"] is not None:
                self.rows.load_state_dict(at["rows"])
            for block in self.rows.iter(self.stream.shuffle_buffer):
                rows = [dict(zip(block, values, strict=True)) for values in zip(*block.values(), strict=True)]
                after = self.rows.state_dict()
                order = np.random.default_rng((self.stream.seed, *self.key, at["pass"], at["block"])).permutation
                for taken, row in list(enumerate(order(len(rows)).tolist(), 1))[at["taken"] :]:
                    self.position = at | {"taken": taken}
                    yield rows[row]
                at = at | {"block": at["block"] + 1, "taken": 0, "rows": after}
            if at["block"] == 0:
                raise ValueError(
                    f"{self.name} has no row for one of the {self.num_consumers} workers of all processes: lower "
                    "dataloader_num_workers, or give it the weight 0."
                )
            self.bad_passes += 1
            if self.bad_passes == _BAD_PASSES:  # of a small part, each pass may give a worker other rows
                raise ValueError(f"{self.name}: no row is left for one of the workers, all are bad.")
            at = {"pass": at["pass"] + 1, "block": 0, "taken": 0, "rows": None}


@lru_cache(maxsize=8)
def _drawn_parts(seed: int, consumer: int, block: int, shares: tuple[float, ...]) -> list[int]:
    """Which part each of `_DRAWN` rows comes from."""
    return np.random.default_rng((seed, consumer, block)).choice(len(shares), _DRAWN, p=shares).tolist()
