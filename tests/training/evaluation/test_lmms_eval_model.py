"""A Setokim inside lmms-eval: in a stand-in for the few names of it that the model uses, and, where it is installed,
in the real one on a task made here."""

import json
import sys
from abc import ABC, abstractmethod
from configparser import ConfigParser
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint
from types import ModuleType, SimpleNamespace

import pytest

from tests.setokim_testing import pictures, tiny_processor, tiny_setokim
from training.evaluation import lmms_eval_model
from training.hub.model_card import ROOT

TALKS = [  # pictures, question
    ([0], "What is it?"),
    ([], "Say something."),
    ([1, 2], "Which is bigger, the first or the second?"),
    ([3], "Describe the picture."),
    ([2], "How many?"),
]
GREEDY = {"max_new_tokens": 6, "do_sample": False}


@dataclass
class Counts:
    input_tokens: int
    output_tokens: int


@dataclass
class Result:
    text: str
    token_counts: Counts


@dataclass
class Manifest:
    model_id: str
    chat_class_path: str


class Lmms(ABC):
    """As `lmms_eval.api.model.lmms`: what it sets, and what it asks of a model."""

    def __init__(self):
        self.task_dict, self.rank = {}, 0

    @abstractmethod
    def loglikelihood(self, requests): ...

    @abstractmethod
    def generate_until(self, requests): ...

    @abstractmethod
    def generate_until_multi_round(self, requests): ...


@pytest.fixture
def stand_in(monkeypatch):
    names = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.model": {"lmms": Lmms},
        "lmms_eval.api.instance": {"GenerationResult": Result, "TokenCounts": Counts},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {"ModelManifest": Manifest},
    }
    for name, contents in names.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("setokim")
    processor = tiny_processor()
    tiny_setokim(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def messages_of(document: dict) -> list[dict]:
    """As tasks of lmms-eval make them."""
    content = [{"type": "image", "url": picture} for picture in document["pictures"]]
    return [{"role": "user", "content": [*content, {"type": "text", "text": document["question"]}]}]


def asked(model, talks, options=GREEDY) -> list:
    shown = pictures(4)
    model.task_dict = {
        "quiz": {"test": [{"pictures": [shown[i] for i in images], "question": said} for images, said in talks]}
    }
    return [
        SimpleNamespace(args=("", messages_of, dict(options), number, "quiz", "test")) for number in range(len(talks))
    ]


def test_entry_point_leads_to_a_chat_model(stand_in):
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    name, value = setup["options.entry_points"]["lmms_eval.models"].strip().split(" = ")
    point = EntryPoint(name, value, "lmms_eval.models")
    assert name == "setokim" and point.load() is lmms_eval_model.manifest
    found = lmms_eval_model.manifest()
    module, _, name = found.chat_class_path.rpartition(".")
    assert found.model_id == "setokim" and module == lmms_eval_model.__name__
    made = getattr(sys.modules[module], name)
    assert issubclass(made, Lmms) and made.is_simple is False


@pytest.mark.parametrize("batch_size", [1, "2", 8])
def test_answers_are_those_of_the_model_in_any_batch(stand_in, folder, batch_size):
    model = lmms_eval_model.Setokim(str(folder), device="cpu", batch_size=batch_size)
    results = model.generate_until(asked(model, TALKS))
    shown = pictures(4)
    for (images, said), result in zip(TALKS, results, strict=True):
        own = [shown[i] for i in images]
        assert result.text == model.model.ask(model.processor, own or None, said, max_new_tokens=6)


def test_tokens_are_counted_with_those_of_the_pictures(stand_in, folder):
    model = lmms_eval_model.Setokim(str(folder), device="cpu", batch_size=8)
    results = model.generate_until(asked(model, TALKS))
    counts = [len(tokens) for tokens in model.model.encode_images(model.processor, pictures(4)).visual_tokens]
    assert len(set(counts)) > 1
    for (images, said), result in zip(TALKS, results, strict=True):
        content = [{"type": "image"}] * len(images) + [{"type": "text", "text": said}]
        prompt = model.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        compact = model.processor(text=[prompt], images=[pictures(4)[i] for i in images] or None)["input_ids"][0]
        assert result.token_counts.input_tokens == len(compact) + sum(counts[i] - 1 for i in images)
        assert 1 <= result.token_counts.output_tokens <= 6


def test_options_of_a_task_reach_the_generation(stand_in, folder, monkeypatch):
    model = lmms_eval_model.Setokim(str(folder), device="cpu", batch_size=8)
    seen, generate = [], model.model.generate
    monkeypatch.setattr(model.model, "generate", lambda **options: seen.append(options) or generate(**options))

    def ask(options):
        model.generate_until(asked(model, TALKS[:1], options))
        names = ("max_new_tokens", "do_sample", "num_beams", "temperature", "top_p")
        return {name: seen[-1][name] for name in names if name in seen[-1]}

    assert ask({"until": ["\n\n"]}) == {"max_new_tokens": 128, "do_sample": False, "num_beams": 1}
    assert ask(GREEDY | {"temperature": 0, "top_p": 1.0}) == GREEDY | {"num_beams": 1}
    assert ask({"max_new_tokens": 3, "temperature": 0.7, "top_p": None}) == {
        "max_new_tokens": 3, "do_sample": True, "num_beams": 1, "temperature": 0.7
    }  # fmt: skip
    with pytest.warns(UserWarning, match="no use of image_aspect_ratio"):
        ask(GREEDY | {"image_aspect_ratio": "original"})


def test_requests_of_other_options_stay_in_order(stand_in, folder):
    model = lmms_eval_model.Setokim(str(folder), device="cpu", batch_size=8)
    requests = asked(model, TALKS)
    whole = [result.text for result in model.generate_until(requests)]
    stop = next(text[1:2] for text in whole if len(text) > 2)
    for request in requests[1::2]:
        request.args[2]["until"] = [stop, ""]
    cut = [result.text for result in model.generate_until(requests)]
    assert cut == [text.split(stop)[0] if i % 2 else text for i, text in enumerate(whole)]


def test_what_a_setokim_does_not_do_is_said(stand_in, folder):
    with pytest.raises(ValueError, match="batch_size must be a number"):
        lmms_eval_model.Setokim(str(folder), device="cpu", batch_size="auto")
    model = lmms_eval_model.Setokim(str(folder), device="cpu")
    (request,) = asked(model, TALKS[:1])
    film = [{"role": "user", "content": [{"type": "video", "url": "film.mp4"}]}]
    with pytest.raises(ValueError, match="texts and pictures, not video"):
        model.generate_until([SimpleNamespace(args=(request.args[0], lambda document: film, *request.args[2:]))])
    with pytest.raises(NotImplementedError, match="generate_until"):
        model.loglikelihood([request])
    with pytest.raises(NotImplementedError, match="generate_until"):
        model.generate_until_multi_round([request])
    with pytest.raises(AttributeError, match="no attribute 'Setok'"):
        lmms_eval_model.Setok  # noqa: B018


def test_lmms_eval_itself_measures_a_setokim_on_a_task_made_here(folder, tmp_path):
    """The score is the part of the documents to which the model gives the answer that it gives here."""
    evaluator = pytest.importorskip("lmms_eval.evaluator", reason="lmms-eval has an environment of its own")
    from lmms_eval.models import MODEL_REGISTRY_V2
    from lmms_eval.tasks import TaskManager

    MODEL_REGISTRY_V2.register_manifest(lmms_eval_model.manifest(), overwrite=True)  # as the entry point does
    model = lmms_eval_model.Setokim(str(folder), device="cpu")
    ask = partial(model.model.ask, model.processor, max_new_tokens=6)
    truths = [ask(picture, "What is it?") for picture in pictures(4)]
    write_task(tmp_path, ["wrong", *truths[1:]])
    results = evaluator.simple_evaluate(
        model="setokim",
        model_args=f"pretrained={folder},device=cpu",
        tasks=["shapes_made_here"],
        batch_size=3,
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
    )
    assert results["results"]["shapes_made_here"]["exact_match,none"] == pytest.approx(3 / 4)


def write_task(folder, truths: list[str]) -> None:
    """A task of lmms-eval with the first pictures, asked what they are."""
    (folder / "data" / "test").mkdir(parents=True)
    lines = []
    for number, (picture, truth) in enumerate(zip(pictures(len(truths)), truths, strict=True)):
        picture.save(folder / "data" / "test" / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "truth": truth}))
    (folder / "data" / "test" / "metadata.jsonl").write_text("\n".join(lines))
    (folder / "utils.py").write_text('def to_visual(document):\n    return [document["image"].convert("RGB")]\n')
    (folder / "shapes_made_here.yaml").write_text(
        "task: shapes_made_here\n"
        "dataset_path: imagefolder\n"
        f"dataset_kwargs: {{data_dir: {folder / 'data'}}}\n"
        "test_split: test\n"
        "output_type: generate_until\n"
        "doc_to_visual: !function utils.to_visual\n"
        'doc_to_text: "What is it?"\n'
        'doc_to_target: "{{truth}}"\n'
        "generation_kwargs: {max_new_tokens: 6, do_sample: false}\n"
        "metric_list:\n"
        "  - {metric: exact_match, aggregation: mean, higher_is_better: true}\n"
    )
