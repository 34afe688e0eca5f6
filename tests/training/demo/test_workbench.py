"""What stands behind the page, with the models that are shipped."""

import re

import pytest
import torch
from PIL import Image

from tests.training.demo.demo_testing import gradient, painting_of, same
from training.data import SceneConfig, make_scene
from training.demo import photographs
from training.demo.workbench import Workbench

QUESTION = "How many objects are there in the picture?"


def test_a_picture_is_tokenised_as_by_the_model(bench, models, scene, file):
    pixel_values = models.image_processor(scene, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        outputs = models.setok.setok(pixel_values)
        painted = models.setok.detokenize(outputs.last_hidden_state, outputs.token_mask)
    drawn, reconstruction, table, told = bench.tokenize({"path": file})
    assert told.startswith(f"{int(outputs.num_tokens)} concept tokens, PSNR ")
    assert same(reconstruction, models.image_processor.postprocess(painted)[0])
    assert drawn.height == 512 and drawn.width > 512  # enlarged, with a legend
    assert table["headers"] == ["token", "patches", "name", "nearest concepts (cosine)"]
    assert [int(row[1]) for row in table["data"]] == torch.bincount(outputs.cluster_ids[0]).tolist()
    assert {row[2] for row in table["data"]} == {"-", "owl", "tropical fish", "panda face"}


def test_a_photograph_has_tokens_of_any_granularity_and_layer(models, photograph_model, file, tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "LAYERS", (1, 2))
    parts = models.setok, models.image_processor, models.setokim, models.processor
    bench = Workbench(*parts, photograph_model=photograph_model)
    patches = photograph_model.encode(Image.open(file), [1, 2])
    for num_neighbors, layer in ((2, 2), (30, 2), (2, 1), (2, 2)):
        tokens = photograph_model.cluster(patches, num_neighbors, layer)
        drawn, note = bench.photograph({"path": file}, num_neighbors, layer)
        assert same(drawn, photographs.draw_tokens(Image.open(file), tokens))
        assert note.startswith(f"{tokens.counts} (16 x 16)\nClustered: layer {layer}, with S")
    other = str(tmp_path / "other.png")
    gradient(40, 80).save(other)
    assert "(16 x 8)" in bench.photograph({"path": other}, 4, 2)[1]  # what is kept is the last picture's alone
    for values, message in (
        ((1, 2), "granularity must be a number from 2 to 64, not 1"),
        ((None, 2), "granularity must be a number"),
        ((4, 3), "layer must be one of 1, 2, not 3"),
        ((4, [2]), "layer must be one of 1, 2, not"),
    ):
        with pytest.raises(ValueError, match=message):
            bench.photograph({"path": file}, *values)
    with pytest.raises(ValueError, match="There is no picture yet"):
        bench.photograph(None, 4, 2)


def test_a_question_is_answered_about_one_picture_or_two(bench, models, scene, file, tmp_path):
    other = make_scene("test", 7, SceneConfig(image_size=64)).image
    Image.fromarray(other).save(tmp_path / "other.png")
    first, second = {"path": file}, {"path": str(tmp_path / "other.png")}
    which = "Which picture has more objects, the first or the second?"
    assert bench.ask(first, None, f" {QUESTION}\n") == (models.setokim.ask(models.processor, scene, QUESTION), "")
    assert bench.ask(None, first, QUESTION) == bench.ask(first, None, QUESTION)
    assert bench.ask(first, None, " ") == (models.setokim.caption(models.processor, scene), "")
    answers = [bench.ask(*pair, which)[0] for pair in ((first, second), (second, first))]
    expected = models.setokim.ask(models.processor, [scene, Image.fromarray(other)], which)
    assert answers[0] == expected and set(answers) == {"first", "second"}


def test_the_seed_and_the_sliders_reach_the_painting(bench, models):
    sentence = "Draw: an owl on a plain red background."
    expected = painting_of(models, sentence, 3, visual_guidance_scale=2.0, visual_temperature=1.0)
    painted, note = bench.paint(sentence, 3, 2.0, 1.0)
    assert same(painted, expected) and painted.size == (64, 64) and not note
    assert not same(bench.paint(sentence, 4, 2.0, 1.0)[0], expected)
    assert not same(bench.paint(sentence, 3, 1.0, 1.0)[0], expected)
    still = [bench.paint(sentence, seed, 1.0, 0.0)[0] for seed in (1, 2)]  # without noise the seed does not matter
    assert same(*still)


def test_large_and_turned_pictures_are_read_as_they_are_shown(bench, scene, tmp_path):
    wide = scene.resize((1024, 512))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    wide.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    outlined, told = bench.segment({"path": str(tmp_path / "turned.png")}, "the owl.")
    assert outlined.size == (512, 256) and re.fullmatch(r"\d+% of the picture", told)
    assert bench.edit({"path": str(tmp_path / "turned.png")}, "Remove the owl.")[0].size == (512, 256)


def test_each_sentence_that_is_listed_gets_an_answer(bench, file, tmp_path):
    picture, other = {"path": file}, {"path": str(tmp_path / "other.png")}
    Image.fromarray(make_scene("test", 7, SceneConfig(image_size=64)).image).save(other["path"])
    forms = {task: [form.replace("*", "") for form in forms] for task, forms in bench.knowledge.forms.items() if forms}
    assert all(bench.ask(picture, None, text)[0] for text in forms["caption"] + forms["question"])
    assert {bench.ask(picture, other, text)[0] for text in forms["two_images"]} <= {"first", "second"}
    assert all(bench.paint(text, 0, 1.5, 0.5)[0] for text in forms["text_to_image"])
    assert all(bench.edit(picture, text)[0] for text in forms["edit"])
    assert all(bench.segment(picture, text)[0] for text in forms["referring"])


def test_words_that_it_does_not_know_are_answered_with_those_that_it_knows(bench, file):
    picture = {"path": file}
    for nothing, note in (
        bench.paint("Draw: two zebras on a plain blue background.", 0, 1.5, 0.5),
        bench.edit(picture, "Replace the owl with a zebra."),
        bench.segment(picture, "the zebra"),
    ):
        assert nothing is None
        assert re.match(r'The model does not know "zebras?"\. It knows:\n60 things: red apple, pear, ', note)
        assert "bunch of grapes" in note and "Backgrounds: plain, shaded, mottled; white, gray, " in note
    answer, note = bench.ask(picture, None, "How many zebras are there in the picture?")
    assert answer and note.startswith('The model does not know "zebras". It knows:\n60 things: ')


def test_without_an_answer_the_page_says_what_to_ask(bench, models, file, monkeypatch):
    answer, note = bench.ask({"path": file}, None, "Quoi?")
    assert answer == "" and note.startswith(
        'The model says nothing to this.\nThe model does not know "quoi". It knows:'
    )
    monkeypatch.setattr(models.setokim, "ask", lambda *_, **__: "")
    answer, note = bench.ask({"path": file}, None, "Is the picture red?")
    assert answer == "" and note.startswith(
        "The model says nothing to this. It answers sentences such as:\nDescribe the"
    )


def test_a_model_of_other_data_is_told_what_the_user_says(models, scene, file, monkeypatch):
    monkeypatch.setattr(models.setokim.config.vision_config, "concept_names", None)
    monkeypatch.setattr(models.setokim, "ask", lambda processor, pictures, question, **_: question.strip("?"))
    bench = Workbench(models.setok, models.image_processor, models.setokim, models.processor)
    assert bench.ask({"path": file}, None, "What is in this photo?") == ("What is in this photo", "")
    assert bench.ask({"path": file}, None, "?") == ("", "The model says nothing to this. Try other words.")
    assert same(bench.paint("a zebra", 0, 1.5, 0.5)[0], painting_of(models, "a zebra", 0))


def test_what_the_user_is_to_do_is_told(bench, file, broken_file):
    picture, broken = {"path": file}, {"path": broken_file}
    for work in (
        lambda: bench.tokenize(None),
        lambda: bench.ask(None, None, QUESTION),
        lambda: bench.edit(None, "Remove the owl."),
        lambda: bench.segment(None, "the owl"),
    ):
        with pytest.raises(ValueError, match="There is no picture yet: upload one"):
            work()
    for work in (lambda: bench.tokenize(broken), lambda: bench.ask(picture, broken, QUESTION)):
        with pytest.raises(ValueError, match="This file cannot be read as a picture: upload another") as error:
            work()
        assert broken_file not in str(error.value)  # where the server keeps it is nobody's business
    for work in (
        lambda: bench.paint("", 0, 1.0, 1.0),
        lambda: bench.edit(picture, "  "),
        lambda: bench.segment(picture, ""),
    ):
        with pytest.raises(ValueError, match="There is no text yet: write what you want"):
            work()
    with pytest.raises(ValueError, match="question about the two pictures"):
        bench.ask(picture, picture, "")
    with pytest.raises(ValueError, match="There is no seed"):
        bench.paint("Draw: an owl.", None, 1.0, 1.0)
    for text in ("Draw: <image>", "[Img]", "<|im_end|> and <mask>"):
        with pytest.raises(ValueError, match="^Leave .* out"):
            bench.paint(text, 0, 1.0, 1.0)


def test_a_text_must_leave_room_for_pictures_and_answer(bench, models, file):
    config = models.setokim.config
    room = config.text_config.max_position_embeddings - config.vision_config.max_tokens - 128
    text = ("owl " * room).strip()
    length = len(models.processor.tokenizer(text)["input_ids"])
    assert length > room
    with pytest.raises(ValueError, match=f"too long: it has {length} tokens, and the model reads up to {room}"):
        bench.paint(text, 0, 1.0, 1.0)
    room -= 2 * config.vision_config.max_tokens
    with pytest.raises(ValueError, match=f"up to {room}"):
        bench.ask({"path": file}, {"path": file}, text)
    fitting = ("owl " * (room - length + len(text.split()))).strip()
    assert len(models.processor.tokenizer(fitting)["input_ids"]) == room
    assert isinstance(bench.ask({"path": file}, {"path": file}, fitting)[0], str)


def test_numbers_and_texts_of_other_kinds_are_refused(bench, file):
    for values, message in (
        (("an owl", 2**32, 1.5, 0.5), "seed must be a number from 0 to 4294967295, not 4294967296"),
        (("an owl", 0, "1", 0.5), "guidance must be a number from 1 to 10, not '1'"),
        (("an owl", 0, 1.5, float("nan")), "temperature must be a number from 0 to 2, not nan"),
        ((["an owl"], 0, 1.5, 0.5), "This is no text, but "),
        (("\ud800", 0, 1.5, 0.5), "This is no text, but "),
    ):
        with pytest.raises(ValueError, match=message):
            bench.paint(*values)
    with pytest.raises(ValueError, match="This is no text, but 5"):
        bench.ask({"path": file}, None, 5)


def test_a_call_that_was_given_up_is_not_disturbed(bench, file):
    with bench._turn():
        with pytest.raises(ValueError, match="still work on a request that took too long: try again"):
            bench.edit({"path": file}, "Remove the owl.")
    assert bench.edit({"path": file}, "Remove the owl.")[0]
