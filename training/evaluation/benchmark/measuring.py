"""A benchmark from files to results: examples are asked in batches, answers kept as they come, and then scored."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers.utils import CONFIG_NAME, cached_file

from training.evaluation.benchmark.answering import Answerer, Options
from training.evaluation.benchmark.benchmark import Benchmark, Example, Networks
from training.evaluation.benchmark.predictions import Predictions
from training.evaluation.report import Row

TOKENS = Row("visual tokens per picture", "visual_tokens_per_picture", ".1f")
CUT = Row("answers cut at max_new_tokens", "num_cut", ".0f")
# Files of a model and its processor, by which their answers are known again; what else lies beside them is not read.
_PARTS = (
    "*.safetensors", "*.bin", "*.py", "*config.json", "*.model", "chat_template*", "tokenizer*", "vocab*", "merges*",
)  # fmt: skip


def read_examples(benchmark: Benchmark, data: Path, split: str, limit: int | None = None) -> list[Example]:
    """The examples in a benchmark's files.

    Args:
        data: folder of the files, as released.
        split: one of `benchmark.splits`.
        limit: only the first so many examples.

    Raises:
        ValueError: an unknown split, a limit below 1, what `benchmark.read` refuses, no example, or two of one key.
    """
    if split not in benchmark.splits:
        raise ValueError(f"{benchmark.name} has no split {split!r}: choose {' or '.join(benchmark.splits)}.")
    if limit is not None and limit < 1:
        raise ValueError(f"The limit must be 1 or more, got {limit}.")
    examples = benchmark.read(data, split)
    if not examples:
        raise ValueError(f"There is no example of {benchmark.name}, split {split}, in {data}.")
    key, count = Counter(example.key for example in examples).most_common(1)[0]
    if count > 1:
        raise ValueError(f"The files of {benchmark.name} have {count} examples of the key {key!r}: leave one.")
    return examples[:limit]


def measure(
    benchmark: Benchmark,
    answerer: Answerer,
    examples: Sequence[Example],
    output: Path,
    *,
    run: Mapping[str, Any],
    batch_size: int = 8,
    networks: Networks | None = None,
    options: Options | None = None,
) -> dict[str, float]:
    """What a benchmark finds of a model; `benchmark.rows`, `TOKENS` and `CUT` are the table of it.

    Beside `output`, such as results.json, stand `results.predictions.jsonl`, from which a killed run goes on, and the
    folder `results.submission` with the files that the benchmark's own scorer or server takes.

    Args:
        examples: each with a key of its own.
        run: what the answers depend on beside the examples' requests and the options, as JSON has it: the model with
            its `fingerprint`, the data. By it predictions are known again.

    Raises:
        ValueError: a model that cannot do this, a batch size or `max_new_tokens` below 1, or predictions of another
            run.
    """
    answerer.check(benchmark)
    options = options or Options(max_new_tokens=benchmark.max_new_tokens)
    if batch_size < 1 or options.max_new_tokens < 1:
        raise ValueError(
            f"The batch size and max_new_tokens must be 1 or more, got {batch_size} and {options.max_new_tokens}."
        )
    run = {"benchmark": benchmark.name, **run, "seed": options.seed, "generation": options.generation}
    if benchmark.answer == "text":
        run["max_new_tokens"] = options.max_new_tokens
    predictions = Predictions(output.with_suffix(".predictions.jsonl"), run)
    _answer_all(benchmark, answerer, examples, predictions, options, batch_size)
    answers = predictions.answers([example.key for example in examples])
    if benchmark.submission is not None:
        for name, content in benchmark.submission(examples, answers).items():
            file = output.with_suffix(".submission") / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
    results = dict(benchmark.score(examples, answers, networks or Networks()))
    counts = [predictions.num_visual_tokens(example.key) for example in examples]
    num_pictures = sum(len(example.images) for example in examples)
    if num_pictures and None not in counts:
        results[TOKENS.key] = sum(counts) / num_pictures
    if num_cut := sum(predictions.is_cut(example.key) for example in examples):
        results[CUT.key] = num_cut
    return results


def fingerprint(model: str) -> str:
    """Of a folder what changes when a model's weights or a file of its or its processor's settings do, and stays when
    they are copied; of a Hub id its commit.

    Raises:
        OSError: no such folder, and no such model in reach.
    """
    if not Path(model).is_dir():
        return Path(cached_file(model, CONFIG_NAME)).parent.name
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _PARTS for path in Path(model).glob(pattern) if path.is_file()}):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()


def _answer_all(
    benchmark: Benchmark,
    answerer: Answerer,
    examples: Sequence[Example],
    predictions: Predictions,
    options: Options,
    batch_size: int,
) -> None:
    """Has every example answered that is not yet."""
    asked = [(example, "\n".join(filter(None, [example.request, benchmark.answer_form]))) for example in examples]
    missing = [pair for pair in asked if not predictions.has(*pair)]
    with tqdm(total=len(asked), initial=len(asked) - len(missing), desc=benchmark.name) as bar:
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            answers = answerer.answer(benchmark.answer, *zip(*batch, strict=True), options)
            for (example, request), answer in zip(batch, answers, strict=True):
                predictions.add(example, request, answer)
            bar.update(len(batch))
