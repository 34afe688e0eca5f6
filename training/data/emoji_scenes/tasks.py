"""From a scene to a training row (`schema.FEATURES`), one function per task.

Each takes the scene and a `Draw` (random choices) and gives a row. `TASKS` names them all.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .. import schema
from ..composition import MIN_VISIBLE
from . import language
from .language import a, noun, plural
from .out_of_scope import CANNOT_ANSWER, out_of_scope_requests
from .scenes import PALETTE, Scene, SceneConfig, render, sample_layout
from .sprites import concept_names

CONVERSATION_LENGTH = 4  # questions, of which none comes twice
REFERRING_REQUESTS = ("Segment {}.", "Outline {}.", "Show me where to find {}.")
CAPTION_REQUESTS = ("Describe the picture.", "What does the picture show?", "Write a caption for this picture.")


@dataclass(frozen=True)
class Draw:
    """The random choices of a row, and what limits them: in training no held-out pair may appear.

    `others`: where the row's further scenes come from; without, they are drawn."""

    rng: np.random.Generator
    config: SceneConfig
    allow_held_out: bool
    others: Iterator[Scene] | None = None

    def one_of(self, options: Sequence):
        return options[self.rng.integers(len(options))]

    def coin(self) -> bool:
        return bool(self.rng.integers(2))

    def absent_names(self, scene: Scene) -> list[str]:
        """The vocabulary's names that the scene lacks, in random order."""
        names = [name for name in concept_names(self.config.vocabulary) if name not in scene.names]
        return [names[i] for i in self.rng.permutation(len(names))]

    def scene(self, style: str) -> Scene:
        """Another scene, in one of `sprites.STYLES`."""
        if self.others is not None:
            return next(scene for scene in self.others if scene.layout.style == style)
        return render(sample_layout(self.rng, self.config, self.allow_held_out, style))


def picture(scene: Scene) -> Image.Image:
    return Image.fromarray(scene.image)


def mask_picture(mask: np.ndarray) -> Image.Image:
    """(H, W) bool -> mode "L", 0 or 255."""
    return Image.fromarray(mask.astype(np.uint8) * 255)


# --- one picture ------------------------------------------------------------------------------------------------------


def concepts(scene: Scene, draw: Draw) -> dict:
    """A picture with the name and the mask of each object."""
    masks = [mask_picture(mask) for mask in scene.masks]
    return schema.row("concepts", images=[picture(scene)], masks=masks, concepts=scene.names)


def caption(scene: Scene, draw: Draw) -> dict:
    """The user asks for a description; every second one goes from left to right."""
    if draw.coin():
        request, answer = draw.one_of(CAPTION_REQUESTS), language.caption(scene)
    else:
        request, answer = "Describe the picture from left to right.", language.ordered_caption(scene)
    messages = schema.exchange([schema.image(), schema.text(request)], [schema.text(language.sentence(answer))])
    return schema.row("caption", images=[picture(scene)], messages=messages, concepts=scene.names)


def text_to_image(scene: Scene, draw: Draw) -> dict:
    """The user describes a picture, the assistant shows it."""
    described = language.caption(scene) if draw.coin() else language.ordered_caption(scene)
    return _to_paint("text_to_image", described, scene, draw)


def placement(scene: Scene, draw: Draw) -> dict:
    """As `text_to_image`, where the user says of each object in which part of the picture it is."""
    return _to_paint("placement", language.placed_caption(scene), scene, draw)


def _to_paint(task: str, described: str, scene: Scene, draw: Draw) -> dict:
    request = f"{draw.one_of(('Draw', 'Show me', 'Make a picture of'))}: {described}."
    messages = schema.exchange([schema.text(request)], [schema.image()])
    return schema.row(task, images=[picture(scene)], messages=messages, concepts=scene.names)


def question(scene: Scene, draw: Draw) -> dict:
    """A question about the picture with an answer of one word."""
    kind, asked, answer = _ask(scene, draw)
    messages = schema.exchange([schema.image(), schema.text(asked)], [schema.text(answer)])
    return schema.row("question", images=[picture(scene)], messages=messages, concepts=scene.names, question_type=kind)


def conversation(scene: Scene, draw: Draw) -> dict:
    """Several questions about one picture, one after the other."""
    answers = {asked: answer for _, asked, answer in (_ask(scene, draw) for _ in range(CONVERSATION_LENGTH))}
    messages = _turns(([schema.text(asked)], [schema.text(answer)]) for asked, answer in answers.items())
    return schema.row("conversation", images=[picture(scene)], messages=messages, concepts=scene.names)


def relation(scene: Scene, draw: Draw) -> dict:
    """A question about how two objects lie to each other; about another picture where this one has no two that are
    clearly apart."""
    scene, asked = _related(scene, draw)
    kind, request, answer = draw.one_of(asked)
    messages = schema.exchange([schema.image(), schema.text(request)], [schema.text(answer)])
    return schema.row("relation", images=[picture(scene)], messages=messages, concepts=scene.names, question_type=kind)


def relations(scene: Scene, draw: Draw) -> dict:
    """Several such questions about one picture."""
    scene, asked = _related(scene, draw)
    answers = dict((request, answer) for _, request, answer in (draw.one_of(asked) for _ in range(CONVERSATION_LENGTH)))
    messages = _turns(([schema.text(request)], [schema.text(answer)]) for request, answer in answers.items())
    return schema.row("relations", images=[picture(scene)], messages=messages, concepts=scene.names)


def _related(scene: Scene, draw: Draw) -> tuple[Scene, list[tuple[str, str, str]]]:
    """A scene with (kind, question, answer) for each of `RELATIONS` that it allows, in several forms of each."""
    while True:
        pairs = [(kind, RELATIONS[kind](scene, draw)) for kind in RELATIONS for _ in range(CONVERSATION_LENGTH)]
        if asked := [(kind, *pair) for kind, pair in pairs if pair]:
            return scene, asked
        scene = draw.scene(scene.layout.style)


def places(scene: Scene, draw: Draw) -> dict:
    """Where objects are, one after the other, each the only one of its name or told from the others by its side; about
    another picture where nothing in this one can be named without doubt."""
    while not (named := language.referring_expressions(scene)):
        scene = draw.scene(scene.layout.style)
    where = language.centres(scene)
    asked = [named[i] for i in draw.rng.permutation(len(named))[:CONVERSATION_LENGTH]]
    messages = _turns(
        ([schema.text(f"Where is {expression}?")], [schema.text(language.region(where[index]))])
        for index, expression in asked
    )
    return schema.row("places", images=[picture(scene)], messages=messages, concepts=scene.names)


def text_only(scene: Scene, draw: Draw) -> dict:
    """The same questions about a scene that is told instead of shown."""
    kind, asked, answer = _ask(scene, draw)
    told = f"Imagine a picture. It shows, {language.ordered_caption(scene)}. {asked}"
    return schema.row(
        "text_only", messages=schema.exchange([schema.text(told)], [schema.text(answer)]), question_type=kind
    )


def out_of_scope(scene: Scene, draw: Draw) -> dict:
    """What the world of the scenes has no answer to, about a picture or none, and a sentence that says so."""
    asked = draw.one_of(out_of_scope_requests(held_out=draw.allow_held_out))
    answer = [schema.text(CANNOT_ANSWER)]
    if draw.coin():
        return schema.row("out_of_scope", messages=schema.exchange([schema.text(asked)], answer))
    messages = schema.exchange([schema.image(), schema.text(asked)], answer)
    return schema.row("out_of_scope", images=[picture(scene)], messages=messages, concepts=scene.names)


def presence_question(name: str) -> str:
    return f"Is there {a(noun(name))} in the picture?"


def presence(scene: Scene, draw: Draw) -> dict:
    """Yes-no questions about one picture: for objects in it and for as many that are not, in random order."""
    present = draw.rng.permutation(sorted(set(scene.names)))[: CONVERSATION_LENGTH // 2].tolist()
    answers = dict.fromkeys(present, "yes") | dict.fromkeys(draw.absent_names(scene)[: len(present)], "no")
    names = draw.rng.permutation(list(answers)).tolist()
    messages = _turns(([schema.text(presence_question(name))], [schema.text(answers[name])]) for name in names)
    return schema.row("presence", images=[picture(scene)], messages=messages, concepts=scene.names)


def referring(scene: Scene, draw: Draw) -> dict:
    """The user asks for an object's (or all equal objects') outline; the assistant turn is its visual tokens."""
    return _refer("referring", scene, draw, [draw.one_of(_targets(scene))])


def outlines(scene: Scene, draw: Draw) -> dict:
    """The user asks for one outline after the other."""
    targets = _targets(scene)
    order = draw.rng.permutation(len(targets))[:CONVERSATION_LENGTH]
    return _refer("outlines", scene, draw, [targets[i] for i in order])


def _targets(scene: Scene) -> list[tuple[list[int], str]]:
    """(objects, expression) of everything to refer to."""
    targets = [([index], expression) for index, expression in language.referring_expressions(scene)]
    for name, count in Counter(scene.names).items():
        if count > 1:
            members = [i for i, other in enumerate(scene.names) if other == name]
            targets.append((members, f"all {plural(name)}"))
    return targets


def _refer(task: str, scene: Scene, draw: Draw, targets: Sequence[tuple[list[int], str]]) -> dict:
    requests = [draw.one_of(REFERRING_REQUESTS).format(expression) for _, expression in targets]
    return schema.row(
        task,
        images=[picture(scene)],
        messages=_turns(([schema.text(request)], [schema.mask()]) for request in requests),
        masks=[mask_picture(scene.masks[members].any(0)) for members, _ in targets],
        concepts=[scene.names[members[0]] for members, _ in targets],
    )


def _turns(exchanges: Iterable[tuple[list[dict], list[dict]]], num_pictures: int = 1) -> list[dict]:
    """Messages of a conversation that begins with pictures."""
    messages = [message for question, answer in exchanges for message in schema.exchange(question, answer)]
    messages[0]["content"][:0] = [schema.image()] * num_pictures
    return messages


# --- questions: each gives (question, answer), or None where the scene does not allow it ------------------------------


def _counting(scene: Scene, draw: Draw) -> tuple[str, str]:
    if draw.coin():
        return "How many objects are there in the picture?", str(len(scene.names))
    name = draw.absent_names(scene)[0] if draw.rng.random() < 0.2 else draw.one_of(scene.names)
    return f"How many {plural(name)} are there in the picture?", str(scene.names.count(name))


def _background_colour(scene: Scene, draw: Draw) -> tuple[str, str]:
    return "What colour is the background?", scene.background[1]


def _left_right(scene: Scene, draw: Draw) -> tuple[str, str] | None:
    asked = "Is the {} to the left or to the right of the {}?"
    return _compared(scene, draw, language.centres(scene)[:, 0], language.CLEARLY_APART, asked, ("left", "right"))


def _above_below(scene: Scene, draw: Draw) -> tuple[str, str] | None:
    asked = "Is the {} above or below the {}?"
    return _compared(scene, draw, language.centres(scene)[:, 1], language.CLEARLY_APART, asked, ("above", "below"))


def _bigger(scene: Scene, draw: Draw) -> tuple[str, str] | None:
    sizes, asked = np.log(np.maximum(scene.masks.sum((1, 2)), 1)), "Which is bigger, the {} or the {}?"
    return _compared(scene, draw, sizes, np.log(language.CLEARLY_BIGGER), asked, ("the {1}", "the {0}"))


def _compared(
    scene: Scene, draw: Draw, values: np.ndarray, least: float, asked: str, answers: tuple[str, str]
) -> tuple[str, str] | None:
    """A question about two objects, each the only one of its name, whose values differ by `least` or more; the first
    answer is right where the first object has the smaller value. Both nouns are put into question and answers."""
    single = [i for i, name in enumerate(scene.names) if scene.names.count(name) == 1]
    pairs = [(i, j) for i in single for j in single if abs(values[i] - values[j]) >= least]
    if not pairs:
        return None
    i, j = draw.one_of(pairs)  # holds every pair in both orders, so that the answers are balanced
    nouns = noun(scene.names[i]), noun(scene.names[j])
    return asked.format(*nouns), answers[0 if values[i] < values[j] else 1].format(*nouns)


def _yes_no(scene: Scene, draw: Draw) -> tuple[str, str]:
    yes = draw.coin()
    if draw.coin():
        name = draw.one_of(scene.names) if yes else draw.absent_names(scene)[0]
        asked = presence_question(name)
    else:
        colour = scene.background[1] if yes else draw.one_of([c for c in PALETTE if c != scene.background[1]])
        asked = f"Is the background {colour}?"
    return asked, "yes" if yes else "no"


QUESTIONS: dict[str, Callable[[Scene, Draw], tuple[str, str] | None]] = {
    "counting": _counting,
    "background_colour": _background_colour,
    "left_right": _left_right,
    "yes_no": _yes_no,
}
# Questions of tasks of their own: the rows of `question` stay what they are.
RELATIONS = {"left_right": _left_right, "above_below": _above_below, "bigger": _bigger}


def _ask(scene: Scene, draw: Draw) -> tuple[str, str, str]:
    """(question type, question, answer) of a random type among those that the scene allows."""
    for kind in draw.rng.permutation(list(QUESTIONS)).tolist():
        if asked := QUESTIONS[kind](scene, draw):
            return kind, *asked
    raise RuntimeError("unreachable: every scene has a background to ask about")


# --- two pictures -----------------------------------------------------------------------------------------------------


def edit(scene: Scene, draw: Draw) -> dict:
    """Add, remove or replace an object or recolour the background; the assistant shows the edited picture."""
    kind = draw.one_of(("add", "remove", "replace", "recolour"))
    made = EDITS[kind](scene, draw)
    if made is None:  # no object can be named without doubt
        kind, made = "recolour", _recolour(scene, draw)
    request, source, target = made
    messages = schema.exchange([schema.image(), schema.text(request)], [schema.image()])
    return schema.row("edit", images=[picture(source), picture(target)], messages=messages, question_type=kind)


def _add(scene: Scene, draw: Draw) -> tuple[str, Scene, Scene]:
    index = int(draw.rng.integers(len(scene.names)))
    request = f"Add {a(noun(scene.names[index]))} {language.region(language.centres(scene)[index])}."
    return request, render(scene.layout.without(index)), scene


def _remove(scene: Scene, draw: Draw) -> tuple[str, Scene, Scene] | None:
    if not (options := language.referring_expressions(scene)):
        return None
    index, expression = draw.one_of(options)
    return f"Remove {expression}.", scene, render(scene.layout.without(index))


def _replace(scene: Scene, draw: Draw) -> tuple[str, Scene, Scene] | None:
    if not (options := language.referring_expressions(scene)):
        return None
    index, expression = draw.one_of(options)
    for name in draw.absent_names(scene):
        target = render(scene.layout.replaced(index, name))
        if target.visible.min() >= MIN_VISIBLE and (draw.allow_held_out or not target.has_held_out_pair):
            return f"Replace {expression} with {a(noun(name))}.", scene, target
    return None


def _recolour(scene: Scene, draw: Draw) -> tuple[str, Scene, Scene]:
    colour = draw.one_of([name for name in PALETTE if name != scene.background[1]])
    return f"Make the background {colour}.", scene, render(scene.layout.recoloured(colour))


EDITS: dict[str, Callable[[Scene, Draw], tuple[str, Scene, Scene] | None]] = {
    "add": _add,
    "remove": _remove,
    "replace": _replace,
    "recolour": _recolour,
}


def two_images(scene: Scene, draw: Draw) -> dict:
    """A question that needs both of two pictures, answered "first" or "second"."""
    pair, options = _compared_pair(scene, draw)
    kind, asked, answer = _ask_of_two(options, draw)
    messages = schema.exchange([schema.image(), schema.image(), schema.text(asked)], [schema.text(answer)])
    return schema.row("two_images", images=[picture(side) for side in pair], messages=messages, question_type=kind)


def comparisons(scene: Scene, draw: Draw) -> dict:
    """Several such questions about the same two pictures."""
    pair, options = _compared_pair(scene, draw)
    answers = dict(_ask_of_two(options, draw)[1:] for _ in range(CONVERSATION_LENGTH))
    messages = _turns((([schema.text(asked)], [schema.text(answer)]) for asked, answer in answers.items()), 2)
    return schema.row("comparisons", images=[picture(side) for side in pair], messages=messages)


def two_captions(scene: Scene, draw: Draw) -> dict:
    """Two pictures, of which the user asks for a description of the one and then of the other."""
    pair = (scene, draw.scene(scene.layout.style))
    order = draw.rng.permutation(2)
    turns = []
    for index in order:
        request = f"Describe the {('first', 'second')[index]} picture."
        turns.append(([schema.text(request)], [schema.text(language.sentence(language.caption(pair[index])))]))
    return schema.row("two_captions", images=[picture(side) for side in pair], messages=_turns(turns, 2))


def _compared_pair(scene: Scene, draw: Draw) -> tuple[tuple[Scene, Scene], list[tuple[str, str, str]]]:
    """The scene with another one, from which something tells it apart, and all that does (`_comparisons`)."""
    options = []
    while not options:
        pair = (scene, draw.scene(scene.layout.style))  # so that the style tells nothing
        options = _comparisons(*pair)
    return pair, options


def _ask_of_two(options: list[tuple[str, str, str]], draw: Draw) -> tuple[str, str, str]:
    """One of `_comparisons`; kinds, and the answers within a kind, are about equally frequent."""
    kind = draw.one_of(sorted({kind for kind, _, _ in options}))
    answer = draw.one_of(sorted({answer for other, _, answer in options if other == kind}))
    asked = draw.one_of([asked for other, asked, said in options if (other, said) == (kind, answer)])
    return kind, asked, answer


def _comparisons(first: Scene, second: Scene) -> list[tuple[str, str, str]]:
    """(question type, question, answer) of all that tells two pictures apart."""
    options = []
    if len(first.names) != len(second.names):
        answer = "first" if len(first.names) > len(second.names) else "second"
        options.append(("more_objects", "Which picture has more objects, the first or the second?", answer))
    for one, other, answer in ((first, second, "first"), (second, first, "second")):
        for name in sorted(set(one.names) - set(other.names)):
            options.append(("which_object", f"Which picture has {a(noun(name))}, the first or the second?", answer))
        if (colour := one.background[1]) != other.background[1]:
            asked = f"Which picture has a background that is {colour}, the first or the second?"
            options.append(("which_background", asked, answer))
    return options


TASKS: dict[str, Callable[[Scene, Draw], dict]] = {
    "concepts": concepts,
    "caption": caption,
    "question": question,
    "text_to_image": text_to_image,
    "edit": edit,
    "referring": referring,
    "two_images": two_images,
    "two_captions": two_captions,
    "comparisons": comparisons,
    "text_only": text_only,
    "conversation": conversation,
    "presence": presence,
    "outlines": outlines,
    "placement": placement,
    "relation": relation,
    "relations": relations,
    "places": places,
    "out_of_scope": out_of_scope,
}
