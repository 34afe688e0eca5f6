"""Measures a Setokim on EmojiScenes.

python -m training.evaluation.evaluate_setokim \\
  --model model_cards/setokim-emoji-tiny --setok model_cards/setok-emoji-tiny
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from statistics import fmean, stdev

import torch
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from modeling_setok import SetokForPreTraining, SetokimForConditionalGeneration
from processing import SetokimProcessor
from training.data import EmojiScenes, SceneConfig, concept_names
from training.evaluation.metrics import Metric
from training.evaluation.report import HELD_OUT, Row, choose_device, format_rows, write_results
from training.evaluation.setokim_tasks import TASKS, Context, Judge
from training.evaluation.setokim_tasks.painting import border_colour

__all__ = ["ROWS", "TASKS", "Arguments", "border_colour", "evaluate_setokim", "format_table"]

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


def format_table(results: dict[str, float]) -> str:
    """The table of what `evaluate_setokim` returned."""
    return format_rows(ROWS, results)


@dataclass
class Arguments:
    model: str = field(metadata={"help": "folder or Hub id of a Setokim with its processor"})
    setok: str = field(metadata={"help": "folder or Hub id of the SeTok that judges the painted pictures"})
    num_scenes: int = field(default=500, metadata={"help": "number of EmojiScenes for each task"})
    split: str = field(default="test", metadata={"help": "train, validation or test"})
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


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    device = choose_device(arguments.device)
    model = SetokimForConditionalGeneration.from_pretrained(arguments.model).to(device)
    processor = SetokimProcessor.from_pretrained(arguments.model)
    setok = SetokForPreTraining.from_pretrained(arguments.setok).to(device)
    start = time.perf_counter()
    results = evaluate_setokim(
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
    results["seconds"] = time.perf_counter() - start
    print(f"{arguments.model} on EmojiScenes, split {arguments.split}, {results['seconds']:.0f} s\n")
    print(format_table(results))
    if arguments.output:
        write_results(arguments.output, arguments, results)


if __name__ == "__main__":
    main()
