"""What a Setokim says, paints and outlines when it is asked: one conversation per picture, and one per sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from PIL import Image

from modeling_setok import SetokimForConditionalGeneration
from modeling_setok.tasks_setokim import CAPTION_REQUEST, SEGMENT_REQUEST
from processing import SetokimProcessor, contact_sheet, side_by_side
from training.data import TASKS, SceneConfig, make_scene
from training.data.emoji_scenes import language
from training.data.emoji_scenes.tasks import QUESTIONS, Draw
from training.demo.knowledge import SILENCE, Knowledge
from training.demo.pictures import centred, enlarge, outline
from training.evaluation.metrics import ReferringIoU

PROMPT = "Draw: a red car, an owl and a cupcake on a plain blue background."
CAVEAT = (
    "A Setokim trained on scenes of emoji has never seen a photograph, nor any thing, question or instruction of "
    "another kind: what it says about other pictures, and paints, is guessed from the few words and things it knows."
)
INSTRUCTION = "Make the background blue."
MAX_ANSWER_TOKENS = 128
NUM_PAINTINGS = 3  # of one sentence, each from another noise
TILE = 512  # side in pixels at which pictures are shown


@dataclass(frozen=True)
class Exercise:
    """What is asked about a picture, and what is true.

    Attributes:
        caption: the true one.
        questions: (question, true answer).
        expression: what to outline, such as "the dog face", and its true mask (H, W) bool.
        source, instruction, result: the picture to edit, how, and what should come out.
    """

    title: str
    picture: Image.Image
    caption: str
    questions: Sequence[tuple[str, str]]
    expression: str
    mask: np.ndarray
    source: Image.Image
    instruction: str
    result: Image.Image


@dataclass(frozen=True)
class Reply:
    """What was asked, what came out, and the truth where it is known."""

    asked: str
    answer: str
    truth: str | None = None

    @property
    def caption(self) -> str:
        return f"{self.asked} \N{RIGHT-POINTING DOUBLE ANGLE QUOTATION MARK} {self.answer}" + (
            f" (truth: {self.truth})" if self.truth else ""
        )


@dataclass(frozen=True)
class Conversation:
    """All replies to what was asked about a picture, or to a sentence, and the pictures of it, each with a caption."""

    title: str
    replies: list[Reply]
    pictures: list[tuple[Image.Image, str]]


def exercise_about_scene(image_size: int) -> Exercise:
    """The first test scene, which no training sees, of three different objects, of which one lies left of another."""
    config = SceneConfig(image_size=image_size, min_objects=3, max_objects=3)
    draw = Draw(np.random.default_rng(0), config, allow_held_out=True)
    scenes = (make_scene("test", index, config) for index in count())
    scene = next(scene for scene in scenes if len(set(scene.names)) == 3 and QUESTIONS["left_right"](scene, draw))
    index, expression = language.referring_expressions(scene)[0]
    edit = TASKS["edit"](scene, draw)
    source, result = edit["images"]
    return Exercise(
        title="a test scene of 3 objects",
        picture=Image.fromarray(scene.image),
        caption=language.sentence(language.caption(scene)),
        questions=[QUESTIONS[kind](scene, draw) for kind in ("counting", "background_colour", "left_right")],
        expression=expression,
        mask=scene.masks[index],
        source=source,
        instruction=edit["messages"][0]["content"][-1]["text"],
        result=result,
    )


def as_large_as_shown(picture: Image.Image) -> Image.Image:
    """A copy with no more pixels than are shown: outlines of photographs of full size take minutes."""
    picture = picture.copy()
    picture.thumbnail((TILE, TILE))
    return picture


def work_through(
    exercise: Exercise, model: SetokimForConditionalGeneration, processor: SetokimProcessor
) -> Conversation:
    """Caption, questions, outline and edit of a picture; the same at every call."""
    picture, questions = exercise.picture, [question for question, _ in exercise.questions]
    told = [Reply(CAPTION_REQUEST, model.caption(processor, picture) or SILENCE, exercise.caption)]
    answers = model.ask(processor, [picture] * len(questions), questions)
    told += [
        Reply(asked, said or SILENCE, truth) for (asked, truth), said in zip(exercise.questions, answers, strict=True)
    ]

    mask = model.segment(processor, picture, exercise.expression)
    overlap = _overlap(mask, exercise.mask)
    outlined = f"a mask of {mask.mean():.0%} of the picture, IoU with the true one {overlap:.2f}"
    outlined = Reply(SEGMENT_REQUEST.format(exercise.expression), outlined)

    edited = model.edit_image(processor, exercise.source, exercise.instruction)
    changed = (
        f"a picture that differs from the true one by {_difference(edited, exercise.result):.0%} "
        f"(before the edit: {_difference(exercise.source, exercise.result):.0%})"
    )
    changed = Reply(exercise.instruction, changed)

    pictures = [
        (picture, "\n".join(reply.caption for reply in told)),
        (outline(picture, mask, TILE), outlined.caption),
        (outline(picture, exercise.mask, TILE), "the true mask"),
        (exercise.source, "before the edit"),
        (edited, changed.caption),
        (exercise.result, "the true result"),
    ]
    return Conversation(exercise.title, [*told, outlined, changed], pictures)


def checked_text(
    text: str, model: SetokimForConditionalGeneration, processor: SetokimProcessor, num_pictures: int = 0
) -> str:
    """A user's text without spaces around it; `ValueError` if there is none, or if it does not fit into the model
    with so many pictures and an answer."""
    if not isinstance(text, str) or any("\ud800" <= letter <= "\udfff" for letter in text):  # halves of letters
        raise ValueError(f"This is no text, but {ascii(text):.40}: write what you want in words.")
    text = text.strip()
    if not text:
        raise ValueError("There is no text yet: write what you want, or click an example.")
    tokenizer, config = processor.tokenizer, model.config
    if marks := [mark for mark in tokenizer.all_special_tokens if mark in text]:
        raise ValueError(f"Leave {' and '.join(marks)} out: to the model this is no text, but a mark of its own.")
    others = (num_pictures + 1) * config.vision_config.max_tokens + MAX_ANSWER_TOKENS  # an answer may be a picture
    room = config.text_config.max_position_embeddings - others
    length = len(tokenizer(text)["input_ids"])
    if length > room:
        raise ValueError(f"This text is too long: it has {length} tokens, and the model reads up to {room}.")
    return text


def paint(
    prompt: str, model: SetokimForConditionalGeneration, processor: SetokimProcessor, knowledge: Knowledge
) -> Conversation:
    """Pictures of a sentence, the same at every call; none of one with words that the model does not know."""
    if refusal := knowledge.refusal(prompt):
        return Conversation("a sentence", [Reply(prompt, refusal)], [])
    generator = torch.Generator().manual_seed(0)
    painted = model.generate_image(processor, [prompt] * NUM_PAINTINGS, generator=generator)
    pictures = [(picture, f"{prompt} ({number})") for number, picture in enumerate(painted, start=1)]
    return Conversation("a sentence", [Reply(prompt, f"{NUM_PAINTINGS} pictures")], pictures)


def describe(conversation: Conversation) -> str:
    """A heading, and who said what."""
    lines = [f"Setokim on {conversation.title}"]
    for reply in conversation.replies:
        lines += [f"  user   {reply.asked}", f"  model  {reply.answer}".replace("\n", "\n         ")]
        if reply.truth:
            lines.append(f"  truth  {reply.truth}")
    return "\n".join(lines)


def draw(conversations: Sequence[Conversation]) -> Image.Image:
    """One sheet with all pictures, three in a row, each over its caption."""
    rows = []
    for conversation in conversations:
        tiles = [_tile(picture) for picture, _ in conversation.pictures]
        captions = [caption for _, caption in conversation.pictures]
        rows += [side_by_side(tiles[i : i + 3], captions[i : i + 3]) for i in range(0, len(tiles), 3)]
    return contact_sheet(rows)


def _tile(picture: Image.Image) -> Image.Image:
    """The whole picture in the middle of a square."""
    return centred(enlarge(picture, TILE, TILE), TILE, TILE)


def _overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union."""
    return ReferringIoU().compute(predictions=[mask], references=[truth])["giou"]


def _difference(first: Image.Image, second: Image.Image) -> float:
    """Mean absolute difference of the pixels in [0, 1]."""
    return np.abs(np.asarray(first, float) - np.asarray(second, float)).mean() / 255
