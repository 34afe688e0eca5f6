"""The comparison of token reductions on a small LLaVA, on a few scenes with a random encoder."""

import copy
import json
import sys
from functools import partial

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from modeling_setok import SetokimForConditionalGeneration
from modeling_setok.adaption import add_concept_tokens
from training.evaluation import adapt, small_llava
from training.evaluation.small_llava import answers, batch_of, captions_alone, read_scenes, train


@pytest.fixture(scope="module")
def encoder() -> Dinov2Model:
    torch.manual_seed(0)
    return Dinov2Model(Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56)).eval()


@pytest.fixture(scope="module")
def scenes(encoder):
    return read_scenes(encoder, "train", 6, 56, ("conversation", "caption"), batch_size=4)


@pytest.fixture(scope="module")
def llava(setokim_emoji_tiny):
    return small_llava.small_llava(str(setokim_emoji_tiny), num_patches=16, width=32, seed=0)


def words(messages: list[dict]) -> list[str]:
    return ["".join(part["text"] or "" for part in message["content"]) for message in messages]


def test_each_scene_has_one_conversation_about_its_picture_that_ends_with_a_caption(scenes):
    assert scenes.features.shape == (6, 16, 32) and scenes.features.dtype == torch.float16
    for messages in scenes.conversations:
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert [part["type"] for message in messages for part in message["content"]].count("image") == 1
        assert "?" in words(messages)[0] and words(messages)[-1].endswith(".")


def test_only_answers_are_labelled(scenes, llava):
    _, processor = llava
    batch = batch_of(processor, scenes, [0, 1], answered=True)
    for row, messages in enumerate(scenes.conversations[:2]):
        labels = batch["labels"][row]
        assert processor.decode(labels[labels != -100], skip_special_tokens=True) == "".join(words(messages)[1::2])
    assert (batch["input_ids"] == processor.image_token_id).sum(1).tolist() == [16, 16]
    asked = processor.batch_decode(batch_of(processor, scenes, [0, 1], answered=False)["input_ids"])
    for said, messages in zip(asked, scenes.conversations, strict=False):
        assert words(messages)[0] in said and said.endswith("assistant\n") and words(messages)[2] not in said


def test_captions_alone_are_asked_for_with_the_picture(scenes):
    alone = captions_alone(scenes)
    assert torch.equal(alone.features, scenes.features)
    for (request, answer), (first, *_, asked, said) in zip(alone.conversations, scenes.conversations, strict=True):
        assert [part["type"] for part in request["content"]] == ["image", "text"] and answer == said
        assert words([request]) == words([asked]) and first["content"][0]["type"] == "image"


def test_it_begins_with_the_language_model_of_a_setokim(setokim_emoji_tiny, llava):
    model, processor = llava
    inputs = processor(text=["Is there a dog in the picture?"], return_tensors="pt")
    setokim = SetokimForConditionalGeneration.from_pretrained(setokim_emoji_tiny).eval()
    torch.testing.assert_close(model(**inputs).logits, setokim(**inputs).logits)


def test_it_learns_and_answers_with_all_and_with_fewer_tokens(setokim_emoji_tiny, scenes):
    """One scene by heart: the answer is then right, and with as many concept tokens as patches it still is."""
    scenes = type(scenes)(scenes.features[:1], scenes.conversations[:1])
    model, processor = small_llava.small_llava(str(setokim_emoji_tiny), num_patches=16, width=32, seed=0)
    train(model, processor, scenes, steps=20, learning_rate=1e-3, batch_size=2)
    assert answers(model, processor, scenes) == [True]
    assert answers(add_concept_tokens(model, fixed_tokens=16), processor, scenes) == [True]


@pytest.fixture
def run(encoder, setokim_emoji_tiny, tmp_path, monkeypatch):
    """Runs the command over 4 scenes, two at a time, and gives the rows of its file."""
    encoder.save_pretrained(tmp_path / "encoder")
    monkeypatch.setattr(adapt, "train", partial(train, batch_size=2))

    def run(options: str = "--seeds 0 --steps 3", output: str = "rows.json") -> list[dict]:
        command = (
            f"adapt --encoder {tmp_path / 'encoder'} --image_sizes 56 --num_scenes 4 --num_questions 3 "
            f"--language_model {setokim_emoji_tiny} --naming_steps 1 --tuning_steps 2 --shares 0.25 "
            f"--output {tmp_path / output} {options}"
        )
        monkeypatch.setattr(sys, "argv", command.split())
        adapt.main()
        return json.loads((tmp_path / output).read_text())["rows"]

    return run


@pytest.fixture
def few_reductions(monkeypatch):
    few = ("all patches", "concept tokens, 4", "k means, as many as found")
    changes = adapt.contestants(16, [0.25])
    monkeypatch.setattr(adapt, "contestants", lambda *_: {name: changes[name] for name in few})


def without_times(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "prompt_seconds"} for row in rows]


def test_the_command_measures_each_reduction(run, capsys):
    rows = run()
    assert {row["tuned"] for row in rows} == {False, True}
    tokens = {row["reduction"]: row["tokens"] for row in rows if not row["tuned"]}
    assert tokens["all patches"] == 16 and tokens["k means, 4"] == tokens["concept tokens, 4"] == 4
    cache = {row["reduction"]: row["cache_kib"] for row in rows}
    assert cache["k means, 4"] < cache["all patches"]
    table = capsys.readouterr().out
    assert "| 56 | k means, 4 | 4.0 |" in table and "±" not in table
    for found in ("as many as found", "as many as found with largest share 0.125"):
        assert tokens[f"k means, {found}"] == tokens[f"concept tokens, {found}"]
    assert (
        tokens["concept tokens, as many as found"] < tokens["concept tokens, as many as found with largest share 0.125"]
    )


def test_names_are_learned_before_the_rest(run, few_reductions, monkeypatch):
    seen = []
    monkeypatch.setattr(adapt, "train", lambda model, processor, scenes, steps, **_: seen.append((scenes, steps)))
    monkeypatch.setattr(adapt, "answers", lambda model, processor, scenes: [True])
    run()
    (captions, naming_steps), (everything, steps) = seen[:2]
    assert (naming_steps, steps) == (1, 3)
    assert captions.conversations == captions_alone(everything).conversations


def test_no_steps_are_no_training(run, few_reductions):
    assert len(run("--seeds 0 --steps 0 --naming_steps 0 --tuning_steps 0")) == 3


def test_a_run_that_was_stopped_goes_on(run, few_reductions, monkeypatch, tmp_path):
    whole = run(output="whole.json")
    measured, answered = adapt.measured, []

    def stop(*args, **kwargs):
        if len(answered) == 2:
            raise KeyboardInterrupt
        answered.append(measured(*args, **kwargs))
        return answered[-1]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(adapt, "measured", stop)
        run()
    first = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert len(first) == 2
    monkeypatch.setattr(small_llava, "read_scenes", None)
    trained = []
    learn = adapt.train
    monkeypatch.setattr(adapt, "train", lambda *args, **kwargs: trained.append(learn(*args, **kwargs)))
    rows = run()
    assert rows[:2] == first and without_times(rows) == without_times(whole)
    assert len(trained) == sum(row["tuned"] for row in rows[2:])
    monkeypatch.setattr(adapt, "train", None)
    assert run() == rows


def test_a_file_goes_on_with_more_seeds_but_not_with_other_arguments(run, few_reductions, tmp_path, capsys):
    rows = run()
    more = run("--seeds 1 --steps 3")
    assert more[: len(rows)] == rows and {row["seed"] for row in more[len(rows) :]} == {1}
    assert " ± " in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"Error: .* other arguments, {'steps': 3}: give these, or a new --output"):
        run("--seeds 0 --steps 4")
    other = Dinov2Model.from_pretrained(tmp_path / "encoder")
    other.encoder.layer[0].norm1.weight.data[0] += 1
    other.save_pretrained(tmp_path / "encoder")
    with pytest.raises(SystemExit, match="rows-56-train.safetensors holds the features of"):
        run("--seeds 2 --steps 3")


def test_a_larger_size_begins_with_what_was_learned_at_the_smaller(run, few_reductions, monkeypatch):
    begun, learned, learn = [], [], adapt.train

    def noted(model, processor, scenes, steps, **kwargs):
        begun.append((steps, scenes.features.shape[1], copy.deepcopy(model.state_dict())))
        learn(model, processor, scenes, steps, **kwargs)
        learned.append(copy.deepcopy(model.state_dict()))

    monkeypatch.setattr(adapt, "train", noted)
    rows = run("--seeds 0 --steps 3 --further_steps 1 --tuning_steps 2 --image_sizes 56 28")
    assert [(steps, patches) for steps, patches, _ in begun] == [(1, 4), (3, 4), (1, 16), (2, 16), (2, 16)]
    assert all(torch.equal(weights, learned[1][name]) for name, weights in begun[2][2].items())
    untuned = [(size, False) for size in (56, 28) for _ in range(3)]
    assert [(row["image_size"], row["tuned"]) for row in rows] == [*untuned, (56, True), (56, True)]


def test_the_table_has_the_interval_of_student():
    rows = [
        adapt.Measured(56, seed, "a grid", False, tokens=4, accuracy=accuracy, prompt_seconds=0.1, cache_kib=8)
        for seed, accuracy in enumerate((0.4, 0.5, 0.6))
    ]
    assert "| 0.500 ± 0.248 |" in adapt.format_table(rows)  # 4.303 * 0.1 / sqrt(3)
    assert "| 0.400 |" in adapt.format_table(rows[:1])
