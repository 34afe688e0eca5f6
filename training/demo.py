"""Shows what a SeTok makes of pictures, and what a Setokim says about them, paints, edits and outlines.

python -m training.demo [--image PATH ...] [--prompt "Draw: ..."] [--output out]
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image, ImageOps
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, HfArgumentParser, PreTrainedModel

from modeling_setok import SetokForPreTraining, SetokimForConditionalGeneration
from processing import SetokImageProcessor, SetokimProcessor, contact_sheet, draw_concept_tokens, side_by_side
from training import demo_tasks
from training.data import Scene, SceneConfig, make_scene
from training.evaluation.metrics import PeakSignalNoiseRatio, patch_labels

PHOTOGRAPHS = ("astronaut", "coffee")  # two of those inside scikit-image's package: nothing is downloaded
SHOWN_WIDTH, SHOWN_HEIGHT = 512, 1024  # largest size in pixels at which pictures are shown; one width makes columns
NUM_NEAREST = 3  # concepts listed for a token
NAMED_FROM = 0.6  # cosine from which the nearest concept is a token's name
TRAIN_SETOK = "python training/train_setok.py training/recipes/setok_emoji_tiny.yaml"
TRAIN_SETOKIM = """
  python training/pretrain_setokim.py training/recipes/setokim_emoji_tiny_pretrain.yaml
  python training/pretrain_setokim.py training/recipes/setokim_emoji_tiny_masks.yaml
  python training/finetune_setokim.py training/recipes/setokim_emoji_tiny_presence.yaml
  python training/finetune_setokim.py training/recipes/setokim_emoji_tiny_finetune.yaml
  python -m training.demo --setokim runs/setokim-emoji-tiny"""


@dataclass(frozen=True)
class Picture:
    """An RGB picture, the name of its file, and the scene that it shows where it is one of EmojiScenes."""

    name: str
    image: Image.Image
    scene: Scene | None = None

    @property
    def title(self) -> str:
        if self.scene is None:
            return self.name
        return f"test scene of {_count(len(self.scene.names), 'object')}"


@dataclass(frozen=True)
class Result:
    """What the model makes of a picture.

    Attributes:
        cluster_ids: (h * w,) int64, the token of each patch.
        grid_size: (h, w) of the patches.
        nearest: for each token the nearest concepts that the model knows, (name, cosine), best first.
        reconstruction: the picture as painted, S x S pixels.
        psnr: dB, from the original in that size; 8-bit pictures, pixels in [0, 1].
        tokenize_ms, paint_ms: time of the model alone, without reading and resizing.
    """

    picture: Picture
    cluster_ids: np.ndarray
    grid_size: tuple[int, int]
    nearest: list[list[tuple[str, float]]]
    reconstruction: Image.Image
    psnr: float
    tokenize_ms: float
    paint_ms: float

    @property
    def num_tokens(self) -> int:
        return len(self.nearest)


def load_setok(folder: str) -> tuple[SetokForPreTraining, SetokImageProcessor]:
    """A trained model and its image processor; `ValueError` says what the folder lacks and how to train one."""
    return _load(folder, "SeTok", SetokForPreTraining, SetokImageProcessor, TRAIN_SETOK)


def load_setokim(folder: str) -> tuple[SetokimForConditionalGeneration, SetokimProcessor]:
    """A trained model and its processor; `ValueError` says what the folder lacks and how to train one."""
    return _load(folder, "Setokim", SetokimForConditionalGeneration, SetokimProcessor, TRAIN_SETOKIM)


def _load(folder: str, name: str, model_class: type[PreTrainedModel], processor_class: type, how_to_train: str):
    try:
        if not Path(folder).is_dir():  # transformers would ask the Hub for it
            raise ValueError("there is no such folder")
        config = AutoConfig.from_pretrained(folder)
        if not isinstance(config, model_class.config_class):  # transformers would only warn
            raise ValueError(f"it holds a model of type {config.model_type!r}")
        model, loading = model_class.from_pretrained(folder, output_loading_info=True)
        if missing := sorted(loading["missing_keys"]):
            raise ValueError(f"its weights lack {_count(len(missing), 'tensor')}, such as {missing[0]}")
        return model.eval(), processor_class.from_pretrained(folder)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{folder!r} holds no trained {name}: {error}\nTo train one: {how_to_train}") from error


def make_scenes(number: int, image_size: int) -> list[Picture]:
    """Scenes of the test split, which no training sees, from the least to the largest number of objects."""
    if number < 0:
        raise ValueError(f"The number of scenes cannot be negative, got {number}.")
    pictures = []
    numbers = np.linspace(SceneConfig.min_objects, SceneConfig.max_objects, number).round().astype(int).tolist()
    for index, num_objects in enumerate(numbers):
        config = SceneConfig(image_size=image_size, min_objects=num_objects, max_objects=num_objects)
        scene = make_scene("test", index, config)
        pictures.append(Picture("scene", Image.fromarray(scene.image), scene))
    return pictures


def load_photographs() -> list[Picture]:
    from skimage import data

    return [Picture(name, Image.fromarray(getattr(data, name)())) for name in PHOTOGRAPHS]


def read_picture(path: str, image_processor: SetokImageProcessor) -> Picture:
    """A file of any size, mode and EXIF orientation, as the image processor reads it; `ValueError` if it cannot."""
    try:
        with Image.open(path) as file:
            pixels = image_processor.process_image(file)
    except Exception as error:  # decoders raise anything on broken bytes
        raise ValueError(f"The picture {path!r} cannot be read: {error}") from error
    return Picture(Path(path).stem, Image.fromarray(np.moveaxis(pixels, 0, -1)))


@torch.no_grad()
def tokenize_and_paint(model: SetokForPreTraining, image_processor: SetokImageProcessor, picture: Picture) -> Result:
    """Runs the model on one picture."""
    pixel_values = image_processor(picture.image, return_tensors="pt")["pixel_values"].to(model.device, model.dtype)

    # Either time ends with a copy to the CPU, which waits for an accelerator to be done.
    start = time.perf_counter()
    outputs = model.setok(pixel_values)
    cluster_ids = outputs.cluster_ids[0].cpu().numpy()
    tokenized = time.perf_counter()
    painted = model.detokenize(outputs.last_hidden_state, outputs.token_mask).float().cpu()
    end = time.perf_counter()

    reconstruction = image_processor.postprocess(painted)[0]
    original = image_processor.postprocess(pixel_values, target_sizes=[painted.shape[-2:]])[0]
    pixels = torch.from_numpy(np.stack([reconstruction, original])).permute(0, 3, 1, 2) / 255
    psnr = PeakSignalNoiseRatio().compute(predictions=pixels[:1], references=pixels[1:])["psnr"]
    return Result(
        picture=picture,
        cluster_ids=cluster_ids,
        grid_size=tuple(outputs.grid_size),
        nearest=nearest_concepts(model, outputs.last_hidden_state[0]),
        reconstruction=reconstruction,
        psnr=psnr,
        tokenize_ms=1000 * (tokenized - start),
        paint_ms=1000 * (end - tokenized),
    )


def nearest_concepts(model: SetokForPreTraining, tokens: Tensor) -> list[list[tuple[str, float]]]:
    """For each of the tokens (C, D) the nearest concepts of the model's bank, (name, cosine), best first."""
    names = model.config.concept_names
    if not names:
        return [[] for _ in tokens]
    cosines = model.token_concept_logits(tokens[None])[0] / model.inverse_temperature
    values, indices = cosines.float().topk(min(NUM_NEAREST, len(names)))
    return [
        [(names[index], value) for index, value in zip(*token, strict=True)]
        for token in zip(indices.tolist(), values.tolist(), strict=True)
    ]


def token_name(nearest: Sequence[tuple[str, float]]) -> str | None:
    """The name of a token: the nearest concept if its cosine is at least `NAMED_FROM`, otherwise `None`.

    Training draws the mean of an image's tokens to the names of its objects; nothing ever names the background. So
    each token has a nearest name, but one that shows no object is near to none: the cosine is typically 0.1 to 0.4
    on empty background and 0.7 to 0.9 on objects. Their softmax would not tell: it only compares names with names.
    """
    return nearest[0][0] if nearest and nearest[0][1] >= NAMED_FROM else None


def likeliest_concept(result: Result) -> str:
    """The name that is nearest to any of the tokens, "object" where the model knows no names."""
    return max((token[0] for token in result.nearest if token), key=lambda concept: concept[1], default=("object",))[0]


def draw(results: Sequence[Result]) -> list[Image.Image]:
    """For each picture a row: the original, its concept tokens with their names, the reconstruction."""
    originals = [_as_shown(result.picture.image) for result in results]
    overlays = [draw_tokens(result) for result in results]
    width = max(overlay.width for overlay in overlays)  # legends of one width, so that the rows make columns

    rows = []
    for result, original, overlay in zip(results, originals, overlays, strict=True):
        tokens = _count(result.num_tokens, "concept token")
        if result.picture.scene is None and any(map(token_name, result.nearest)):
            tokens += " (names: the nearest that it knows)"
        pictures = [
            original,
            ImageOps.pad(overlay, (width, overlay.height), color="white", centering=(0, 0)),
            result.reconstruction.resize(original.size, Image.Resampling.BICUBIC),
        ]
        rows.append(side_by_side(pictures, [result.picture.title, tokens, f"painted from them: {result.psnr:.1f} dB"]))
    return rows


def draw_tokens(result: Result) -> Image.Image:
    """The picture with its concept tokens, and their names beside it."""
    names = [token_name(nearest) or "-" for nearest in result.nearest]
    return draw_concept_tokens(_as_shown(result.picture.image), result.cluster_ids, result.grid_size, names)


def _as_shown(image: Image.Image) -> Image.Image:
    """The picture in the size in which it is shown; a very thin one becomes thicker."""
    scale = min(SHOWN_WIDTH / image.width, SHOWN_HEIGHT / image.height)
    return image.resize([max(64, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)


def describe(result: Result) -> str:
    """A heading, the figures, and a table of the tokens."""
    scene = result.picture.scene
    heading = result.picture.title if scene is None else f"{result.picture.title}: {', '.join(scene.names)}"
    return f"{heading}\n{figures(result)}\n{format_columns(token_columns(result))}"


def figures(result: Result) -> str:
    """The number of tokens, the quality of the painted picture, and the times."""
    return (
        f"{_count(result.num_tokens, 'concept token')}, PSNR {result.psnr:.1f} dB, "
        f"tokenised in {result.tokenize_ms:.0f} ms, painted in {result.paint_ms:.0f} ms"
    )


def token_columns(result: Result) -> dict[str, list[str]]:
    """A table of the tokens, a column per title; for scenes also on what most of each token truly lies."""
    scene, ids, tokens = result.picture.scene, result.cluster_ids, range(result.num_tokens)
    columns = {"token": [f"{token}" for token in tokens], "patches": [f"{(ids == token).sum()}" for token in tokens]}
    if scene is not None:
        truth, names = patch_labels(scene.masks, result.grid_size), ["background", *scene.names]
        columns["lies on"] = [names[np.bincount(truth[ids == token]).argmax()] for token in tokens]
    columns["name"] = [token_name(nearest) or "-" for nearest in result.nearest]
    columns["nearest concepts (cosine)"] = [
        ", ".join(f"{name} {cosine:.2f}" for name, cosine in nearest) for nearest in result.nearest
    ]
    return columns


def summarize(results: Sequence[Result]) -> str:
    """A table with a line per picture."""
    columns = {
        "picture": [result.picture.title for result in results],
        "objects": [
            "-" if result.picture.scene is None else f"{len(result.picture.scene.names)}" for result in results
        ],
        "tokens": [f"{result.num_tokens}" for result in results],
        "PSNR, dB": [f"{result.psnr:.1f}" for result in results],
        "tokenise, ms": [f"{result.tokenize_ms:.0f}" for result in results],
        "paint, ms": [f"{result.paint_ms:.0f}" for result in results],
    }
    return format_columns(columns)


def format_columns(columns: dict[str, list[str]]) -> str:
    """A table of text, one column per title; columns of figures are flush right."""
    lines = [""] * (1 + len(next(iter(columns.values()))))
    for title, cells in columns.items():
        is_text = any(cell.strip("-.0123456789") for cell in cells)
        width = max(map(len, [title, *cells]))
        cells = [cell.ljust(width) if is_text else cell.rjust(width) for cell in [title, *cells]]
        lines = [f"{line}  {cell}" for line, cell in zip(lines, cells, strict=True)]
    return "\n".join(line.rstrip() for line in lines)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@dataclass
class Arguments:
    image: list[str] = field(
        default_factory=list, metadata={"help": "your pictures, instead of test scenes and photographs"}
    )
    prompt: str = field(default=demo_tasks.PROMPT, metadata={"help": "what to paint"})
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
    rows = draw(results)
    for row, file in zip(rows, files, strict=True):
        row.save(file)
    sheet = output / "contact_sheet.png"
    contact_sheet(rows).save(sheet)

    for result in results:
        print(f"{describe(result)}\n")
    print(summarize(results))
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
    exercises = [
        demo_tasks.exercise_about_picture(result.picture.title, result.picture.image, likeliest_concept(result))
        for result in results
    ] or [demo_tasks.exercise_about_scene(processor.image_processor.size["height"])]
    conversations = [demo_tasks.work_through(exercise, model, processor) for exercise in exercises]
    conversations.append(demo_tasks.paint(prompt, model, processor))
    for conversation in conversations:
        print(f"\n{demo_tasks.describe(conversation)}")
    if results:
        print(f"\n{demo_tasks.CAVEAT}")
    demo_tasks.draw(conversations).save(output / "setokim.png")
    print(f"\nWritten to {output}: setokim.png")


if __name__ == "__main__":
    main()
