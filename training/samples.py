"""Samples of what a model makes while it is trained: where an evaluation leaves and shows them."""

from pathlib import Path

import numpy as np
from PIL import Image
from transformers import Trainer
from transformers.integrations import TensorBoardCallback, TrackioCallback


def report_samples(trainer: Trainer, sheet: Image.Image | None, answers: str | None = None) -> None:
    """Writes `samples/step-000000.png` and `.md` into the output folder, and shows both in TensorBoard and trackio
    where `args.report_to` has them. Called on the main process, after metrics were logged: then the callbacks have
    opened what they write to, also after training.

    Args:
        sheet: the pictures, called "samples".
        answers: the texts, in Markdown, called "answers".
    """
    step = trainer.state.global_step
    folder = Path(trainer.args.output_dir) / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    if sheet is not None:
        sheet.save(folder / f"step-{step:06d}.png")
    if answers is not None:
        (folder / f"step-{step:06d}.md").write_text(answers, encoding="utf-8")
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            if sheet is not None:
                callback.tb_writer.add_image("samples", np.asarray(sheet), step, dataformats="HWC")
            if answers is not None:
                callback.tb_writer.add_text("answers", answers, step)
            callback.tb_writer.flush()
        elif isinstance(callback, TrackioCallback):
            import trackio

            shown = {} if sheet is None else {"samples": trackio.Image(sheet)}
            shown |= {} if answers is None else {"answers": trackio.Markdown(answers)}
            trackio.log(shown | {"train/global_step": step})
