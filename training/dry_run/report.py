"""The report of a dry run, in Markdown."""

from dataclasses import dataclass

from .amounts import Amounts
from .reading import Reading
from .sample import PartSample

_HEAD = (
    "part", "rows", "bad rows", "too long", "weight", "share of rows", "share of tokens", "text tokens a row",
    "visual tokens a row", "rows a step", "steps an epoch", "epochs",
)  # fmt: skip


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


def write_report(
    samples: list[PartSample],
    amounts: dict[str, Amounts],
    reading: Reading,
    step: Step,
    missing: list[str],
    sample_rows: int,
) -> str:
    """All but the examples; see `dry_run`."""
    found = [sample for sample in samples if sample.name in amounts and sample.weight > 0]
    drawn = _Drawn(found, amounts)
    lines = [_line(sample, amounts.get(sample.name), drawn, step) for sample in samples]
    table = [_HEAD, ("---",) * len(_HEAD), *lines]
    sections = [
        "# Dry run\n",
        "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in table),
        _summary(drawn, reading, step, len(samples) - len(amounts), sample_rows),
        _list("Missing", [*missing, *(f"{sample.name}: {file}" for sample in samples for file in sample.missing)]),
        _list("Would stop the training", [f"{sample.name}: {sample.problem}" for sample in samples if sample.problem]),
        _list(
            "Bad rows",
            [f"{sample.name}: {count} x {reason}" for sample in samples for reason, count in sample.bad.most_common()],
        ),
        _list("Files", [f"{sample.name}: {_files(sample)}" for sample in samples]),
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


def _line(sample: PartSample, amounts: Amounts | None, drawn: _Drawn, step: Step) -> list[str]:
    shown = [sample.name, _rows(sample), _bad(sample)]
    share = drawn.share.get(sample.name)
    if amounts is None or share is None or not amounts.rows:
        return [*shown, "-", f"{sample.weight:g}", *["-"] * 7]
    rows_a_step = step.rows * share * amounts.rows / drawn.rows
    share_of_tokens = text = visual = "not counted"
    if drawn.counts_tokens:
        share_of_tokens = _percent(share * (amounts.text_tokens + amounts.visual_tokens) / drawn.tokens)
        text, visual = (f"{value / amounts.rows:.1f}" for value in (amounts.text_tokens, amounts.visual_tokens))
    steps = "unknown" if sample.rows is None else f"{sample.rows * drawn.rows / (step.rows * share):.4g}"
    epochs = "unknown" if sample.rows is None or step.max_steps < 1 else f"{step.max_steps / float(steps):.3g}"
    return [
        *shown,
        _long(amounts, len(sample.good)) if drawn.counts_tokens else "not counted",
        f"{sample.weight:g}",
        _percent(share * amounts.rows / drawn.rows),
        share_of_tokens,
        text,
        visual,
        f"{rows_a_step:.1f}",
        steps,
        epochs,
    ]


def _summary(drawn: _Drawn, reading: Reading, step: Step, num_missing: int, sample_rows: int) -> str:
    lines = [
        f"A step has {step.rows} rows: {step.batch_size} a batch, {step.accumulation} batches, {step.processes} "
        f"processes. Lengths, shares and bad pictures are those of at most {sample_rows} rows of each part."
    ]
    if num_missing:
        lines.append(f"Of {num_missing} parts nothing could be read: shares and steps are those of the others.")
    if drawn.rows:
        lines.append(f"Rows: text {_percent(1 - drawn.vision_rows / drawn.rows)}, vision "
                     f"{_percent(drawn.vision_rows / drawn.rows)}.")  # fmt: skip
    if drawn.rows and drawn.counts_tokens:
        lines += [
            f"Tokens: rows of text alone {_percent(1 - drawn.vision_row_tokens / drawn.tokens)}, rows with pictures "
            f"{_percent(drawn.vision_row_tokens / drawn.tokens)}. Visual tokens alone are "
            f"{_percent(drawn.visual_tokens / drawn.tokens)} of all; about {step.rows * drawn.tokens / drawn.rows:.4g} "
            "tokens a step.",
            f"An image or a mask is counted as {reading.image_tokens} visual tokens, the most that it can have: vision "
            "has at most this share of tokens. The log of a run tells what it has (vision_tokens).",
        ]
    return "".join(f"- {line}\n" for line in [*lines, *reading.notes])


def _rows(sample: PartSample) -> str:
    if sample.part["dataset"] == "emoji_scenes":
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


def _files(sample: PartSample) -> str:
    if not sample.files:
        return f"{sample.part['dataset']}, none named"
    return ", ".join(f"{file.name} ({len(file.found) or 'MISSING'})" for file in sample.files)


def _list(title: str, lines: list[str]) -> str:
    return f"## {title}\n\n" + "".join(f"- {line}\n" for line in lines) if lines else ""


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
