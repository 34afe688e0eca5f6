"""Shows what a SeTok makes of pictures, and what a Setokim says about them, paints, edits and outlines.

python -m training.demo [--image PATH ...] [--prompt "Draw: ..."] [--output out]
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import transformers
from transformers import HfArgumentParser

from modeling_setok import SetokForPreTraining, SetokimForConditionalGeneration
from processing import SetokImageProcessor, SetokimProcessor, contact_sheet
from training.demo import conversation, tokens
from training.demo.models import load_setok, load_setokim
from training.demo.pictures import Picture, load_photographs, make_scenes, read_picture
from training.demo.tokens import NAMED_FROM, Result, tokenize_and_paint


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
    output = Path(arguments.output)
    try:
        model, image_processor = load_setok(arguments.model)
        if arguments.image:
            pictures = [read_picture(path, image_processor) for path in arguments.image]
        else:
            pictures = make_scenes(arguments.num_scenes, image_processor.size["height"]) + load_photographs()
        output.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        sys.exit(f"Error: {error}")

    results = show_tokens(model, image_processor, pictures, output)
    try:
        setokim, processor = load_setokim(arguments.setokim)
    except ValueError as error:
        print(f"\nNo captions, answers, paintings, edits and outlines: {error}")
    else:
        show_tasks(setokim, processor, results if arguments.image else [], arguments.prompt, output)


def show_tokens(
    model: SetokForPreTraining, image_processor: SetokImageProcessor, pictures: Sequence[Picture], output: Path
) -> list[Result]:
    """Prints the tokens of each picture, and writes a drawing of each and a sheet of all."""
    tokenize_and_paint(model, image_processor, pictures[0])  # the first call is slow and would spoil the times
    results = [tokenize_and_paint(model, image_processor, picture) for picture in pictures]
    files = [output / f"{number:02d}_{picture.name}.png" for number, picture in enumerate(pictures, start=1)]
    rows = tokens.draw(results)
    for row, file in zip(rows, files, strict=True):
        row.save(file)
    sheet = output / "contact_sheet.png"
    contact_sheet(rows).save(sheet)

    for result in results:
        print(f"{tokens.describe(result)}\n")
    print(tokens.summarize(results))
    if concepts := model.config.concept_names:
        print(f"\nA token is named by its nearest concept where their cosine is at least {NAMED_FROM}.")
        if any(picture.scene is None for picture in pictures):
            print(
                f"The model knows {len(concepts)} concepts and no others: for a photograph, names are those of the "
                "nearest ones, not the truth."
            )
    print(f"\nWritten to {output}: {', '.join(file.name for file in [sheet, *files])}")
    return results


def show_tasks(
    model: SetokimForConditionalGeneration,
    processor: SetokimProcessor,
    results: Sequence[Result],
    prompt: str,
    output: Path,
) -> None:
    """Prints what the model says about the pictures of the results, by default about a test scene, and what it makes
    of the prompt, and writes a sheet with all pictures."""
    exercises = [_exercise(result) for result in results]
    exercises = exercises or [conversation.exercise_about_scene(processor.image_processor.size["height"])]
    conversations = [conversation.work_through(exercise, model, processor) for exercise in exercises]
    conversations.append(conversation.paint(prompt, model, processor))
    for said in conversations:
        print(f"\n{conversation.describe(said)}")
    if results:
        print(f"\n{conversation.CAVEAT}")
    conversation.draw(conversations).save(output / "setokim.png")
    print(f"\nWritten to {output}: setokim.png")


def _exercise(result: Result) -> conversation.Exercise:
    picture = result.picture
    return conversation.exercise_about_picture(picture.title, picture.image, tokens.likeliest_concept(result))


if __name__ == "__main__":
    main()
