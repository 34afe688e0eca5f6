"""A dry run: what a training would read, written to stdout and into the output folder."""

from dataclasses import dataclass, field
from pathlib import Path

from transformers import TrainingArguments

from training.data.row_lengths import RowLengths
from training.data.sources import MixtureArguments

from .amounts import amounts_of
from .examples import draw_examples
from .reading import ModelSource, reading_of
from .report import Step, write_report
from .sample import sample_parts


@dataclass
class DryRunArguments:
    dry_run: bool = field(
        default=False,
        metadata={"help": "train nothing, load no weights: check all files, and tell rows, shares and lengths"},
    )
    dry_run_rows: int = field(default=100, metadata={"help": "rows of each part that a dry run opens"})
    dry_run_processes: int | None = field(
        default=None, metadata={"help": "processes that a dry run reckons with; default: those it is launched with"}
    )

    def __post_init__(self):
        for name in ("dry_run_rows", "dry_run_processes"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")


def dry_run(args: DryRunArguments, source: ModelSource, data: MixtureArguments, training: TrainingArguments) -> int:
    """Prints the report, and writes it to `dry_run.md` in the output folder, with the pictures of `dry_run.png`.

    Returns:
        an exit status: 1 if something is missing, or would end the training; else 0.
    """
    if training.process_index:  # one is enough
        return 0
    samples = sample_parts(data.mixture, args.dry_run_rows)
    texts = (part["text"] for sample in samples for row in sample.good for part in _texts(row))
    reading = reading_of(source, texts)
    lengths = RowLengths(reading.processor, training.max_length, reading.image_tokens, data.long_rows)
    counted = lengths if reading.counts_tokens else None
    amounts = {sample.name: amounts_of(sample, counted, data.streaming) for sample in samples if sample.good}
    for sample in samples:
        if sample.name in amounts:
            sample.problem = sample.problem or _refused(amounts[sample.name].long, lengths)
    step = Step(
        training.per_device_train_batch_size,
        training.gradient_accumulation_steps,
        args.dry_run_processes or training.world_size,
        training.max_steps,
    )
    missing = [*reading.missing, *_missing_elsewhere(data)]
    folder = Path(training.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    report = write_report(samples, amounts, reading, step, missing, args.dry_run_rows)
    examples, sheet = draw_examples(samples, reading, counted)
    if sheet is not None:
        sheet.save(folder / "dry_run.png")
    text = f"{report}\n{examples}"
    (folder / "dry_run.md").write_text(text, encoding="utf-8")
    print(text)
    return int(bool(missing) or any(sample.missing or sample.problem for sample in samples))


def _missing_elsewhere(data: MixtureArguments) -> list[str]:
    if data.token_cache is None or Path(data.token_cache).is_dir():
        return []
    return [f"token_cache: the folder {data.token_cache}"]


def _refused(long: dict, lengths: RowLengths) -> str | None:
    if not long.get("refused"):
        return None
    return f"has rows of more than max_length = {lengths.max_length} tokens: raise it, or set long_rows to skip or cut"


def _texts(row: dict) -> list[dict]:
    return [part for turn in row["messages"] for part in turn["content"] if part["type"] == "text"]
