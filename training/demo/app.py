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
from training.demo.knowledge import DATA_TASKS, Knowledge
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
.note {white-space: pre-line}
/* what went wrong is told once, in a sentence; the results just stay empty */
[data-testid="status-tracker"] .error {display: none}
"""
# Pixels of small pictures are shown as squares, without blur; photographs are large.
HEAD = """<script>
document.addEventListener("load", ({target}) => {
  if (target.tagName === "IMG") target.style.imageRendering = target.naturalWidth < 256 ? "pixelated" : "auto";
}, true);
</script>"""
FONT = (gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "sans-serif")  # in gradio's package, all letters


def build_app(
    setok: SetokForPreTraining,
    image_processor: SetokImageProcessor,
    setokim: SetokimForConditionalGeneration,
    processor: SetokimProcessor,
) -> gr.Blocks:
    """The page, ready for `serve`. Each tab opens with an example and its result, which the models give here and now.
    One call of the models runs at a time, the others wait in a queue."""
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
    knowledge = Knowledge.of(bench.setok.config)
    if knowledge.things:
        gr.Markdown(
            f"A token is named by its nearest concept where their cosine is at least {NAMED_FROM}: "
            f"the model knows {len(knowledge.things)} concepts and no others."
        )
    _what_it_knows(knowledge)
    pictures = [images[0] for images, _ in _example_rows("concepts", image_size)]
    with gr.Row():
        with gr.Column(scale=2):
            picture, button = _input_picture(value=pictures[0]), gr.Button("Tokenise", variant="primary")
            examples = gr.Examples(pictures, picture)
        first_drawn, first_painted, first_table, first_note = bench.tokenize(picture.value)
        with gr.Column(scale=5):
            note = _note(first_note)
            with gr.Row():
                drawn = _output_picture("Its concept tokens", first_drawn, scale=3)
                painted = _output_picture("Painted from them", first_painted, scale=2)
            table = gr.Dataframe(first_table, label="Tokens", interactive=False, wrap=True)
    _connect(bench.tokenize, [picture], [drawn, painted, table, note], [button.click], examples)


def _ask_tab(bench: Workbench, image_size: int) -> None:
    _what_it_knows(bench.knowledge, "caption", "question", "two_images")
    about_one, about_two = _example_rows("question", image_size), _example_rows("two_images", image_size)
    rows = [[*about_one[0][0], None, CAPTION_REQUEST]]
    rows += [[*images, None, text] for images, text in about_one] + [[*about_two[0][0], about_two[0][1]]]
    with gr.Row():
        with gr.Column():
            with gr.Row():
                first = _input_picture(value=rows[0][0])
                second = _input_picture("Second picture (optional)")
            question = gr.Textbox(
                rows[0][2], label="Question", placeholder="Leave it empty for a caption of the picture."
            )
            button = gr.Button("Ask", variant="primary")
            examples = gr.Examples(rows, [first, second, question])
        inputs = [first, second, question]
        first_answer, first_note = bench.ask(*(component.value for component in inputs))
        with gr.Column():
            answer, note = _answer(first_answer), _note(first_note)

    @functools.wraps(bench.ask)
    def ask(*inputs):
        said, remark = bench.ask(*inputs)
        return _answer(said), remark

    _connect(ask, inputs, [answer, note], [button.click, question.submit], examples)


def _paint_tab(bench: Workbench, image_size: int) -> None:
    def default(option: str) -> float:
        """What the checkpoint does best with; without a word of it, what `generate` takes."""
        value = getattr(bench.setokim.generation_config, option, None)
        return 1.0 if value is None else value

    _what_it_knows(bench.knowledge, "text_to_image")
    with gr.Row():
        with gr.Column():
            sentence = gr.Textbox(PROMPT, label="Sentence", placeholder=PROMPT)
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=LARGEST_SEED)
            guidance = gr.Slider(1, 10, default("visual_guidance_scale"), step=0.1, label="Guidance")
            temperature = gr.Slider(0, 2, default("visual_temperature"), step=0.1, label="Temperature")
            button = gr.Button("Paint", variant="primary")
            texts = [PROMPT, *(text for _, text in _example_rows("text_to_image", image_size))]
            examples = gr.Examples(texts, sentence, example_labels=texts)  # which are not cut off
        inputs = [sentence, seed, guidance, temperature]
        first_painted, first_note = bench.paint(*(component.value for component in inputs))
        with gr.Column():
            note, painted = _note(first_note), _output_picture("Painted", first_painted)
    _connect(bench.paint, inputs, [painted, note], [button.click, sentence.submit], examples)


def _edit_tab(bench: Workbench, image_size: int) -> None:
    _what_it_knows(bench.knowledge, "edit")
    rows = [[images[0], text] for images, text in _example_rows("edit", image_size)]
    first = rows[1]  # to remove a thing is what the shipped model does best
    with gr.Row():
        with gr.Column():
            picture = _input_picture(value=first[0])
            instruction = gr.Textbox(first[1], label="Instruction", placeholder=INSTRUCTION)
            button = gr.Button("Edit", variant="primary")
            examples = gr.Examples(rows, [picture, instruction])
        first_edited, first_note = bench.edit(picture.value, instruction.value)
        with gr.Column():
            note, edited = _note(first_note), _output_picture("Edited", first_edited)
    _connect(bench.edit, [picture, instruction], [edited, note], [button.click, instruction.submit], examples)


def _segment_tab(bench: Workbench, image_size: int) -> None:
    _what_it_knows(bench.knowledge, "referring")
    scenes = map(_example_scenes("referring", image_size).scene, EXAMPLE_SCENES)
    rows = [[Image.fromarray(scene.image), language.referring_expressions(scene)[0][1]] for scene in scenes]
    with gr.Row():
        with gr.Column():
            picture = _input_picture(value=rows[0][0])
            expression = gr.Textbox(rows[0][1], label="What to outline", placeholder="the owl on the left")
            button = gr.Button("Segment", variant="primary")
            examples = gr.Examples(rows, [picture, expression])
        first_outlined, first_note = bench.segment(picture.value, expression.value)
        with gr.Column():
            note, outlined = _note(first_note), _output_picture("Outlined", first_outlined)
    _connect(bench.segment, [picture, expression], [outlined, note], [button.click, expression.submit], examples)


def _what_it_knows(knowledge: Knowledge, *tasks: str) -> None:
    """The sentences that the model understands in these tasks, and a list, to be opened, of what it can name."""
    if lines := [f"**{DATA_TASKS[task]}:** {' · '.join(knowledge.forms[task])}" for task in tasks if knowledge.forms]:
        gr.Markdown("\\\n".join(["It understands these sentences; words in *italics* can be others.", *lines]))
    if knowledge.things:
        backgrounds = f" and {len(knowledge.colours)} colours of backgrounds" if knowledge.colours else ""
        with gr.Accordion(f"The {len(knowledge.things)} things{backgrounds} that it knows", open=False):
            _note(knowledge.listing())
    else:
        gr.Markdown(knowledge.listing())


def _note(text: str) -> gr.HTML:
    """What a result comes with: plain text, perhaps none."""
    return gr.HTML(html.escape(text), elem_classes="note", visible=bool(text))


def _answer(text: str) -> gr.Textbox:
    """Not shown where it is empty: then the note says what the model can be asked."""
    return gr.Textbox(text, label="Answer", lines=3, interactive=False, visible=bool(text))


def _input_picture(label: str = "Picture", value: Image.Image | None = None) -> gr.Image:
    sources = ["upload", "clipboard"]
    return gr.Image(value, label=label, sources=sources, format="png", height=300, elem_classes="picture")


def _output_picture(label: str, value: Image.Image | None, scale: int = 1) -> gr.Image:
    return gr.Image(
        value,
        label=label,
        interactive=False,
        format="png",
        height=380,
        scale=scale,
        buttons=["download", "fullscreen"],
        elem_classes="picture",
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
    """`work`, whose note, the last of its results, is put in its place, and whose errors the page shows as a sentence
    (`gr.Error`). What nobody foresaw goes to the terminal, too."""

    @functools.wraps(work)
    def call(*inputs):
        try:
            *results, note = work(*inputs)
            return *results, _note(note)
        except ValueError as error:  # the page takes the message for HTML
            raise gr.Error(html.escape(str(error)), print_exception=False) from error
        except Exception as error:
            message = "Something went wrong inside; the terminal says what. Try another picture or other words."
            raise gr.Error(message) from error

    return call


def serve(app: gr.Blocks, host: str = "127.0.0.1", port: int | None = None) -> str:
    """Serves the page from now on, by default at the first free port from 7860 on, and returns its address; `OSError`
    where the port is taken."""
    options = {
        "theme": gr.themes.Default(font=FONT),
        "css": CSS,
        "head": HEAD,
        "footer_links": [],
        "run_history": False,
    }
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
