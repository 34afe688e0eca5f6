"""Pictures of concept tokens: colours, outlines, numbers, legend, any size; rows and sheets of pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from processing import (
    SetokImageProcessor,
    contact_sheet,
    draw_concept_tokens,
    draw_mask,
    side_by_side,
    token_colors,
    visualization,
)

GREY = (128, 128, 128)


def voronoi(num_tokens: int, grid: tuple[int, int], seed: int = 0) -> np.ndarray:
    """(h, w) ids of tokens with random seeds, every one with at least its own patch."""
    rng = np.random.default_rng(seed)
    seeds = np.stack(np.unravel_index(rng.choice(grid[0] * grid[1], num_tokens, replace=False), grid), -1)
    patches = np.stack(np.mgrid[: grid[0], : grid[1]], -1)
    return np.linalg.norm(patches[:, :, None] - seeds, axis=-1).argmin(-1)


def draw(ids: np.ndarray, image: Image.Image | None = None, labels=None) -> np.ndarray:
    image = image or Image.new("RGB", (640, 640), GREY)
    return np.asarray(draw_concept_tokens(image, ids, ids.shape, labels)).astype(int)


def seen(picture: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Where a token of this colour is seen on the grey picture."""
    return np.abs(picture - (np.array(GREY) + np.array(color, float)) / 2).max(-1) <= 2


def badges(picture: np.ndarray) -> np.ndarray:
    """Where the dark ground of a number is seen."""
    return picture.max(-1) < 70


@pytest.mark.parametrize("num_tokens", [1, 2, 9, 24, 64])
@pytest.mark.parametrize("grid", [(8, 8), (27, 27), (9, 16)])
def test_every_token_has_its_colour_in_its_patches(num_tokens, grid):
    ids = voronoi(num_tokens, grid)
    picture, colors = draw(ids), token_colors(ids)
    assert colors.shape == (num_tokens, 3) and colors.dtype == np.uint8
    token_map = np.asarray(Image.fromarray(ids.astype(np.int32)).resize((640, 640), Image.Resampling.NEAREST))
    right = seen(picture, colors[token_map])
    assert np.isin(np.arange(num_tokens), token_map[right]).all()
    # The other pixels are the outlines, near a change of token, and the numbers, of limited size.
    near_change = np.zeros_like(right)
    for axis, shift in ((0, 3), (0, -3), (1, 3), (1, -3)):
        near_change |= token_map != np.roll(token_map, shift, axis)
    assert (~right & ~near_change).sum() < num_tokens * 42**2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_tokens", [8, 16, 40, 64])
def test_touching_tokens_have_different_colours(num_tokens, seed):
    ids = voronoi(num_tokens, (24, 24), seed)
    colors = token_colors(ids).astype(int)
    for a, b in ((ids[:, 1:], ids[:, :-1]), (ids[1:], ids[:-1]), (ids[1:, 1:], ids[:-1, :-1])):
        difference = np.abs(colors[a] - colors[b]).max(-1)
        assert (difference[a != b] > 40).all()


def test_colours_are_deterministic_and_few_tokens_share_none():
    ids = voronoi(12, (16, 16))
    assert (token_colors(ids) == token_colors(ids.copy())).all()
    assert len(np.unique(token_colors(ids), axis=0)) == 12
    assert len(np.unique(visualization._palette()[1], axis=0)) == 24


def test_a_chain_of_tokens_uses_distinct_colours_again_and_again():
    colors = token_colors(np.arange(200)[None])
    assert (np.bincount(np.unique(colors, axis=0, return_inverse=True)[1]) >= 6).all()


def test_outlines_are_exactly_where_the_token_changes():
    ids = np.zeros((8, 8), int)
    ids[:, 5:] = 1
    picture = draw(ids)
    white = (picture == 255).all(-1)
    white[badges(picture).nonzero()[0].min() - 9 : badges(picture).nonzero()[0].max() + 9] = False  # without numbers
    columns = white.any(0).nonzero()[0]
    assert abs(columns.mean() - 5 * 80) <= 1 and len(columns) <= 4
    assert white[:100].any(1).all()  # unbroken


@pytest.mark.parametrize(("grid", "size"), [((37, 37), (1024, 1024)), ((8, 16), (640, 320)), ((16, 9), (576, 700))])
def test_sharp_regions_keep_the_centre_of_every_patch(grid, size):
    """Also a patch alone among others, whatever the picture."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 5, grid)
    sharp = visualization._sharp_map(Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)), ids)
    rows, columns = (
        ((np.arange(n) + 0.5) * length / n).astype(int) for n, length in zip(grid, sharp.shape, strict=True)
    )
    assert np.array_equal(sharp[rows[:, None], columns], ids)


def test_sharp_regions_have_the_outlines_of_things():
    row, column = np.mgrid[:640, :640] - 319.5
    disc = row**2 + column**2 < 200**2
    picture = Image.fromarray(np.where(disc[..., None], (90, 30, 30), (200, 210, 220)).astype(np.uint8))
    ids = disc.reshape(16, 40, 16, 40).mean((1, 3)) > 0.5
    sharp = visualization._sharp_map(picture, ids.astype(int)) == 1
    assert (sharp != disc).mean() < 0.2 * (ids.repeat(40, 0).repeat(40, 1) != disc).mean()
    drawn = [
        np.asarray(draw_concept_tokens(picture, ids.astype(int), (16, 16), sharp=value)) for value in (True, False)
    ]
    assert drawn[0].shape == drawn[1].shape and not np.array_equal(*drawn)


def test_one_token_has_no_outline():
    picture = draw(np.zeros((5, 7), int))
    colored = seen(picture, token_colors(np.zeros((5, 7), int))[0])
    rows, columns = (~colored).nonzero()
    assert abs(rows.mean() - 320) < 3 and abs(columns.mean() - 320) < 3  # only the number, in the middle
    assert (~colored).sum() < 50**2


@pytest.mark.parametrize("num_tokens", [1, 10, 64])
def test_every_number_is_drawn_in_the_middle_of_its_region(num_tokens, monkeypatch):
    drawn = {}
    text = visualization.ImageDraw.ImageDraw.text

    def record(self, xy, string, *args, **kwargs):
        drawn[string] = xy
        return text(self, xy, string, *args, **kwargs)

    monkeypatch.setattr(visualization.ImageDraw.ImageDraw, "text", record)
    ids = voronoi(num_tokens, (27, 27))
    picture = draw(ids)
    assert sorted(map(int, drawn)) == list(range(num_tokens))
    patch = np.array(picture.shape[:2]) / ids.shape
    for string, (x, y) in drawn.items():
        assert ids[int(y / patch[0]), int(x / patch[1])] == int(string)
        window = picture[int(y) - 8 : int(y) + 9, int(x) - 8 : int(x) + 9]
        assert badges(window).any() and (window > 200).all(-1).any()  # light figures on dark ground


@pytest.mark.parametrize("background", ["white", "black", "red"])
def test_numbers_are_legible_on_any_background(background):
    picture = draw(np.zeros((4, 4), int), Image.new("RGB", (640, 640), background))
    middle = picture[300:340, 300:340]
    luminance = middle @ (0.2126, 0.7152, 0.0722)
    assert (luminance < 70).mean() > 0.2 and (luminance > 225).mean() > 0.05


def test_the_place_of_a_number_is_the_deepest_point():
    """A ring has its number in the ring, not in its hole; a thick part goes before a thin one."""
    ids = np.zeros((12, 12), int)
    ids[3:9, 3:9] = 1
    ids[5:7, 5:7] = 2
    places = visualization._label_places(ids, (480, 240))
    assert set(places) == {0, 1, 2}
    for token, (x, y, _) in places.items():
        assert ids[int(y / 20), int(x / 40)] == token
    assert np.allclose(places[2][:2], (240, 120), atol=4) and abs(places[2][2] - 20) < 4  # half its height
    comb = np.zeros((12, 12), int)
    comb[1, :6] = comb[:8, 6:] = 1
    x, y, depth = visualization._label_places(comb, (120, 120))[1]
    assert 80 <= x <= 100 and 25 <= y <= 55 and 27 <= depth <= 31


def test_the_radius_is_the_distance_to_the_nearest_other_token():
    """Against the definition, over all pairs of points."""
    ids = voronoi(5, (6, 9))
    places = visualization._label_places(ids, (90, 60))
    points = np.pad(ids.repeat(10, 0).repeat(10, 1), 1, constant_values=-2)
    y, x = np.mgrid[0:62, 0:92] - 0.5
    for token, (at_x, at_y, radius) in places.items():
        other = np.hypot(x - at_x, y - at_y)[points != token].min()
        assert abs(other - radius) < 2
        depths = [
            np.hypot(x[points != token] - i, y[points != token] - j).min()
            for j, i in zip(y[points == token][::7], x[points == token][::7], strict=True)
        ]
        assert radius > max(depths) - 4


def test_padding_is_left_as_it_is():
    ids = voronoi(6, (10, 10))
    ids[7:] = -1
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8))
    picture = draw(ids, image)
    assert (picture[7 * 60 + 6 :] == np.asarray(image)[7 * 60 + 6 :]).all()
    assert (picture[: 7 * 60 - 6] != np.asarray(image)[: 7 * 60 - 6]).any(-1).mean() > 0.9


def test_only_padding_is_the_picture_itself():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8))
    assert (draw(np.full((4, 4), -1), image) == np.asarray(image)).all()


@pytest.mark.parametrize("size", [(1, 1), (17, 23), (64, 64), (33, 400), (400, 20), (641, 803)])
@pytest.mark.parametrize("grid", [(1, 1), (14, 14), (5, 40), (37, 3)])
def test_any_size_and_grid(size, grid):
    ids = voronoi(min(grid[0] * grid[1], 30), grid)
    result = draw_concept_tokens(Image.new("RGB", size, GREY), ids, grid)
    assert result.mode == "RGB" and max(result.size) >= min(512, max(size)) and min(result.size) >= 1
    if max(size) < 3 * min(size):
        assert result.width / result.height == pytest.approx(size[0] / size[1], rel=0.02)
    if min(size) > 500:
        assert result.size == size


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_any_mode(mode):
    assert draw_concept_tokens(Image.new(mode, (600, 600)), np.zeros(4, int), (2, 2)).mode == "RGB"


def test_pictures_are_shown_as_the_processor_reads_them(tmp_path):
    image = Image.new("RGBA", (600, 300), (0, 0, 0, 0))
    image.paste("red", (0, 0, 300, 300))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise: red above
    image.save(tmp_path / "turned.png", exif=exif)
    image = Image.open(tmp_path / "turned.png")
    picture = draw_concept_tokens(image, np.full((2, 1), -1), (2, 1))
    read = SetokImageProcessor(do_resize=False, do_rescale=False, do_normalize=False)(image).pixel_values[0]
    assert picture.size == (300, 600)
    assert (np.asarray(picture) == read.permute(1, 2, 0).numpy()).all()
    row = side_by_side([image], ["turned"])
    assert (row.getpixel((100, 100)), row.getpixel((100, 500))) == ((255, 0, 0), (255, 255, 255))


def test_ids_may_be_flat_or_tensors():
    ids = voronoi(5, (6, 9))
    image = Image.new("RGB", (600, 400), GREY)
    expected = np.asarray(draw_concept_tokens(image, ids, (6, 9)))
    for kind in (ids.ravel(), torch.from_numpy(ids), torch.from_numpy(ids).flatten().int(), ids.tolist()):
        assert (np.asarray(draw_concept_tokens(image, kind, (6, 9))) == expected).all()


@pytest.mark.parametrize("num_tokens", [1, 7, 64])
@pytest.mark.parametrize("size", [(640, 640), (900, 200)])
def test_the_legend_lists_every_token_and_covers_nothing(num_tokens, size):
    ids = voronoi(num_tokens, (8, 8))
    image = Image.new("RGB", size, GREY)
    alone, with_legend = draw(ids, image), draw(ids, image, [f"red apple {i}" for i in range(num_tokens)])
    height, width = alone.shape[:2]
    assert (with_legend[:height, :width] == alone).all()
    legend = with_legend[:, width:]
    for color in np.unique(token_colors(ids), axis=0):
        swatches = (legend == color).all(-1)
        assert swatches.sum() >= 60
    assert (legend[:, -1] == 255).all() and (legend[-1] == 255).all()  # nothing runs out of the picture


@pytest.mark.parametrize(
    ("ids", "labels", "message"),
    [
        (np.zeros(5, int), None, r"2x2 patches.*shape \(5,\)"),
        (np.zeros((4, 1), int), None, "2x2 patches"),
        (np.zeros(4), None, "must be integers"),
        (np.full(4, -2), None, "-1 for padding"),
        (np.arange(4), ["a"], "4 tokens need as many labels, got 1"),
    ],
)
def test_bad_tokens_are_refused(ids, labels, message):
    with pytest.raises(ValueError, match=message):
        draw_concept_tokens(Image.new("RGB", (9, 9)), ids, (2, 2), labels)


def test_a_mask_keeps_the_colours_of_what_it_covers():
    picture = Image.new("RGB", (60, 40), (200, 30, 90))
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:30, 20:50] = True
    drawn = np.array(draw_mask(picture, mask), dtype=int)
    height, width, _ = drawn.shape
    assert width == 512 and abs(height - 512 * 40 / 60) < 1  # enlarged
    x, y = (np.arange(width) + 0.5) * 60 / width, (np.arange(height) + 0.5) * 40 / height
    across = np.minimum(x - 20, 50 - x)[None], np.minimum(y - 10, 30 - y)[:, None]
    depth = np.minimum(*np.broadcast_arrays(*across))  # in pixels of the picture; below 0 is outside
    assert (drawn[depth > 1] == (200, 30, 90)).all()
    outside = drawn[depth < -1]
    assert (outside == outside[:, :1]).all() and outside.min() > 150  # pale and grey
    assert (drawn[np.abs(depth) < 0.05] == 255).all()  # the outline

    blank = draw_mask(picture, np.zeros_like(mask))
    assert blank.getextrema()[0] == blank.getextrema()[1] == (outside[0, 0],) * 2
    assert draw_mask(picture.resize((600, 400)), np.ones((400, 600), bool)).getcolors() == [(240_000, (200, 30, 90))]
    with pytest.raises(ValueError, match=r"40x60 needs a mask as large, got \(60, 40\)"):
        draw_mask(picture, mask.T)


def test_side_by_side_shows_every_picture_whole_and_level():
    images = [Image.new("RGB", (300, 300), "red"), Image.new("RGB", (60, 30), "lime"), Image.new("L", (10, 20), 0)]
    row = np.asarray(side_by_side(images, ["original", "8 concept tokens", "reconstruction"]))
    red, lime, black = ((row == color).all(-1) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 0)))
    assert red.sum() == 300 * 300 and lime.sum() == 600 * 300 and black.sum() == 150 * 300
    tops = {mask.nonzero()[0].min() for mask in (red, lime, black)}
    lefts = [mask.nonzero()[1].min() for mask in (red, lime, black)]
    assert len(tops) == 1 and lefts == sorted(lefts)
    below = row[max(tops) + 300 :]
    for mask in (red, lime, black):
        columns = mask.any(0).nonzero()[0]
        assert (below[:, columns].max(-1) < 128).any()  # a caption below each
    assert (row[-1] == 255).all() and (row[:, -1] == 255).all()


def test_small_pictures_are_enlarged_and_long_captions_wrapped():
    image = Image.new("RGB", (32, 32), "red")
    short, long = side_by_side([image], ["short"]), side_by_side([image], ["many words " * 12])
    assert short.width == long.width >= 256 and long.height > short.height
    text = (np.asarray(long).max(-1) < 128).nonzero()
    assert text[1].min() > 0 and text[1].max() < long.width - 1 and text[0].max() < long.height - 1


def test_contact_sheet_stacks_rows():
    rows = [Image.new("RGB", (50, 20), "red"), Image.new("L", (80, 30), 0)]
    sheet = contact_sheet(rows)
    assert sheet.size == (80, 50)
    assert sheet.getpixel((0, 0)) == (255, 0, 0) and sheet.getpixel((60, 5)) == (255, 255, 255)
    assert sheet.getpixel((79, 49)) == (0, 0, 0)


def test_rows_and_sheets_need_pictures():
    with pytest.raises(ValueError, match="one caption for each, got 1 and 2"):
        side_by_side([Image.new("RGB", (9, 9))], ["a", "b"])
    with pytest.raises(ValueError, match="at least one row"):
        contact_sheet([])
