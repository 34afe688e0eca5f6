"""What a run took: rows seen, time and machine, for the model card.

`training_summary.json` lies in the output folder of a run and in its checkpoints: `{"stages": [...]}`, one mapping for
each run that the weights went through, the last of them this one (see `RunSummary.stage`). No path of a machine is in
it.
"""

import json
import logging
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import transformers
from transformers import TrainingArguments

logger = logging.getLogger(__name__)

SUMMARY = "training_summary.json"
BATCHES = ("input_ids", "pixel_values", "patch_embeddings")  # what has an entry for each row; the first that is there


class RunSummary:
    """Counts from now on.

    Args:
        args: of the run.
        checkpoint: from which it goes on, adding to what stands there.
        step: of the checkpoint.
        made_from: models that the run begins with; the stages of those that are folders with a summary come first.

    Raises:
        ValueError: a summary that cannot be read.
    """

    def __init__(
        self,
        args: TrainingArguments,
        checkpoint: str | None = None,
        step: int = 0,
        made_from: Sequence[str | None] = (),
    ):
        self.args = args
        self.earlier_stages = []
        for folder in filter(None, made_from):
            self.earlier_stages += [stage for stage in read_stages(folder) if stage not in self.earlier_stages]
        self.before = {"rows": 0, "seconds": 0.0, "machines": []}
        if checkpoint is not None:
            if stages := read_stages(checkpoint):
                self.before = stages[-1]
            else:
                logger.warning("%s has no %s: rows and time will be those of the steps after it.", checkpoint, SUMMARY)
                self.before["first_step"] = step
        self.rows = self.before["rows"]
        self.start = time.perf_counter()

    def count(self, batch: Mapping) -> None:
        """Takes note of a batch that each process trains on; a row that comes again counts again."""
        name = next(name for name in BATCHES if name in batch)
        self.rows += len(batch[name]) * self.args.world_size

    def stage(self, steps: int) -> dict:
        """What this run took until now: name of its folder, steps and rows (over all processes), seconds (with
        evaluations and checkpoints; without what a killed run did after its last one), processes, the machines of its
        parts, and versions. `first_step`, where it is there: what came before is not counted."""
        machine = machine_name(self.args)
        stage = {
            "name": Path(self.args.output_dir).name,
            "steps": steps,
            "rows": self.rows,
            "seconds": round(self.before["seconds"] + time.perf_counter() - self.start, 1),
            "processes": self.args.world_size,
            "machines": list(dict.fromkeys([*self.before["machines"], machine])),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        return stage | {name: self.before[name] for name in ("first_step",) if name in self.before}

    def write(self, folder: str | os.PathLike, steps: int) -> None:
        stages = [*self.earlier_stages, self.stage(steps)]
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, SUMMARY).write_text(json.dumps({"stages": stages}, indent=2) + "\n", encoding="utf-8")


def read_stages(folder: str | os.PathLike) -> list[dict]:
    """The stages in a folder's summary; none where there is no such file.

    Raises:
        ValueError: it cannot be read.
    """
    file = Path(folder, SUMMARY)
    if not file.is_file():
        return []
    try:
        stages = json.loads(file.read_text(encoding="utf-8"))["stages"]
        if not all({"rows", "seconds", "machines"} <= stage.keys() for stage in stages):
            raise KeyError("rows, seconds or machines")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{file} is damaged ({type(error).__name__}: {error}). Put it back, or delete it: then it is not known "
            "what was trained before."
        ) from error
    return stages


def machine_name(args: TrainingArguments) -> str:
    """The accelerators of a run, "8 x NVIDIA H100", or its processor, "x86_64 with AVX2, 2 cores"."""
    if args.device.type == "cpu":
        capability = torch.backends.cpu.get_cpu_capability()
        name = platform.processor() or platform.machine()
        return f"{name}{'' if capability in ('DEFAULT', 'NO AVX') else f' with {capability}'}, {os.cpu_count()} cores"
    name = torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type
    return f"{args.world_size} x {name}"
