"""What a SeTok makes of a picture: its concept tokens, their names, and the picture painted from them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, one_hot

from modeling_setok import SetokForPreTraining
from processing import SetokImageProcessor, draw_concept_tokens, side_by_side
from training.data import Scene
from training.demo.pictures import Picture, centred, count, enlarge, make_scenes
from training.evaluation.metrics import PeakSignalNoiseRatio, patch_labels

SHOWN_WIDTH, SHOWN_HEIGHT = 512, 1024  # largest size in pixels at which pictures are shown; one width makes columns
NUM_NEAREST = 3  # concepts listed for a token
RIGHT = 0.95  # of the names that are given; see `calibrated_threshold`
COVERED = 0.25  # of a token by the thing of its name; what touches a thing's edge is rarely more than half of it
NUM_SCENES, BATCH_SIZE = 40, 8  # from which the threshold is measured


@dataclass(frozen=True)
class Result:
    """What the model makes of a picture.

    Attributes:
        cluster_ids: (h * w,) int64, the token of each patch.
        grid_size: (h, w) of the patches.
        nearest: for each token the nearest concepts that the model knows, (name, cosine), best first.
        named_from: cosine from which the nearest concept is a token's name.
        reconstruction: the picture as painted, S x S pixels.
        psnr: dB, from the original in that size; 8-bit pictures, pixels in [0, 1].
        tokenize_ms, paint_ms: time of the model alone, without reading and resizing.
    """

    picture: Picture
    cluster_ids: np.ndarray
    grid_size: tuple[int, int]
    nearest: list[list[tuple[str, float]]]
    named_from: float
    reconstruction: Image.Image
    psnr: float
    tokenize_ms: float
    paint_ms: float

    @property
    def num_tokens(self) -> int:
        return len(self.nearest)

    @property
    def names(self) -> list[str]:
        """Of each token, "-" for one without a name."""
        return [token_name(nearest, self.named_from) or "-" for nearest in self.nearest]


@torch.no_grad()
def tokenize_and_paint(
    model: SetokForPreTraining, image_processor: SetokImageProcessor, picture: Picture, named_from: float
) -> Result:
    """Runs the model on one picture; `named_from` is a cosine, as `calibrated_threshold` finds it."""
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
        named_from=named_from,
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


def token_name(nearest: Sequence[tuple[str, float]], named_from: float) -> str | None:
    """The name of a token: the nearest concept if its cosine is at least `named_from`, otherwise `None`.

    Training draws the mean of an image's tokens to the names of its objects; nothing ever names the background. So
    each token has a nearest name, but one that shows no object is near to none: the cosine is typically 0.1 to 0.4
    on empty background and 0.7 to 0.9 on objects. Their softmax would not tell: it only compares names with names.
    """
    return nearest[0][0] if nearest and nearest[0][1] >= named_from else None


@torch.no_grad()
def calibrated_threshold(
    model: SetokForPreTraining, image_processor: SetokImageProcessor, scenes: Sequence[Picture]
) -> float:
    """The least cosine from which `RIGHT` of the names of tokens are right on these scenes: of a thing that covers
    `COVERED` of the token. 1, which names nothing, where the model is never so sure, or knows no names."""
    cosines, right = [], []
    for start in range(0, len(scenes) if model.config.concept_names else 0, BATCH_SIZE):
        batch = scenes[start : start + BATCH_SIZE]
        pixel_values = image_processor([picture.image for picture in batch], return_tensors="pt")["pixel_values"]
        outputs = model.setok(pixel_values.to(model.device, model.dtype))
        for row, picture in enumerate(batch):
            covered = _covered(picture.scene, outputs.cluster_ids[row].cpu(), tuple(outputs.grid_size))
            nearest = nearest_concepts(model, outputs.last_hidden_state[row, : len(covered)])
            cosines += [token[0][1] for token in nearest]
            right += [
                sum(share for share, name in zip(shares, picture.scene.names, strict=True) if name == token[0][0])
                >= COVERED
                for shares, token in zip(covered, nearest, strict=True)
            ]
    order = np.argsort(cosines)[::-1]
    share = np.cumsum(np.array(right, dtype=int)[order]) / np.arange(1, len(order) + 1)
    sure = np.flatnonzero(share >= RIGHT)
    return float(cosines[order[sure[-1]]]) if len(sure) else 1.0


def measured_threshold(model: SetokForPreTraining, image_processor: SetokImageProcessor) -> float:
    """`calibrated_threshold` on validation scenes."""
    scenes = make_scenes(NUM_SCENES, image_processor.size["height"], "validation")
    return calibrated_threshold(model, image_processor, scenes)


def _covered(scene: Scene, cluster_ids: Tensor, grid_size: tuple[int, int]) -> list[list[float]]:
    """For each token the share of its area that each thing of the scene covers."""
    patches = adaptive_avg_pool2d(torch.from_numpy(scene.masks).float(), grid_size).flatten(1)
    members = one_hot(cluster_ids).float()
    return (patches @ members / members.sum(0)).T.tolist()


def draw(results: Sequence[Result]) -> list[Image.Image]:
    """For each picture a row: the original, its concept tokens with their names, the reconstruction."""
    originals = [_as_shown(result.picture.image) for result in results]
    overlays = [draw_tokens(result) for result in results]
    width = max(overlay.width for overlay in overlays)  # legends of one width, so that the rows make columns

    rows = []
    for result, original, overlay in zip(results, originals, overlays, strict=True):
        tokens = count(result.num_tokens, "concept token")
        painted = result.reconstruction.resize(original.size, Image.Resampling.NEAREST)  # its own pixels, no blur
        pictures = [
            centred(original, SHOWN_WIDTH, original.height),
            ImageOps.pad(overlay, (width, overlay.height), color="white", centering=(0, 0)),
            centred(painted, SHOWN_WIDTH, painted.height),
        ]
        rows.append(side_by_side(pictures, [result.picture.title, tokens, f"painted from them: {result.psnr:.1f} dB"]))
    return rows


def draw_tokens(result: Result) -> Image.Image:
    """The picture with its concept tokens, and their names beside it."""
    return draw_concept_tokens(_as_shown(result.picture.image), result.cluster_ids, result.grid_size, result.names)


def _as_shown(image: Image.Image) -> Image.Image:
    """The picture in the size in which it is shown; a very thin one becomes thicker."""
    shown = enlarge(image, SHOWN_WIDTH, SHOWN_HEIGHT)
    return shown.resize([max(64, side) for side in shown.size], Image.Resampling.NEAREST)


def describe(result: Result) -> str:
    """Of a scene: a heading, the figures, and a table of the tokens."""
    heading = f"{result.picture.title}: {', '.join(result.picture.scene.names)}"
    return f"{heading}\n{figures(result)}\n{format_columns(token_columns(result))}"


def figures(result: Result) -> str:
    """The number of tokens, the quality of the painted picture, and the times."""
    return (
        f"{count(result.num_tokens, 'concept token')}, PSNR {result.psnr:.1f} dB, "
        f"tokenised in {result.tokenize_ms:.0f} ms, painted in {result.paint_ms:.0f} ms"
    )


def token_columns(result: Result) -> dict[str, list[str]]:
    """A table of the tokens, a column per title; for scenes also on what most of each token truly lies."""
    scene, ids, tokens = result.picture.scene, result.cluster_ids, range(result.num_tokens)
    columns = {"token": [f"{token}" for token in tokens], "patches": [f"{(ids == token).sum()}" for token in tokens]}
    if scene is not None:
        truth, names = patch_labels(scene.masks, result.grid_size), ["background", *scene.names]
        columns["lies on"] = [names[np.bincount(truth[ids == token]).argmax()] for token in tokens]
    columns["name"] = result.names
    columns["nearest concepts (cosine)"] = [
        ", ".join(f"{name} {cosine:.2f}" for name, cosine in nearest) for nearest in result.nearest
    ]
    return columns


def summarize(results: Sequence[Result]) -> str:
    """A table with a line per scene."""
    columns = {
        "picture": [result.picture.title for result in results],
        "objects": [f"{len(result.picture.scene.names)}" for result in results],
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


def naming(named_from: float) -> str:
    """From where on a token gets a name."""
    return (
        f"A token is named by its nearest concept where their cosine is at least {named_from:.2f}: so {RIGHT:.0%} of "
        "the names are right on validation scenes."
    )
