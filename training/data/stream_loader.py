"""Batches of a stream, made by workers, and exactly where each of them is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .streams import RowStream


class StreamLoader:
    """An iterable, without end, over the batches of one process.

    Workers read, open and collate rows; their batches come in turn. All that is random in a batch follows from the seed
    of the stream, the consumer, and the rows that it has drawn: so a run that goes on meets the same bits.

    Args:
        stream: of the rows.
        collate: from a list of rows to a batch.
        batch_size: rows in a batch.
        process_index, num_processes: of the training.
        num_workers: of this process, and of each other; 0: the process itself reads.
        state: what `state_dict` gave.
        options: further arguments of `torch.utils.data.DataLoader`, such as `pin_memory`.

    Raises:
        ValueError: a state of another number of processes or workers.
    """

    def __init__(
        self,
        stream: RowStream,
        collate: Callable[[list[dict]], dict[str, Any]],
        batch_size: int,
        process_index: int = 0,
        num_processes: int = 1,
        num_workers: int = 0,
        state: dict | None = None,
        **options,
    ):
        self.stream, self.collate, self.batch_size = stream, collate, batch_size
        self.process_index, self.num_processes, self.num_workers = process_index, num_processes, num_workers
        self.options = options
        workers = max(num_workers, 1)
        self.state = state or {"processes": num_processes, "turn": 0, "workers": [None] * workers}
        before = self.state["processes"], len(self.state["workers"])
        if before != (num_processes, workers):
            raise ValueError(
                f"The stream was read by {before[0]} processes of {before[1]} workers, and now there are "
                f"{num_processes} of {workers}: a run goes on with the same numbers (dataloader_num_workers)."
            )

    def state_dict(self) -> dict:
        """Where the stream is after the last batch that was given, as JSON can hold it."""
        return {**self.state, "workers": list(self.state["workers"])}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        batches = _Batches(self.stream, self.batch_size, self.process_index, self.num_processes, self.state_dict())
        loader = DataLoader(
            batches,
            batch_size=None,  # they come as batches
            num_workers=self.num_workers,
            collate_fn=_Collate(self.collate),
            generator=torch.Generator(),  # not that of the training, which is elsewhere when a run goes on
            **self.options,
        )
        for batch, worker, state in loader:
            self.state["workers"][worker] = state
            self.state["turn"] = (worker + 1) % len(self.state["workers"])
            yield batch


@dataclass(eq=False)
class _Batches(IterableDataset):
    """Rows of a batch, what its random numbers follow from, whose it is, and where that worker is after it."""

    stream: RowStream
    batch_size: int
    process_index: int
    num_processes: int
    state: dict

    def __iter__(self) -> Iterator[tuple[list[dict], tuple[int, ...], int, dict]]:
        info = get_worker_info()
        place, number = (info.id, info.num_workers) if info else (0, 1)
        worker = (place + self.state["turn"]) % number  # the first batch comes from place 0
        index = self.process_index * number + worker
        consumer = self.stream.consumer(index, self.num_processes * number, self.state["workers"][worker])
        while True:
            seeds = self.stream.seed, index, consumer.drawn, consumer.given
            yield list(islice(consumer, self.batch_size)), seeds, worker, consumer.state_dict()


@dataclass(frozen=True)
class _Collate:
    collate: Callable[[list[dict]], dict[str, Any]]

    def __call__(self, item: tuple[list[dict], tuple[int, ...], int, dict]) -> tuple[dict[str, Any], int, dict]:
        rows, seeds, worker, state = item
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]))
            return self.collate(rows), worker, state
