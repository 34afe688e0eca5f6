"""Tetrominoes: pictures of 35 pixels with three pieces of four blocks on black.

What its description says (google-deepmind/multi_object_datasets): each 35x35 picture has three tetrominoes of 17
shapes and orientations, each in one of six colours, red, green, blue, yellow, magenta, cyan. Its preview shows blocks
of 5 pixels with lit and shaded edges, at any pixel of a black background.

What is chosen here, because the description leaves it open: shapes, colours and places are uniform and independent,
but that pieces do not overlap (they may touch); and which 17. Four blocks can be joined in 19 ways when turned and
mirrored ones count; here the straight line, lying and standing, is left out. The brightness of the edges was read off
the preview, about.
"""

import numpy as np

from .scenes import SpriteScene, SpriteWorld, paint

IMAGE_SIZE = 35
BLOCK = 5
NUM_PIECES = 3
COLOURS = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "magenta": (1, 0, 1),
    "cyan": (0, 1, 1),
}
_PIECES = {"T": ("###", ".#."), "L": ("#.", "#.", "##"), "S": (".##", "##."), "O": ("##", "##")}


class Tetrominoes(SpriteWorld):
    """The world; see `SpriteWorld` for its arguments, and the file for what it follows."""

    def _draw(self, rng: np.random.Generator) -> SpriteScene:
        shapes = tetromino_shapes()
        sprites, taken = [], np.zeros((IMAGE_SIZE, IMAGE_SIZE), bool)
        while len(sprites) < NUM_PIECES:
            name, blocks = shapes[rng.integers(len(shapes))]
            piece = np.kron(blocks, np.ones((BLOCK, BLOCK), bool))
            height, width = piece.shape
            y, x = (int(rng.integers(IMAGE_SIZE - extent + 1)) for extent in (height, width))
            colour = np.array(list(COLOURS.values())[rng.integers(len(COLOURS))], np.uint8)
            mask = np.zeros_like(taken)
            mask[y : y + height, x : x + width] = piece
            if (mask & taken).any():
                continue  # once more, with another piece at another place
            pixels = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
            pixels[y : y + height, x : x + width] = np.tile(_block(), blocks.shape)[..., None] * colour
            sprites.append((name, mask, pixels))
            taken |= mask
        return paint(np.zeros(3, np.uint8), sprites)


def tetromino_shapes() -> list[tuple[str, np.ndarray]]:
    """The 17 shapes: the name of a piece and its blocks (h, w) bool, all turned and mirrored forms that differ."""
    shapes = {}
    for name, rows in _PIECES.items():
        piece = np.array([[cell == "#" for cell in row] for row in rows])
        for form in (piece, piece[:, ::-1]):
            for turns in range(4):
                blocks = np.rot90(form, turns)
                shapes.setdefault((blocks.shape, blocks.tobytes()), (name, blocks))
    return list(shapes.values())


def _block() -> np.ndarray:
    """(5, 5) uint8, the brightness of a block, lit from the upper right."""
    block = np.full((BLOCK, BLOCK), 160, np.uint8)
    block[:, 0], block[:, -1] = 120, 200
    block[0], block[-1] = 240, 70
    block[0, 0], block[-1, -1] = 200, 120
    return block
