import numpy as np
import pytest
import torch

from tests.setokim_testing import pictures, tiny_setok, tiny_setokim
from training.evaluation.benchmark.answering import Answer, ChatModel, Options, Setok, Setokim
from training.evaluation.benchmark.benchmark import Example
from training.evaluation.benchmark.likelihood import log_likelihoods
from training.evaluation.tiny_llava import tiny_llava


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    found = [folder / f"{number}.png" for number in range(3)]
    for path, picture in zip(found, pictures(3, (30, 24)), strict=True):
        picture.save(path)
    return found


@pytest.fixture(scope="module")
def examples(files):
    """With one picture, none, and two; requests and choices of several lengths."""
    return [
        Example("one", "What is it ?", (files[0],), choices=("red", "a car")),
        Example("none", "Describe the picture . red red", choices=("blue a", "blue car", "owl")),
        Example("two", "Is it ?", (files[1], files[2]), choices=("on a car", "on")),
    ]


@pytest.fixture(scope="module", params=["setokim", "llava"])
def answerer(request, processor):
    return Setokim(tiny_setokim(processor), processor) if request.param == "setokim" else ChatModel(*tiny_llava())


@pytest.mark.parametrize("kind", ["text", "choice"])
def test_a_row_of_a_batch_is_that_row_alone(kind, answerer, examples):
    def asked(rows):
        return answerer.answer(kind, rows, [row.request for row in rows], Options(max_new_tokens=6))

    answers = asked(examples)
    assert answers == [answer for example in examples for answer in asked([example])]
    assert [bool(answer.num_visual_tokens) for answer in answers] == [True, False, True]
    if kind == "choice":
        assert all(answer.content in example.choices for answer, example in zip(answers, examples, strict=True))


def test_a_text_is_what_the_setokim_says_when_asked(processor, examples):
    model = tiny_setokim(processor)
    (answer,) = Setokim(model, processor).answer("text", examples[2:], ["Is it ?"], Options(max_new_tokens=6))
    assert answer.content == model.ask(processor, examples[2].pictures(), "Is it ?", max_new_tokens=6, do_sample=False)
    features = model.encode_images(processor, examples[2].pictures())
    assert answer.num_visual_tokens == sum(map(len, features.visual_tokens))


def test_likelihoods_are_those_of_the_whole_text(examples):
    """Against a row alone, its prompt and the choice read at once, token by token."""
    model, processor = tiny_llava()
    conversation = [
        {"role": "user", "content": [{"type": "image", "image": picture} for picture in examples[0].pictures()]}
    ]
    inputs = processor.apply_chat_template(
        [conversation], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    length = inputs["input_ids"].shape[1]
    choices = ["blue a car", "blue a owl", "green"]
    (found,) = log_likelihoods(model, processor.tokenizer, inputs, [choices])
    for choice, value in zip(choices, found, strict=True):
        ids = torch.tensor([processor.tokenizer(choice, add_special_tokens=False)["input_ids"]])
        whole = torch.cat([inputs["input_ids"], ids], dim=1)
        with torch.no_grad():
            logits = model(input_ids=whole, pixel_values=inputs["pixel_values"]).logits[0, length - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, ids.T).sum().item()
        assert value == pytest.approx(expected, abs=1e-4)


def test_a_row_without_choices_is_refused(answerer):
    with pytest.raises(ValueError, match="Each row needs choices that are text"):
        answerer.answer("choice", [Example("key", "Which ?")], ["Which ?"], Options())


@pytest.mark.parametrize("kind", ["mask", "image"])
def test_what_is_sampled_depends_on_the_row_alone(kind, processor, files):
    setokim = Setokim(tiny_setokim(processor), processor)
    rows = [Example(f"row {number}", "the dog", (path,)) for number, path in enumerate(files)]

    def pixels(rows, **options):
        answers = setokim.answer(kind, rows, ["the dog"] * len(rows), Options(**options))
        return [torch.tensor(list(answer.content.tobytes())).int() for answer in answers]

    alone = [value for row in rows for value in pixels([row])]
    for batched, single in zip(pixels(rows), alone, strict=True):
        assert (batched - single).abs().max() <= 1


def test_a_setokim_draws_where_there_is_no_picture(processor, files):
    setokim = Setokim(tiny_setokim(processor), processor)
    rows = [Example(key, "Draw: a dog") for key in ("key", "another")]

    def drawn(rows, seed=0):
        answers = setokim.answer("image", rows, [row.request for row in rows], Options(seed=seed))
        assert {(answer.content.size, answer.num_visual_tokens) for answer in answers} == {((6, 6), 0)}
        return [np.asarray(answer.content).astype(int) for answer in answers]

    first, second = drawn(rows)
    assert abs(drawn(rows[1:])[0] - second).max() <= 1  # each has its own noise, whatever stands beside it
    assert (first != second).any() and (drawn(rows, seed=1)[0] != first).any()
    with pytest.raises(ValueError, match="key: 2 pictures, where each example of a batch must have one"):
        setokim.answer("image", [Example("key", "Join them.", tuple(files[:2]))], ["Join them."], Options())


def test_a_setok_names_pictures_by_its_concept_bank(processor, files):
    model = tiny_setok()
    names = ["dog", "cat", "car", "owl"]
    model.set_concepts(names, torch.nn.functional.normalize(torch.randn(4, 6), dim=-1))
    setok = Setok(model, processor.image_processor)
    rows = [Example(str(number), "", (path,), choices=("cat", "owl")) for number, path in enumerate(files)]
    inputs = processor.image_processor([row.pictures()[0] for row in rows], return_tensors="pt")
    with torch.no_grad():
        outputs = model.setok(inputs["pixel_values"], return_dict=True)
        logits = model.concept_logits(outputs.last_hidden_state, outputs.token_mask)[:, [1, 3]]
    expected = [("cat", "owl")[place] for place in logits.argmax(1).tolist()]
    counts = outputs.num_tokens.tolist()
    answers = setok.answer("choice", rows, [""] * 3, Options())
    assert answers == [Answer(*pair) for pair in zip(expected, counts, strict=True)]
    with pytest.raises(ValueError, match="concept bank lacks 1 names, such as 'tree': give the --text_encoder"):
        setok.answer("choice", [Example("key", "", (files[0],), choices=("dog", "tree"))], [""], Options())


def test_a_processor_without_a_chat_template_is_refused():
    model, processor = tiny_llava()
    processor.chat_template = None
    with pytest.raises(ValueError, match="has no chat template, which says how it is asked"):
        ChatModel(model, processor)
