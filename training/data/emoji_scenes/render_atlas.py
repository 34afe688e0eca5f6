"""Renders the sprites of EmojiScenes: `python -m training.data.emoji_scenes.render_atlas`.

Needs the font NotoColorEmoji.ttf (Debian package `fonts-noto-color-emoji`). Its result, `atlas/`, is part of the
repository, so that nobody has to run this to use EmojiScenes.
"""

import argparse
import json
import unicodedata
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONT_SIZE = 109  # the only size of this bitmap font
CELL = 96  # side of an atlas cell in pixels
COLUMNS = 12

# Visually distinct from one another at 16 to 24 pixels: the vocabulary of the tiny model.
TINY = {
    "🍎": "red apple", "🍐": "pear", "🍋": "lemon", "🍌": "banana", "🍉": "watermelon", "🍇": "grapes",
    "🍍": "pineapple", "🥝": "kiwi", "🍆": "eggplant", "🥦": "broccoli", "🌽": "corn", "🤖": "robot face",
    "🍞": "bread", "🍔": "hamburger", "🍩": "doughnut", "🧁": "cupcake", "🍭": "lollipop", "🧀": "cheese",
    "🐶": "dog face", "🐱": "cat face", "🐭": "mouse face", "🦊": "fox face", "🐼": "panda face", "🐷": "pig face",
    "🐸": "frog face", "🐻": "bear face", "🐧": "penguin", "🦉": "owl", "🐞": "ladybug", "🐙": "octopus",
    "🦀": "crab", "🐠": "tropical fish", "🐬": "dolphin", "🦜": "parrot", "🌵": "cactus", "🎄": "christmas tree",
    "🪣": "bucket", "🍄": "mushroom", "🌻": "sunflower", "🌹": "rose", "🌸": "cherry blossom", "🌈": "rainbow",
    "🔥": "fire", "🌍": "globe", "⭐": "star", "🚗": "red car", "🚌": "bus", "🚀": "rocket",
    "⛵": "sailboat", "🎁": "present", "🏀": "basketball", "⚽": "soccer ball", "🎱": "eight ball", "🎯": "dartboard",
    "👖": "jeans", "💎": "gem", "🏠": "house", "🧱": "brick wall", "💜": "purple heart", "🎩": "top hat",
}  # fmt: skip
MORE = {
    "🍏": "green apple", "🍊": "tangerine", "🍓": "strawberry", "🫐": "blueberries", "🍒": "cherries", "🍑": "peach",
    "🥥": "coconut", "🍅": "tomato", "🥑": "avocado", "🥒": "cucumber", "🥔": "potato", "🥐": "croissant",
    "🥨": "pretzel", "🥚": "egg", "🍟": "french fries", "🍕": "pizza", "🌭": "hot dog", "🌮": "taco",
    "🍿": "popcorn", "🍪": "cookie", "🎂": "birthday cake", "🍫": "chocolate bar", "🍯": "honey pot", "🥞": "pancakes",
    "🍣": "sushi", "🍺": "beer mug", "🐰": "rabbit face", "🐨": "koala", "🐯": "tiger face", "🦁": "lion face",
    "🐮": "cow face", "🐵": "monkey face", "🐤": "baby chick", "🐺": "wolf face", "🦄": "unicorn face",
    "🐝": "honeybee",
    "🦋": "butterfly", "🐌": "snail", "🐢": "turtle", "🐡": "blowfish", "🐳": "whale", "🐊": "crocodile",
    "🐘": "elephant", "🐪": "camel", "🦚": "peacock", "🧠": "brain", "🐓": "rooster", "🦔": "hedgehog",
    "🌳": "tree", "🍀": "four leaf clover", "🍁": "maple leaf", "🌷": "tulip", "🌺": "hibiscus", "💧": "water drop",
    "🚕": "taxi", "🚓": "police car", "🚑": "ambulance", "🚒": "fire engine", "🚜": "tractor", "🚂": "train",
    "👽": "alien", "🎈": "balloon", "🏈": "football", "🥊": "boxing glove", "🥁": "drum", "🎲": "game die",
    "🧩": "puzzle piece", "🎨": "palette", "⏰": "alarm clock", "💡": "light bulb", "🔒": "lock", "🧲": "magnet",
    "👑": "crown", "👟": "sneaker", "👕": "t-shirt", "👗": "dress", "🎒": "backpack", "🏰": "castle",
    "🌴": "palm tree", "🛑": "stop sign", "💰": "money bag", "🥕": "carrot", "👻": "ghost", "🎃": "jack-o-lantern",
}  # fmt: skip

# How to count what has no plain plural: (one, several).
NOUNS = {
    "grapes": ("bunch of grapes", "bunches of grapes"),
    "broccoli": ("head of broccoli", "heads of broccoli"),
    "corn": ("ear of corn", "ears of corn"),
    "bread": ("loaf of bread", "loaves of bread"),
    "cheese": ("piece of cheese", "pieces of cheese"),
    "jeans": ("pair of jeans", "pairs of jeans"),
    "blueberries": ("handful of blueberries", "handfuls of blueberries"),
    "cherries": ("pair of cherries", "pairs of cherries"),
    "french fries": ("box of french fries", "boxes of french fries"),
    "popcorn": ("box of popcorn", "boxes of popcorn"),
    "pizza": ("slice of pizza", "slices of pizza"),
    "pancakes": ("stack of pancakes", "stacks of pancakes"),
    "sushi": ("piece of sushi", "pieces of sushi"),
    "tropical fish": ("tropical fish", "tropical fish"),
    "blowfish": ("blowfish", "blowfish"),
    "game die": ("game die", "game dice"),
    "maple leaf": ("maple leaf", "maple leaves"),
}


def plural(name: str) -> str:
    """The regular English plural."""
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + ("es" if name.endswith(("s", "x", "ch", "sh", "ato")) else "s")


def render_sprite(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """(CELL, CELL) RGBA: the glyph without its margins, its longer side filling the cell, centred."""
    glyph = Image.new("RGBA", (2 * FONT_SIZE, 2 * FONT_SIZE))
    ImageDraw.Draw(glyph).text((16, 16), character, font=font, embedded_color=True)
    box = glyph.getchannel("A").point(lambda alpha: 255 * (alpha > 16)).getbbox()  # faint fringes are not the object
    if box is None:
        raise ValueError(f"the font has no glyph for {character!r}; take NotoColorEmoji.ttf of 2022 or later")
    glyph = glyph.crop(box)
    scale = CELL / max(glyph.size)
    # "RGBa" is premultiplied: colours of transparent pixels do not bleed into the edge.
    size = [max(1, round(side * scale)) for side in glyph.size]
    glyph = glyph.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    cell = Image.new("RGBA", (CELL, CELL))
    cell.paste(glyph, ((CELL - glyph.width) // 2, (CELL - glyph.height) // 2))
    return cell


def render_atlas(font_path: str, folder: Path) -> None:
    """Writes `emoji.png` (cells in rows of COLUMNS) and `emoji.json` (one entry per cell) to `folder`."""
    font = ImageFont.truetype(font_path, FONT_SIZE)
    objects = {**TINY, **MORE}
    atlas = Image.new("RGBA", (COLUMNS * CELL, -(-len(objects) // COLUMNS) * CELL))
    entries = []
    for index, (character, name) in enumerate(objects.items()):
        row, column = divmod(index, COLUMNS)
        atlas.paste(render_sprite(font, character), (column * CELL, row * CELL))
        noun, several = NOUNS.get(name, (name, plural(name)))
        entries.append(
            {
                "name": name,
                "codepoint": f"U+{ord(character):04X}",
                "unicode_name": unicodedata.name(character),
                "noun": noun,
                "plural": several,
                "tiny": character in TINY,
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    atlas.save(folder / "emoji.png", optimize=True)
    lines = ",\n".join("    " + json.dumps(entry) for entry in entries)
    header = f'{{\n  "cell": {CELL},\n  "columns": {COLUMNS},\n  "objects": [\n'
    (folder / "emoji.json").write_text(f"{header}{lines}\n  ]\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--font", default="/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "atlas")
    arguments = parser.parse_args()
    render_atlas(arguments.font, arguments.output)
