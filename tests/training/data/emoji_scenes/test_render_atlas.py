"""How the atlas is made: cells, and what is said where a source is missing."""

import pytest
from PIL import Image, ImageDraw

from training.data.emoji_scenes.render_atlas import CELL, draw_svg, fill_cell, render_atlas


def test_a_drawing_fills_its_cell():
    drawing = Image.new("RGBA", (300, 200))
    ImageDraw.Draw(drawing).rectangle((100, 50, 219, 109), fill=(200, 30, 20, 255))  # 120 x 60 pixels
    drawing.putpixel((0, 0), (0, 0, 0, 16))  # a faint fringe
    cell = fill_cell(drawing)
    assert cell.size == (CELL, CELL)
    assert cell.getbbox() == (0, CELL // 4, CELL, CELL // 4 * 3)
    assert cell.getpixel((CELL // 2, CELL // 2)) == (200, 30, 20, 255)
    with pytest.raises(ValueError, match="empty"):
        fill_cell(Image.new("RGBA", (8, 8)))


def test_missing_sources_are_named(tmp_path):
    font, twemoji, openmoji = tmp_path / "font.ttf", tmp_path / "twemoji", tmp_path / "openmoji"
    with pytest.raises(ValueError, match="fonts-noto-color-emoji.*--font"):
        render_atlas(font, twemoji, openmoji, tmp_path)
    font.touch()
    with pytest.raises(ValueError, match="@twemoji/svg.*--twemoji"):
        render_atlas(font, twemoji, openmoji, tmp_path)
    twemoji.mkdir()
    (twemoji / "1f34e.svg").touch()
    with pytest.raises(ValueError, match="openmoji.*--openmoji"):
        render_atlas(font, twemoji, openmoji, tmp_path)
    with pytest.raises(ValueError, match="no drawing"):
        draw_svg(twemoji / "1f350.svg")
