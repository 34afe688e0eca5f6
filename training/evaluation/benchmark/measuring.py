"""A benchmark from files to results: examples are asked in batches, answers kept as they come, and then scored."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from training.evaluation.benchmark.answering import Answerer, Options
from training.evaluation.benchmark.benchmark import Benchmark, Example, Networks
from training.evaluation.benchmark.predictions import Predictions
from training.evaluation.report import Row

TOKENS = Row("visual tokens per picture", "visual_tokens_per_picture", ".1f")


def measure(
    benchmark: Benchmark,
    answerer: Answerer,
    data: Path,
    output: Path,
    *,
    model: str,
    split: str | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    networks: Networks | None = None,
    options: Options | None = None,
) -> dict[str, float]:
    """What a benchmark finds of a model; `benchmark.rows` and `TOKENS` are the table of it.

    Beside `output`, such as results.json, stand `results.predictions.jsonl`, from which a killed run goes on, and the
    folder `results.submission` with the files that the benchmark's own scorer or server takes.

    Args:
        data: folder of the benchmark's files, as released.
        model: folder or Hub id of the answerer's model, by which its predictions are known again.
        split: one of `benchmark.splits`; by default the first.
        limit: only the first so many examples.

    Raises:
        ValueError: a model that cannot do this, an unknown split, files of another form, no example, or predictions
            of another run.
    """
    answerer.check(benchmark)
    split = benchmark.splits[0] if split is None else split
    if split not in benchmark.splits:
        raise ValueError(f"{benchmark.name} has the splits {', '.join(benchmark.splits)}; got {split!r}.")
    if limit is not None and limit < 1 or batch_size < 1:
        raise ValueError(f"The limit and the batch size must be 1 or more, got {limit} and {batch_size}.")
    options = options or Options(max_new_tokens=benchmark.max_new_tokens)
    examples = benchmark.read(data, split)[:limit]
    if not examples:
        raise ValueError(f"There is no example of {benchmark.name}, split {split}, in {data}.")
    run = {
        "benchmark": benchmark.name,
        "split": split,
        "model": model,
        "weights": fingerprint(model),
        "max_new_tokens": options.max_new_tokens,
        "seed": options.seed,
        "generation": options.generation,
        **answerer.settings,
    }
    predictions = Predictions(output.with_suffix(".predictions.jsonl"), run)
    num_pictures = _answer_all(benchmark, answerer, examples, predictions, options, batch_size)
    answers = predictions.answers(list(num_pictures))
    if benchmark.submission is not None:
        for name, content in benchmark.submission(examples, answers).items():
            file = output.with_suffix(".submission") / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
    results = dict(benchmark.score(examples, answers, networks or Networks()))
    counts = [predictions.num_visual_tokens(key) for key in num_pictures]
    if any(num_pictures.values()) and None not in counts:
        results[TOKENS.key] = sum(counts) / sum(num_pictures.values())
    return results


def fingerprint(model: str) -> str | None:
    """Changes when the weights in a folder do, and stays when they are copied; `None` for a Hub id.

    Sizes, beginnings and ends of the files of weights are read, not all of them.
    """
    files = sorted(Path(model).glob("*.safetensors"))
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        with path.open("rb") as file:
            for start in (0, max(0, size // 2), max(0, size - _SAMPLE)):
                file.seek(start)
                digest.update(file.read(_SAMPLE))
        digest.update(f"{path.name} {size}".encode())
    return digest.hexdigest() if files else None


_SAMPLE = 1 << 20  # bytes


def _answer_all(
    benchmark: Benchmark,
    answerer: Answerer,
    examples: Sequence[Example],
    predictions: Predictions,
    options: Options,
    batch_size: int,
) -> dict[str, int]:
    """Has every example answered that is not yet; the keys of all, in order, with the numbers of their pictures."""
    num_pictures: dict[str, int] = {}
    with tqdm(total=len(examples), desc=benchmark.name) as bar:

        def answer(batch: list[tuple[Example, str]]) -> None:
            if batch:
                answers = answerer.answer(benchmark.answer, *zip(*batch, strict=True), options)
                for (example, request), given in zip(batch, answers, strict=True):
                    predictions.add(example, request, given)
                bar.update(len(batch))

        batch = []
        for example in examples:
            if example.key in num_pictures:
                raise ValueError(f"{benchmark.name} has two examples of the key {example.key!r}: leave one out.")
            num_pictures[example.key] = len(example.images)
            request = "\n".join(filter(None, [example.request, benchmark.answer_form]))
            if predictions.has(example, request):
                bar.update()
                continue
            batch.append((example, request))
            if len(batch) == batch_size:
                answer(batch)
                batch = []
        answer(batch)
    return num_pictures
