"""Pictures of concept tokens: coloured and numbered token masks over the image, and pictures beside each other."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from .sharp_tokens import sharpen_tokens

MIN_SIDE = 512  # smaller pictures are enlarged, so that numbers are legible ...
MIN_PATCH = 16  # ... also in a token of a single patch ...
MAX_SIDE = 2048  # ... but never beyond this.
RAGGED = 2  # pixels: what sticks out of a sharp outline by less is ironed
OPACITY = 0.5  # of the token colours
SATURATION = 0.4  # of the picture below them
INK, PAPER = (32, 33, 36), (255, 255, 255)


def draw_concept_tokens(
    image: Image.Image,
    cluster_ids: Any,
    grid_size: tuple[int, int],
    labels: Sequence[str] | None = None,
    sharp: bool = False,
) -> Image.Image:
    """
    Draw the concept tokens of an image over it: every token's patches in one colour, white outlines between tokens,
    and each token's number where its region is widest.

    Args:
        image: the picture, any size and mode; shown as the image processor reads it (EXIF orientation, white below
            transparency).
        cluster_ids: (h*w,) or (h, w) integers, array or tensor: the token of each patch, row by row; -1 marks padding,
            which is left as it is.
        grid_size: (h, w) of the patches.
        labels: one string per token (token i is `labels[i]`), listed in a legend to the right of the picture. The
            font is PIL's own, which has Latin letters only; others appear as boxes.
        sharp: for photographs, which are much finer than the grid: the outlines of things in place of squares, see
            `sharpen_tokens`, which needs scikit-image.

    Returns:
        An RGB picture of the image's aspect ratio, enlarged where it is too small to be read, plus the legend.

    Raises:
        ValueError: ids that do not fit the grid, are no integers or below -1, or another number of labels than tokens.
    """
    ids = _read_cluster_ids(cluster_ids, grid_size)
    num_tokens = int(ids.max()) + 1
    if labels is not None and len(labels) != num_tokens:
        raise ValueError(f"{num_tokens} tokens need as many labels, got {len(labels)}.")

    picture = _enlarge(_as_shown(image), grid_size)
    width, height = picture.size
    colors = token_colors(ids)
    if sharp:
        token_map = _sharp_map(picture, ids)
    else:
        token_map = ids[_nearest(height, ids.shape[0])[:, None], _nearest(width, ids.shape[1])]

    # The picture's own colours are muted below the overlay, or they would blend with the tokens' colours to others.
    muted = np.asarray(ImageEnhance.Color(picture).enhance(SATURATION), dtype=np.float32)
    tints = np.vstack([colors, PAPER])[token_map]  # padding, -1, takes the last row, which is not shown
    tinted = (muted + OPACITY * (tints - muted)).round().astype(np.uint8)
    picture = Image.fromarray(np.where(token_map[..., None] >= 0, tinted, np.asarray(picture)))

    _draw_outlines(picture, token_map)
    _draw_numbers(picture, ids)
    return picture if labels is None else _add_legend(picture, colors, labels)


def token_colors(cluster_ids: np.ndarray) -> np.ndarray:
    """
    A colour for each token of a grid, deterministic, and clearly different between tokens that touch.

    Args:
        cluster_ids: (h, w) integers, -1 for padding.

    Returns:
        (number of tokens, 3) uint8; up to 24 tokens get 24 different colours where their neighbours allow it.
    """
    num_tokens = int(cluster_ids.max()) + 1
    touching = np.zeros((num_tokens + 1, num_tokens + 1), dtype=bool)  # the last row and column take the padding, -1
    for first, second in (
        (cluster_ids[:, 1:], cluster_ids[:, :-1]),
        (cluster_ids[1:], cluster_ids[:-1]),
        (cluster_ids[1:, 1:], cluster_ids[:-1, :-1]),
        (cluster_ids[1:, :-1], cluster_ids[:-1, 1:]),
    ):
        touching[first, second] = touching[second, first] = True

    palette, rgb = _palette()
    difference = np.linalg.norm(palette[:, None] - palette[None], axis=-1)
    uses = np.zeros(len(palette))
    chosen = np.zeros(num_tokens, dtype=int)
    for token in range(num_tokens):
        neighbours = chosen[:token][touching[token, :token]]
        contrast = difference[:, neighbours].min(axis=1, initial=1.0)
        # The least used of the colours that stand out from the neighbours by a distance in OKLab, the first of several.
        chosen[token] = np.lexsort((uses, contrast < 0.14))[0]
        uses[chosen[token]] += 1
    return rgb[chosen]


def draw_mask(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """
    Draw a mask over an image: what it covers keeps its colours and gets an outline, the rest turns pale and grey.

    Args:
        image: the picture, any size and mode; shown as the image processor reads it.
        mask: (H, W) bool, of the image's size.

    Returns:
        An RGB picture of the image's aspect ratio, enlarged where it is too small to be read.

    Raises:
        ValueError: a mask of another shape than the image.
    """
    picture, mask = _as_shown(image), np.asarray(mask, dtype=bool)
    if mask.shape != (picture.height, picture.width):
        raise ValueError(f"A picture of {picture.height}x{picture.width} needs a mask as large, got {mask.shape}.")
    picture = _enlarge(picture, (1, 1))
    mask = mask[_nearest(picture.height, mask.shape[0])[:, None], _nearest(picture.width, mask.shape[1])]
    pale = Image.blend(picture.convert("L").convert("RGB"), Image.new("RGB", picture.size, PAPER), 0.6)
    picture = Image.composite(picture, pale, Image.fromarray(mask))
    _draw_outlines(picture, mask)
    return picture


def side_by_side(images: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """One row of pictures, brought to the height of the tallest (at least 256 pixels), each over its caption.

    Captions are wrapped to the width of their picture; line breaks in them stay.
    """
    if not images or len(images) != len(captions):
        raise ValueError(f"A row needs pictures and one caption for each, got {len(images)} and {len(captions)}.")
    images = [_as_shown(image) for image in images]
    height = max(256, *(image.height for image in images))
    margin, font = height // 32, ImageFont.load_default(max(13, height // 26))
    line = sum(font.getmetrics())

    widths = [max(1, round(image.width * height / image.height)) for image in images]
    pictures = [
        image.resize((width, height), Image.Resampling.LANCZOS) for image, width in zip(images, widths, strict=True)
    ]
    texts = [_wrap(caption, font, picture.width) for caption, picture in zip(captions, pictures, strict=True)]
    size = sum(widths) + margin * (len(widths) + 1), height + 2 * margin + margin // 2 + line * max(map(len, texts))
    row = Image.new("RGB", size, PAPER)
    draw, left = ImageDraw.Draw(row), margin
    for picture, lines in zip(pictures, texts, strict=True):
        row.paste(picture, (left, margin))
        for number, text in enumerate(lines):
            top = margin + height + margin // 2 + number * line
            draw.text((left + picture.width / 2, top), text, INK, font, anchor="ma")
        left += picture.width + margin
    return row


def contact_sheet(rows: Sequence[Image.Image]) -> Image.Image:
    """Rows, as `side_by_side` makes them, below one another in one picture, flush left."""
    if not rows:
        raise ValueError("A contact sheet needs at least one row.")
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), PAPER)
    top = 0
    for row in rows:
        sheet.paste(row.convert("RGB"), (0, top))
        top += row.height
    return sheet


def _read_cluster_ids(cluster_ids: Any, grid_size: tuple[int, int]) -> np.ndarray:
    """Check the ids and give them the shape (h, w)."""
    if hasattr(cluster_ids, "detach"):  # a tensor, of any device
        cluster_ids = cluster_ids.detach().cpu().numpy()
    ids, (rows, columns) = np.asarray(cluster_ids), grid_size
    if ids.shape not in ((rows, columns), (rows * columns,)) or ids.size == 0:
        raise ValueError(f"A grid of {rows}x{columns} patches needs as many cluster_ids, got the shape {ids.shape}.")
    if not np.issubdtype(ids.dtype, np.integer) or ids.min() < -1:
        raise ValueError("cluster_ids must be integers, from 0 on, or -1 for padding.")
    return ids.reshape(rows, columns).astype(np.int64)


def _as_shown(image: Image.Image) -> Image.Image:
    """RGB, turned and blended over white as the image processor reads it."""
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, PAPER), image.convert("RGBA"))
    return image.convert("RGB")


def _enlarge(picture: Image.Image, grid_size: tuple[int, int]) -> Image.Image:
    """The picture at a size at which numbers can be read in every patch, if it is smaller (see `MIN_SIDE`)."""
    (rows, columns), (width, height) = grid_size, picture.size
    scale = max(1, MIN_SIDE / max(picture.size), MIN_PATCH * rows / height, MIN_PATCH * columns / width)
    scale = max(1, min(scale, MAX_SIDE / max(picture.size)))
    # At least one pixel per patch in any case: a thin picture of many patches is stretched rather than losing tokens.
    size = max(round(width * scale), columns), max(round(height * scale), rows)
    return picture.resize(size, Image.Resampling.BICUBIC) if size != picture.size else picture


def _nearest(new: int, old: int) -> np.ndarray:
    """The source index, of `old`, of each of `new` pixels."""
    return ((np.arange(new) + 0.5) * old / new).astype(int)


def _sharp_map(picture: Image.Image, ids: np.ndarray) -> np.ndarray:
    """The token of each pixel of an RGB picture, with borders where the picture has them, less their single pixels."""
    sharp = sharpen_tokens(picture, ids, ids.shape)
    token_map, largest = np.full(sharp.shape, -1), np.full(sharp.shape, -1, dtype=np.int16)
    for token in np.unique(ids).tolist():
        mask = Image.fromarray(np.where(sharp == token, 255, 0).astype(np.uint8))
        mask = np.asarray(mask.filter(ImageFilter.GaussianBlur(RAGGED)))
        is_larger = mask > largest
        token_map[is_larger], largest[is_larger] = token, mask[is_larger]
    return token_map


def _palette() -> tuple[np.ndarray, np.ndarray]:
    """24 colours in OKLab and as uint8 RGB, both (24, 3), each as far as possible from the ones before it."""
    hue = 2 * np.pi * np.arange(24) / 24 + 0.45
    light = np.where(np.arange(24) % 2, 0.56, 0.76)
    lab = np.stack([light, 0.17 * np.cos(hue), 0.17 * np.sin(hue)], axis=-1)
    order = [14]  # blue
    while len(order) < len(lab):
        order.append(np.linalg.norm(lab[:, None] - lab[order], axis=-1).min(1).argmax())
    lab = lab[order]
    # OKLab (Björn Ottosson, 2020) to linear sRGB to sRGB
    to_lms = [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
    to_rgb = [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
    linear = ((lab @ np.transpose(to_lms)) ** 3 @ np.transpose(to_rgb)).clip(0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return lab, (255 * srgb).round().astype(np.uint8)


def _draw_outlines(picture: Image.Image, token_map: np.ndarray) -> None:
    """White lines with a thin dark edge wherever the token changes."""
    edges = np.zeros(token_map.shape, dtype=np.uint8)
    edges[:, 1:][token_map[:, 1:] != token_map[:, :-1]] = 255
    edges[1:][token_map[1:] != token_map[:-1]] = 255
    edges = Image.fromarray(edges)
    line = 1 + 2 * round(_side(picture) / 700)
    picture.paste(INK, mask=edges.filter(ImageFilter.MaxFilter(line + 2)).point(lambda value: value * 0.55))
    if line > 1:  # a filter of one pixel does nothing, and Pillow 12.3.0 dies of it
        edges = edges.filter(ImageFilter.MaxFilter(line))
    picture.paste(PAPER, mask=edges)


def _draw_numbers(picture: Image.Image, ids: np.ndarray) -> None:
    """Each token's number on a dark badge, as large as its region allows."""
    draw = ImageDraw.Draw(picture, "RGBA")
    smallest, largest = 11, max(18, _side(picture) / 22)
    for token, (x, y, depth) in _label_places(ids, picture.size).items():
        font = ImageFont.load_default(float(np.clip(0.65 * depth, smallest, largest)))
        left, top, right, bottom = draw.textbbox((0, 0), str(token), font, anchor="mm")
        padding = 0.28 * font.size
        half_height = (bottom - top) / 2 + padding
        half_width = max((right - left) / 2 + padding, half_height)  # one digit sits in a circle
        # A number may be larger than its region; it stays inside the picture.
        x = float(np.clip(x, half_width, max(half_width, picture.width - 1 - half_width)))
        y = float(np.clip(y, half_height, max(half_height, picture.height - 1 - half_height)))
        box = (x - half_width, y - half_height, x + half_width, y + half_height)
        draw.rounded_rectangle(box, half_height, fill=(*INK, 215), outline=(*PAPER, 235))
        draw.text((x - (left + right) / 2, y - (top + bottom) / 2), str(token), PAPER, font, anchor="mm")


def _label_places(ids: np.ndarray, size: tuple[int, int]) -> dict[int, tuple[float, float, float]]:
    """
    For each token its deepest point, the centre of the largest circle inside its region, and the circle's radius, in
    pixels: {token: (x, y, radius)}. Of equally deep points the one nearest to the token's centre of mass.
    """
    fine = max(1, 96 // max(ids.shape)) | 1  # points per patch and axis; odd, so that one is the patch's centre
    points = np.pad(ids.repeat(fine, 0).repeat(fine, 1), 1, constant_values=-2)  # beyond the picture is outside
    rows, columns = points.shape
    step_x, step_y = size[0] / (columns - 2), size[1] / (rows - 2)

    # Squared distance to the nearest point of another region: along the row first, then over the rows of a column.
    squared_x = (step_x * (np.arange(columns)[:, None] - np.arange(columns))) ** 2
    squared_y = (step_y * (np.arange(rows)[:, None] - np.arange(rows))) ** 2
    along = np.where(points[:, :, None] == points[:, None], np.inf, squared_x).min(-1)
    depth = np.where(points[:, None] == points[None], along, 0) + squared_y[:, :, None]
    depth = np.sqrt(depth.min(1))

    places = {}
    for token in np.unique(ids[ids >= 0]).tolist():
        y, x = np.nonzero(points == token)
        inside = depth[y, x]
        off_centre = np.hypot(step_x * (x - x.mean()), step_y * (y - y.mean()))
        best = np.argmax(inside - 0.05 * off_centre)
        places[token] = (step_x * (x[best] - 0.5), step_y * (y[best] - 0.5), float(inside[best]))
    return places


def _add_legend(picture: Image.Image, colors: np.ndarray, labels: Sequence[str]) -> Image.Image:
    """The picture, and to its right a colour, number and label per token, in as many columns as needed."""
    font = ImageFont.load_default(max(14, _side(picture) / 36))
    line = round(1.7 * font.size)
    per_column = max(4, (picture.height - line // 2) // line)
    columns = [range(start, min(start + per_column, len(labels))) for start in range(0, len(labels), per_column)]
    number_width = font.getlength(str(len(labels) - 1)) + 0.6 * font.size
    widths = [line + number_width + max(font.getlength(labels[i]) for i in column) + line for column in columns]

    height = max(picture.height, min(per_column, len(labels)) * line + line // 2)
    canvas = Image.new("RGB", (picture.width + line // 2 + round(sum(widths)), height), PAPER)
    canvas.paste(picture)
    draw, left = ImageDraw.Draw(canvas), picture.width + line // 2
    for column, width in zip(columns, widths, strict=True):
        for place, token in enumerate(column):
            middle, swatch = line * (place + 0.75), 0.5 * font.size
            box = (left + line / 2 - swatch, middle - swatch, left + line / 2 + swatch, middle + swatch)
            draw.rounded_rectangle(box, swatch / 2, fill=tuple(colors[token].tolist()))
            draw.text((left + line + number_width - 0.6 * font.size, middle), str(token), INK, font, anchor="rm")
            draw.text((left + line + number_width, middle), labels[token], INK, font, anchor="lm")
        left += width
    return canvas


def _side(picture: Image.Image) -> float:
    """The side of a square of the picture's area, the measure for lines and letters."""
    return math.sqrt(picture.width * picture.height)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Break a text into lines of at most `width` pixels: at its own line breaks, at spaces, and inside longer words."""
    lines = []
    for paragraph in text.splitlines() or [""]:
        lines.append("")
        for word in paragraph.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and font.getlength(longer) > width:
                lines.append("")
                longer = word
            while len(longer) > 1 and font.getlength(longer) > width:
                fitting = (end for end in range(len(longer) - 1, 1, -1) if font.getlength(longer[:end]) <= width)
                end = next(fitting, 1)
                lines[-1:] = [longer[:end], ""]
                longer = longer[end:]
            lines[-1] = longer
    return lines
