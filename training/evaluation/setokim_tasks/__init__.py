"""What is measured of a Setokim on EmojiScenes, a file per group of tasks: what it says, paints and outlines.

A new task is a function that observes examples, a `Task` with its rows of the table beside it, and its name here.
"""

from training.evaluation.setokim_tasks.judge import Judge
from training.evaluation.setokim_tasks.language import (
    CAPTION,
    OUT_OF_SCOPE,
    PRESENCE,
    QUESTION,
    RELATION,
    TEXT_ONLY,
    TWO_IMAGES,
)
from training.evaluation.setokim_tasks.painting import EDIT, TEXT_TO_IMAGE
from training.evaluation.setokim_tasks.segmentation import REFERRING
from training.evaluation.setokim_tasks.task import Context, Example, Observations, Task

# In the order of the table
TASKS = {
    task.name: task
    for task in (
        CAPTION, QUESTION, RELATION, PRESENCE, TWO_IMAGES, TEXT_ONLY, OUT_OF_SCOPE, TEXT_TO_IMAGE, EDIT, REFERRING
    )
}  # fmt: skip

__all__ = ["TASKS", "Context", "Example", "Judge", "Observations", "Task"]
