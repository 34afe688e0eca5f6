"""Whatever users and data sets write is read as what they wrote, by every door."""

import random
from collections import Counter

import pytest
import torch
from PIL import Image

from tests.robustness.campaign import campaign
from tests.setokim_testing import pictures, tiny_processor, tiny_setokim
from tests.tokenizers_testing import TOKENIZERS, join
from training.data import schema
from training.data.setokim_collator import SetokimCollator

pytestmark = pytest.mark.slow

PICTURE = Image.new("RGB", (8, 8), "red")
ORDINARY = ["a", "What is it", " ", "  ", "\n", "<", ">", "|", "[", "]", "/", "im_", "user\n", "é", "🦊", "12", "<b>"]
BREAKS = ["\ufdd0", "\ufdd1", "\ufdd0\ufdd1"]


def write(chance: random.Random, special: list[str]) -> str:
    """Words with special tokens whole, cut, within each other, and with what breaks them."""
    words = []
    for _ in range(chance.randint(1, 6)):
        token = chance.choice(special)
        cut = chance.randint(0, len(token))
        kind = chance.randrange(5)
        inside = token[:cut] + chance.choice([*special, *BREAKS]) + token[cut:]
        ordinary = "".join(chance.choices([*ORDINARY, *BREAKS], k=3))
        words.append([token, token[:cut], inside, token[cut:] + token[:cut], ordinary][kind])
    return "".join(words)


def split(chance: random.Random, words: str) -> list[dict]:
    """The words as parts of a message, cut anywhere."""
    cuts = sorted(chance.choices(range(len(words) + 1), k=chance.randint(0, 3)))
    return [schema.text(words[i:j]) for i, j in zip([0, *cuts], [*cuts, len(words)], strict=True)]


def specials(processor, ids) -> list[int]:
    special = {*processor.tokenizer.all_special_ids} - {processor.tokenizer.unk_token_id, processor.pad_token_id}
    return [i for i in torch.as_tensor(ids).flatten().tolist() if i in special]


@pytest.mark.parametrize("make_tokenizer", TOKENIZERS)
def test_processor_and_collator(make_tokenizer):
    processor, chance = join(make_tokenizer()), random.Random(0)
    collator = SetokimCollator(processor)
    special = [token.content for token in processor.tokenizer.added_tokens_decoder.values()]
    turn_start = processor.tokenizer.convert_tokens_to_ids("<|im_start|>")

    def user_turn(parts):
        return processor.apply_chat_template([{"role": "user", "content": [schema.image(), *parts]}])

    start = user_turn([]).removesuffix("<|im_end|>\n")
    marks = specials(processor, processor([PICTURE], user_turn([]))["input_ids"])
    plain = collator([schema.row("text_only", messages=schema.exchange([schema.text("a")], [schema.text("a")]))])

    def is_read(ids, words: str) -> bool:
        return specials(processor, ids) == marks and processor.decode(ids) == f"{start}{words}<|im_end|>\n"

    def is_learned(batch, words: str) -> bool:
        labels = batch["labels"][0]
        same = all(
            specials(processor, batch[key]) == specials(processor, plain[key]) for key in ("input_ids", "labels")
        )
        said = processor.decode([turn_start, *labels[labels != -100]])  # some leave out a space at the start of a text
        return same and said == f"<|im_start|>{words}<|im_end|>"

    with campaign(f"texts, {make_tokenizer.__name__}", least=1400) as cases:
        for _ in range(350):
            words = write(chance, special)
            parts = split(chance, words)
            messages = [{"role": "user", "content": [schema.image() | {"image": PICTURE}, *parts]}]
            as_string = [{"role": "user", "content": words}]
            row = schema.row("text_only", messages=schema.exchange(parts, split(chance, words)))
            doors = {
                "at once": lambda m=messages: processor.apply_chat_template(m, tokenize=True)[0],
                "rendered first": lambda p=parts: processor([PICTURE], user_turn(p))["input_ids"][0],
                "as a template that was not asked to": lambda m=messages: processor.apply_chat_template(
                    m, tokenize=True, sanitize_control_tokens=True
                )[0],
            }
            for door, call in doors.items():
                cases.run(f"{door}: {words!r}", call, lambda ids, words=words: is_read(ids, words), must_be_right=True)
            cases.run(
                f"row: {words!r}", lambda r=row: collator([r]), lambda b, w=words: is_learned(b, w), must_be_right=True
            )
            cases.run(
                f"string: {words!r}",
                lambda m=as_string: processor.apply_chat_template(m, tokenize=True)[0],
                lambda ids, words=words: processor.decode(ids).endswith(f"user\n{words}<|im_end|>\n"),
                must_be_right=True,
            )


def test_helpers(monkeypatch):
    processor, chance = tiny_processor(), random.Random(1)
    model, calls = tiny_setokim(processor), []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **inputs: calls.append(inputs) or generate(**inputs))
    special = [token.content for token in processor.tokenizer.added_tokens_decoder.values()]
    image, options = pictures(1)[0], {"max_new_tokens": 2, "max_visual_tokens": 2, "num_diffusion_steps": 1}
    tasks = {
        "ask": lambda words: model.ask(processor, image, words, **options),
        "ask without picture": lambda words: model.ask(processor, None, words, **options),
        "caption": lambda words: model.caption(processor, image, words, **options),
        "generate_image": lambda words: model.generate_image(processor, words, **options),
        "edit_image": lambda words: model.edit_image(processor, image, words, **options),
        "segment": lambda words: model.segment(processor, image, words, **options),
    }
    with campaign("texts, helpers", least=600) as cases:
        for name, task in tasks.items():
            task("xyz")
            expected = processor.decode(calls[-1]["input_ids"][0])
            marks = Counter(specials(processor, calls[-1]["input_ids"]))
            for _ in range(100):
                words = write(chance, special)

                def is_read(_, words=words, expected=expected, marks=marks):
                    ids = calls[-1]["input_ids"]
                    return Counter(specials(processor, ids)) == marks and processor.decode(ids[0]) == expected.replace(
                        "xyz", words
                    )

                cases.run(f"{name}: {words!r}", lambda task=task, words=words: task(words), is_read, must_be_right=True)
            for words in (None, 5, 0.5, {}, b"What?", ["\ud800"], "\udc00", "a" * 600, Image.new("RGB", (2, 2))):
                cases.run(
                    f"{name}: {words!r:.80}",
                    lambda task=task, words=words: task(words),
                    names=["string", "half a character", "positions", "one text"],
                    must_refuse=True,
                )


def value(chance: random.Random, depth: int = 0):
    """Any value, often one that a message might have."""
    kinds = [None, 5, 0.5, True, "text", "image", "user", "assistant", "<image>", "", b"x", "mask", PICTURE]
    kind = chance.randrange(4 if depth < 4 else 1)
    if kind == 0:
        return chance.choice(kinds)
    if kind == 1:
        return [value(chance, depth + 1) for _ in range(chance.randint(0, 3))]
    keys = ["role", "content", "type", "text", "image", "url", "image_url"]
    return {key: value(chance, depth + 1) for key in chance.sample(keys, chance.randint(0, 4))}


def test_messages_of_any_shape():
    processor, chance = tiny_processor(), random.Random(2)

    def messages():
        message = {"role": chance.choice(["user", "assistant", "system", "x", 5]), "content": value(chance, 1)}
        return chance.choice([value(chance), [value(chance)], message, [message], [[message]], [message, message]])

    with campaign("messages", least=1000) as cases:
        for _ in range(1000):
            given = messages()
            cases.run(
                f"{given!r:.300}",
                lambda given=given: processor.apply_chat_template(given, tokenize=True, return_dict=True),
                lambda batch: batch["input_ids"].ndim == 2,
            )
