"""A page to try SeTok and Setokim in a browser: tokenise, ask, paint, edit, segment.

python -m training.demo.app [--setok DIR_OR_ID] [--setokim DIR_OR_ID] [--host 127.0.0.1] [--port 7860] [--device cpu]
"""

import functools
import html
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr
import transformers
from huggingface_hub import snapshot_download
from PIL import Image
from transformers import HfArgumentParser

from modeling_setok import SetokForPreTraining, SetokimForConditionalGeneration
from modeling_setok.tasks_setokim import CAPTION_REQUEST
from processing import SetokImageProcessor, SetokimProcessor
from training.data import EmojiScenes, SceneConfig
from training.data.emoji_scenes import language
from training.demo.conversation import CAVEAT, INSTRUCTION, PROMPT
from training.demo.models import load_setok, load_setokim
from training.demo.tokens import NAMED_FROM
from training.demo.workbench import Workbench
from training.evaluation.report import choose_device

TITLE = "SeTok and Setokim"
INTRODUCTION = (
    f"# {TITLE}\nAn image as a few concept tokens, and a language model that reads and writes them.\n\n*{CAVEAT}*"
)
EXAMPLE_SCENES = (1, 2, 3)  # of the test split, which no training sees
LARGEST_SEED = 2**32 - 1
CSS = """
/* the models' pictures are of few pixels: they are shown as large as their place, below its label and buttons */
.picture img {width: 100%; height: 100%; object-fit: contain; box-sizing: border-box; padding-top: 28px}
/* what went wrong is told once, in a sentence; the results just stay empty */
[data-testid="status-tracker"] .error {display: none}
"""
FONT = (gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "sans-serif")  # in gradio's package, all letters


def build_app(
    setok: SetokForPreTraining,
    image_processor: SetokImageProcessor,
    setokim: SetokimForConditionalGeneration,
    processor: SetokimProcessor,
) -> gr.Blocks:
    """The page, ready for `serve`. One call of the models runs at a time, the others wait in a queue."""
    bench = Workbench(setok, image_processor, setokim, processor)
    image_size = processor.image_processor.size["height"]
    with gr.Blocks(title=TITLE, analytics_enabled=False) as app:
        gr.Markdown(INTRODUCTION)
        with gr.Tab("Tokenise"):
            _tokenise_tab(bench, image_size)
        with gr.Tab("Ask"):
            _ask_tab(bench, image_size)
        with gr.Tab("Paint"):
            _paint_tab(bench, image_size)
        with gr.Tab("Edit"):
            _edit_tab(bench, image_size)
        with gr.Tab("Segment"):
            _segment_tab(bench, image_size)
    return app.queue(default_concurrency_limit=1)


def _tokenise_tab(bench: Workbench, image_size: int) -> None:
    with gr.Row():
        with gr.Column(scale=2):
            picture, button = _input_picture(), gr.Button("Tokenise", variant="primary")
            examples = gr.Examples([images[0] for images, _ in _example_rows("concepts", image_size)], picture)
        with gr.Column(scale=5):
            told = gr.Markdown()
            with gr.Row():
                drawn = _output_picture("Its concept tokens", scale=3)
                painted = _output_picture("Painted from them", scale=2)
            table = gr.Dataframe(label="Tokens", interactive=False, wrap=True)
            if names := bench.setok.config.concept_names:
                gr.Markdown(
                    f"A token is named by its nearest concept where their cosine is at least {NAMED_FROM}. "
                    f"The model knows {len(names)} concepts and no others."
                )
    _connect(bench.tokenize, [picture], [told, drawn, painted, table], [button.click], examples)


def _ask_tab(bench: Workbench, image_size: int) -> None:
    with gr.Row():
        with gr.Column():
            with gr.Row():
                first, second = _input_picture(), _input_picture("Second picture (optional)")
            question = gr.Textbox(label="Question", placeholder="Leave it empty for a caption of the picture.")
            button = gr.Button("Ask", variant="primary")
            about_one, about_two = _example_rows("question", image_size), _example_rows("two_images", image_size)
            rows = [[*images, None, text] for images, text in about_one] + [[*about_two[0][0], about_two[0][1]]]
            examples = gr.Examples([[*about_one[0][0], None, CAPTION_REQUEST], *rows], [first, second, question])
        answer = gr.Textbox(label="Answer", lines=3, interactive=False)
    _connect(bench.ask, [first, second, question], [answer], [button.click, question.submit], examples)


def _paint_tab(bench: Workbench, image_size: int) -> None:
    def default(option: str) -> float:
        """What the checkpoint does best with; without a word of it, what `generate` takes."""
        value = getattr(bench.setokim.generation_config, option, None)
        return 1.0 if value is None else value

    with gr.Row():
        with gr.Column():
            sentence = gr.Textbox(label="Sentence", placeholder=PROMPT)
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=LARGEST_SEED)
            guidance = gr.Slider(1, 10, default("visual_guidance_scale"), step=0.1, label="Guidance")
            temperature = gr.Slider(0, 2, default("visual_temperature"), step=0.1, label="Temperature")
            button = gr.Button("Paint", variant="primary")
            texts = [PROMPT, *(text for _, text in _example_rows("text_to_image", image_size))]
            examples = gr.Examples(texts, sentence)
        painted = _output_picture("Painted")
    inputs = [sentence, seed, guidance, temperature]
    _connect(bench.paint, inputs, [painted], [button.click, sentence.submit], examples)


def _edit_tab(bench: Workbench, image_size: int) -> None:
    with gr.Row():
        with gr.Column():
            picture = _input_picture()
            instruction = gr.Textbox(label="Instruction", placeholder=INSTRUCTION)
            button = gr.Button("Edit", variant="primary")
            rows = [[images[0], text] for images, text in _example_rows("edit", image_size)]
            examples = gr.Examples(rows, [picture, instruction])
        edited = _output_picture("Edited")
    _connect(bench.edit, [picture, instruction], [edited], [button.click, instruction.submit], examples)


def _segment_tab(bench: Workbench, image_size: int) -> None:
    with gr.Row():
        with gr.Column():
            picture = _input_picture()
            expression = gr.Textbox(label="What to outline", placeholder="the owl on the left")
            button = gr.Button("Segment", variant="primary")
            scenes = map(_example_scenes("referring", image_size).scene, EXAMPLE_SCENES)
            rows = [[Image.fromarray(scene.image), language.referring_expressions(scene)[0][1]] for scene in scenes]
            examples = gr.Examples(rows, [picture, expression])
        with gr.Column():
            outlined, told = _output_picture("Outlined"), gr.Markdown()
    _connect(bench.segment, [picture, expression], [outlined, told], [button.click, expression.submit], examples)


def _input_picture(label: str = "Picture") -> gr.Image:
    return gr.Image(label=label, sources=["upload", "clipboard"], format="png", height=300, elem_classes="picture")


def _output_picture(label: str, scale: int = 1) -> gr.Image:
    buttons = ["download", "fullscreen"]
    return gr.Image(
        label=label, interactive=False, format="png", height=380, scale=scale, buttons=buttons, elem_classes="picture"
    )


def _example_scenes(task: str, image_size: int) -> EmojiScenes:
    return EmojiScenes("test", 1 + max(EXAMPLE_SCENES), SceneConfig(image_size=image_size), tasks=(task,))


def _example_rows(task: str, image_size: int) -> list[tuple[list[Image.Image], str]]:
    """Pictures, and what the user says about them in this task of EmojiScenes."""
    rows = map(_example_scenes(task, image_size).__getitem__, EXAMPLE_SCENES)
    return [(row["images"], row["messages"][0]["content"][-1]["text"] if row["messages"] else "") for row in rows]


def _connect(work: Callable, inputs: list, outputs: list, triggers: list, examples: gr.Examples) -> None:
    """Runs `work` at each trigger, and as soon as an example has been filled in."""
    event = {
        "fn": politely(work),
        "inputs": inputs,
        "outputs": outputs,
        # A picture comes as a file, which the workbench reads: where gradio cannot, it says no more than "Error".
        "preprocess": not any(isinstance(component, gr.Image) for component in inputs),
        "concurrency_id": "models",  # by default each function has a queue of its own
    }
    gr.on(triggers, **event)
    examples.load_input_event.then(**event, api_visibility="private")


def politely(work: Callable) -> Callable:
    """`work`, whose errors the page shows as a sentence (`gr.Error`). What nobody foresaw goes to the terminal, too."""

    @functools.wraps(work)
    def call(*inputs):
        try:
            return work(*inputs)
        except ValueError as error:  # the page takes the message for HTML
            raise gr.Error(html.escape(str(error)), print_exception=False) from error
        except Exception as error:
            message = "Something went wrong inside; the terminal says what. Try another picture or other words."
            raise gr.Error(message) from error

    return call


def serve(app: gr.Blocks, host: str = "127.0.0.1", port: int | None = None) -> str:
    """Serves the page from now on, by default at the first free port from 7860 on, and returns its address; `OSError`
    where the port is taken."""
    options = {"theme": gr.themes.Default(font=FONT), "css": CSS, "footer_links": [], "run_history": False}
    _, address, _ = app.launch(server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, **options)
    return address


def local_folder(name: str) -> str:
    """The folder of this name, or of the copy of a model on the Hub; `ValueError` if it is neither."""
    if Path(name).is_dir():
        return name
    try:
        return snapshot_download(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name!r} is neither a folder nor a model on the Hub: {error}") from error


@dataclass
class Arguments:
    setok: str = field(default="model_cards/setok-emoji-tiny", metadata={"help": "folder or Hub id of a SeTok"})
    setokim: str = field(default="model_cards/setokim-emoji-tiny", metadata={"help": "folder or Hub id of a Setokim"})
    host: str = field(default="127.0.0.1", metadata={"help": "0.0.0.0: for all who can reach this machine"})
    port: int | None = field(default=None, metadata={"help": "default: the first free one from 7860 on"})
    device: str | None = field(default=None, metadata={"help": "default: the accelerator, or the CPU without one"})


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    transformers.logging.disable_progress_bar()
    device = choose_device(arguments.device)
    with tempfile.TemporaryDirectory(prefix="setok-app-") as uploads:  # nothing of them stays when the page is stopped
        os.environ["GRADIO_TEMP_DIR"] = uploads
        try:
            setok, image_processor = load_setok(local_folder(arguments.setok))
            setokim, processor = load_setokim(local_folder(arguments.setokim))
            app = build_app(setok.to(device), image_processor, setokim.to(device), processor)
            print(f"The page is at {serve(app, arguments.host, arguments.port)}; Ctrl+C ends it.", flush=True)
        except (OSError, ValueError, RuntimeError) as error:  # the last one: no such device, or no room on it
            sys.exit(f"Error: {error}")
        app.block_thread()


if __name__ == "__main__":
    main()
