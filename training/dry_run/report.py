"""The report of a dry run, in Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from .amounts import Amounts
from .named_files import NamedFile
from .reading import Reading
from .sample import PartSample

_OF_TOKENS = ("too long", "share of tokens", "text tokens a row", "visual tokens a row")
_OF_LABELS = ("with names", "without", "names", "outside the bank", "pictures")
_HEAD = (
    "part", "rows", "bad rows", *_OF_LABELS, "too long", "weight", "share of rows", "share of tokens",
    "text tokens a row", "visual tokens a row", "rows a step", "steps an epoch", "epochs",
)  # fmt: skip
_Line = dict[str, str]  # head of a column -> what stands there
_SHOWN_NAMES = 20  # of a part, that are not in the concept bank


@dataclass(frozen=True)
class Step:
    """Of how many rows a step consists, and how many steps there are (-1: not said)."""

    batch_size: int
    accumulation: int
    processes: int
    max_steps: int

    @property
    def rows(self) -> int:
        return self.batch_size * self.accumulation * self.processes


@dataclass(frozen=True)
class Findings:
    """What is found beside the parts of the mixture.

    Attributes:
        evaluated: parts to evaluate on.
        bank: the concept bank; None where its names are those of the rows, or could not be read.
        missing, problems: what is not there, and what else would stop the training.
        files: those that are named, and how many there are of each.
        notes: other things to know.
    """

    evaluated: Sequence[PartSample] = ()
    bank: frozenset[str] | None = None
    missing: Sequence[str] = ()
    problems: Sequence[str] = ()
    files: Sequence[NamedFile] = ()
    notes: Sequence[str] = ()


def write_report(
    samples: list[PartSample],
    amounts: dict[str, Amounts],
    reading: Reading | None,
    step: Step,
    found: Findings,
    sample_rows: int,
) -> str:
    """All but the examples; see `dry_run`. Without a reading the rows are those of a SeTok, which have no tokens."""
    drawn = _Drawn([sample for sample in samples if sample.name in amounts and sample.weight > 0], amounts)
    lines = [_line(sample, amounts.get(sample.name), drawn, step, found.bank) for sample in samples]
    everywhere = [*samples, *found.evaluated]
    missing = [f"{sample.name}: {file}" for sample in everywhere for file in sample.missing]
    files = [
        f"{sample.name}: {_files(sample.files) or sample.part['dataset'] + ', none named'}" for sample in everywhere
    ]
    sections = [
        "# Dry run\n",
        _table([head for head in _HEAD if head not in (_OF_TOKENS if reading is None else _OF_LABELS)], lines),
        _summary(drawn, reading, step, len(samples) - len(amounts), sample_rows, found.notes),
        _evaluated(found.evaluated, found.bank),
        _list("Missing", [*found.missing, *missing]),
        _list(
            "Would stop the training",
            [*found.problems, *(f"{sample.name}: {sample.problem}" for sample in everywhere if sample.problem)],
        ),
        _list(
            "Bad rows",
            [
                f"{sample.name}: {count} x {reason}"
                for sample in everywhere
                for reason, count in sample.bad.most_common()
            ],
        ),
        _list("Names outside the concept bank", _outside(everywhere, found.bank)),
        _list("Files", [*files, *([f"concept_names: {_files(found.files)}"] if found.files else [])]),
    ]
    return "\n".join(section for section in sections if section)


class _Drawn:
    """What a row that is drawn from the mixture becomes, on average. Weights count the rows that are drawn."""

    def __init__(self, samples: list[PartSample], amounts: dict[str, Amounts]):
        total = sum(sample.weight for sample in samples)
        self.share = {sample.name: sample.weight / total for sample in samples}
        self.amounts = amounts
        self.rows, self.vision_rows = self.mean("rows"), self.mean("vision_rows")
        self.counts_tokens = bool(samples) and all(amounts[name].text_tokens is not None for name in self.share)
        if self.counts_tokens:
            self.visual_tokens, self.vision_row_tokens = self.mean("visual_tokens"), self.mean("vision_row_tokens")
            self.tokens = self.mean("text_tokens") + self.visual_tokens

    def mean(self, name: str) -> float:
        return sum(share * getattr(self.amounts[part], name) for part, share in self.share.items())


def _line(sample: PartSample, amounts: Amounts | None, drawn: _Drawn, step: Step, bank: frozenset | None) -> _Line:
    shown = _rows_of(sample, bank) | {"weight": f"{sample.weight:g}"}
    share = drawn.share.get(sample.name)
    if amounts is None or share is None or not amounts.rows:
        return shown
    rows_a_step = step.rows * share * amounts.rows / drawn.rows
    share_of_tokens = text = visual = "not counted"
    if drawn.counts_tokens:
        share_of_tokens = _percent(share * (amounts.text_tokens + amounts.visual_tokens) / drawn.tokens)
        text, visual = (f"{value / amounts.rows:.1f}" for value in (amounts.text_tokens, amounts.visual_tokens))
    steps = "unknown" if sample.rows is None else f"{sample.rows * drawn.rows / (step.rows * share):.4g}"
    epochs = "unknown" if sample.rows is None or step.max_steps < 1 else f"{step.max_steps / float(steps):.3g}"
    return shown | {
        "too long": _long(amounts, len(sample.good)) if drawn.counts_tokens else "not counted",
        "share of rows": _percent(share * amounts.rows / drawn.rows),
        "share of tokens": share_of_tokens,
        "text tokens a row": text,
        "visual tokens a row": visual,
        "rows a step": f"{rows_a_step:.1f}",
        "steps an epoch": steps,
        "epochs": epochs,
    }


def _rows_of(sample: PartSample, bank: frozenset[str] | None) -> _Line:
    """What there is in a part, whatever a step takes of it."""
    shown = {"part": sample.name, "rows": _rows(sample), "bad rows": _bad(sample)}
    labels = sample.labels
    if labels is None or not labels.rows:
        return shown
    shown |= {
        "with names": f"{labels.named} of {labels.rows} {'looked up' if sample.looked_up else 'opened'}",
        "without": str(labels.rows - labels.named),
        "names": str(len(labels.names)),
    }
    if bank is not None:
        shown["outside the bank"] = str(len(labels.names.keys() - bank))
    if sample.sizes:
        least, most = (" x ".join(map(str, map(pick, zip(*sample.sizes, strict=True)))) for pick in (min, max))
        shown["pictures"] = least if least == most else f"{least} to {most}"
    return shown


def _table(heads: Sequence[str], lines: Sequence[_Line]) -> str:
    rows = [heads, ["---"] * len(heads), *([line.get(head, "-") for head in heads] for line in lines)]
    return "".join(f"| {' | '.join(map(_cell, row))} |\n" for row in rows)


def _evaluated(samples: Sequence[PartSample], bank: frozenset[str] | None) -> str:
    if not samples:
        return ""
    table = _table(("part", "rows", "bad rows", *_OF_LABELS), [_rows_of(sample, bank) for sample in samples])
    return f"## To evaluate on\n\n{table}"


def _outside(samples: Sequence[PartSample], bank: frozenset[str] | None) -> list[str]:
    if bank is None:
        return []
    lines = []
    for sample in (sample for sample in samples if sample.labels is not None):
        names = [(name, rows) for name, rows in sample.labels.names.most_common() if name not in bank]
        told = [f"{name!r} ({rows} rows)" for name, rows in names[:_SHOWN_NAMES]]
        more = [f"and {len(names) - _SHOWN_NAMES} more"] if len(names) > _SHOWN_NAMES else []
        if names:
            lines.append(f"{sample.name}: {', '.join([*told, *more])}")
    return lines


def _summary(
    drawn: _Drawn, reading: Reading | None, step: Step, num_missing: int, sample_rows: int, notes: Sequence[str]
) -> str:
    lines = [
        f"A step has {step.rows} rows: {step.batch_size} a batch, {step.accumulation} batches, {step.processes} "
        f"processes. {'Shares' if reading is None else 'Lengths, shares'} and bad pictures are those of at most "
        f"{sample_rows} rows of each part."
    ]
    if num_missing:
        lines.append(f"Of {num_missing} parts nothing could be read: shares and steps are those of the others.")
    if drawn.rows and reading is not None:
        lines.append(f"Rows: text {_percent(1 - drawn.vision_rows / drawn.rows)}, vision "
                     f"{_percent(drawn.vision_rows / drawn.rows)}.")  # fmt: skip
    if drawn.rows and reading is not None and drawn.counts_tokens:
        lines += [
            f"Tokens: rows of text alone {_percent(1 - drawn.vision_row_tokens / drawn.tokens)}, rows with pictures "
            f"{_percent(drawn.vision_row_tokens / drawn.tokens)}. Visual tokens alone are "
            f"{_percent(drawn.visual_tokens / drawn.tokens)} of all; about {step.rows * drawn.tokens / drawn.rows:.4g} "
            "tokens a step.",
            f"An image or a mask is counted as {reading.image_tokens} visual tokens, the most that it can have: vision "
            "has at most this share of tokens. The log of a run tells what it has (vision_tokens).",
        ]
    return "".join(f"- {line}\n" for line in [*lines, *notes])


def _rows(sample: PartSample) -> str:
    if sample.part["dataset"] in ("emoji_scenes", "photo_scenes"):
        return "made on demand"
    if sample.missing or (sample.problem and not sample.looked_at):
        return "-"
    return "unknown (not counted without reading all)" if sample.rows is None else str(sample.rows)


def _bad(sample: PartSample) -> str:
    if not sample.looked_at:
        return "-"
    of = (
        f"{sample.looked_up} looked up, {sample.looked_at} opened" if sample.looked_up else f"{sample.looked_at} opened"
    )
    return f"{sample.bad.total()} of {of}"


def _long(amounts: Amounts, num_rows: int) -> str:
    told = ", ".join(f"{count} {what}" for what, count in amounts.long.items())
    return f"{told} of {num_rows}" if told else f"0 of {num_rows}"


def _files(files: Sequence[NamedFile]) -> str:
    return ", ".join(f"{file.name} ({len(file.found) or 'MISSING'})" for file in files)


def _list(title: str, lines: list[str]) -> str:
    return f"## {title}\n\n" + "".join(f"- {line}\n" for line in lines) if lines else ""


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
