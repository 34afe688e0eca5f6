"""The data of a recipe: a list of parts, each with its weight in the mixture.

A part is a mapping:

- `{dataset: emoji_scenes, task: caption, weight: 3}`, with any of `vocabulary`, `styles`, `image_size`, `seed`, and, of
  the training scenes, `redrawn`; or `{name: reading, dataset: emoji_scenes, tasks: [caption, question],
  rows_per_scene: 4}` with several rows about each scene;
- `{dataset: coco, annotations: FILE, images: FOLDER}` and so on, the files of a data set as they were released: its
  reader's name (`readers/__init__.py`) and its reader's arguments;
- `{dataset: FOLDER}`: `data.json` and `images/`;
- `{dataset: HUB_ID}`, or `{dataset: parquet, data_files: FILES}` (`webdataset`, `json`, `csv`, `text`): its split
  "train", and with `columns` and `task` what its columns mean.

`on_error: skip` leaves bad rows out. `held_out: 200`, of data in files, keeps the first 200 rows from training, and all
others about their pictures: the run is evaluated on the first `eval_examples` of these, and `evaluate_setokim --data`,
which takes the same part, measures all of them. These are the first as they stand in the files, good or bad, streamed
or not; bad ones among them are then skipped, so that there may be fewer. (Of what `datasets` loads, which must not be
streamed then, they are the first good ones.) `weight` is 1 by default. `name` sets what a part is called in logs; by
default its task, or its dataset.

Without `streaming` all rows but those of EmojiScenes are looked at before the first step, pictures included, and the
mixture is `train_examples` of them; with it nothing is looked at before its turn, and the mixture has no end.
"""

import inspect
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import get_args

import datasets

from . import schema
from .emoji_scenes import EmojiScenes, SceneConfig
from .entries import Needs, OnError, Reader, as_stream, keep_entries, load_entries, open_row
from .held_out import StoredRows, divide, split_off
from .long_rows import without_long_rows
from .mixture import MapDataset, Mixture, mix
from .readers import READERS, load_coco, load_hub_dataset, load_refcoco, stream_hub_dataset
from .row_lengths import LongRows, RowLengths
from .skipped_rows import SkippedRows
from .streams import RowStream, StreamPart

_LARGEST = 2**31  # scenes of an EmojiScenes part: more than any training sees
_SHARDS = 1024  # of its numbers, as a stream: so many workers of all processes may share them


@dataclass
class RowArguments:
    """What all stages may say of their rows."""

    mixture: list[dict] = field(
        default_factory=list, metadata={"help": "the data and their weights (see training/data/sources.py)"}
    )
    train_examples: int = field(
        default=100_000, metadata={"help": "rows of the mixture, or drawn scenes, in one epoch"}
    )
    streaming: bool = field(
        default=False, metadata={"help": "read rows when their turn comes; max_steps says how many"}
    )
    shuffle_buffer: int = field(
        default=256, metadata={"help": "streaming: rows of each part that a worker shuffles together, unopened"}
    )


@dataclass
class MixtureArguments(RowArguments):
    eval_examples: int = field(
        default=64,
        metadata={"help": "rows to evaluate on: of EmojiScenes from the validation split, else of held_out; 0: none"},
    )
    long_rows: LongRows = field(
        default="refuse", metadata={"help": "what becomes of rows longer than max_length: 'refuse', 'skip' or 'cut'"}
    )
    token_cache: str | None = field(
        default=None, metadata={"help": "folder that cache_tokens.py filled, read in place of pixels"}
    )
    cached_tasks: list[str] | None = field(
        default=None, metadata={"help": "of the rows in token_cache, train on those of these tasks alone"}
    )


def load_rows(
    args: RowArguments, seed: int, skipped: SkippedRows | None, needs: Needs = "answer"
) -> Mixture | RowStream:
    """The training rows of a recipe, see `load_mixture` and `load_stream`."""
    if args.streaming:
        return load_stream(args.mixture, seed, args.shuffle_buffer, skipped, needs)
    return load_mixture(args.mixture, args.train_examples, seed, needs)


def within(rows: Mixture | RowStream, lengths: RowLengths) -> Mixture | RowStream:
    """The same rows, none of which is too long: a stream sees to that as it goes."""
    return replace(rows, lengths=lengths) if isinstance(rows, RowStream) else without_long_rows(rows, lengths)


def load_mixture(parts: list[dict], num_rows: int, seed: int = 0, needs: Needs = "answer") -> Mixture:
    """The training rows of a recipe's `mixture`, as `mix` gives them; what they need: see `load_part`.

    Raises:
        ValueError: for a part that is not as above, two of one name, and what the loaders and `mix` refuse.
    """
    named = named_parts(parts)
    weights = {name: part.get("weight", 1) for name, part in named.items()}
    return mix({name: load_part(part, "train", needs) for name, part in named.items()}, weights, num_rows, seed)


def load_eval_sets(args: MixtureArguments, lengths: RowLengths | None = None) -> dict[str, list[dict]]:
    """At most `eval_examples` rows of a part to evaluate on: of EmojiScenes from the validation split, a set for each
    task; of a part with `held_out` the first of these that are not too long. Other parts have no such rows.

    Raises:
        ValueError: what the loaders refuse, and rows that are too long where `lengths` refuses these.
    """
    if args.eval_examples == 0:
        return {}
    sets = {}
    for name, part in named_parts(args.mixture).items():
        if part["dataset"] == "emoji_scenes":
            load_part(part, "validation")  # refuses what is wrong with it
            common = {key: value for key, value in part.items() if key not in ("tasks", "rows_per_scene")}
            several = {f"{name}_{task}": common | {"task": task} for task in part.get("tasks", ())}
            for name_of_set, of_task in (several or {name: part}).items():
                sets[name_of_set] = list(islice(load_part(of_task, "validation"), args.eval_examples))
        elif "held_out" in part:
            rows = _held_out_rows(part, args.streaming)
            if lengths is not None:
                rows = chain.from_iterable(lengths.fit(row)[0] for row in rows)
            if found := list(islice(rows, args.eval_examples)):
                sets[name] = found
    return sets


def _held_out_rows(part: dict, streaming: bool) -> Iterator[dict]:
    """The good rows that a part holds out; of a stream none is opened before its turn."""
    if not streaming:
        yield from load_held_out_part(part)[0]
        return
    for lazy in split_off(part_entries(part, "train"), part["held_out"])[1]:
        try:
            row = open_row(lazy)
        except ValueError:
            if part.get("on_error") != "skip":
                raise
        else:
            yield row


def load_part(part: dict, split: str, needs: Needs = "answer") -> MapDataset:
    """The rows of one part, from this split where the data have splits and the part names none, without those that it
    holds out. All have what they are for, an answer to learn or one picture: others are bad rows here."""
    rows, _ = _load_side(part, split, 0, needs) if "held_out" in part else load_whole_part(part, split, needs)
    return rows


def load_held_out_part(part: dict) -> tuple[StoredRows, str | None]:
    """The rows that one part holds out, and the split that they are, as `load_whole_part`."""
    return _load_side(part, "train", 1, "answer")


def _load_side(part: dict, split: str, side: int, needs: Needs) -> tuple[StoredRows, str | None]:
    """Of a part with `held_out` the rows to train on, side 0, or those held out, side 1. Entries are divided before
    anything is known of their pictures, as `stream_part` divides them."""
    if (reading := _reading(part, split)) is None:
        rows, read = load_whole_part(part, split, needs)
        return split_off(rows, part["held_out"])[side], read
    reader, arguments = reading
    pictures = [{"images": entry.lazy_row(needs)["images"]} for entry in reader(**arguments)]
    features = datasets.Features(images=schema.LAZY_FEATURES["images"])
    numbers = divide(datasets.Dataset.from_list(pictures, features=features), part["held_out"])[side]
    return load_whole_part(part, split, needs, only=frozenset(numbers))


def load_whole_part(
    part: dict, split: str, needs: Needs = "answer", only: Container[int] | None = None
) -> tuple[StoredRows | EmojiScenes, str | None]:
    """All rows of one part, or of the entries of these numbers, and the split that they are; `None` where the data have
    none."""
    dataset, options = dataset_and_options(part)
    if (reading := _reading(part, split)) is None:
        load = _load_emoji_scenes if dataset == "emoji_scenes" else partial(load_hub_dataset, dataset)
        arguments = _arguments(load, part, options, split=split, needs=needs)
        return load(**arguments), arguments.get("split")
    (reader, arguments), on_error = reading, options.get("on_error", "raise")
    if dataset in LOADERS and needs == "answer":  # SeTok needs names in advance
        rows = LOADERS[dataset](**arguments, on_error=on_error, only=only)
    else:
        rows = load_entries(reader, str(part["dataset"]), on_error, needs, only, **arguments)
    return rows, arguments.get("split")


def load_stream(
    parts: list[dict], seed: int, shuffle_buffer: int, skipped: SkippedRows | None = None, needs: Needs = "answer"
) -> RowStream:
    """The training rows of a recipe's `mixture` as a stream without end; arguments as for `RowStream` and `load_part`.

    Raises:
        ValueError: for a part that is not as above, two of one name, and what the readers and `RowStream` refuse.
    """
    streamed = {name: stream_part(part, "train", needs) for name, part in named_parts(parts).items()}
    return RowStream(streamed, seed, shuffle_buffer, skipped=skipped)


def stream_part(part: dict, split: str, needs: Needs = "answer") -> StreamPart:
    """The rows of one part as a stream, see `load_part`."""
    dataset, options = dataset_and_options(part)
    weight, on_error = part.get("weight", 1), options.pop("on_error", "raise")
    if on_error not in get_args(OnError):
        raise ValueError(f'on_error must be "raise" or "skip", not {on_error!r}')
    if dataset == "emoji_scenes":
        scenes = _call(_load_emoji_scenes, part, options, split=split, needs=needs)
        if "held_out" in part:
            split_off(scenes, part["held_out"])  # which refuses it, of scenes
        return StreamPart(_indices(len(scenes)), partial(_row_of, scenes), weight, on_error)
    kept = part_entries(part, split, needs)
    if "held_out" in part:
        kept, _ = split_off(kept, part["held_out"])
    if kept is not None:
        rows = as_stream(kept)
    else:
        rows = _call(partial(stream_hub_dataset, dataset), part, options, split=split, needs=needs)
    return StreamPart(rows, open_row, weight, on_error)


def part_entries(part: dict, split: str, needs: Needs = "answer") -> datasets.Dataset | None:
    """The rows of one part that a reader of files gives, good and bad, unopened (`schema.LAZY_FEATURES`), of which
    `stream_part` makes a stream; None for other parts."""
    if (reading := _reading(part, split)) is None:
        return None
    reader, arguments = reading
    return keep_entries(reader, needs, **arguments)


def _reading(part: dict, split: str) -> tuple[Reader, dict] | None:
    """The reader of a part in files, and its arguments; None for other parts."""
    dataset, options = dataset_and_options(part)
    if (reader := READERS.get(dataset)) is None:
        return None
    options.pop("on_error", None)
    return reader, _arguments(reader, part, options, split=split)


def dataset_and_options(part: dict) -> tuple[str, dict]:
    """What is read, and the arguments of its reader or loader."""
    dataset = str(part["dataset"])
    options = {key: value for key, value in part.items() if key not in ("dataset", "weight", "name", "held_out")}
    if dataset not in READERS and Path(dataset).is_dir() and not {"columns", "data_files"} & set(options):
        return "folder", {"root": dataset} | options
    return dataset, options


def _call(load: Callable, part: dict, options: dict, **defaults):
    return load(**_arguments(load, part, options, **defaults))


def _arguments(load: Callable, part: dict, options: dict, **defaults) -> dict:
    """The options of a part, and those of the defaults that a function has and the part does not name."""
    signature = inspect.signature(load)
    arguments = {name: value for name, value in defaults.items() if name in signature.parameters} | options
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ValueError(f"The part {part} of the mixture is wrong: {error}.") from error
    return arguments


def _load_emoji_scenes(
    split: str,
    needs: Needs,
    task: str | None = None,
    tasks: Sequence[str] = (),
    seed: int = EmojiScenes.seed,
    vocabulary: str = SceneConfig.vocabulary,
    image_size: int = SceneConfig.image_size,
    styles: Sequence[str] = SceneConfig.styles,
    redrawn: float = SceneConfig.redrawn,
    rows_per_scene: int = EmojiScenes.rows_per_scene,
) -> EmojiScenes:
    if (task is None) == (not tasks):
        raise ValueError("A part with EmojiScenes needs its task, such as task: caption, or tasks, a list of them.")
    tasks = tasks or (task,)
    if needs == "picture" and set(tasks) != {"concepts"}:
        raise ValueError(f"SeTok is trained on EmojiScenes of task: concepts, not {', '.join(tasks)}.")
    if needs == "answer" and "concepts" in tasks:
        raise ValueError("The task concepts of EmojiScenes has no conversation to learn from: it trains SeTok.")
    redrawn = redrawn if split == "train" else 0.0
    scenes = SceneConfig(vocabulary=vocabulary, image_size=image_size, styles=tuple(styles), redrawn=redrawn)
    return EmojiScenes(split, _LARGEST, scenes, tasks=tasks, seed=seed, rows_per_scene=rows_per_scene)


def _indices(num_rows: int) -> datasets.IterableDataset:
    """Numbers of rows that are made on demand, as a stream."""
    bounds = [num_rows * shard // _SHARDS for shard in range(_SHARDS + 1)]
    shards = [range(*pair) for pair in zip(bounds[:-1], bounds[1:], strict=True)]
    return datasets.IterableDataset.from_generator(_numbers, gen_kwargs={"shards": shards})


def _numbers(shards: list[range]) -> Iterator[dict]:
    for shard in shards:
        for number in shard:
            yield {"number": number, "origin": f"row {number}"}


def _row_of(rows: MapDataset, lazy: dict) -> dict:
    return rows[lazy["number"]]


LOADERS = {"coco": load_coco, "refcoco": load_refcoco}  # masks drawn when asked for


def named_parts(parts: list[dict]) -> dict[str, dict]:
    """The parts of a mixture by what they are called.

    Raises:
        ValueError: for none, a part that names no data, two of one name.
    """
    if not parts:
        raise ValueError("The recipe needs a mixture: a list of parts, such as {dataset: emoji_scenes, task: caption}.")
    named = {}
    for part in parts:
        if not isinstance(part, dict) or "dataset" not in part:
            raise ValueError(f"A part of the mixture needs the key dataset, got {part!r}.")
        name = str(part.get("name", part.get("task", part["dataset"])))
        if name in named:
            raise ValueError(f"Two parts of the mixture are called {name!r}: give one of them another name.")
        named[name] = part
    return named
