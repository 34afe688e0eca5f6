"""Renders the sprites of EmojiScenes: `python -m training.data.emoji_scenes.render_atlas --twemoji ... --openmoji ...`.

Needs the font NotoColorEmoji.ttf (Debian package `fonts-noto-color-emoji`, version 2.042), the unpacked npm packages
`@twemoji/svg` 15.0.0 and `openmoji` 17.0.0, and the command `rsvg-convert` (Debian package `librsvg2-bin`). Its result,
`atlas/`, is part of the repository, so that nobody has to run this to use EmojiScenes.
"""

import argparse
import io
import json
import shutil
import subprocess
import unicodedata
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .object_names import LARGE, MORE, NOUNS, TINY, plural

FONT_SIZE = 109  # the only size of this bitmap font
SVG_SIZE = 576  # pixels per side of a drawing before it is cropped and resized
CELL = 96  # side of an atlas cell in pixels
COLUMNS = 12


def render_atlas(font: Path, twemoji: Path, openmoji: Path, folder: Path) -> None:
    """Writes `noto.webp`, `twemoji.webp`, `openmoji.webp` (cells in rows of COLUMNS) and `emoji.json` (one entry per
    cell, the same in all three) to `folder`.

    Args:
        font: the file NotoColorEmoji.ttf.
        twemoji, openmoji: the folders of the unpacked npm packages.
        folder: where to write.

    Raises:
        ValueError: if one of the three, an emoji in one of them, or the command `rsvg-convert` is missing.
    """
    _check_sources(font, twemoji, openmoji)
    glyphs = ImageFont.truetype(str(font), FONT_SIZE)
    folder.mkdir(parents=True, exist_ok=True)
    _write_style(folder / "noto.webp", lambda character: draw_glyph(glyphs, character))
    _write_style(folder / "twemoji.webp", lambda character: draw_svg(twemoji / f"{ord(character):x}.svg"))
    _write_style(folder / "openmoji.webp", lambda character: draw_svg(openmoji / f"color/svg/{ord(character):04X}.svg"))
    lines = ",\n".join("    " + json.dumps(entry) for entry in _entries())
    header = f'{{\n  "cell": {CELL},\n  "columns": {COLUMNS},\n  "objects": [\n'
    (folder / "emoji.json").write_text(f"{header}{lines}\n  ]\n}}\n", encoding="utf-8")


def draw_glyph(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """RGBA: an emoji of the font, with margins."""
    glyph = Image.new("RGBA", (2 * FONT_SIZE, 2 * FONT_SIZE))
    ImageDraw.Draw(glyph).text((16, 16), character, font=font, embedded_color=True)
    return glyph


def draw_svg(path: Path) -> Image.Image:
    """(SVG_SIZE, SVG_SIZE) RGBA: a square drawing, with margins."""
    if not path.is_file():
        raise ValueError(f"there is no drawing {path}; unpack the version of the package that this file names")
    size = ["--width", str(SVG_SIZE), "--height", str(SVG_SIZE)]
    command = subprocess.run(["rsvg-convert", *size, str(path)], check=True, stdout=subprocess.PIPE)
    return Image.open(io.BytesIO(command.stdout)).convert("RGBA")


def fill_cell(drawing: Image.Image) -> Image.Image:
    """(CELL, CELL) RGBA: the drawing without its margins, its longer side filling the cell, centred."""
    box = drawing.getchannel("A").point(lambda alpha: 255 * (alpha > 16)).getbbox()  # faint fringes are not the object
    if box is None:
        raise ValueError("the drawing is empty")
    drawing = drawing.crop(box)
    scale = CELL / max(drawing.size)
    # "RGBa" is premultiplied: colours of transparent pixels do not bleed into the edge.
    size = [max(1, round(side * scale)) for side in drawing.size]
    drawing = drawing.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    cell = Image.new("RGBA", (CELL, CELL))
    cell.paste(drawing, ((CELL - drawing.width) // 2, (CELL - drawing.height) // 2))
    return cell


def _check_sources(font: Path, twemoji: Path, openmoji: Path) -> None:
    if not font.is_file():
        raise ValueError(f"no font {font}; install fonts-noto-color-emoji or name NotoColorEmoji.ttf by --font")
    if not (twemoji / "1f34e.svg").is_file():
        raise ValueError(f"no drawings in {twemoji}; name the unpacked npm package @twemoji/svg by --twemoji")
    if not (openmoji / "color" / "svg").is_dir():
        raise ValueError(f"no color/svg in {openmoji}; name the unpacked npm package openmoji by --openmoji")
    if shutil.which("rsvg-convert") is None:
        raise ValueError("the command rsvg-convert is missing; install the Debian package librsvg2-bin")


def _write_style(path: Path, draw: Callable[[str], Image.Image]) -> None:
    objects = {**TINY, **MORE, **LARGE}
    atlas = Image.new("RGBA", (COLUMNS * CELL, -(-len(objects) // COLUMNS) * CELL))
    for index, (character, name) in enumerate(objects.items()):
        row, column = divmod(index, COLUMNS)
        try:
            cell = fill_cell(draw(character))
        except ValueError as error:
            raise ValueError(f"{path.name}, {name} {character}: {error}") from error
        atlas.paste(cell, (column * CELL, row * CELL))
    atlas.save(path, lossless=True, exact=True, quality=100, method=6)


def _entries() -> list[dict]:
    """The entries of `emoji.json`; "vocabulary" is the smallest that holds the object."""
    return [
        {
            "name": name,
            "codepoint": f"U+{ord(character):04X}",
            "unicode_name": unicodedata.name(character),
            "noun": NOUNS.get(name, (name,))[0],
            "plural": NOUNS[name][1] if name in NOUNS else plural(name),
            "vocabulary": vocabulary,
        }
        for vocabulary, objects in (("tiny", TINY), ("full", MORE), ("large", LARGE))
        for character, name in objects.items()
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--font", type=Path, default=Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"))
    parser.add_argument("--twemoji", type=Path, required=True, help="folder of the unpacked npm package @twemoji/svg")
    parser.add_argument("--openmoji", type=Path, required=True, help="folder of the unpacked npm package openmoji")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "atlas")
    arguments = parser.parse_args()
    render_atlas(arguments.font, arguments.twemoji, arguments.openmoji, arguments.output)
