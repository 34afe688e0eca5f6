"""The tabs of the page (`app.py`): what is filled in, what is shown, and what the model knows.

Each opens with an example and its result, which the models give while the page is built.
"""

import functools
import html
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import gradio as gr
from PIL import Image

from modeling_setok.tasks_setokim import CAPTION_REQUEST
from training.data import EmojiScenes, SceneConfig
from training.data.emoji_scenes import language
from training.demo.conversation import INSTRUCTION, PROMPT
from training.demo.knowledge import DATA_TASKS, Knowledge
from training.demo.photographs import NOTE
from training.demo.pictures import load_photographs
from training.demo.tokens import naming
from training.demo.workbench import GUIDANCE, LARGEST_SEED, NEIGHBORS, TEMPERATURE, TIME_LIMIT, Workbench

EXAMPLE_SCENES = (1, 2, 3)  # of the test split, which no training sees
LONGEST_EXAMPLE = 60  # letters; gradio cuts longer ones off


def photograph_tab(bench: Workbench) -> None:
    """The tokens of a photograph, of any granularity and of any layer of the encoder."""
    model, examples = bench.photograph_model, [picture.image for picture in load_photographs()]
    gr.Markdown(f"An image as a few concept tokens: each coloured region becomes one. {NOTE}")
    layers = [
        (f"{layer} (the model's own)" if layer == model.own_layer else f"{layer}", layer) for layer in model.layers
    ]
    with gr.Row():
        with gr.Column(scale=2):
            picture = _input_picture("Photograph", value=examples[0])
            granularity = gr.Slider(
                *NEIGHBORS,
                model.encode(examples[0]).num_neighbors,
                step=1,
                label="Granularity: smallest object in patches (K)",
                info="Fewer patches, more tokens.",
            )
            layer = gr.Radio(
                layers,
                value=model.own_layer,
                label="Layer of the encoder to cluster",
                info="Early layers see colours and textures, late ones things.",
            )
            button = gr.Button("Tokenise the photograph", variant="primary")
            clickable = gr.Examples(examples, picture)
        inputs = [picture, granularity, layer]
        first_drawn, first_note = bench.photograph(*(component.value for component in inputs))
        with gr.Column(scale=5):
            note, drawn = _note(first_note), _output_picture("Its tokens", first_drawn, height=640)
    triggers = [button.click, granularity.release, layer.input]
    _connect(bench, bench.photograph, inputs, [drawn, note], triggers, clickable)


def tokenise_tab(bench: Workbench, image_size: int) -> None:
    """The tokens of a picture, their names, and the picture painted from them."""
    knowledge = Knowledge.of(bench.setok.config)
    if knowledge.things:
        gr.Markdown(
            f"{naming(bench.named_from)} The model knows {len(knowledge.things)} concepts and no others, and has "
            "learned them from drawings."
        )
    _what_it_knows(knowledge)
    pictures = [images[0] for images, _ in _example_rows("concepts", image_size)]
    with gr.Row():
        with gr.Column(scale=2):
            picture, button = _input_picture(value=pictures[0]), gr.Button("Tokenise", variant="primary")
            examples = gr.Examples(pictures, picture)
        bench.tokenize(picture.value)  # the first call is slow and would spoil the times
        first_drawn, first_painted, first_table, first_note = bench.tokenize(picture.value)
        with gr.Column(scale=5):
            note = _note(first_note)
            with gr.Row():
                drawn = _output_picture("Its concept tokens", first_drawn, scale=3)
                painted = _output_picture("Painted from them", first_painted, scale=2)
            table = gr.Dataframe(first_table, label="Tokens", interactive=False, wrap=True)
    _connect(bench, bench.tokenize, [picture], [drawn, painted, table, note], [button.click], examples)


def ask_tab(bench: Workbench, image_size: int) -> None:
    """Questions about one picture or two."""
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
            answer = gr.Textbox(
                first_answer, label="Answer", lines=3, interactive=False, visible=_is_result(first_answer)
            )
            note = _note(first_note)
    _connect(bench, bench.ask, inputs, [answer, note], [button.click, question.submit], examples)


def paint_tab(bench: Workbench, image_size: int) -> None:
    """A picture of a sentence."""

    def default(option: str) -> float:
        """What the checkpoint does best with; without a word of it, what `generate` takes."""
        value = getattr(bench.setokim.generation_config, option, None)
        return 1.0 if value is None else value

    _what_it_knows(bench.knowledge, "text_to_image")
    with gr.Row():
        with gr.Column():
            sentence = gr.Textbox(PROMPT, label="Sentence", placeholder=PROMPT)
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=LARGEST_SEED)
            guidance = gr.Slider(*GUIDANCE, default("visual_guidance_scale"), step=0.1, label="Guidance")
            temperature = gr.Slider(*TEMPERATURE, default("visual_temperature"), step=0.1, label="Temperature")
            button = gr.Button("Paint", variant="primary")
            examples = gr.Examples(_example_sentences(), sentence)
        inputs = [sentence, seed, guidance, temperature]
        first_painted, first_note = bench.paint(*(component.value for component in inputs))
        with gr.Column():
            note, painted = _note(first_note), _output_picture("Painted", first_painted)
    _connect(bench, bench.paint, inputs, [painted, note], [button.click, sentence.submit], examples)


def edit_tab(bench: Workbench, image_size: int) -> None:
    """A picture changed by an instruction."""
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
    _connect(bench, bench.edit, [picture, instruction], [edited, note], [button.click, instruction.submit], examples)


def segment_tab(bench: Workbench, image_size: int) -> None:
    """The outline of a thing in a picture."""
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
    _connect(bench, bench.segment, [picture, expression], [outlined, note], [button.click, expression.submit], examples)


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


def _input_picture(label: str = "Picture", value: Image.Image | None = None) -> gr.Image:
    sources = ["upload", "clipboard"]
    return gr.Image(value, label=label, sources=sources, format="png", height=300, elem_classes="picture")


def _output_picture(label: str, value: Image.Image | None, scale: int = 1, height: int = 380) -> gr.Image:
    return gr.Image(
        value,
        label=label,
        interactive=False,
        format="png",
        height=height,
        scale=scale,
        buttons=["download", "fullscreen"],
        elem_classes="picture",
        visible=_is_result(value),
    )


def _is_result(value: Any) -> bool:
    """Where there is none, nothing is shown, no empty place either: the note says why."""
    return value is not None and value != ""


def _example_scenes(task: str, image_size: int) -> EmojiScenes:
    return EmojiScenes("test", 1 + max(EXAMPLE_SCENES), SceneConfig(image_size=image_size), tasks=(task,))


def _example_rows(task: str, image_size: int) -> list[tuple[list[Image.Image], str]]:
    """Pictures, and what the user says about them in this task of EmojiScenes."""
    rows = map(_example_scenes(task, image_size).__getitem__, EXAMPLE_SCENES)
    return [(row["images"], row["messages"][0]["content"][-1]["text"] if row["messages"] else "") for row in rows]


def _example_sentences() -> list[str]:
    rows = EmojiScenes("test", 60, SceneConfig(min_objects=2, max_objects=2), tasks=("text_to_image",))
    texts = [row["messages"][0]["content"][-1]["text"] for row in rows]
    return [text for text in texts if len(text) <= LONGEST_EXAMPLE][: len(EXAMPLE_SCENES)]


def _connect(
    bench: Workbench, work: Callable, inputs: list, outputs: list, triggers: list, examples: gr.Examples
) -> None:
    """Runs `work` at each trigger, and as soon as an example has been filled in."""
    event = {
        "fn": politely(work, bench.time_limit),
        "inputs": inputs,
        "outputs": outputs,
        "preprocess": False,  # the workbench reads pictures and numbers: where gradio cannot, it only says "Error"
        "concurrency_id": "models",  # by default each function has a queue of its own
    }
    gr.on(triggers, **event)
    examples.load_input_event.then(**event, api_visibility="private")


def politely(work: Callable, time_limit: float = TIME_LIMIT) -> Callable:
    """`work`, whose results become the page's, and whose errors a sentence on it (`gr.Error`). What nobody foresaw goes
    to the terminal, too. After `time_limit` seconds it is given up."""

    @functools.wraps(work)
    def call(*inputs):
        try:
            *results, note = within(time_limit, work, *inputs)
            return *(gr.update(value=result, visible=_is_result(result)) for result in results), _note(note)
        except ValueError as error:  # the page takes the message for HTML
            raise gr.Error(html.escape(str(error)), print_exception=False) from error
        except TimeoutError as error:
            message = f"After {time_limit:g} seconds this was given up: try a smaller picture or fewer words."
            raise gr.Error(message, print_exception=False) from error
        except Exception as error:
            message = "Something went wrong inside; the terminal says what. Try another picture or other words."
            raise gr.Error(message) from error

    return call


def within(seconds: float, work: Callable, *inputs: Any) -> Any:
    """The result of `work`, or its error; `TimeoutError` if there is none after so many seconds. A thread cannot be
    stopped: it is left behind, and ends with its work or with the page."""
    future = Future()

    def run():
        try:
            future.set_result(work(*inputs))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(seconds)
