import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from modeling_setok import SetokModelOutput
from processing import SetokImageProcessor
from training.data import EmojiScenes, SceneConfig, concept_names
from training.data.emoji_scenes.language import a, caption, noun
from training.data.emoji_scenes.scenes import PALETTE, scene_rng
from training.data.emoji_scenes.tasks import EDITS, Draw
from training.data.emoji_scenes.tasks import TASKS as SCENE_TASKS
from training.evaluation import evaluate_setokim as script
from training.evaluation.evaluate_setokim import TASKS, border_colour, evaluate_setokim, format_table
from training.hub.model_card import measured_card, new_card

NAMES = list(concept_names("tiny"))
SIZE, NUMBER = 32, 24
CONFIG = SceneConfig(image_size=SIZE)
PROCESSOR = SimpleNamespace(
    image_processor=SetokImageProcessor(
        size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=0
    )
)
PERFECT = {
    "caption_f1",
    "caption_exact",
    "caption_background_accuracy",
    "question_accuracy",
    "question_counting_accuracy",
    "presence_accuracy",
    "presence_precision",
    "presence_recall",
    "presence_f1",
    "two_images_accuracy",
    "text_only_accuracy",
    "text_to_image_found",
    "edit_found",
    "edit_add_found",
    "edit_replace_found",
    "edit_placed",
    "edit_background_accuracy",
    "referring_ciou",
    "referring_giou",
}


def key(*parts):
    """What a picture or a request is looked up by."""
    return tuple(part.tobytes() if isinstance(part, Image.Image) else part for part in parts)


class World:
    """The truth about scenes: what is in a picture, and the answer to every request."""

    def __init__(self, split="test"):
        self.scenes, self.edited, self.names, self.answers = {}, {}, {}, {}
        for task in SCENE_TASKS:
            dataset = EmojiScenes(split, NUMBER, CONFIG, tasks=(task,))
            for index in range(NUMBER):
                row, scene = dataset[index], dataset.scene(index)
                picture = Image.fromarray(scene.image)
                self.scenes[key(picture)] = scene
                self.names[key(picture)] = set(scene.names)
                if len(row["messages"]) != 2:  # no messages, or a conversation, which is not measured
                    continue
                request, answer = (turn["content"] for turn in row["messages"])
                given = [image for image in row["images"] if task not in ("text_to_image", "edit")] or row["images"][
                    :-1
                ]
                answer = {"text": answer[0]["text"], "image": row["images"][-1:], "mask": row["masks"]}[
                    answer[0]["type"]
                ]
                self.answers[key(*given, request[-1]["text"])] = answer if isinstance(answer, str) else answer[0]
                if task == "edit":
                    result = self.edited[key(row["images"][1])] = self.edited_scene(split, scene, index)
                    self.names[key(row["images"][1])] = set(result.names)

    @staticmethod
    def edited_scene(split, scene, index):
        rng = scene_rng(split, index, stream="edit")
        draw = Draw(rng, CONFIG, allow_held_out=split != "train")
        made = EDITS[draw.one_of(tuple(EDITS))](scene, draw)
        return made[2] if made else scene


class Oracle(nn.Module):
    """Knows all answers; words them as a chatty person would."""

    device = torch.device("cpu")

    def __init__(self, world):
        super().__init__()
        self.world, self.options = world, []

    def caption(self, processor, images):
        return [f"It shows {caption(self.world.scenes[key(image)])}." for image in images]

    def ask(self, processor, images, questions):
        return [self.answer(image, question) for image, question in zip(images, questions, strict=True)]

    def answer(self, images, question):
        if isinstance(images, list):
            return f" {self.world.answers[key(*images, question)].upper()}. "
        names = self.world.scenes[key(images)].names
        return "Yes." if any(question == f"Is there {a(noun(name))} in the picture?" for name in names) else "No."

    def generate_image(self, processor, prompts, **options):
        self.options.append(options)
        return [self.world.answers[key(prompt)] for prompt in prompts]

    def encode_images(self, processor, images):
        return [key(image) for image in images]

    def generate_visual_tokens(self, processor, images, texts, image_features, **options):
        """The requests themselves, out of which an answer can be made."""
        assert image_features == self.encode_images(processor, images)
        self.options.append(options)
        return texts

    def edit_from_tokens(self, processor, images, visual_tokens, keep_unchanged, image_features):
        assert image_features == self.encode_images(processor, images)
        return [self.world.answers[key(*pair)] for pair in zip(images, visual_tokens, strict=True)]

    def segment_from_tokens(self, processor, images, visual_tokens, ground, image_features):
        assert image_features == self.encode_images(processor, images)
        wordings = ("Segment", "Outline", "Show me where to find")
        return [
            next(
                np.asarray(self.world.answers[asked]) > 0
                for wording in wordings
                if (asked := key(image, request.replace("Segment", wording))) in self.world.answers
            )
            for image, request in zip(images, visual_tokens, strict=True)
        ]


class Fool(Oracle):
    """Always wrong."""

    def caption(self, processor, images):
        return ["Nothing at all on nothing."] * len(images)

    def answer(self, images, question):
        answer = super().answer(images, question).lower()
        return "no" if "yes" in answer else "yes" if "no" in answer else "what?"

    def generate_image(self, *args, **options):
        return [self.spoil(picture) for picture in super().generate_image(*args, **options)]

    def edit_from_tokens(self, *args, **options):
        return [self.spoil(picture) for picture in super().edit_from_tokens(*args, **options)]

    def segment_from_tokens(self, *args, **options):
        return [~mask for mask in super().segment_from_tokens(*args, **options)]

    def spoil(self, picture):
        """The negative, which shows all other objects."""
        spoiled = ImageOps.invert(picture)
        self.world.names[key(spoiled)] = set(NAMES) - self.world.names[key(picture)]
        return spoiled


class Painter(Oracle):
    """Paints noise, half as large as the scenes."""

    def generate_image(self, processor, prompts, generator, **options):
        noise = [torch.randint(256, (SIZE // 2, SIZE // 2, 3), generator=g, dtype=torch.uint8) for g in generator]
        return [Image.fromarray(pixels.numpy()) for pixels in noise]

    def generate_visual_tokens(self, processor, images, texts, image_features, **options):
        return self.generate_image(processor, texts, **options)

    def edit_from_tokens(self, processor, images, visual_tokens, keep_unchanged, image_features):
        return visual_tokens


class Judge(nn.Module):
    """A SeTok that knows the names of the world's pictures, repaints what it is shown, and groups pixels by object."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, world, names=NAMES):
        super().__init__()
        self.world, self.config = world, SimpleNamespace(concept_names=names)

    def setok(self, pixel_values):
        self.pixel_values = pixel_values
        self.keys = [key(picture) for picture in PROCESSOR.image_processor.postprocess(pixel_values)]
        self.scenes = [self.world.scenes.get(picture, self.world.edited.get(picture)) for picture in self.keys]
        labels = np.zeros((len(self.scenes), SIZE, SIZE), int)
        for scene, label in zip(self.scenes, labels, strict=True):
            for number, mask in enumerate(scene.masks if scene else (), start=1):
                label[mask] = number
        return SetokModelOutput(
            cluster_ids=torch.from_numpy(labels).flatten(1),
            grid_size=(SIZE, SIZE),
            token_mask=torch.ones(len(labels), 1 + CONFIG.max_objects),
        )

    def detokenize(self, tokens, token_mask):
        return self.pixel_values

    def token_concept_logits(self, tokens):
        """1 of an object's own token for its name."""
        logits = torch.zeros(len(self.scenes), 1 + CONFIG.max_objects, len(NAMES))
        for picture, scene in enumerate(self.scenes):
            for token, name in enumerate(scene.names if scene else (), start=1):
                logits[picture, token, NAMES.index(name)] = 1
        return logits

    def concept_logits(self, tokens, token_mask):
        weights = torch.randn(3 * SIZE * SIZE, len(NAMES), generator=torch.Generator().manual_seed(0))
        guesses = (self.pixel_values.flatten(1) @ weights).sigmoid() / 2
        known = [[name in self.world.names.get(picture, ()) for name in NAMES] for picture in self.keys]
        return guesses + torch.tensor(known)


@pytest.fixture(scope="module")
def world():
    return World()


def evaluate(model, **options):
    return evaluate_setokim(model, PROCESSOR, Judge(model.world), NUMBER, config=CONFIG, **options)


def test_an_oracle_gets_full_marks(world):
    results = evaluate(Oracle(world), batch_size=7)
    assert results["num_scenes"] == NUMBER
    assert results["held_out_num_scenes"] == sum(scene.has_held_out_pair for scene in world.scenes.values()) > 0
    for prefix in ("", "held_out_"):
        got = {name: results[prefix + name] for name in PERFECT if prefix + name in results}
        assert set(got.values()) == {1}, got
        assert results[f"{prefix}edit_l1"] == results[f"{prefix}edit_result_l1"] == 0
    assert PERFECT <= results.keys()


def test_a_fool_gets_none(world):
    results = evaluate(Fool(world), batch_size=7)
    assert {name: results[name] for name in PERFECT} == dict.fromkeys(PERFECT, 0)
    assert results["edit_l1"] > 0.2


def test_baselines_are_beside(world):
    results = evaluate(Oracle(world))
    shares = np.mean([len(names) / len(NAMES) for names in map(world.names.get, world.scenes)])
    assert results["text_to_image_found_chance"] == pytest.approx(shares)
    assert results["text_to_image_scene_found"] == results["text_to_image_repainted_found"] == 1
    assert results["edit_unchanged_l1"] == results["edit_repainted_l1"] > 0, "this judge repaints without loss"
    assert results["edit_unchanged_found"] < 0.5 == results["presence_yes_ratio"]
    assert 0 < results["question_majority"] < 1
    masks = [np.asarray(row["masks"][0]) > 0 for row in EmojiScenes("test", NUMBER, CONFIG, tasks=("referring",))]
    assert results["referring_everything_ciou"] == pytest.approx(np.mean(masks))
    assert results["referring_clusters_ciou"] == results["referring_clusters_giou"] == 1, "its clusters are the objects"


def test_batches_and_repetition_do_not_matter(world):
    tasks = ["text_to_image", "edit"]
    one, many = (evaluate(Painter(world), tasks=tasks, batch_size=size) for size in (1, 9))
    assert one == pytest.approx(many)
    assert 0 < one["text_to_image_found"] < 0.6 and 0.1 < one["edit_l1"] < 0.6


def test_only_the_tasks_asked_for_and_the_options_given(world):
    oracle = Oracle(world).train()
    results = evaluate(oracle, tasks=["referring"], visual_temperature=0.5, batch_size=20)
    assert {name.removeprefix("held_out_").split("_")[0] for name in results} == {"num", "referring"}
    assert [len(options.pop("generator")) for options in oracle.options] == [20, 4], "generates once per example"
    assert oracle.options == [{"visual_temperature": 0.5}] * 2
    assert oracle.training


def test_what_is_sampled_is_measured_as_often_as_asked(world):
    tasks = ["caption", "text_to_image"]
    once, *others = (evaluate(Painter(world), tasks=tasks, num_draws=draws) for draws in (1, 2, 3))
    found = "text_to_image_found"
    for draws in others:
        assert draws[f"{found}_sd"] > 0
        assert {name for name in draws if name.endswith("_sd")} == {
            f"{prefix}text_to_image_{name}_sd"
            for prefix in ("", "held_out_")
            for name in ("found", "found_chance", "background_accuracy", "background_majority")
        }
        fixed = {"caption_f1", "text_to_image_scene_found", "text_to_image_repainted_found", "num_scenes"}
        assert {name: draws[name] for name in fixed} == {name: once[name] for name in fixed}
    second = 2 * others[0][found] - once[found]
    third = 3 * others[1][found] - 2 * others[0][found]
    assert others[1][f"{found}_sd"] == pytest.approx(np.std([once[found], second, third], ddof=1))
    assert "±" in format_table(others[1]).split("text to image: asked objects found")[1].splitlines()[0]
    with pytest.raises(ValueError, match="num_draws must be"):
        evaluate(Painter(world), tasks=tasks, num_draws=0)


def test_an_object_in_another_place_is_found_but_not_placed(world):
    """Its painter mirrors what it was to paint."""

    class Mirror(Oracle):
        def edit_from_tokens(self, *args, **options):
            return [self.mirrored(picture) for picture in super().edit_from_tokens(*args, **options)]

        def mirrored(self, picture):
            mirrored = ImageOps.mirror(picture)
            scene = self.world.edited[key(picture)]
            turned = SimpleNamespace(names=scene.names, masks=scene.masks[:, :, ::-1])
            self.world.edited[key(mirrored)] = turned
            self.world.names[key(mirrored)] = set(scene.names)
            return mirrored

    results = evaluate(Mirror(world), tasks=["edit"])
    rows = [
        row
        for row in EmojiScenes("test", NUMBER, CONFIG, tasks=("edit",))
        if row["question_type"] in ("add", "replace")
    ]
    offsets = []  # of the middle of each change from its mirror
    for row in rows:
        before, after = (np.asarray(image.convert("RGB"), dtype=int) for image in row["images"])
        columns = np.flatnonzero((before != after).any((0, 2)))
        offsets.append(abs(columns[0] + columns[-1] + 1 - SIZE) / SIZE)
    assert results["edit_found"] == 1
    assert np.mean(np.array(offsets) < 0.15) <= results["edit_placed"] <= np.mean(np.array(offsets) < 0.35) < 1


def test_training_scenes_have_no_held_out_column():
    results = evaluate(Oracle(World("train")), tasks=["caption"], split="train")
    assert results["caption_exact"] == 1
    assert not any(name.startswith("held_out_") for name in results)
    assert "held-out" not in format_table(results)


def test_refuses_unknown_tasks_and_a_judge_that_lacks_names(world):
    for tasks in (["chess"], [], "caption"):
        with pytest.raises(ValueError, match="tasks must be"):
            evaluate(Oracle(world), tasks=tasks)
    with pytest.raises(ValueError, match=r"lacks \['banana'"):
        evaluate_setokim(Oracle(world), PROCESSOR, Judge(world, ["pear"]), 1, config=CONFIG)
    with pytest.raises(ValueError, match="lacks"):
        evaluate_setokim(Oracle(world), PROCESSOR, Judge(world, None), 1, config=CONFIG)


def test_border_colour():
    for name, colour in PALETTE.items():
        picture = Image.new("RGB", (20, 20), colour)
        picture.paste((255, 0, 255), (0, 0, 9, 20))  # less than half of the border
        assert border_colour(picture) == name


def test_command_prints_and_writes_the_table(world, tmp_path, monkeypatch, capsys):
    for name, thing in (
        ("SetokimForConditionalGeneration", Oracle(world)),
        ("SetokimProcessor", PROCESSOR),
        ("SetokForPreTraining", Judge(world)),
    ):
        monkeypatch.setattr(script, name, SimpleNamespace(from_pretrained=lambda folder, thing=thing: thing))
    monkeypatch.setattr(script, "load_whole", lambda load, folder, kind: load(folder))
    output = tmp_path / "results.json"
    command = f"evaluate_setokim --model a --setok b --num_scenes {NUMBER} --device cpu --output {output}"
    monkeypatch.setattr(sys, "argv", command.split())
    script.main()
    table = capsys.readouterr().out
    written = json.loads(output.read_text())
    assert written["arguments"]["tasks"] == list(TASKS)
    shown = [row for row in script.ROWS if row.key in written["results"]]
    for row in shown:
        line = next(line for line in table.splitlines() if line.startswith(f"{row.title}  "))
        assert line.removeprefix(row.title).split()[0] == f"{written['results'][row.key]:{row.form}}"
        assert all(f"{name} {written['results'][key]:{row.form}}" in line for name, key in row.beside.items())
    assert len(shown) > 20


@pytest.fixture
def talks(tmp_path):
    """A folder with three captions, of a picture each."""
    folder = tmp_path / "MyTalks"
    (folder / "images").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (24, 24), (80 * number, 0, 0)).save(folder / "images" / f"{number}.png")
    rows = [{"image": f"{number}.png", "caption": f"Picture {number}."} for number in range(3)]
    (folder / "data.json").write_text(json.dumps(rows))
    return folder


def test_command_on_held_out_rows_of_ones_own_and_the_card(talks, setokim_folder, tmp_path, monkeypatch, capsys):
    model = shutil.copytree(setokim_folder, tmp_path / "mine")
    command = ["evaluate_setokim", "--model", str(model), "--device", "cpu", "--output", str(model / "results.json")]
    part = f"{{dataset: {talks}, held_out: 2}}"
    monkeypatch.setattr(sys, "argv", [*command, "--data", part])
    script.main()
    told = "2 rows of MyTalks, which held_out: 2 keeps from training"
    assert f" on {told}, " in capsys.readouterr().out
    written = json.loads((model / "results.json").read_text())
    assert written["data"] == {"name": "MyTalks", "rows": told}
    assert written["results"]["caption_num_examples"] == 2
    (model / "README.md").write_text(new_card(model, "mit"))
    card = measured_card(model)
    assert f"On {told}.\n\n| " in card and "| caption: CIDEr-D |" in card
    assert "name: MyTalks" in card and "type: caption_rouge_l" in card and "caption_num_examples" not in card
    assert str(talks) not in card

    (model / "results.json").unlink()
    monkeypatch.setattr(sys, "argv", [*command, "--data", str(talks), "--limit", "1"])
    with pytest.raises(SystemExit, match="another run, with data"):
        script.main()
    for file in model.glob("results.*"):
        file.unlink()
    script.main()
    assert "3 rows of MyTalks, and whether training saw them is not known" in capsys.readouterr().out
    assert json.loads((model / "results.json").read_text())["results"]["num_rows"] == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("", "EmojiScenes need --setok"),
        ("--setok b --limit 3", "--limit is of rows of your own: leave it out"),
        ("--data c --num_scenes 3", "--num_scenes is of EmojiScenes: leave it out"),
        ("--data c --tasks caption", "--tasks is of EmojiScenes: leave it out"),
    ],
)
def test_arguments_without_a_use_are_refused(more, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate_setokim", "--model", "a", *more.split()])
    with pytest.raises(SystemExit):
        script.main()
    assert message in capsys.readouterr().err
