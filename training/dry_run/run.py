"""A dry run: what a training would read, written to stdout and into the output folder."""

from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from transformers import TrainingArguments

from training.data.row_lengths import RowLengths
from training.data.schema import parts_of
from training.data.sources import MixtureArguments

from .amounts import amounts_of
from .examples import draw_examples
from .reading import ModelSource, reading_of
from .report import Findings, Step, write_report
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
    missing = [*reading.missing, *missing_folders(token_cache=data.token_cache)]
    found = Findings(missing=missing, notes=reading.notes)
    report = write_report(samples, amounts, reading, step_of(args, training), found, args.dry_run_rows)
    show(Path(training.output_dir), report, *draw_examples(samples, reading, counted))
    return int(bool(missing) or any(sample.missing or sample.problem for sample in samples))


def step_of(args: DryRunArguments, training: TrainingArguments) -> Step:
    return Step(
        training.per_device_train_batch_size,
        training.gradient_accumulation_steps,
        args.dry_run_processes or training.world_size,
        training.max_steps,
    )


def missing_folders(**folders: str | None) -> list[str]:
    """Those of these arguments that name a folder which is not there."""
    return [f"{name}: the folder {path}" for name, path in folders.items() if path and not Path(path).is_dir()]


def show(folder: Path, report: str, examples: str, sheet: Image.Image | None) -> None:
    """Prints a report with its examples, and writes it to the output folder, with their pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    if sheet is not None:
        sheet.save(folder / "dry_run.png")
    text = f"{report}\n{examples}"
    (folder / "dry_run.md").write_text(text, encoding="utf-8")
    print(text)


def _refused(long: dict, lengths: RowLengths) -> str | None:
    if not long.get("refused"):
        return None
    return f"has rows of more than max_length = {lengths.max_length} tokens: raise it, or set long_rows to skip or cut"


def _texts(row: dict) -> list[dict]:
    return [part for part in parts_of(row["messages"]) if part["type"] == "text"]
