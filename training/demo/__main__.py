"""Shows the concept tokens of photographs, then what models of a drawn world make of its scenes: a SeTok names and
paints them, and a Setokim describes, paints, edits and outlines.

python -m training.demo [--image PATH ...] [--prompt "Draw: ..."] [--output out]
"""

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import transformers
from PIL import Image
from transformers import HfArgumentParser

from modeling_setok import SetokForPreTraining, SetokimForConditionalGeneration
from processing import SetokImageProcessor, SetokimProcessor, contact_sheet
from training.demo import conversation, photographs, tokens
from training.demo.knowledge import DATA_TASKS, Knowledge
from training.demo.models import PHOTOGRAPHS, SCENES, SETOKIM, load_photograph_model, load_setok, load_setokim
from training.demo.output import OutputFolder
from training.demo.photographs import PhotographModel
from training.demo.pictures import Picture, load_photographs, make_scenes, read_picture
from training.demo.tokens import measured_threshold, tokenize_and_paint

PHOTOGRAPH_SHEET, SCENE_SHEET, SETOKIM_SHEET = "photographs.png", "scenes.png", "setokim.png"
KNOWLEDGE_FILE = "what_the_models_know.txt"
PHOTOGRAPH, SCENE = "photograph", "scene"  # how the names of files begin
DRAWN_WORLD = (
    "What follows is about scenes of emoji: the language model here is small, and knows drawn scenes only. It is not "
    "asked about photographs."
)


@dataclass
class Arguments:
    image: list[str] = field(default_factory=list, metadata={"help": "your photographs, instead of the packaged ones"})
    prompt: str = field(default=conversation.PROMPT, metadata={"help": "what to paint"})
    output: str = field(default="out", metadata={"help": "folder for the pictures drawn"})
    photograph_model: str = field(
        default=PHOTOGRAPHS, metadata={"help": "folder of a SeTok whose encoder knows photographs"}
    )
    model: str = field(default=SCENES, metadata={"help": "folder of a SeTok of drawn scenes"})
    setokim: str = field(default=SETOKIM, metadata={"help": "folder of a trained Setokim and its processor"})
    num_scenes: int = field(default=4, metadata={"help": "number of test scenes"})


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    transformers.logging.disable_progress_bar()
    try:
        model, image_processor = load_setok(arguments.model)
        scenes = make_scenes(arguments.num_scenes, image_processor.size["height"])
        pictures = [read_picture(path, image_processor) for path in arguments.image] or load_photographs()
        output = OutputFolder(Path(arguments.output))
    except (OSError, ValueError) as error:
        sys.exit(f"Error: {error}")

    told = []

    def tell(text: str) -> None:
        told.append(text)
        print(f"{text}\n", flush=True)

    try:
        photograph_model = load_photograph_model(arguments.photograph_model)
    except ValueError as error:
        tell(f"No tokens of photographs: {error}")
    else:
        tell(show_photographs(photograph_model, pictures, output))
    tell(DRAWN_WORLD)
    tell(show_scenes(model, image_processor, scenes, output))
    knowledge = Knowledge.of(model.config)
    try:
        setokim, processor = load_setokim(arguments.setokim)
    except ValueError as error:
        tell(f"No captions, answers, paintings, edits and outlines: {error}")
    else:
        knowledge = Knowledge.of(setokim.config.vision_config)
        tell(show_tasks(setokim, processor, knowledge, arguments.prompt, output))
    text = what_they_know(knowledge, output.names.copy(), "\n\n".join(told))
    output.file(KNOWLEDGE_FILE).write_text(text, encoding="utf-8")
    print(f"Written to {output.path}: {', '.join(output.names)}")


def show_photographs(model: PhotographModel, pictures: Sequence[Picture], output: OutputFolder) -> str:
    """Writes a sheet of the tokens of all photographs, and a drawing of each; returns what is told about them."""
    rows, told = zip(*(photographs.draw_row(model, picture) for picture in pictures), strict=True)
    contact_sheet(rows).save(output.file(PHOTOGRAPH_SHEET))
    _save(rows, [f"{PHOTOGRAPH}_{number}_{picture.name}" for number, picture in enumerate(pictures, start=1)], output)
    return "\n".join(["Concept tokens of photographs", *told, photographs.NOTE])


def show_scenes(
    model: SetokForPreTraining, image_processor: SetokImageProcessor, scenes: Sequence[Picture], output: OutputFolder
) -> str:
    """Writes a sheet of the tokens of all scenes, and a drawing of each; returns what is told about them."""
    if not scenes:
        return "No scenes: --num_scenes is 0."
    named_from = measured_threshold(model, image_processor)
    tokenize_and_paint(model, image_processor, scenes[0], named_from)  # the first painting is slow
    results = [tokenize_and_paint(model, image_processor, scene, named_from) for scene in scenes]
    rows = tokens.draw(results)
    contact_sheet(rows).save(output.file(SCENE_SHEET))
    _save(rows, [f"{SCENE}_{number}" for number in range(1, 1 + len(rows))], output)
    told = [*map(tokens.describe, results), tokens.summarize(results)]
    if model.config.concept_names:
        told.append(tokens.naming(named_from))
    return "\n\n".join(told)


def _save(rows: Sequence[Image.Image], names: Sequence[str], output: OutputFolder) -> None:
    for row, name in zip(rows, names, strict=True):
        row.save(output.file(f"{name}.png"))


def show_tasks(
    model: SetokimForConditionalGeneration,
    processor: SetokimProcessor,
    knowledge: Knowledge,
    prompt: str,
    output: OutputFolder,
) -> str:
    """What the model says about a test scene and makes of the prompt; writes a sheet with all pictures."""
    exercise = conversation.exercise_about_scene(processor.image_processor.size["height"])
    conversations = [
        conversation.work_through(exercise, model, processor),
        _painting(prompt, model, processor, knowledge),
    ]
    conversation.draw(conversations).save(output.file(SETOKIM_SHEET))
    return "\n\n".join(map(conversation.describe, conversations))


def _painting(
    prompt: str, model: SetokimForConditionalGeneration, processor: SetokimProcessor, knowledge: Knowledge
) -> conversation.Conversation:
    try:
        prompt = conversation.checked_text(prompt, model, processor)
    except ValueError as error:
        return conversation.Conversation("a sentence", [conversation.Reply(prompt, str(error))], [])
    return conversation.paint(prompt, model, processor, knowledge)


def what_they_know(knowledge: Knowledge, files: Sequence[str], told: str) -> str:
    """The text of a file beside the pictures: what the models know, what the pictures show, and what was printed."""
    paragraphs = [f"WHAT THE MODELS KNOW\n\n{knowledge.listing()}", conversation.CAVEAT]
    if knowledge.forms and SETOKIM_SHEET in files:
        paragraphs.append("SENTENCES THAT THE SETOKIM UNDERSTANDS\nWhat stands between * can be another of its kind.")
        paragraphs += ["\n  ".join([f"{DATA_TASKS[task]}:", *forms]) for task, forms in knowledge.forms.items()]
    shown = [f"{name}: {_shown_in(name)}" for name in files]
    paragraphs.append(
        "\n".join(
            [
                "WHAT THE PICTURES SHOW",
                *shown,
                "Drawn pictures are enlarged without smoothing.",
            ]
        )
    )
    wrapped = [textwrap.fill(line, 120) for paragraph in paragraphs for line in [*paragraph.splitlines(), ""]]
    return "\n".join([*wrapped, "WHAT WAS PRINTED", "", told, ""])


def _shown_in(file: str) -> str:
    if file.startswith(f"{PHOTOGRAPH}_"):
        return "the photograph, its concept tokens, and those of things half as large"
    if file.startswith(f"{SCENE}_"):
        return "the scene, its concept tokens with their names, and what the SeTok paints from these tokens alone"
    return {
        PHOTOGRAPH_SHEET: "all photographs below one another",
        SCENE_SHEET: "all scenes below one another",
        SETOKIM_SHEET: "what the Setokim was asked and what it said, outlined, edited and painted",
    }[file]


if __name__ == "__main__":
    main()
