"""What a Setokim says: captions and answers."""

from training.data.emoji_scenes.language import background
from training.data.emoji_scenes.tasks import QUESTIONS, RELATIONS, presence_question
from training.evaluation.metrics import AnswerAccuracy, ObjectF1, YesNo
from training.evaluation.report import Row
from training.evaluation.setokim_tasks.task import Context, Example, Observations, Task


def caption(context: Context, examples: list[Example]) -> list[Observations]:
    """`caption_f1`, `_precision`, `_recall` and `_exact` of the objects named (see `ObjectF1`);
    `caption_background_accuracy`, whether it has the true words for the background."""
    captions = context.model.caption(context.processor, [example.row["images"][0] for example in examples])
    observations = []
    for example, said in zip(examples, captions, strict=True):
        told, true = said.rpartition(" on ")[2], background(example.scene)
        observations.append(
            [
                ("caption", ObjectF1, [context.mentions(said)], [example.scene.names]),
                ("caption_background", AnswerAccuracy, [told], [(None, true)]),
            ]
        )
    return observations


def answers(context: Context, examples: list[Example]) -> list[Observations]:
    """Of questions about one picture, two or none: `question_accuracy` and `question_majority` (see `AnswerAccuracy`),
    and by type `question_counting_accuracy` …; in the same way `relation_`, `two_images_`, `text_only_` and
    `out_of_scope_`, where the answer is the sentence that says so."""
    said = context.model.ask(
        context.processor, [example.row["images"] for example in examples], [example.request for example in examples]
    )
    observations = []
    for example, answer in zip(examples, said, strict=True):
        truth = example.row["messages"][1]["content"][0]["text"]
        reference = (example.row["question_type"], truth)
        observations.append([(example.row["task"], AnswerAccuracy, [answer], [reference])])
    return observations


def presence(context: Context, examples: list[Example]) -> list[Observations]:
    """Of two questions per scene, for a random object that is there and for one that is not: `presence_accuracy`,
    `_precision`, `_recall`, `_f1` and `_yes_ratio` (see `YesNo`)."""
    pictures, questions = [], []
    for example in examples:
        for name in context.scenes.presence_pair(example.index, example.scene):
            pictures.append(example.row["images"][0])
            questions.append(presence_question(name))
    said = context.model.ask(context.processor, pictures, questions)
    return [[("presence", YesNo, said[i : i + 2], ["yes", "no"])] for i in range(0, len(said), 2)]


def _accuracy(title: str, key: str) -> Row:
    return Row(title, f"{key}_accuracy", beside={"majority's answer": f"{key}_majority"})


CAPTION = Task(
    name="caption",
    scene_task="caption",
    observe=caption,
    rows=[
        Row("caption: F1 of objects", "caption_f1"),
        Row("caption: all objects and no other", "caption_exact"),
        _accuracy("caption: colour and texture behind", "caption_background"),
    ],
)
QUESTION = Task(
    name="question",
    scene_task="question",
    observe=answers,
    rows=[
        _accuracy("questions: accuracy", "question"),
        *(_accuracy(f"– {kind.replace('_', ' ')}", f"question_{kind}") for kind in QUESTIONS),
    ],
)
RELATION = Task(
    name="relation",
    scene_task="relation",
    observe=answers,
    rows=[
        _accuracy("relations: accuracy", "relation"),
        *(_accuracy(f"– {kind.replace('_', ' or ')}", f"relation_{kind}") for kind in RELATIONS),
    ],
)
PRESENCE = Task(
    name="presence",
    scene_task="concepts",
    observe=presence,
    rows=[Row("presence, yes or no: F1", "presence_f1", beside={"answered with yes": "presence_yes_ratio"})],
)
TWO_IMAGES = Task(
    name="two_images",
    scene_task="two_images",
    observe=answers,
    rows=[_accuracy("two pictures: accuracy", "two_images")],
)
TEXT_ONLY = Task(
    name="text_only",
    scene_task="text_only",
    observe=answers,
    rows=[_accuracy("scenes told in words: accuracy", "text_only")],
)
OUT_OF_SCOPE = Task(
    name="out_of_scope",
    scene_task="out_of_scope",
    observe=answers,
    rows=[Row("beyond its world: says so", "out_of_scope_accuracy")],
)
