"""A dry run of stage 0: the pictures and names that a SeTok would be trained and measured on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import TrainingArguments

from processing import SetokImageProcessor
from training.data.concept_bank import held_out_rows, names_in_advance
from training.data.concept_text import text_model_path
from training.data.mixture import MapDataset

from .amounts import amounts_of
from .examples import draw_named_examples
from .named_files import NamedFile, find_file
from .reading import DEFAULT_PROCESSOR, missing_models
from .report import Findings, write_report
from .run import DryRunArguments, missing_folders, show, step_of
from .sample import PartSample, sample_parts, sample_scenes


@dataclass(frozen=True)
class SetokSource:
    """What a recipe of stage 0 names.

    Args:
        setok: that training goes on from, a folder or Hub id.
        models: folders and Hub ids of other pretrained models, and files of weights.
        text_model: the text encoder of the names.
        image_processor: loads that of the model.
        mixture: parts to train on.
        scenes: in place of them makes data sets that are drawn, by name.
        streaming: of the mixture.
        concept_names: files with the names of all concepts.
        eval_mixture, eval_examples: parts to evaluate on, and so many rows of them.
        patch_cache: a folder.
        needs_names: whether it learns from names alone.
        notes: other things to know.
    """

    models: Sequence[str]
    text_model: str
    image_processor: Callable[[], SetokImageProcessor]
    setok: str | None = None
    mixture: list[dict] = field(default_factory=list)
    scenes: Callable[[], Mapping[str, MapDataset]] = dict
    streaming: bool = False
    concept_names: Sequence[str] = ()
    eval_mixture: list[dict] = field(default_factory=list)
    eval_examples: int = 0
    patch_cache: str | None = None
    needs_names: bool = False
    notes: Sequence[str] = ()


def dry_run_setok(args: DryRunArguments, source: SetokSource, training: TrainingArguments) -> int:
    """As `dry_run`, of rows with names or without in place of conversations."""
    if training.process_index:
        return 0
    missing, problems, notes = missing_folders(patch_cache=source.patch_cache), [], list(source.notes)
    files = [find_file(file) for file in source.concept_names]
    missing += [f"concept_names: {file.name}" for file in files if not file.found]
    bank = _bank(source, files, problems, notes)
    samples = _samples(source, args.dry_run_rows, bank, missing, problems)
    evaluated = []
    if source.eval_mixture:
        evaluated = sample_parts(source.eval_mixture, args.dry_run_rows, "picture", "validation", bank)
    names = _whole_bank(source, bank, samples)
    if names is not None and not any(sample.missing or sample.problem for sample in evaluated):
        problems += _too_few(source, names)
    for sample in evaluated:
        sample.name += " (held out)"
    has_names = bool(files or bank or _names_of(samples))
    if source.needs_names and not has_names:
        problems.append("encoder_only learns from the names of what is in a picture, and there are none")
    missing += missing_models(source.setok, [*source.models, *(_text_model(source, missing) if has_names else ())])
    image_processor = _image_processor(source, notes)
    found = Findings(evaluated, bank, missing, problems, files, notes)
    amounts = {sample.name: amounts_of(sample, None, source.streaming) for sample in samples if sample.good}
    report = write_report(samples, amounts, None, step_of(args, training), found, args.dry_run_rows)
    everywhere = [*samples, *evaluated]
    show(Path(training.output_dir), report, *draw_named_examples(everywhere, image_processor))
    return int(bool(missing or problems) or any(sample.missing or sample.problem for sample in everywhere))


def _bank(source: SetokSource, files: list[NamedFile], problems: list[str], notes: list[str]) -> frozenset[str] | None:
    """The names of all concepts; None where they are those of the rows, or cannot be read."""
    if not source.streaming and not files:
        notes.append("The concept bank has the names of all rows.")
        return None
    try:
        if all(file.found for file in files):
            bank = frozenset(names_in_advance(source.mixture, source.concept_names))
            notes.append(f"The concept bank has {len(bank)} names.")
            return bank
    except ValueError as error:
        problems.append(f"concept_names: {error}")
    notes.append("The concept bank is not whole: no name was looked up in it.")
    return None


def _samples(
    source: SetokSource, sample_rows: int, bank: frozenset[str] | None, missing: list[str], problems: list[str]
) -> list[PartSample]:
    if source.mixture:
        return sample_parts(source.mixture, sample_rows, "picture", bank=bank)
    try:
        return [sample_scenes(name, scenes, sample_rows) for name, scenes in source.scenes().items()]
    except FileNotFoundError as error:
        missing.append(str(error))
    except ValueError as error:
        problems.append(str(error))
    return []


def _names_of(samples: list[PartSample]) -> frozenset[str]:
    return frozenset(name for sample in samples if sample.labels for name in sample.labels.names)


def _whole_bank(source: SetokSource, bank: frozenset[str] | None, samples: list[PartSample]) -> frozenset[str] | None:
    """Also where it has the names of rows; None where not all are known."""
    if bank is not None or source.concept_names:
        return bank
    if not all(sample.looked_up or sample.part["dataset"] == "emoji_scenes" for sample in samples):
        return None
    return _names_of(samples) | frozenset(names_in_advance(source.mixture, ()))


def _too_few(source: SetokSource, names: frozenset[str]) -> list[str]:
    """What would be wrong with the rows to evaluate on: they are read as training reads them."""
    try:
        if source.eval_mixture and source.eval_examples:
            held_out_rows(source.eval_mixture, source.eval_examples, names)
    except ValueError as error:
        return [f"eval_mixture: {error}"]
    return []


def _text_model(source: SetokSource, missing: list[str]) -> list[str]:
    try:
        return [str(text_model_path(source.text_model))]
    except ImportError as error:
        missing.append(str(error))
        return []


def _image_processor(source: SetokSource, notes: list[str]) -> SetokImageProcessor:
    try:
        return source.image_processor()
    except (OSError, ValueError):  # the model is missing, and was told
        notes.append(DEFAULT_PROCESSOR)
        return SetokImageProcessor()
