"""What the shipped models know: the things they can name, their colours, and the sentences they were trained on.

All of it is read from the model's configuration and from the rows of `EmojiScenes`, which the training read too.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, product

from modeling_setok import SetokConfig
from training.data import EmojiScenes, SceneConfig, concept_names
from training.data.emoji_scenes import language
from training.data.emoji_scenes.scenes import PALETTE
from training.data.emoji_scenes.tasks import REFERRING_REQUESTS
from training.data.emoji_scenes.wordings import SYNONYMS, WORDINGS

# What users want, and the task of EmojiScenes in whose words they ask for it
DATA_TASKS = {
    "caption": "For a description",
    "question": "Questions",
    "two_images": "Questions about two pictures",
    "text_to_image": "To paint",
    "edit": "To edit",
    "referring": "To outline",
}
# Scenes of one or two things give the shortest sentences; so many rows hold every form.
SCENES, NUM_ROWS = SceneConfig(image_size=24, max_objects=2), 200
SILENCE = "The model says nothing to this."
NOT_WRITTEN = (
    "What this model knows is not written in its files: it names no things of the scenes of emoji. Ask it for what it "
    "was trained on, in the words of its training data."
)


@dataclass(frozen=True)
class Knowledge:
    """What a model was trained on. All is empty for a model of other data than `EmojiScenes`, but perhaps its names.

    Attributes:
        things: what it can name, as users would write it: "dog face", "bunch of grapes".
        colours, textures: of backgrounds.
        forms: for each of `DATA_TASKS` the sentences that it understands, one example of each form, the shortest first;
            words that can be others stand between asterisks.
        words: all words of its sentences, in small letters.
    """

    things: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    textures: tuple[str, ...] = ()
    forms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    words: frozenset[str] = frozenset()

    @classmethod
    def of(cls, config: SetokConfig) -> "Knowledge":
        """That of a SeTok, also inside a Setokim (`config.vision_config`)."""
        names = tuple(config.concept_names or ())
        if not set(concept_names("tiny")) <= set(names) <= set(concept_names("full")):
            return cls(names)  # of other data
        things = tuple(map(language.noun, names))
        forms, words = sentence_forms()
        return cls(
            things=things,
            colours=tuple(PALETTE),
            textures=tuple(language.TEXTURES.values()),
            forms=forms,
            words=words.union(*map(_words, [*things, *map(language.plural, names), *PALETTE, *language.NUMBERS])),
        )

    def listing(self) -> str:
        """All things and backgrounds that it knows, a line each."""
        if not self.things:
            return NOT_WRITTEN
        lines = [f"{len(self.things)} things: {', '.join(self.things)}."]
        if self.colours:
            lines.append(f"Backgrounds: {', '.join(self.textures)}; {', '.join(self.colours)}.")
        return "\n".join(lines)

    def unknown_words(self, text: str) -> list[str]:
        """The words of a text that no sentence of the training had, in order; none where nobody knows."""
        return [word for word in dict.fromkeys(_words(text)) if self.words and word not in self.words]

    def refusal(self, text: str) -> str:
        """What the user is told about unknown words; nothing where there are none."""
        if not (words := self.unknown_words(text)):
            return ""
        quoted = language.listing(f'"{word}"' for word in words)
        return f"The model does not know {quoted}. It knows:\n{self.listing()}"

    def silence(self, question: str) -> str:
        """What the user is told where the model says nothing."""
        if not self.forms:
            return f"{SILENCE} Try other words."
        if refusal := self.refusal(question):
            return f"{SILENCE}\n{refusal}"
        forms = [form.replace("*", "") for task in ("caption", "question", "two_images") for form in self.forms[task]]
        return f"{SILENCE} It answers sentences such as:\n{' '.join(forms)}"


@cache
def sentence_forms() -> tuple[dict[str, tuple[str, ...]], frozenset[str]]:
    """The forms of the sentences in which the training asks, for each task, and all their words but nouns."""
    nouns, variable = _patterns()
    forms, words = {}, set()
    for task in DATA_TASKS:
        found = {}
        for sentence in _sentences(task):
            form = variable.sub(lambda part: f"<{part.lastgroup}>", sentence)
            found.setdefault(form, variable.sub(lambda part: f"*{part.group()}*", sentence))
            words.update(_words(nouns.sub("", sentence)))
        forms[task] = tuple(sorted(found.values(), key=len))
    for wording, (word, others) in product(chain(*WORDINGS), SYNONYMS.items()):  # in which training asks the same
        words.update(*(_words(re.sub(r"{\w+}", "", wording.replace(word, other))) for other in others))
    return forms, frozenset(words)


def _sentences(task: str) -> Iterable[str]:
    """What the user says in the rows of this task; of "Segment the owl." what `model.segment` is told."""
    segment = "|".join(re.escape(request).replace(r"\{\}", "(.+)") for request in REFERRING_REQUESTS)
    for row in EmojiScenes("test", NUM_ROWS, SCENES, tasks=(task,)):
        sentence = row["messages"][0]["content"][-1]["text"]
        found = re.fullmatch(segment, sentence)
        yield found[found.lastindex] if found else sentence


def _patterns() -> tuple[re.Pattern, re.Pattern]:
    """The nouns of all things, and all that differs from one sentence to another of the same form."""
    names = concept_names("full")
    nouns = sorted([*map(language.noun, names), *map(language.plural, names)], key=len, reverse=True)
    noun, colour, texture = (rf"(?:{'|'.join(words)})\b" for words in (nouns, PALETTE, language.TEXTURES.values()))
    one = rf"(?:an?|{'|'.join(language.NUMBERS)}) {noun}"
    variable = (
        rf"(?P<things>(?:from left to right, )?(?:{one}(?:, | and ))*{one})|(?P<thing>{noun})"
        rf"|(?P<background>(?:{texture} )?{colour})"
        r"|(?P<place>(?:at|on|in) the (?:top|bottom|left|right|middle)(?: left| right)?)"
    )
    return re.compile(rf"\b{noun}"), re.compile(rf"\b(?:{variable})")


def _words(text: str) -> list[str]:
    """In small letters; also numbers."""
    return re.findall(r"\w+(?:'\w+)?", text.lower())
