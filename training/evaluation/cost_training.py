"""What a step of training costs from pixels, from a cache, and from a cache with packed rows: rows per second.

    python -m training.evaluation.cost_training training/recipes/setok_dinov2_small.yaml --output results.json
    python -m training.evaluation.cost_training RECIPE --profile --threads 2 --max_length 512

A recipe with a `mixture` is of Setokim: of pretraining if it makes a new one, else of finetuning. Any other is of
stage 0. Other values for the recipe follow it. The variants train by the stage's own trainer, on the first rows of the
recipe, of which a temporary cache is written, and take turns round by round, so that what disturbs the machine hits all
alike. In every round each begins with the same weights and seed; its first step is not timed. Nothing is timed before
one step of each, in float32 and without dropout, has given the same losses.

Rows per second are of whole steps, and what a step waits for its rows is told apart: they are read in the process that
trains, whatever `dataloader_num_workers` says. Padding is the share of what the language model reads that is no token.
"""

import copy
import re
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch.utils.data import Subset
from transformers import HfArgumentParser, PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from training import finetune_setokim, pretrain_setokim, train_setok
from training.data.concept_text import concept_text_features
from training.data.long_rows import without_long_rows
from training.data.setok_collator import SetokCollator
from training.data.setokim_collator import SetokimCollator
from training.data.sources import MixtureArguments, load_mixture
from training.evaluation.report import write_results
from training.freezing import train_only
from training.patch_cache import PatchCache, write_patch_cache
from training.recipe import check_ranges, parse_recipe, read_recipe, trains_setokim
from training.token_cache import (
    TokenCache,
    from_token_cache,
    refuse_trained_setok,
    token_fingerprint,
    write_token_cache,
)
from training.trainer_setok import SetokTrainer, SetokTrainingArguments
from training.trainer_setokim import VISUAL_HEADS, SetokimTrainer, SetokimTrainingArguments, load_setokim, row_lengths

PIXELS, CACHED, PACKED = "pixels, padded", "cache, padded", "cache, packed"
ALIKE = {  # of all variants, whatever the recipe says
    "eval_strategy": "no", "save_strategy": "no", "logging_strategy": "steps", "logging_steps": 1, "report_to": "none",
    "dataloader_num_workers": 0, "disable_tqdm": True,
}  # fmt: skip
EXACT = {"bf16": False, "fp16": False}  # for the step whose losses are compared
# Kinds of operations in a profile: the first whose pattern is found in the name. An attention that is not fused
# multiplies batches of matrices (bmm), which linear layers do not.
OPERATIONS = {
    "optimizer and clipping": r"^Optimizer\.|_foreach_|_fused_",
    "attention": r"attention|bmm|::_?softmax",
    "matrix products and convolutions": r"::(addmm|mm|addmv|mv|matmul|linear)\b|conv",
    "copies between types and layouts": r"::(copy_|_to_copy|to|clone|contiguous)$",
    "elementwise and all other operations": r"^aten::",
    "autograd and Python between operations": r"",
}


@dataclass
class BenchmarkArguments:
    steps: int = field(default=4, metadata={"help": "optimizer steps that a round times, after one that it does not"})
    repeats: int = field(default=5, metadata={"help": "rounds; in every one each variant trains once"})
    rows: int | None = field(default=None, metadata={"help": "rows of a batch; default: the recipe's"})
    threads: int | None = field(default=None, metadata={"help": "CPU threads; default: PyTorch's choice"})
    profile: bool = field(default=False, metadata={"help": "also tell what kinds of operations a step consists of"})
    output: str | None = field(default=None, metadata={"help": "JSON file for the results"})

    def __post_init__(self):
        check_ranges(self, steps=1, repeats=1, rows=1, threads=1)


class SetokStage:
    """Stage 0: its model, its first rows, and its trainer."""

    kind, classes = "stage 0", (train_setok.ModelArguments, train_setok.DataArguments, SetokTrainingArguments)
    variants = {PIXELS: {}, CACHED: {}}
    tolerance = 2e-3  # the cache rounds embeddings to float16

    def __init__(self, recipe: list[str], steps: int):
        self.recipe = recipe
        self.model_args, self.data_args, args = parse_recipe(self.classes, recipe)
        set_seed(args.seed)
        rows, _, names = train_setok.load_data(self.data_args)
        features = concept_text_features(names, self.model_args.text_model_name_or_path) if names else None
        self.model, self.image_processor = train_setok.build_model(self.model_args, self.data_args, names, features)
        models = self.model, self.image_processor
        self.perceptual_loss = train_setok.build_perceptual_loss(self.model_args, args, *models)
        if self.model_args.trainable is not None:
            train_only(self.model, self.model_args.trainable)
        if any(parameter.requires_grad for parameter in self.model.setok.vision_encoder.parameters()):
            raise ValueError(
                "This recipe trains the vision encoder, so there is no cache to compare with: name the other parts in "
                "trainable, or choose a recipe with a frozen encoder."
            )
        self.rows = Subset(rows, range(_rows_of_round(args, steps, len(rows))))
        self.target_size = self.model.config.detokenizer_config.image_size
        self.collator = SetokCollator(self.image_processor, names, self.data_args.max_concepts, self.target_size)

    def write_cache(self, folder: str, args: TrainingArguments) -> None:
        write_patch_cache(
            folder,
            self.rows,
            SetokCollator(self.image_processor, target_size=self.target_size),
            self.model.setok.to(args.device),
            self._fingerprint(),
            batch_size=args.per_device_eval_batch_size,
        )

    def open_cache(self, folder: str) -> PatchCache:
        """The cache, by which the model is calibrated as before a training: tokens are then as many as there."""
        cache = PatchCache(folder, len(self.rows), self._fingerprint())
        if any(parameter.requires_grad for parameter in self.model.setok.parameters()):
            train_setok.calibrate(self.model, cache, self.collator, self.model_args.calibration_images)
        return cache

    def trainer(self, args: SetokTrainingArguments, rows) -> SetokTrainer:
        return SetokTrainer(
            model=copy.deepcopy(self.model),
            args=args,
            data_collator=self.collator,
            train_dataset=rows,
            processing_class=self.image_processor,
            perceptual_loss=self.perceptual_loss,
            adversarial_loss=train_setok.build_adversarial_loss(args),
        )

    def _fingerprint(self) -> dict:
        return train_setok.cache_fingerprint(self.model, self.image_processor, self.data_args)


class SetokimStage:
    """Pretraining or finetuning: the model, the first rows of the mixture, and the trainer."""

    variants = {PIXELS: {"pack_rows": False}, CACHED: {"pack_rows": False}, PACKED: {"pack_rows": True}}
    tolerance = 1e-4

    def __init__(self, recipe: list[str], steps: int, pretraining: bool):
        self.recipe, self.kind = recipe, "pretraining" if pretraining else "finetuning"
        stage = pretrain_setokim if pretraining else finetune_setokim
        arguments_class = SetokimTrainingArguments if pretraining else finetune_setokim.SetokimSFTConfig
        self.classes = (stage.ModelArguments, MixtureArguments, arguments_class)
        model_args, self.data_args, args = parse_recipe(self.classes, recipe)
        set_seed(args.seed)
        check_ranges(self.data_args, train_examples=1)
        rows = load_mixture(self.data_args.mixture, self.data_args.train_examples, seed=args.seed)
        lora, self.trainer_class, self.options = None, SetokimTrainer, {}
        if pretraining:
            self.model, self.processor = pretrain_setokim.build_model(model_args, rows)
        else:
            self.model, self.processor = load_setokim(
                model_args.model_name_or_path, model_args.config, model_args.attn_implementation
            )
            lora = None if model_args.lora is None else finetune_setokim.lora_config(model_args.lora)
            self.trainer_class, self.options = finetune_setokim.SetokimSFTTrainer, {"peft_config": lora}
        if lora is None:
            train_only(self.model, model_args.trainable or ("model.language_model", "lm_head", *VISUAL_HEADS))
        if self.data_args.streaming:
            raise ValueError("A stream has no first rows to take turns on: give the recipe streaming: false.")
        lengths = row_lengths(self.model, self.processor, args.max_length, self.data_args.long_rows)
        self.collator = SetokimCollator(self.processor, lengths)
        rows = without_long_rows(rows, lengths)
        number = _rows_of_round(args, steps, len(rows))
        self.rows = replace(rows, part_of=rows.part_of[:number], row_of=rows.row_of[:number])
        refuse_trained_setok(self.trainer(args, self.rows).model)  # with adapters in their places

    def write_cache(self, folder: str, args: TrainingArguments) -> None:
        setok, image_processor = self.model.model.setok.to(args.device), self.processor.image_processor
        fingerprint = token_fingerprint(setok, image_processor, self.data_args.mixture, self.rows)
        collate, batch_size = SetokimCollator(self.processor), args.per_device_eval_batch_size
        write_token_cache(folder, self.rows, len(self.rows), collate, setok, fingerprint, batch_size=batch_size)

    def open_cache(self, folder: str) -> TokenCache:
        data_args = replace(self.data_args, token_cache=folder)
        return from_token_cache(data_args, self.rows, self.model.model.setok, self.processor.image_processor)

    def trainer(self, args: TrainingArguments, rows) -> Trainer:
        return self.trainer_class(
            model=copy.deepcopy(self.model),
            args=args,
            data_collator=self.collator,
            train_dataset=rows,
            processing_class=self.processor,
            **self.options,
        )


def load_stage(recipe: list[str], steps: int) -> SetokStage | SetokimStage:
    """The stage of a recipe, given as the scripts take it: the file, and other values.

    Raises:
        ValueError: what is cached is trained, or the recipe has fewer rows than the steps take.
    """
    values = read_recipe(recipe[0])
    if not trains_setokim(values):
        return SetokStage(recipe, steps)
    return SetokimStage(recipe, steps, pretraining=any(name in values for name in pretrain_setokim.NEW))


def _rows_of_round(args: TrainingArguments, steps: int, available: int) -> int:
    """A round takes a step that is not timed, the timed ones, and what the loader of accelerate reads ahead."""
    number = (steps + 2) * args.train_batch_size * args.gradient_accumulation_steps
    if number > available:
        raise ValueError(
            f"{steps} timed steps take {number} rows, with one step before them and one that is read ahead, but the "
            f"recipe has {available}: lower --steps or --rows, or raise train_examples."
        )
    return number


class Stopwatch(TrainerCallback):
    """Times all steps of a training but the first, from log to log; `logging_steps` must be 1.

    Attributes:
        losses: of the first step, by name.
        seconds: of the steps after it; `waiting`: those of them before a step had its rows.
        places, tokens: what the language model read in them, and how much of it was no padding. Where rows are packed,
            nothing tells, and tokens are 0.
    """

    def __init__(self):
        self.losses: dict[str, float] = {}
        self.seconds = self.waiting = 0.0
        self.places = self.tokens = 0
        self._since = self._waited = 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        self._waited = time.perf_counter() - self._since

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in logs:  # of the whole run, at its end
            return
        now = time.perf_counter()
        if self.losses:
            self.seconds += now - self._since
            self.waiting += self._waited
        else:
            self.losses = {name: value for name, value in logs.items() if name.endswith("loss")}
        self._since = now

    def count(self, language_model: torch.nn.Module, inputs: tuple, given: Mapping) -> None:
        """A forward pre-hook of the language model. Nothing of the first step counts: there packing is tried out."""
        if self.losses:
            self.places += given["inputs_embeds"].shape[:2].numel()
            if given["attention_mask"] is not None:
                self.tokens += int((given["attention_mask"] != 0).sum())


class StepProfile(TrainerCallback):
    """Profiles the second step of a training, without what it waits for its rows."""

    def __init__(self):
        self.profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.profiler.start()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 2:
            self.profiler.stop()

    def shares(self) -> dict[str, float]:
        """Of each kind of operations its share of the time that operations took, themselves, without those within."""
        times = dict.fromkeys(OPERATIONS, 0.0)
        for event in self.profiler.events():
            in_optimizer = any(name.startswith("Optimizer.step") for name in _names_around(event))
            times[next(iter(OPERATIONS)) if in_optimizer else kind_of(event.name)] += event.self_cpu_time_total
        return {kind: own / sum(times.values()) for kind, own in times.items()}


def kind_of(operation: str) -> str:
    """Of `OPERATIONS`, by the name that the profiler gives."""
    return next(kind for kind, pattern in OPERATIONS.items() if re.search(pattern, operation))


def _names_around(event) -> Iterator[str]:
    while event is not None:
        yield event.name
        event = event.cpu_parent


def refuse_other_losses(losses: Mapping[str, Mapping[str, float]], tolerance: float) -> None:
    """Raises a `ValueError` unless the losses of all variants are those of the first but for a relative error."""
    (first, expected), *others = losses.items()
    for name, found in others:
        wrong = [
            f"{part} {found.get(part)} instead of {value}"
            for part, value in expected.items()
            if not abs(found.get(part, float("nan")) - value) <= tolerance * abs(value)
        ]
        if wrong:
            raise ValueError(
                f'With the variant "{name}" the first step has other losses than with "{first}": {", ".join(wrong)}. '
                "What trains something else is not timed. A dropout that is a function, not a module, does this: set "
                "it to 0 in config."
            )


def train(
    stage: SetokStage | SetokimStage, variant: str, rows, steps: int, callbacks: Iterable = (), exact: bool = False
) -> Stopwatch:
    """Trains for some steps, from the stage's weights and seed. `exact`: in float32 and without dropout."""
    values = stage.variants[variant] | {"max_steps": steps} | (EXACT if exact else {})
    args = parse_recipe(stage.classes, [*stage.recipe, *_line(values)])[-1]
    set_seed(args.seed)
    trainer, watch = stage.trainer(args, rows), Stopwatch()
    for name, module in trainer.model.named_modules():
        if name.split(".")[-1] == "language_model":
            module.register_forward_pre_hook(watch.count, with_kwargs=True)
        if exact and isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trainer.remove_callback(PrinterCallback)
    for callback in (watch, *callbacks):
        trainer.add_callback(callback)
    trainer.train()
    return watch


def measure(arguments: BenchmarkArguments, recipe: list[str]) -> dict:
    """All results, as the table and the JSON file tell them.

    Args:
        recipe: the file, and other values for it.

    Raises:
        ValueError: see `load_stage` and `refuse_other_losses`; a profile of another device than the CPU.
    """
    with tempfile.TemporaryDirectory() as folder:
        values = ALIKE | {"output_dir": f"{folder}/run"}
        if arguments.rows is not None:
            values["per_device_train_batch_size"] = arguments.rows
        stage = load_stage([*recipe, *_line(values)], arguments.steps)
        args = parse_recipe(stage.classes, stage.recipe)[-1]
        if arguments.profile and args.device.type != "cpu":
            raise ValueError("--profile tells the time of operations on the CPU: add --use_cpu true, or leave it out.")
        start = time.perf_counter()
        stage.write_cache(f"{folder}/cache", args)
        cache_seconds = time.perf_counter() - start
        cache = stage.open_cache(f"{folder}/cache")
        rows_of = {variant: stage.rows if variant == PIXELS else cache for variant in stage.variants}

        exact = {variant: train(stage, variant, rows, 1, exact=True).losses for variant, rows in rows_of.items()}
        refuse_other_losses(exact, stage.tolerance)
        rounds = {variant: [] for variant in rows_of}
        for _ in range(arguments.repeats):
            for variant, rows in rows_of.items():
                rounds[variant].append(train(stage, variant, rows, arguments.steps + 1))
        rows_per_step = args.train_batch_size * args.gradient_accumulation_steps
        results = {
            "kind": stage.kind,
            "rows_per_step": rows_per_step,
            "device": str(args.device),
            "threads": torch.get_num_threads(),
            "cached_rows": len(stage.rows),
            "milliseconds_to_cache_a_row": 1e3 * cache_seconds / len(stage.rows),
            "variants": _summaries(rounds, exact, rows_per_step * arguments.steps, arguments.steps),
        }
        if arguments.profile:
            for variant, rows in rows_of.items():
                profile = StepProfile()
                train(stage, variant, rows, 2, [profile])
                results["variants"][variant]["operations"] = profile.shares()
    return results


def _line(values: Mapping) -> list[str]:
    return [text for name, value in values.items() for text in (f"--{name}", str(value))]


def _summaries(
    rounds: Mapping[str, list[Stopwatch]], exact: Mapping[str, dict[str, float]], rows: int, steps: int
) -> dict[str, dict]:
    """Of each variant, over its rounds of so many rows and steps."""
    summaries = {}
    for variant, watches in rounds.items():
        speeds = [rows / watch.seconds for watch in watches]
        median = statistics.median(speeds)
        # Packed rows are those of the cache; from pixels, under autocast to bfloat16, some pictures get other tokens
        tokens = watches[0].tokens or rounds[CACHED][0].tokens
        summaries[variant] = {
            "rows_per_second": median,
            "rows_per_second_least": min(speeds),
            "rows_per_second_most": max(speeds),
            "ratio_to_pixels": median / summaries[PIXELS]["rows_per_second"] if summaries else 1.0,
            "seconds_per_step": statistics.median(watch.seconds for watch in watches) / steps,
            "seconds_waiting_per_step": statistics.median(watch.waiting for watch in watches) / steps,
            "padding": 1 - tokens / watches[0].places if tokens else None,
            "first_losses": watches[0].losses,
            "first_losses_float32": exact[variant],
        }
    return summaries


def format_results(results: Mapping) -> str:
    """The tables as text."""
    columns = f"{'rows/s':>9}{'(least - most)':>18}{'ratio':>8}{'s/step':>9}{'waiting':>9}{'padding':>9}{'loss':>12}"
    lines = [f"{'':<16}{columns}"]
    for variant, values in results["variants"].items():
        spread = f"({values['rows_per_second_least']:.2f} - {values['rows_per_second_most']:.2f})"
        padding = "-" if values["padding"] is None else f"{values['padding']:.1%}"
        lines.append(
            f"{variant:<16}{values['rows_per_second']:>9.2f}{spread:>18}{values['ratio_to_pixels']:>8.2f}"
            f"{values['seconds_per_step']:>9.3f}{values['seconds_waiting_per_step']:>9.3f}{padding:>9}"
            f"{values['first_losses_float32']['loss']:>12.6f}"
        )
    lines.append(
        f"Writing {results['cached_rows']} rows into the cache took {results['milliseconds_to_cache_a_row']:.1f} ms a "
        "row, once, drawing or reading them included."
    )
    if "operations" in results["variants"][PIXELS]:
        lines += ["", f"{'share of the time of one step':<42}" + "".join(f"{v:>16}" for v in results["variants"])]
        for kind in OPERATIONS:
            shares = (values["operations"][kind] for values in results["variants"].values())
            lines.append(f"{kind:<42}" + "".join(f"{share:>16.1%}" for share in shares))
    return "\n".join(lines)


def main(line: list[str] | None = None) -> None:
    parser = HfArgumentParser(
        BenchmarkArguments, description=__doc__, usage="%(prog)s RECIPE [options] [values for the recipe]"
    )
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file of stage 0, pretraining or finetuning")
    arguments, given, other = parser.parse_args_into_dataclasses(line, return_remaining_strings=True)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    try:
        results = measure(arguments, [given.recipe, *other])
    except ValueError as error:
        sys.exit(f"Error: {error}")
    print(
        f"{Path(given.recipe).name}, {results['kind']}: {results['rows_per_step']} rows a step, {arguments.repeats} "
        f"rounds of {arguments.steps} steps in turns, medians; {results['device']}, {results['threads']} threads. "
        "The loss is that of the first step, in float32."
    )
    print(format_results(results))
    if arguments.output is not None:
        write_results(arguments.output, Namespace(recipe=given.recipe, values=other, **vars(arguments)), results)


if __name__ == "__main__":
    main()
