"""Measures a Setokim on EmojiScenes, or on rows of your own.

python -m training.evaluation.evaluate_setokim \\
  --model build/hub/setokim-emoji-tiny --setok model_cards/setok-emoji-tiny
python -m training.evaluation.evaluate_setokim --model runs/my-setokim --data '{dataset: data/MyTalks, held_out: 200}'

With --data, which takes what a recipe's `mixture` takes as a part (see `training/data/sources.py`), the rows are those
that the part holds out; else those of the split "test", or of --split; else, of data without splits, all. With
--output results.json, answers are kept in results.caption.predictions.jsonl and the like as they come: the same command
goes on from there after a killed run.
"""

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

import torch
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from modeling_setok import SetokForPreTraining, SetokimForConditionalGeneration
from processing import SetokimProcessor
from training.data import EmojiScenes, SceneConfig, concept_names
from training.data.measured_rows import HeldOut, load_held_out, read_part
from training.evaluation.benchmark.answering import Options, Setokim
from training.evaluation.benchmark.benchmark import Networks
from training.evaluation.benchmark.measuring import fingerprint
from training.evaluation.benchmark.own_data import MAX_NEW_TOKENS, measure_rows, table_rows
from training.evaluation.metrics import Metric
from training.evaluation.report import HELD_OUT, Row, choose_device, format_rows, mistakes_in_words, write_results
from training.evaluation.setokim_tasks import TASKS, Context, Judge
from training.evaluation.setokim_tasks.painting import border_colour
from training.loading import load_whole

__all__ = ["ROWS", "TASKS", "Arguments", "border_colour", "evaluate_setokim", "format_table", "rows_of"]

ROWS = [Row("scenes", "num_scenes", ".0f"), *(row for task in TASKS.values() for row in task.rows)]


@torch.no_grad()
def evaluate_setokim(
    model: SetokimForConditionalGeneration,
    processor: SetokimProcessor,
    setok: SetokForPreTraining,
    num_scenes: int = 500,
    tasks: Sequence[str] | None = None,
    config: SceneConfig | None = None,
    split: str = "test",
    seed: int = 0,
    batch_size: int = 32,
    num_draws: int = 1,
    **generation,
) -> dict[str, float]:
    """Measures what a Setokim says, paints and outlines on EmojiScenes.

    Args:
        setok: judges the painted pictures: its concept bank must have the names of the scenes' objects, and its image
            processor be the processor's. It also gives the reconstructions and clusters to compare with.
        num_scenes: each task is measured once on each of them.
        tasks: names in `TASKS`; all by default.
        config: what the scenes look like; by default 1 to 6 objects of the tiny vocabulary, in the size of the image
            processor.
        split, seed: of the scenes; the seed is also that of the sampled visual tokens. Each picture has its own
            generator, so that the batch size does not matter.
        num_draws: how often what depends on sampled visual tokens is measured, each time with other random numbers.
        generation: how visual tokens are sampled (`visual_guidance_scale`, `visual_temperature`,
            `num_diffusion_steps`): passed on to the model's `generate`.

    Returns:
        `num_scenes`, and what the docstrings of the tasks name (`observe` in `setokim_tasks/`): over all scenes, and
        with the prefix `held_out_` over those with a pair of objects that no training scene has. Of what was measured
        more than once the mean, and with the suffix `_sd` the standard deviation of the draws.

    Raises:
        ValueError: an unknown task, no draw, or names that SeTok's concept bank lacks.
    """
    tasks = list(TASKS) if tasks is None else tasks
    if isinstance(tasks, str) or not tasks or not set(tasks) <= set(TASKS):
        raise ValueError(f"tasks must be a sequence of some of {', '.join(TASKS)}; got {tasks!r}.")
    if num_draws < 1:
        raise ValueError(f"num_draws must be 1 or more, got {num_draws}.")
    config = config or SceneConfig(image_size=processor.image_processor.size["height"])
    judge = Judge(setok, processor.image_processor, concept_names(config.vocabulary))
    scenes = EmojiScenes(split, num_scenes, config, seed=seed)
    held_out = [scenes.scene(index).has_held_out_pair for index in range(num_scenes)]
    contexts = [Context(model, processor, judge, scenes, generation, draw) for draw in range(num_draws)]
    groups: dict[str, dict[tuple[str, type[Metric], int], Metric]] = {"": {}, HELD_OUT: {}}
    were_training = {module: module.training for module in (model, setok)}
    try:
        model.eval()
        setok.eval()
        for name in tasks:
            task = TASKS[name]
            batches = range(0, num_scenes, batch_size)
            for context, start in tqdm(
                list(product(contexts if task.sampled else contexts[:1], batches)), desc=name, leave=False
            ):
                examples = context.examples(task.scene_task, range(start, min(start + batch_size, num_scenes)))
                for example, observations in zip(examples, task.observe(context, examples), strict=True):
                    for prefix in ("", HELD_OUT) if held_out[example.index] else ("",):
                        for key, metric, predictions, references in observations:
                            metric = groups[prefix].setdefault((key, metric, context.draw), metric())
                            metric.add_batch(predictions=predictions, references=references)
    finally:
        for module, was_training in were_training.items():
            module.train(was_training)
    results = {"num_scenes": num_scenes} | ({f"{HELD_OUT}num_scenes": sum(held_out)} if any(held_out) else {})
    for prefix, metrics in groups.items():
        measured = defaultdict(list)
        for (key, _, _), metric in metrics.items():
            for name, value in metric.compute().items():
                measured[f"{prefix}{key}_{name}"].append(value)
        for key, values in measured.items():
            results |= {key: fmean(values)} | ({f"{key}_sd": stdev(values)} if len(values) > 1 else {})
    return results


def rows_of(results: dict[str, float]) -> list[Row]:
    """The rows of the table of what was measured on EmojiScenes, or on rows of one's own."""
    return ROWS if ROWS[0].key in results else table_rows(results)


def format_table(results: dict[str, float]) -> str:
    """The table of what `evaluate_setokim` or `measure_rows` returned."""
    return format_rows(rows_of(results), results)


SAMPLING = ("visual_guidance_scale", "visual_temperature", "num_diffusion_steps")
ONLY_ROWS = {"limit", "lpips"}  # arguments that say nothing of EmojiScenes
ONLY_SCENES = {"num_scenes", "tasks", "vocabulary", "styles", "num_draws"}


@dataclass
class Arguments:
    model: str = field(metadata={"help": "folder or Hub id of a Setokim with its processor"})
    setok: str | None = field(
        default=None,
        metadata={
            "help": "folder or Hub id of the SeTok that judges the painted pictures; with --data, if rows have concepts"
        },
    )
    data: str | None = field(
        default=None,
        metadata={
            "help": "measured instead of EmojiScenes: a part of a mixture, such as data/MyTalks or '{dataset: "
            "data/MyTalks, held_out: 200}'"
        },
    )
    limit: int | None = field(default=None, metadata={"help": "only the first so many rows of --data"})
    lpips: str | None = field(
        default=None, metadata={"help": "with --data: weights of training.packaged_models.lpips_vgg"}
    )
    num_scenes: int = field(default=500, metadata={"help": "number of EmojiScenes for each task"})
    split: str = field(
        default="test", metadata={"help": "train, validation or test; of --data, as the data set has them"}
    )
    tasks: list[str] = field(default_factory=lambda: list(TASKS), metadata={"help": f"some of {', '.join(TASKS)}"})
    vocabulary: str = field(default="tiny", metadata={"help": "objects in the scenes: tiny (60), full (144) or large"})
    styles: list[str] = field(
        default_factory=lambda: ["noto"], metadata={"help": "how they are drawn: some of noto, twemoji, openmoji"}
    )
    seed: int = field(default=0, metadata={"help": "seed of the scenes and of the painted pictures"})
    batch_size: int = field(default=32, metadata={"help": "scenes per batch"})
    num_draws: int = field(default=1, metadata={"help": "how often what is sampled is measured"})
    visual_guidance_scale: float | None = field(
        default=None, metadata={"help": "classifier-free guidance of visual tokens; default: the model's own"}
    )
    visual_temperature: float | None = field(default=None, metadata={"help": "factor of their noise"})
    num_diffusion_steps: int | None = field(default=None, metadata={"help": "default: the model's own"})
    device: str | None = field(default=None, metadata={"help": "default: the accelerator, or the CPU without one"})
    output: str | None = field(default=None, metadata={"help": "JSON file for the results"})


@mistakes_in_words()
def main() -> None:
    parser = HfArgumentParser(Arguments, description=__doc__)
    (arguments,) = parser.parse_args_into_dataclasses()
    if arguments.data is None and arguments.setok is None:
        parser.error("EmojiScenes need --setok, which judges what is painted; rows of your own need --data")
    unused = ONLY_ROWS if arguments.data is None else ONLY_SCENES
    for name in unused & {name for name, value in vars(arguments).items() if value != _defaults()[name]}:
        parser.error(f"--{name} is of {'rows of your own' if arguments.data is None else 'EmojiScenes'}: leave it out")
    device = choose_device(arguments.device)
    held_out = None if arguments.data is None else load_held_out(read_part(arguments.data), arguments.split)
    model = load_whole(SetokimForConditionalGeneration.from_pretrained, arguments.model, "setokim").to(device)
    processor = SetokimProcessor.from_pretrained(arguments.model)
    setok = None
    if arguments.setok is not None:
        setok = load_whole(SetokForPreTraining.from_pretrained, arguments.setok, "setok").to(device).eval()
    measured_on = f"EmojiScenes, split {arguments.split}" if held_out is None else held_out.told
    if arguments.limit is not None:
        measured_on += f"; the first {arguments.limit} of them"
    start = time.perf_counter()
    if held_out is None:
        results = _measure_scenes(arguments, model, processor, setok)
    else:
        results = _measure_rows(arguments, model, processor, setok, held_out)
    results["seconds"] = time.perf_counter() - start
    print(f"{arguments.model} on {measured_on}, {results['seconds']:.0f} s\n")
    print(format_table(results))
    if arguments.output:
        data = None if held_out is None else {"name": held_out.name, "rows": measured_on}
        write_results(arguments.output, arguments, results, data)


def _defaults() -> dict:
    return {
        one.name: one.default if one.default_factory is MISSING else one.default_factory() for one in fields(Arguments)
    }


def _measure_scenes(arguments: Arguments, model, processor, setok: SetokForPreTraining) -> dict[str, float]:
    return evaluate_setokim(
        model,
        processor,
        setok,
        num_scenes=arguments.num_scenes,
        tasks=arguments.tasks,
        config=SceneConfig(
            image_size=processor.image_processor.size["height"],
            vocabulary=arguments.vocabulary,
            styles=tuple(arguments.styles),
        ),
        split=arguments.split,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        num_draws=arguments.num_draws,
        visual_guidance_scale=arguments.visual_guidance_scale,
        visual_temperature=arguments.visual_temperature,
        num_diffusion_steps=arguments.num_diffusion_steps,
    )


def _measure_rows(
    arguments: Arguments, model, processor, setok: SetokForPreTraining | None, held_out: HeldOut
) -> dict[str, float]:
    given = {name: getattr(arguments, name) for name in SAMPLING}
    with tempfile.TemporaryDirectory() as folder:
        return measure_rows(
            Setokim(model, processor),
            held_out.rows,
            Path(arguments.output or f"{folder}/results.json"),
            run={
                "data": json.dumps(read_part(arguments.data) | {"split": arguments.split}, default=str),
                "model": arguments.model,
                "model_files": fingerprint(arguments.model),
            },
            setok=None if setok is None else (setok, processor.image_processor),
            limit=arguments.limit,
            batch_size=arguments.batch_size,
            networks=Networks(lpips=arguments.lpips, device=model.device),
            options=Options(
                max_new_tokens=MAX_NEW_TOKENS,
                seed=arguments.seed,
                generation={name: value for name, value in given.items() if value is not None},
            ),
        )


if __name__ == "__main__":
    main()
