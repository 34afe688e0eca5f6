import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import GPT2Config

from modeling_setok import SetokConfig, SetokForPreTraining
from processing import SetokImageProcessor
from training.data import SceneConfig, concept_names, make_scene
from training.demo import __main__ as demo
from training.demo import conversation, models, pictures, tokens
from training.evaluation.metrics import patch_labels

NAMES = list(concept_names("tiny"))
SIZE, GRID = 32, 8
PROCESSOR = SetokImageProcessor(size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    vision_config = {"model_type": "siglip_vision_model", "num_hidden_layers": 1, "image_size": SIZE, **small}
    config = SetokConfig(
        vision_config={**vision_config, "patch_size": SIZE // GRID},
        detokenizer_config={"num_hidden_layers": 1, "grid_size": 8, "decoder_channels": [8, 8], **small},
        num_inner_layers=1,
        num_inter_layers=1,
        projection_dim=8,
        text_feature_dim=8,
        concept_names=NAMES,
        **small,
    )
    model = SetokForPreTraining(config)
    model.set_concepts(NAMES, torch.randn(len(NAMES), 8))
    return model.eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    PROCESSOR.save_pretrained(path)
    return path


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """Runs the command, by default without a Setokim, and returns what it printed and its output folder."""

    def run(*arguments):
        output = tmp_path / "out"
        command = ["demo", "--model", folder, "--setokim", tmp_path / "none", "--output", output, *arguments]
        monkeypatch.setattr(sys, "argv", [str(word) for word in command])
        demo.main()
        return capsys.readouterr().out, output

    return run


def gradient(width, height):
    """A picture that differs at each of its sides."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))


def test_scenes_and_photographs(run, model):
    printed, output = run("--num_scenes", "3")
    names = ["01_scene", "02_scene", "03_scene", "04_astronaut", "05_coffee"]
    rows = [Image.open(output / f"{name}.png") for name in names]
    sheet = Image.open(output / "contact_sheet.png")
    assert {path.stem for path in output.iterdir()} == {*names, "contact_sheet"}
    assert sheet.size == (max(row.width for row in rows), sum(row.height for row in rows))
    assert all(row.width > 3 * 512 and row.height > 512 for row in rows[:4])

    shown = pictures.make_scenes(3, SIZE) + pictures.load_photographs()
    with torch.no_grad():
        counts = [
            int(model.setok(PROCESSOR(picture.image, return_tensors="pt")["pixel_values"]).num_tokens[0])
            for picture in shown
        ]
    assert [int(count) for count in re.findall(r"^(\d+) concept tokens?,", printed, re.M)] == counts
    for picture in shown[:3]:
        assert f"{picture.title}: {', '.join(picture.scene.names)}\n" in printed
    summary = printed[printed.index("  picture  ") :].splitlines()[1:6]
    objects = [str(len(picture.scene.names)) for picture in shown[:3]] + ["-", "-"]
    for line, picture, *numbers in zip(summary, shown, objects, counts, strict=True):
        assert line.strip().startswith(picture.title)
        assert line.strip().removeprefix(picture.title).split()[:2] == [str(number) for number in numbers]
    assert f"knows {len(NAMES)} concepts and no others" in printed


def test_scenes_are_of_the_test_split_and_of_rising_complexity():
    shown = pictures.make_scenes(4, SIZE)
    assert [len(picture.scene.names) for picture in shown] == [1, 3, 4, 6]
    expected = make_scene("test", 1, SceneConfig(image_size=SIZE, min_objects=3, max_objects=3))
    assert np.array_equal(np.array(shown[1].image), expected.image)
    assert pictures.make_scenes(0, SIZE) == []
    with pytest.raises(ValueError, match="-1"):
        pictures.make_scenes(-1, SIZE)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "1", "P", "CMYK", "I;16"])
def test_own_pictures_of_any_mode(run, tmp_path, mode):
    path = tmp_path / f"mine.{'tiff' if mode == 'CMYK' else 'png'}"
    picture = Image.new("RGB", (37, 61))
    picture.paste("white", (0, 0, 20, 30))  # black and white, which every mode can hold
    if mode == "I;16":
        grey = np.array(picture.convert("L")).astype(np.uint16) * 257
        Image.fromarray(grey).save(path)
    else:
        picture.convert(mode).save(path)
    printed, output = run("--image", path)
    assert {file.name for file in output.iterdir()} == {"01_mine.png", "contact_sheet.png"}
    assert "test scene" not in printed and "astronaut" not in printed
    row = Image.open(output / "01_mine.png")
    # The original is the first picture of the row, enlarged from 37 x 61 to 512 x 844 pixels.
    margin = 844 // 32
    shown = row.crop((margin, margin, margin + 512, margin + 844)).resize((37, 61), Image.Resampling.BOX)
    assert np.abs(np.array(shown, int) - np.array(picture, int)).mean() < 4


def test_orientation_and_transparency(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    gradient(40, 20).save(tmp_path / "turned.png", exif=exif)
    turned = pictures.read_picture(str(tmp_path / "turned.png"), PROCESSOR)
    assert turned.name == "turned" and turned.image.size == (20, 40)
    assert turned.image.getpixel((19, 0)) == gradient(40, 20).getpixel((0, 0))

    Image.new("RGBA", (5, 5), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert pictures.read_picture(str(tmp_path / "clear.png"), PROCESSOR).image.getpixel((2, 2)) == (255, 255, 255)


@pytest.mark.parametrize("size", [(1, 1), (700, 3), (3, 700), (1600, 900)])
def test_own_pictures_of_any_size(run, tmp_path, size):
    path = tmp_path / "mine.png"
    gradient(*size).save(path)
    _, output = run("--image", path, path)  # one name twice makes two files
    assert {file.name for file in output.iterdir()} == {"01_mine.png", "02_mine.png", "contact_sheet.png"}
    first, second = (Image.open(output / f"0{number}_mine.png") for number in (1, 2))
    assert first.size == second.size and max(first.size) < 12_000


def test_unreadable_pictures_are_named(run, tmp_path):
    broken = tmp_path / "broken.png"
    gradient(50, 50).save(broken)
    broken.write_bytes(broken.read_bytes()[:100])
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    for path in (tmp_path / "missing.png", broken, text, tmp_path):
        with pytest.raises(SystemExit, match=f"Error: The picture '{path}' cannot be read: ."):
            run("--image", path)
    assert not (tmp_path / "out").exists()


def test_folders_without_a_trained_model_are_refused(model, folder, run, tmp_path):
    def refused(reason):
        with pytest.raises(SystemExit) as caught:
            run("--model", tmp_path / "model")
        message = caught.value.code
        assert re.search(reason, message) and f"{tmp_path / 'model'}" in message
        assert "python training/train_setok.py training/recipes/setok_emoji_tiny.yaml" in message

    refused("no such folder")
    (tmp_path / "model").mkdir()
    refused("config.json|model_type")
    GPT2Config().save_pretrained(tmp_path / "model")
    refused("it holds a model of type 'gpt2'")
    model.config.save_pretrained(tmp_path / "model")
    refused("model.safetensors")
    (tmp_path / "model" / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    refused("header")
    model.setok.save_pretrained(tmp_path / "model")
    refused(r"weights lack \d+ tensors, such as concept_bank.features")


def test_without_a_setokim_there_are_tokens_and_a_message(run, folder, tmp_path):
    gradient(30, 30).save(tmp_path / "mine.png")
    for setokim, reason in ((tmp_path / "none", "there is no such folder"), (folder, "holds a model of type 'setok'")):
        printed, output = run("--setokim", setokim, "--image", tmp_path / "mine.png")
        assert f"{setokim}' holds no trained Setokim" in printed and reason in printed
        for recipe in ("pretrain", "masks", "finetune"):
            assert f"recipes/setokim_emoji_tiny_{recipe}.yaml" in printed
        assert (output / "01_mine.png").exists() and not (output / "setokim.png").exists()


def test_a_setokim_works_on_a_scene_and_a_sentence(run, setokim_folder, monkeypatch):
    monkeypatch.setattr(demo, "load_photographs", list)  # none: they take the most time
    printed, output = run("--setokim", setokim_folder, "--num_scenes", "1")
    sheet = (output / "setokim.png").read_bytes()
    setokim, processor = models.load_setokim(setokim_folder)
    scene = conversation.exercise_about_scene(24)
    for question, truth in scene.questions:
        answer = setokim.ask(processor, scene.picture, question)
        assert f"  user   {question}\n  model  {answer}\n  truth  {truth}\n" in printed
    assert conversation.PROMPT in printed and conversation.CAVEAT not in printed
    again, _ = run("--setokim", setokim_folder, "--num_scenes", "1")
    assert again[again.index("Setokim on") :] == printed[printed.index("Setokim on") :]
    assert (output / "setokim.png").read_bytes() == sheet


def test_a_setokim_works_on_own_pictures_and_prompts(run, setokim_folder, tmp_path):
    path = tmp_path / "my own.png"
    gradient(70, 40).save(path)
    printed, output = run("--setokim", setokim_folder, "--image", path, path, "--prompt", 'a "red" car')
    assert printed.count("Setokim on my own\n") == 2 and 'user   a "red" car\n' in printed
    assert "truth" not in printed[printed.index("Setokim on") : printed.index(conversation.CAVEAT)]
    assert Image.open(output / "setokim.png").width > 3 * conversation.TILE


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
    assemble = ["-m", "training.hub.push_to_hub", "--output", "build/hub", "--skip-check"]
    default = ["-m", "training.demo", "--output", "out"]
    monkeypatch.setenv("PROMPT", "$P$G")  # a shell's own
    assert make_demo() == assemble + default
    assert make_demo() == default
    image = """my "photo" 'of' $HOME $(shell touch bad) #1.jpg"""
    prompt = """--Draw: "a" `touch bad`; $(touch bad) $$5 & it's \\ an owl"""
    assert make_demo(f"IMAGE={image}") == [*default, f"--image={image}"]
    assert make_demo(f"PROMPT={prompt}", f"IMAGE={image}") == [*default, f"--image={image}", f"--prompt={prompt}"]
    assert not (tmp_path / "bad").exists()


def test_psnr_is_taken_in_the_size_that_is_painted(model, monkeypatch):
    grey = pictures.Picture("grey", Image.new("RGB", (90, 50), (102, 102, 102)))
    painted = torch.full((1, 3, 16, 16), 2 * (102 + 51) / 255 - 1)  # 0.2 too bright
    monkeypatch.setattr(model, "detokenize", lambda tokens, token_mask: painted)
    result = tokens.tokenize_and_paint(model, PROCESSOR, grey)
    assert result.psnr == pytest.approx(-20 * np.log10(0.2), abs=1e-3)
    assert result.reconstruction.size == (16, 16) and result.reconstruction.getpixel((3, 3)) == (153, 153, 153)
    assert result.num_tokens == result.cluster_ids.max() + 1
    assert result.tokenize_ms > 0 and result.paint_ms > 0


@torch.no_grad()
def test_nearest_concepts_are_those_of_the_highest_cosine(model):
    random_tokens = torch.randn(5, 16)
    nearest = tokens.nearest_concepts(model, random_tokens)
    projected = model.visual_projection(random_tokens)
    cosines = torch.cosine_similarity(projected[:, None], model.bank_features()[None], dim=-1)
    for token, concepts in enumerate(nearest):
        best = cosines[token].argsort(descending=True)[: tokens.NUM_NEAREST].tolist()
        assert [name for name, _ in concepts] == [NAMES[index] for index in best]
        assert [cosine for _, cosine in concepts] == pytest.approx(cosines[token, best].tolist(), abs=1e-6)


def test_a_model_without_concepts_gives_no_names(model, monkeypatch):
    monkeypatch.setattr(model.config, "concept_names", None)
    result = tokens.tokenize_and_paint(model, PROCESSOR, pictures.make_scenes(1, SIZE)[0])
    assert result.nearest == [[]] * result.num_tokens and result.num_tokens > 0
    assert tokens.draw([result])[0].width > 3 * 512
    assert f"{result.num_tokens} concept token" in tokens.describe(result)


def test_the_likeliest_concept_is_the_one_nearest_to_any_token():
    def likeliest(nearest):
        return tokens.likeliest_concept(tokens.Result(None, None, None, nearest, None, 0, 0, 0))

    assert likeliest([[("owl", 0.2), ("gem", 0.1)], [("bus", 0.7), ("owl", 0.3)], [("star", 0.6)]]) == "bus"
    assert likeliest([[], []]) == "object"


def test_only_near_concepts_are_names():
    assert tokens.token_name([("owl", 0.61), ("gem", 0.6)]) == "owl"
    assert tokens.token_name([("owl", 0.59), ("gem", 0.1)]) is None
    assert tokens.token_name([]) is None


def test_the_table_says_on_what_a_token_lies():
    picture = pictures.make_scenes(2, 64)[1]
    scene = picture.scene
    truth = patch_labels(scene.masks, (16, 16))
    names = ["background", *scene.names]
    nearest = [[("owl", 0.9), ("gem", -0.25)] if label else [("owl", 0.1)] for label in range(len(names))]
    result = tokens.Result(picture, truth, (16, 16), nearest, picture.image, 20.0, 1.0, 2.0)
    heading, figures, header, *rows = tokens.describe(result).splitlines()
    assert heading == f"test scene of 6 objects: {', '.join(scene.names)}"
    assert figures == "7 concept tokens, PSNR 20.0 dB, tokenised in 1 ms, painted in 2 ms"
    for label, row in enumerate(rows):
        cells = re.split(r" {2,}", row.strip())
        concepts = "owl 0.90, gem -0.25" if label else "owl 0.10"
        assert cells == [str(label), str((truth == label).sum()), names[label], "owl" if label else "-", concepts]
        assert row.index(names[label]) == header.index("lies on")
        assert row.index(concepts) == header.index("nearest concepts")
