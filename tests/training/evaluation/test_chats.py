"""Tokens are counted as the language model sees them: here it is watched while it reads."""

import pytest
import torch

from modeling_setok.adaption import add_concept_tokens
from tests.setokim_testing import pictures, tiny_setokim
from training.evaluation.chats import ends_of, read_chats, read_token_counts, visual_token_counts, written_after
from training.evaluation.tiny_llava import tiny_llava

TALKS = [([0], "What is it ?"), ([], "Describe the picture ."), ([1, 2], "Is it red ?"), ([3], "Is it ?")]


def conversation(images: list[int], said: str) -> list[dict]:
    shown = pictures(4, (40, 30))
    content = [{"type": "image", "image": shown[number]} for number in images]
    return [{"role": "user", "content": [*content, {"type": "text", "text": said}]}]


@pytest.fixture(params=["setokim", "llava", "llava with concept tokens"])
def model_and_processor(request, processor):
    if request.param == "setokim":
        return tiny_setokim(processor), processor
    model, processor = tiny_llava()
    if request.param != "llava":
        add_concept_tokens(model)
    return model, processor


def watched_lengths(model, processor, talks) -> list[int]:
    """How many tokens the language model gets of each prompt, one by one."""
    lengths = []

    def note(module, args, kwargs):
        lengths.append(kwargs["inputs_embeds"].shape[1])

    for talk in talks:
        hook = model.get_decoder().register_forward_pre_hook(note, with_kwargs=True)
        model.generate(**read_chats(model, processor, [conversation(*talk)]), max_new_tokens=1, do_sample=False)
        hook.remove()
    return lengths


def test_tokens_are_counted_as_the_language_model_sees_them(model_and_processor):
    model, processor = model_and_processor
    inputs = read_chats(model, processor, [conversation(*talk) for talk in TALKS])
    model.generate(**inputs, max_new_tokens=2, do_sample=False)
    counts = visual_token_counts(model, inputs)
    assert counts[1] == 0 and all(counts[row] > 0 for row in (0, 2, 3))
    read = read_token_counts(model, inputs)
    assert read == watched_lengths(model, processor, TALKS)
    words = [number - visual for number, visual in zip(read, counts, strict=True)]
    assert words == [read_token_counts(*_read(model, processor, [], said))[0] + _frame(model, processor, images)
                     for images, said in TALKS]  # fmt: skip


def _read(model, processor, images, said):
    return model, read_chats(model, processor, [conversation(images, said)])


def _frame(model, processor, images) -> int:
    """Tokens that the template puts around pictures: none around a LLaVA's, two around each of a Setokim's."""
    return 2 * len(images) if model.config.model_type == "setokim" else 0


def test_concept_tokens_are_fewer_than_placeholders():
    model, processor = tiny_llava()
    before = visual_token_counts(*_read(model, processor, [3], "Is it ?"))
    add_concept_tokens(model, num_neighbors=4)
    inputs = read_chats(model, processor, [conversation([3], "Is it ?")])
    with torch.no_grad():
        model(**inputs)
    ((means, _),) = model.base_model.last_seen.values()
    assert before == [64] and visual_token_counts(model, inputs) == means.num_tokens.tolist() != before


def test_what_was_written_stands_after_the_prompt():
    model, processor = tiny_llava()
    inputs = read_chats(model, processor, [conversation([0], "What is it ?")])
    sequences = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert written_after(inputs, sequences).tolist() == sequences[:, -3:].tolist()


@pytest.mark.parametrize(("end", "found"), [(2, [1, None, 0]), ([2, 3], [1, 2, 0]), (None, [None] * 3)])
def test_a_text_ends_at_its_first_end(end, found):
    model, _ = tiny_llava()
    model.generation_config.eos_token_id = end
    assert ends_of(model, torch.tensor([[5, 2, 0], [5, 5, 3], [2, 2, 0]])) == found
