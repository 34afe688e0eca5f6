"""Shows what a SeTok makes of pictures, and what a Setokim says about them, paints, edits and outlines.

python -m training.demo [--image PATH ...] [--prompt "Draw: ..."] [--output out]
"""

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import transformers
from transformers import HfArgumentParser

from modeling_setok import SetokForPreTraining, SetokimForConditionalGeneration
from processing import SetokImageProcessor, SetokimProcessor, contact_sheet
from training.demo import conversation, tokens
from training.demo.knowledge import DATA_TASKS, Knowledge
from training.demo.models import load_setok, load_setokim
from training.demo.output import OutputFolder
from training.demo.pictures import Picture, load_photographs, make_scenes, read_picture
from training.demo.tokens import NAMED_FROM, Result, tokenize_and_paint

SETOK_SHEET, SETOKIM_SHEET, KNOWLEDGE_FILE = "contact_sheet.png", "setokim.png", "what_the_models_know.txt"


@dataclass
class Arguments:
    image: list[str] = field(
        default_factory=list, metadata={"help": "your pictures, instead of test scenes and photographs"}
    )
    prompt: str = field(default=conversation.PROMPT, metadata={"help": "what to paint"})
    output: str = field(default="out", metadata={"help": "folder for the pictures drawn"})
    model: str = field(
        default="model_cards/setok-emoji-tiny", metadata={"help": "folder of a trained SeTok and its image processor"}
    )
    setokim: str = field(
        default="model_cards/setokim-emoji-tiny", metadata={"help": "folder of a trained Setokim and its processor"}
    )
    num_scenes: int = field(default=4, metadata={"help": "number of test scenes"})


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    transformers.logging.disable_progress_bar()
    try:
        model, image_processor = load_setok(arguments.model)
        if arguments.image:
            pictures = [read_picture(path, image_processor) for path in arguments.image]
        else:
            pictures = make_scenes(arguments.num_scenes, image_processor.size["height"]) + load_photographs()
        output = OutputFolder(Path(arguments.output))
    except (OSError, ValueError) as error:
        sys.exit(f"Error: {error}")

    results, told = show_tokens(model, image_processor, pictures, output)
    print(told)
    knowledge = Knowledge.of(model.config)
    try:
        setokim, processor = load_setokim(arguments.setokim)
    except ValueError as error:
        told_of_tasks = f"No captions, answers, paintings, edits and outlines: {error}"
    else:
        knowledge = Knowledge.of(setokim.config.vision_config)
        about = results if arguments.image else []
        told_of_tasks = show_tasks(setokim, processor, knowledge, about, arguments.prompt, output)
    print(f"\n{told_of_tasks}")
    pictures_written = output.names.copy()
    output.file(KNOWLEDGE_FILE).write_text(
        what_they_know(knowledge, pictures_written, f"{told}\n\n{told_of_tasks}"), encoding="utf-8"
    )
    print(f"\nWritten to {output.path}: {', '.join(output.names)}")


def show_tokens(
    model: SetokForPreTraining, image_processor: SetokImageProcessor, pictures: Sequence[Picture], output: OutputFolder
) -> tuple[list[Result], str]:
    """Writes a drawing of the tokens of each picture, and a sheet of all; also returns what is told about them."""
    tokenize_and_paint(model, image_processor, pictures[0])  # the first call is slow and would spoil the times
    results = [tokenize_and_paint(model, image_processor, picture) for picture in pictures]
    rows = tokens.draw(results)
    contact_sheet(rows).save(output.file(SETOK_SHEET))
    for number, (row, picture) in enumerate(zip(rows, pictures, strict=True), start=1):
        row.save(output.file(f"{number:02d}_{picture.name}.png"))

    told = [*map(tokens.describe, results), tokens.summarize(results)]
    if concepts := model.config.concept_names:
        note = f"A token is named by its nearest concept where their cosine is at least {NAMED_FROM}."
        if any(picture.scene is None for picture in pictures):
            note += (
                f"\nThe model knows {len(concepts)} concepts and no others: for a photograph, names are those of the "
                "nearest ones, not the truth."
            )
        told.append(note)
    return results, "\n\n".join(told)


def show_tasks(
    model: SetokimForConditionalGeneration,
    processor: SetokimProcessor,
    knowledge: Knowledge,
    results: Sequence[Result],
    prompt: str,
    output: OutputFolder,
) -> str:
    """What the model says about the pictures of the results, by default about a test scene, and what it makes of the
    prompt; writes a sheet with all pictures."""
    exercises = [_exercise(result) for result in results]
    exercises = exercises or [conversation.exercise_about_scene(processor.image_processor.size["height"])]
    conversations = [conversation.work_through(exercise, model, processor) for exercise in exercises]
    conversations.append(_painting(prompt, model, processor, knowledge))
    conversation.draw(conversations).save(output.file(SETOKIM_SHEET))
    return "\n\n".join([*map(conversation.describe, conversations), *([conversation.CAVEAT] if results else [])])


def _painting(
    prompt: str, model: SetokimForConditionalGeneration, processor: SetokimProcessor, knowledge: Knowledge
) -> conversation.Conversation:
    try:
        prompt = conversation.checked_text(prompt, model, processor)
    except ValueError as error:
        return conversation.Conversation("a sentence", [conversation.Reply(prompt, str(error))], [])
    return conversation.paint(prompt, model, processor, knowledge)


def _exercise(result: Result) -> conversation.Exercise:
    picture = result.picture
    return conversation.exercise_about_picture(picture.title, picture.image, tokens.likeliest_concept(result))


def what_they_know(knowledge: Knowledge, files: Sequence[str], told: str) -> str:
    """The text of a file beside the pictures: what the models know, what the pictures show, and what was printed."""
    paragraphs = [f"WHAT THE MODELS KNOW\n\n{knowledge.listing()}", conversation.CAVEAT]
    if knowledge.forms and SETOKIM_SHEET in files:
        paragraphs.append("SENTENCES THAT THE SETOKIM UNDERSTANDS\nWhat stands between * can be another of its kind.")
        paragraphs += ["\n  ".join([f"{DATA_TASKS[task]}:", *forms]) for task, forms in knowledge.forms.items()]
    shown = [f"{name}: {_shown_in(name)}" for name in files]
    paragraphs.append("\n".join(["WHAT THE PICTURES SHOW", *shown, "Small pictures are enlarged without smoothing."]))
    wrapped = [textwrap.fill(line, 120) for paragraph in paragraphs for line in [*paragraph.splitlines(), ""]]
    return "\n".join([*wrapped, "WHAT WAS PRINTED", "", told, ""])


def _shown_in(file: str) -> str:
    return {
        SETOK_SHEET: "all rows of the files with a number, below one another",
        SETOKIM_SHEET: "what the Setokim was asked and what it said, outlined, edited and painted",
    }.get(file, "the picture, its concept tokens with their names, and what the SeTok paints from these tokens alone")


if __name__ == "__main__":
    main()
