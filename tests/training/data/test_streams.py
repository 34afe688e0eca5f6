"""Streams read every row once in a pass, whoever shares the work, and go on exactly."""

import json
from collections import Counter
from itertools import islice

import datasets
import pytest

from training.data.skipped_rows import SkippedRows
from training.data.stream_loader import StreamLoader
from training.data.streams import RowStream, StreamPart

NUMBER_OF_ROWS = 60


def numbers(shards: list[range]):
    for shard in shards:
        for number in shard:
            yield {"number": number, "origin": f"row {number}"}


def source(num_shards: int, num_rows: int = NUMBER_OF_ROWS, start: int = 0) -> datasets.IterableDataset:
    bounds = [start + num_rows * i // num_shards for i in range(num_shards + 1)]
    shards = [range(*pair) for pair in zip(bounds[:-1], bounds[1:], strict=True)]
    return datasets.IterableDataset.from_generator(numbers, gen_kwargs={"shards": shards})


def parquet(folder, num_files: int, num_rows: int = NUMBER_OF_ROWS) -> datasets.IterableDataset:
    rows = datasets.Dataset.from_list([{"number": i, "origin": f"row {i}"} for i in range(num_rows)])
    for file in range(num_files):
        rows.shard(num_files, file).to_parquet(folder / f"{file}.parquet", batch_size=4)
    return datasets.load_dataset("parquet", data_files=str(folder / "*.parquet"), split="train", streaming=True)


def open_number(lazy: dict) -> dict:
    if lazy["number"] % 10 == 7:
        raise ValueError(f"{lazy['origin']}: sevens are bad, like {lazy['number']}")
    return {"number": lazy["number"], "messages": []}


def as_it_is(lazy: dict) -> dict:
    return dict(lazy)


def collate(rows: list[dict]) -> dict:
    return {"numbers": [row["number"] for row in rows]}


def first_pass(stream: RowStream, consumer: int, number: int) -> list[int]:
    rows, reader = [], stream.consumer(consumer, number)
    while True:
        row = next(reader)
        if reader.state_dict()["parts"]["a"]["pass"] > 0:
            return rows
        rows.append(row["number"])


@pytest.mark.parametrize("number", [1, 2, 4, 5])
@pytest.mark.parametrize("num_shards", [1, 4, 7])
@pytest.mark.parametrize("buffer", [1, 8, 1000])
def test_each_row_is_read_once_by_one_consumer(number, num_shards, buffer):
    stream = RowStream({"a": StreamPart(source(num_shards), as_it_is)}, seed=3, shuffle_buffer=buffer)
    read = [first_pass(stream, consumer, number) for consumer in range(number)]
    assert sorted(sum(read, [])) == list(range(NUMBER_OF_ROWS)) and all(read)


@pytest.mark.parametrize(("num_files", "number"), [(1, 1), (1, 3), (3, 2), (4, 4)])
def test_files_are_shared_without_loss(tmp_path, num_files, number):
    stream = RowStream({"a": StreamPart(parquet(tmp_path, num_files), as_it_is)}, shuffle_buffer=5)
    read = [first_pass(stream, consumer, number) for consumer in range(number)]
    assert sorted(sum(read, [])) == list(range(NUMBER_OF_ROWS))


def test_the_order_follows_from_the_seed_and_the_pass():
    def order(seed: int, rows: int) -> list[int]:
        stream = RowStream({"a": StreamPart(source(6), as_it_is)}, seed=seed, shuffle_buffer=16)
        return [row["number"] for row in islice(stream.consumer(0, 1), rows)]

    twice = order(0, 2 * NUMBER_OF_ROWS)
    assert twice == order(0, 2 * NUMBER_OF_ROWS)
    assert twice[:NUMBER_OF_ROWS] not in (order(1, NUMBER_OF_ROWS), sorted(twice[:NUMBER_OF_ROWS]))
    assert twice[:NUMBER_OF_ROWS] != twice[NUMBER_OF_ROWS:]
    assert sorted(twice[:NUMBER_OF_ROWS]) == sorted(twice[NUMBER_OF_ROWS:])


def test_parts_have_their_shares():
    parts = {
        "a": StreamPart(source(2), as_it_is, weight=3),
        "b": StreamPart(source(2, start=1000), as_it_is, weight=1),
        "none": StreamPart(source(2, start=2000), as_it_is, weight=0),
    }
    rows = [row["number"] // 1000 for row in islice(RowStream(parts).consumer(0, 1), 4000)]
    assert Counter(rows).keys() == {0, 1} and abs(rows.count(1) - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize("files", [None, 1, 3])
def test_a_state_goes_on_with_the_same_rows(files, tmp_path):
    rows = source(5) if files is None else parquet(tmp_path, files)
    parts = {"a": StreamPart(rows, as_it_is, 2), "b": StreamPart(source(3, 20, 1000), as_it_is)}
    stream = RowStream(parts, seed=1, shuffle_buffer=8)
    reader, states, read = stream.consumer(1, 2), [], []
    for _ in range(100):
        states.append(json.dumps(reader.state_dict()))
        read.append(next(reader)["number"])
    for step in (0, 1, 7, 8, 9, 33, 64, 99):
        again = stream.consumer(1, 2, json.loads(states[step]))
        assert [row["number"] for row in islice(again, 100 - step)] == read[step:]


class _Pieces:
    """In place of `RowLengths`: rows of a multiple of three are three pieces, those of five are left out."""

    def fit(self, row: dict) -> tuple[list[dict], str | None]:
        number = row["number"]
        if number % 5 == 0:
            return [], f"left out for its length of {number} tokens"
        return ([{"number": number + piece / 10} for piece in range(3)], "cut") if number % 3 == 0 else ([row], None)


def test_pieces_of_a_row_are_given_one_by_one(tmp_path):
    skipped = SkippedRows(tmp_path / "skipped.jsonl")
    stream = RowStream({"a": StreamPart(source(1), as_it_is)}, 0, 1, _Pieces(), skipped)
    reader, states, read = stream.consumer(0, 1), [], []
    for _ in range(90):
        states.append(reader.state_dict())
        read.append(next(reader)["number"])
    expected = [[], [1], [2], [3, 3.1, 3.2], [4], [], [6, 6.1, 6.2]]
    assert read[:9] == sum(expected, [])
    for step in range(90):
        assert [row["number"] for row in islice(stream.consumer(0, 1, states[step]), 90 - step)] == read[step:]
    counts = skipped.counts()
    assert counts["a", "left out for its length of … tokens"] == 12  # though the file was read several times
    assert counts["a", "cut"] == 16


def test_bad_rows_stop_the_stream_or_are_noted(tmp_path):
    part = source(4)
    with pytest.raises(ValueError, match=r"a: row \d*7: sevens are bad.*on_error="):
        list(islice(RowStream({"a": StreamPart(part, open_number)}).consumer(0, 1), 60))
    skipped = SkippedRows(tmp_path / "run" / "skipped.jsonl")
    stream = RowStream({"a": StreamPart(part, open_number, on_error="skip")}, skipped=skipped)
    rows = [row["number"] for row in islice(stream.consumer(0, 1), 54)]
    assert sorted(rows) == [n for n in range(60) if n % 10 != 7]
    assert skipped.counts() == {("a", "row …: sevens are bad, like …"): 6}
    assert {json.loads(line)["origin"] for line in skipped.file.read_text().splitlines()} == {
        f"row {n}" for n in range(7, 60, 10)
    }


def test_a_part_without_good_rows_ends():
    def bad(lazy):
        raise ValueError("bad")

    stream = RowStream({"a": StreamPart(source(2), bad, on_error="skip")})
    with pytest.raises(ValueError, match="a: no row is left for one of the workers, all are bad"):
        next(stream.consumer(0, 1))
    with pytest.raises(ValueError, match="a has no row for one of the 9 workers"):
        next(RowStream({"a": StreamPart(source(2, 4), as_it_is)}).consumer(8, 9))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parts": {}}, "one above 0"),
        ({"parts": {"a": StreamPart(source(1), as_it_is, weight=-1)}}, "at least 0"),
        ({"seed": -1}, "seed >= 0"),
        ({"shuffle_buffer": 0}, "shuffle_buffer >= 1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RowStream(**{"parts": {"a": StreamPart(source(1), as_it_is)}} | arguments)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_go_on_exactly(num_workers):
    def loader(process: int, state: dict | None = None) -> StreamLoader:
        stream = RowStream({"a": StreamPart(source(4), as_it_is)}, seed=2, shuffle_buffer=8)
        return StreamLoader(stream, collate, 3, process, 2, num_workers, state)

    passes = []
    for process in range(2):
        whole = loader(process)
        batches = [batch["numbers"] for batch in islice(whole, 25)]
        passes += sum(batches[:10], [])
        killed = loader(process)
        before = [batch["numbers"] for batch in islice(killed, 7)]
        state = json.loads(json.dumps(killed.state_dict()))
        after = [batch["numbers"] for batch in islice(loader(process, state), 18)]
        assert before + after == batches
    assert sorted(passes) == list(range(NUMBER_OF_ROWS))
    with pytest.raises(ValueError, match="2 processes of .* workers, and now there are 1"):
        StreamLoader(RowStream({"a": StreamPart(source(4), as_it_is)}), collate, 3, 0, 1, num_workers, state)
