"""A sample of the rows of each part of a recipe, opened as training would open them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import datasets
import pyarrow.parquet

from training.data.concept_bank import check_names
from training.data.mixture import MapDataset
from training.data.skipped_rows import without_details
from training.data.sources import Needs, named_parts, part_entries, stream_part

from .named_files import NamedFile, named_files

_PLACES = 16  # of a part that its sample comes from: files are often sorted


@dataclass
class Labels:
    """The names of concepts in good rows and in those that have others than the concept bank.

    Attributes:
        rows: that were looked at, `named` of them with a name.
        names: name -> rows.
    """

    rows: int = 0
    named: int = 0
    names: Counter = field(default_factory=Counter)

    def add(self, names: list[str]) -> None:
        self.rows, self.named = self.rows + 1, self.named + bool(names)
        self.names.update(set(names))


@dataclass
class PartSample:
    """What is seen of a part.

    Attributes:
        name: what it is called.
        part: as the recipe has it.
        files: those that it names.
        rows: the number of its rows, good and bad; None where counting would mean to read all.
        looked_at: rows of the sample, which were opened.
        looked_up: rows whose texts were read, and the places of whose pictures were looked for, without opening them.
        bad: reason -> rows, of those looked up and of those opened.
        good: task and messages of the sample's good rows, without their pictures.
        labels: of the rows looked up, or, where none are, of those opened; None unless rows train a SeTok.
        sizes: (width, height) of the good rows' first pictures.
        example: the first of them, with pictures.
        problem: why nothing could be read.
    """

    name: str
    part: dict
    files: list[NamedFile]
    rows: int | None = None
    looked_at: int = 0
    looked_up: int = 0
    bad: Counter = field(default_factory=Counter)
    good: list[dict] = field(default_factory=list)
    labels: Labels | None = None
    sizes: list[tuple[int, int]] = field(default_factory=list)
    example: dict | None = None
    problem: str | None = None

    @property
    def missing(self) -> list[str]:
        return [file.name for file in self.files if not file.found]

    @property
    def weight(self) -> float:
        return float(self.part.get("weight", 1))


def sample_parts(
    mixture: list[dict],
    sample_rows: int,
    needs: Needs = "answer",
    split: str = "train",
    bank: frozenset[str] | None = None,
) -> list[PartSample]:
    """Of each part at most `sample_rows` rows, and no more pictures than theirs are opened.

    Args:
        needs, split: as for `load_part`.
        bank: rows with another name are bad; None lets all pass.
    """
    samples = []
    for name, part in named_parts(mixture).items():
        sample = PartSample(name, part, named_files(part))
        samples.append(sample)
        if not sample.missing:
            try:
                _look(sample, sample_rows, needs, split, bank)
            except ValueError as error:
                sample.problem = str(error)
    return samples


def sample_scenes(name: str, scenes: MapDataset, sample_rows: int) -> PartSample:
    """Of scenes that are drawn on demand, for a SeTok; as many as they are is their weight."""
    sample = PartSample(name, {"dataset": name, "weight": len(scenes)}, [], rows=len(scenes), labels=Labels())
    for number in range(min(sample_rows, len(scenes))):
        sample.looked_at += 1
        row = scenes[number]
        sample.labels.add(row["concepts"])
        _keep(sample, row)
    return sample


def _look(sample: PartSample, sample_rows: int, needs: Needs, split: str, bank: frozenset[str] | None) -> None:
    stream = stream_part(sample.part, split, needs)
    entries = part_entries(sample.part, split, needs)
    sample.labels = Labels() if needs == "picture" else None
    if entries is None:
        sample.rows = _rows_of_parquet(sample.files)
    else:
        sample.rows = sample.looked_up = len(entries)
        problems = entries.data.column("problem").drop_null().to_pylist()
        sample.bad.update(map(without_details, problems))
        if sample.labels is not None:
            _look_up_names(sample, entries, bank)
    for lazy in _spread(stream.rows, sample_rows):
        sample.looked_at += 1
        try:
            row = stream.open(lazy)
        except ValueError as error:
            if entries is None or (lazy["problem"] is None and not _unknown(lazy["concepts"], bank)):  # else it was
                sample.bad[without_details(str(error))] += 1  # counted above
            continue
        if entries is None and sample.labels is not None:
            _count_names(sample, row["concepts"], bank)
        if not _unknown(row["concepts"], bank):
            _keep(sample, row)
    if not sample.good:
        sample.problem = f"none of {sample.looked_at} rows is good"
    elif split == "train" and sample.bad and stream.on_error == "raise":  # of others only the first rows are read
        sample.problem = "has bad rows, at which training stops: repair them, or set on_error: skip"


def _keep(sample: PartSample, row: dict) -> None:
    sample.example = sample.example or row
    sample.good.append({"task": row["task"], "messages": row["messages"]})
    sample.sizes += [picture.size for picture in row["images"][:1]]


def _look_up_names(sample: PartSample, entries: datasets.Dataset, bank: frozenset[str] | None) -> None:
    for batch in entries.data.select(["concepts", "problem"]).to_batches():
        for names, problem in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if problem is None:
                _count_names(sample, names, bank)


def _count_names(sample: PartSample, names: list[str] | None, bank: frozenset[str] | None) -> None:
    sample.labels.add(names or [])
    if reason := _unknown(names, bank):
        sample.bad[without_details(reason)] += 1


def _unknown(names: list[str] | None, bank: frozenset[str] | None) -> str | None:
    """What is wrong with a row's names."""
    if bank is not None:
        try:
            check_names(names or (), bank)
        except ValueError as error:
            return str(error)
    return None


def _spread(rows: datasets.IterableDataset, number: int) -> Iterator[dict]:
    """Some rows, from several places of a stream."""
    places = min(_PLACES, rows.num_shards, number)
    ends = [number * place // places for place in range(places + 1)]
    for place in range(places):
        yield from islice(rows.shard(places, place), ends[place + 1] - ends[place])


def _rows_of_parquet(files: list[NamedFile]) -> int | None:
    """Told by the files' last lines; None for other files and for none."""
    paths = [path for file in files for path in file.found]
    if not paths or any(Path(path).suffix != ".parquet" for path in paths):
        return None
    try:
        return sum(pyarrow.parquet.read_metadata(path).num_rows for path in paths)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"a file is no Parquet: {error}") from error
