"""A Setokim behind `transformers serve`, without the HTTP in between."""

import asyncio
import base64
import io
import json
import sys

import pytest
from transformers.cli.serving.model_manager import ModelManager
from transformers.models.auto import modeling_auto

from tests.setokim_testing import pictures, tiny_processor, tiny_setokim
from training.evaluation import serve


@pytest.fixture
def started(monkeypatch) -> list[str]:
    """The command line that transformers gets from `serve --port 8000`."""
    names = modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    monkeypatch.setitem(names, "setokim", "nothing")  # it is as before after the test
    del names["setokim"]
    seen = []
    monkeypatch.setattr(sys, "argv", ["serve", "--port", "8000"])
    monkeypatch.setattr(serve, "transformers_command", lambda: seen.extend(sys.argv[1:]))
    serve.main()
    return seen


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("setokim")
    processor = tiny_processor()
    tiny_setokim(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_arguments_are_passed_on(started):
    assert started == ["serve", "--port", "8000"]


def test_transformers_knows_what_it_serves(started, folder):
    manager = ModelManager(device="cpu")
    model, processor = manager.load_model_and_processor(f"{folder}@main")
    assert type(model).__name__ == "SetokimForConditionalGeneration"
    assert manager.get_model_modality(model, processor=processor).name == "MULTIMODAL"
    manager.shutdown()


def test_a_chat_completion_with_a_picture(started, folder):
    pytest.importorskip("openai", reason="transformers[serving] is not installed")
    from transformers.cli.serving.chat_completion import ChatCompletionHandler
    from transformers.cli.serving.utils import GenerationState

    manager, (picture,) = ModelManager(device="cpu"), pictures(1)
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(encoded.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is it?"}]
    body = {"model": str(folder), "messages": [{"role": "user", "content": content}], "max_tokens": 6, "temperature": 0}

    response = asyncio.run(ChatCompletionHandler(manager, GenerationState()).handle_request(body, "first"))
    answer = json.loads(response.body)["choices"][0]["message"]["content"]
    model, processor = manager.load_model_and_processor(f"{folder}@main")
    assert answer.strip() == model.ask(processor, picture, "What is it?", max_new_tokens=6, do_sample=False)
    manager.shutdown()
