"""Draws the way of the data, with what the shipped models make of a test scene at each stage:

python -m training.demo.draw_data_flow        writes modeling_setok/data_flow.svg
"""

import html
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from processing import token_colors
from training.data import EmojiScenes, SceneConfig
from training.demo.models import PHOTOGRAPHS, SETOKIM, load_setok, load_setokim

ROOT = Path(__file__).parents[2]
SCENE = 5  # of the test split: three objects, named in the questions below
QUESTION, PROMPT, EXPRESSION = "How many objects are there in the picture?", "Draw: an owl and a red car", "the owl"
BACKGROUND = " on a plain blue background."  # goes without saying in the drawing
WIDTH, HEIGHT, SIDE = 1000, 610, 128
SHOWN = (64, 64)  # pixels of the scene: each is drawn
INK, LINE, FILL, MODEL = "#1f2328", "#6e7781", "#f6f8fa", "#ddf4ff"


class Drawing:
    """Collects the elements of an SVG picture."""

    def __init__(self):
        self.elements = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
            f'font-size="14" fill="{INK}">',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker></defs>',
            f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="white"/>',
        ]

    def text(self, x: float, y: float, *lines: str, size: int = 14, weight: str = "normal") -> None:
        for number, line in enumerate(lines):
            self.elements.append(
                f'<text x="{x}" y="{y + number * 1.3 * size}" text-anchor="middle" font-size="{size}" '
                f'font-weight="{weight}">{html.escape(line)}</text>'
            )

    def picture(self, x: float, y: float, pixels: Image.Image, caption: str) -> None:
        """At its true sharpness, one square for a pixel, in 64 colours: a path for each (not every page shows pictures
        that lie inside of an SVG)."""
        quantized = pixels.quantize(64)
        palette = np.array(quantized.getpalette()).reshape(-1, 3)
        ids, scale = np.asarray(quantized), SIDE / pixels.width
        starts = np.diff(ids, axis=1, prepend=-1) != 0  # of runs of one colour
        runs: dict[int, list[str]] = {}
        for row, line in enumerate(ids):
            columns = np.flatnonzero(starts[row])
            for column, length in zip(columns, np.diff(columns, append=len(line)), strict=True):
                runs.setdefault(line[column], []).append(f"M{column} {row}h{length}v1h-{length}z")
        self.elements.append(
            f'<g transform="translate({x} {y}) scale({scale})" shape-rendering="crispEdges">'
            + "".join(f'<path fill="#{bytes(palette[i].tolist()).hex()}" d="{"".join(d)}"/>' for i, d in runs.items())
            + "</g>"
        )
        self.text(x + SIDE / 2, y + SIDE + 18, caption, size=13)

    def box(self, x: float, y: float, width: float, *lines: str, note: str = "") -> None:
        """A part of the model around (x, y)."""
        height = 18 * len(lines) + (34 if note else 18)
        self.elements.append(
            f'<rect x="{x - width / 2}" y="{y - height / 2}" width="{width}" height="{height}" rx="6" fill="{MODEL}" '
            f'stroke="{LINE}"/>'
        )
        self.text(x, y - height / 2 + 23, *lines, weight="bold")
        self.text(x, y + height / 2 - 10, note, size=12)

    def room(self, y: float, height: float, name: str) -> None:
        self.elements.append(
            f'<rect x="8" y="{y}" width="{WIDTH - 16}" height="{height}" rx="8" fill="{FILL}" stroke="{LINE}" '
            f'stroke-width="0.5"/><text x="20" y="{y + 24}" font-size="16" font-weight="bold">{name}</text>'
        )

    def tokens(self, x: float, y: float, colors: list[str]) -> None:
        """A row of tokens whose middle is (x, y), the closer the more there are."""
        step = min(20, 110 / len(colors))
        side = 0.8 * step
        for number, color in enumerate(colors):
            left = x + (number - (len(colors) - 1) / 2) * step - side / 2
            self.elements.append(
                f'<rect x="{left:g}" y="{y - side / 2:g}" width="{side:g}" height="{side:g}" rx="{side / 4:g}" '
                f'fill="{color}" stroke="{LINE}"/>'
            )

    def arrow(self, *points: tuple[float, float]) -> None:
        path = " ".join(f"{x},{y}" for x, y in points)
        self.elements.append(
            f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="1.5" marker-end="url(#tip)"/>'
        )

    def save(self, path: Path) -> None:
        path.write_text("\n".join([*self.elements, "</svg>", ""]), encoding="utf-8")


def main() -> None:
    setok, image_processor = load_setok(str(ROOT / PHOTOGRAPHS))
    setokim, processor = load_setokim(str(ROOT / SETOKIM))
    scenes = EmojiScenes("test", SCENE + 1, SceneConfig(image_size=image_processor.size["height"]))
    picture = scenes[SCENE]["images"][0]
    with torch.no_grad():
        outputs = setok.setok(image_processor(picture, return_tensors="pt")["pixel_values"])
        painted = setok.detokenize(outputs.last_hidden_state, outputs.token_mask)
    ids = outputs.cluster_ids[0].unflatten(0, outputs.grid_size).numpy()
    colors = token_colors(ids)
    hexes = ["#" + bytes(color).hex() for color in colors]
    answer = setokim.ask(processor, picture, QUESTION)
    drawn = setokim.generate_image(processor, PROMPT + BACKGROUND, generator=torch.Generator().manual_seed(1))
    mask = Image.fromarray(setokim.segment(processor, picture, EXPRESSION)).resize(SHOWN)
    shown = picture.resize(SHOWN)
    pale = Image.blend(shown.convert("L").convert("RGB"), Image.new("RGB", SHOWN, "white"), 0.6)
    outlined = Image.composite(shown, pale, mask)

    drawing = Drawing()
    drawing.room(8, 210, "SeTok")
    drawing.picture(20, 48, shown, "image")
    drawing.arrow((152, 112), (176, 112))
    drawing.box(231, 112, 106, "vision", "encoder", note="any of them")
    drawing.arrow((288, 112), (312, 112))
    drawing.picture(318, 48, Image.fromarray(colors[ids].astype(np.uint8)), "token clustering")
    drawing.arrow((450, 112), (474, 112))
    drawing.box(527, 112, 100, "token", "merger", note="transformers")
    drawing.arrow((581, 112), (605, 112))
    drawing.tokens(665, 112, hexes)
    drawing.text(665, 142, f"{len(hexes)} concept tokens", size=13)
    drawing.arrow((722, 112), (736, 112))
    drawing.box(788, 112, 100, "detokenizer")
    drawing.arrow((840, 112), (850, 112))
    drawing.picture(852, 48, image_processor.postprocess(painted)[0], "painted back")

    drawing.room(230, 372, "Setokim")
    drawing.arrow((665, 154), (665, 250), (330, 250), (330, 360))
    drawing.text(500, 244, "[Img] concept tokens [/Img]", size=13)
    drawing.text(118, 380, f"“{QUESTION.split(' in ')[0]}?”", f"“{PROMPT}.”", f"“Segment {EXPRESSION}.”", size=13)
    drawing.arrow((216, 397), (250, 397))
    drawing.box(330, 397, 154, "causal", "language model")
    drawing.arrow((330, 427), (330, 468))
    drawing.text(330, 488, f"“{answer}”")
    drawing.arrow((410, 397), (438, 397))
    drawing.box(504, 397, 126, "diffusion head", note="next visual token")
    drawing.arrow((570, 397), (596, 397))
    drawing.text(650, 377, "[Img]", size=13)
    drawing.tokens(650, 397, ["#ffffff"] * 4)
    drawing.text(650, 426, "[/Img]", size=13)
    drawing.arrow((698, 397), (712, 397), (712, 318), (736, 318))
    drawing.box(788, 318, 100, "detokenizer")
    drawing.arrow((840, 318), (850, 318))
    drawing.picture(852, 254, drawn, "painted")
    drawing.arrow((712, 397), (712, 490), (736, 490))
    drawing.box(788, 490, 100, "mask", "decoder")
    drawing.arrow((840, 490), (850, 490))
    drawing.picture(852, 426, outlined, "segmented")
    drawing.arrow((231, 150), (231, 580), (788, 580), (788, 520))
    drawing.text(500, 574, "patch embeddings", size=13)
    drawing.save(ROOT / "modeling_setok" / "data_flow.svg")


if __name__ == "__main__":
    main()
