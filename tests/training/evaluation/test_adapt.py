"""The comparison of token reductions on a small LLaVA, on a few scenes with a random encoder."""

import json
import sys

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from modeling_setok.adaption import add_concept_tokens
from training.evaluation import adapt
from training.evaluation.small_llava import answers, batch_of, learn_words, read_scenes, small_llava, train


@pytest.fixture(scope="module")
def encoder() -> Dinov2Model:
    torch.manual_seed(0)
    return Dinov2Model(Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56)).eval()


@pytest.fixture(scope="module")
def scenes(encoder):
    return read_scenes(encoder, "train", 6, 56, ("caption", "question"), batch_size=4)


def test_scenes_have_a_caption_and_a_question_each(scenes):
    assert scenes.features.shape == (6, 16, 32) and scenes.features.dtype == torch.float16
    assert [len(turns) for turns in scenes.turns] == [2] * 6
    assert all(question and answer for turns in scenes.turns for question, answer in turns)


def test_only_answers_are_labelled(scenes):
    tokenizer = learn_words(scenes)
    batch = batch_of(tokenizer, scenes, [(0, 0), (1, 1)], answered=True)
    for row, (scene, turn) in enumerate([(0, 0), (1, 1)]):
        labels = batch["labels"][row]
        assert tokenizer.decode(labels[labels != -100], skip_special_tokens=True) == scenes.turns[scene][turn][1]
    assert (batch["input_ids"] == tokenizer.convert_tokens_to_ids("<image>")).sum(1).tolist() == [16, 16]


def test_it_learns_and_answers_with_all_and_with_fewer_tokens(scenes):
    """One scene by heart: the answer is then right, and with as many concept tokens as patches it still is."""
    scenes = type(scenes)(scenes.features[:1], [scenes.turns[0][1:]])
    tokenizer = learn_words(scenes)
    model = small_llava(tokenizer, num_patches=16, width=32, seed=0)
    train(model, tokenizer, scenes, steps=20, learning_rate=1e-3, batch_size=2)
    assert answers(model, tokenizer, scenes) == [True]
    assert answers(add_concept_tokens(model, fixed_tokens=16), tokenizer, scenes) == [True]


def test_the_command_measures_each_reduction(encoder, tmp_path, monkeypatch, capsys):
    encoder.save_pretrained(tmp_path / "encoder")
    command = (
        f"adapt --encoder {tmp_path / 'encoder'} --image_sizes 56 --seeds 0 1 --num_scenes 4 --num_questions 3 "
        f"--steps 3 --tuning_steps 2 --shares 0.25 --output {tmp_path / 'rows.json'}"
    )
    monkeypatch.setattr(sys, "argv", command.split())
    adapt.main()
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert {row["seed"] for row in rows} == {0, 1} and {row["tuned"] for row in rows} == {False, True}
    tokens = {row["reduction"]: row["tokens"] for row in rows}
    assert tokens["all patches"] == 16 and tokens["k means, 4"] == tokens["concept tokens, 4"] == 4
    cache = {row["reduction"]: row["cache_kib"] for row in rows}
    assert cache["k means, 4"] < cache["all patches"]
    table = capsys.readouterr().out
    assert "| 56 | k means, 4 | 4.0 |" in table and " ± " in table
