"""Token maps: where clusters lie, how a map is laid over the picture, how tokens share it, what training makes of it.

In most tests a token spells out what it means: where it lies and every knot of its map.
"""

import copy
import math

import pytest
import torch
from torch import nn

from modeling_setok import SetokConfig, SetokDetokenizerConfig, SetokForPreTraining, SetokModelOutput
from modeling_setok.cluster_extents import cluster_extents
from modeling_setok.token_maps import REACH, TYPICAL_SPREAD, TokenMaps

SIZE, KNOTS = 32, 5  # places on a side of the canvas, knots on a side of a map
HIDDEN = torch.finfo(torch.float32).min  # the placement of a padding token


def spelled_maps(size: int = SIZE, channels: int = 1) -> TokenMaps:
    """Its tokens spell out told extents, then knots."""
    width = 4 + KNOTS**2 * (channels + 1)
    maps = TokenMaps(
        SetokDetokenizerConfig(patch_size=2, map_size=KNOTS, map_hidden_size=width, hidden_act="linear"),
        width, size, channels,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in maps.parameters():
            parameter.zero_()
        for layer in (maps.extent[0], maps.unfold[0], maps.unfold[2]):
            layer.weight.copy_(torch.eye(width))
        maps.extent[-1].weight.copy_(torch.eye(width)[:4])
        maps.unfold[-1].weight.copy_(torch.eye(width)[4:])
    return maps


def spell(centre: tuple[float, float], spread: tuple[float, float], knots: torch.Tensor) -> torch.Tensor:
    """Token (D,) of a map whose `knots` are (K, K, F + 1); centre and spread (x, y) in sides of the picture."""
    told = torch.cat([torch.tensor(centre) - 0.5, (torch.tensor(spread) / TYPICAL_SPREAD).log()])
    return torch.cat([told, knots.flatten()])


def flat_knots(feature: float, outline: float = 0.0) -> torch.Tensor:
    return torch.tensor([feature, outline]).expand(KNOTS, KNOTS, 2)


def paint(maps: TokenMaps, *tokens: torch.Tensor, placement: torch.Tensor | None = None) -> torch.Tensor:
    """(size, size, F) of one picture of these tokens, which share places evenly but for outlines."""
    if placement is None:
        placement = torch.zeros(1, maps.size**2, len(tokens))
    return maps(torch.stack(tokens)[None], placement)[0].unflatten(0, (maps.size, maps.size))


def random_maps(channels: int = 3, size: int = 6) -> TokenMaps:
    config = SetokDetokenizerConfig(patch_size=2, map_size=4, map_hidden_size=16)
    return TokenMaps(config, 8, size, channels)


def test_a_knot_shows_its_feature_and_a_place_between_two_their_mean():
    """The map's half is 8 places wide: 4 places lie from knot to knot."""
    maps, knots = spelled_maps(channels=2), torch.randn(KNOTS, KNOTS, 3)
    spread = 8 / SIZE / REACH
    painted = paint(maps, spell((16.5 / SIZE, 12.5 / SIZE), (spread, spread), knots))
    torch.testing.assert_close(painted[4:21:4, 8:25:4], knots[..., :2], rtol=0, atol=1e-5)
    between = (knots[:-1, ..., :2] + knots[1:, ..., :2]) / 2
    torch.testing.assert_close(painted[6:19:4, 8:25:4], between, rtol=0, atol=1e-5)


def test_where_a_token_tells_that_it_lies_its_map_is_painted():
    maps, knots = spelled_maps(channels=2), torch.randn(KNOTS, KNOTS, 3)
    here = paint(maps, spell((0.4, 0.5), (0.08, 0.05), knots))
    there = paint(maps, spell((0.4 + 5 / SIZE, 0.5 - 3 / SIZE), (0.08, 0.05), knots))
    assert here.std() > 0.1
    torch.testing.assert_close(there, here.roll((-3, 5), dims=(0, 1)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1])
def test_spread_stretches_a_map(axis):
    """Twice the spread along an axis shows everything twice as far from the centre, and nothing else changes."""
    maps, knots, middle = spelled_maps(channels=2), torch.randn(KNOTS, KNOTS, 3), 16.5 / SIZE
    narrow, wide = [0.06, 0.06], [0.06, 0.06]
    wide[axis] *= 2
    before = paint(maps, spell((middle, middle), narrow, knots))
    after = paint(maps, spell((middle, middle), wide, knots))
    if axis == 0:  # x: columns
        before, after = before.transpose(0, 1), after.transpose(0, 1)
    torch.testing.assert_close(after[2:31:2], before[9:24], rtol=0, atol=1e-4)


def test_nothing_is_read_beyond_the_map():
    """A flat map is flat up to its border, fades over the distance of two knots, and is nothing from there."""
    spread = torch.tensor([0.08, 0.05])
    painted = paint(spelled_maps(), spell((0.4, 0.6), spread.tolist(), flat_knots(1.0)))[..., 0]
    places = (torch.arange(SIZE) + 0.5) / SIZE
    offsets = torch.stack([(places - 0.4).expand(SIZE, SIZE), (places - 0.6)[:, None].expand(SIZE, SIZE)], -1).abs()
    on_map = offsets / (REACH * spread)
    inside, outside = (on_map <= 1).all(-1), (on_map >= 1 + 2 / (KNOTS - 1)).any(-1)
    assert inside.sum() > 50 and outside.sum() > 400
    torch.testing.assert_close(painted[inside], torch.ones(int(inside.sum())))
    assert (painted[outside] == 0).all()
    assert ((painted >= 0) & (painted <= 1 + 1e-6)).all()
    assert (paint(spelled_maps(), spell((-1.0, 0.5), (0.1, 0.1), flat_knots(1.0))) == 0).all()


def test_a_map_covers_what_its_token_was_made_of():
    ids = rectangles()
    extents = extents_of(ids)
    for thing in (1, 2):
        centre, spread = extents[0, thing].split(2)
        painted = paint(spelled_maps(), spell(centre.tolist(), spread.tolist(), flat_knots(1.0)))[..., 0]
        inside = (ids[0] == thing).repeat_interleave(SIZE // 8, 0).repeat_interleave(SIZE // 8, 1)
        torch.testing.assert_close(painted[inside], torch.ones(int(inside.sum())))


def test_shares_sum_to_one():
    """Tokens that all show the same show it, however they share the picture."""
    knots = torch.stack([flat_knots(3.0) for _ in range(6)])
    knots[..., 1] = torch.randn(6, KNOTS, KNOTS)
    tokens = [spell((0.5, 0.5), (0.4, 0.4), map_knots) for map_knots in knots]
    painted = paint(spelled_maps(), *tokens, placement=5 * torch.randn(1, SIZE**2, 6))
    torch.testing.assert_close(painted, torch.full_like(painted, 3.0))


def test_placement_and_outline_together_say_who_owns_a_place():
    """An object on a ground, which share places evenly, but its outline takes its left half and leaves its right."""
    outline = torch.tensor([30.0, 30.0, 0.0, -30.0, -30.0]).expand(KNOTS, KNOTS)
    ground = spell((0.5, 0.5), (0.4, 0.4), flat_knots(1.0))
    thing = spell(
        (16.5 / SIZE, 16.5 / SIZE), (8 / SIZE / REACH,) * 2, torch.stack([torch.full_like(outline, 5), outline], -1)
    )
    painted = paint(spelled_maps(), ground, thing)[8:25, 8:25, 0]
    torch.testing.assert_close(painted[:, :6], torch.full((17, 6), 5.0))
    torch.testing.assert_close(painted[:, 8], torch.full((17,), (5.0 + 1.0) / 2))
    torch.testing.assert_close(painted[:, 11:], torch.full((17, 6), 1.0))
    placement = torch.zeros(1, SIZE**2, 2)
    placement[..., 0] = 80.0
    painted = paint(spelled_maps(), ground, thing, placement=placement)
    torch.testing.assert_close(painted, torch.ones_like(painted))


def test_padding_contributes_nothing():
    maps, tokens = random_maps(), torch.randn(3, 5, 8)
    token_mask = torch.arange(5) < torch.tensor([5, 1, 3])[:, None]
    placement = torch.randn(3, 36, 5).masked_fill(~token_mask[:, None], HIDDEN)
    painted = maps(tokens, placement)
    assert painted.shape == (3, 36, 3)
    others = tokens.masked_fill(~token_mask[..., None], 99.0)
    torch.testing.assert_close(maps(others, placement), painted, rtol=0, atol=0)
    for row, count in enumerate([5, 1, 3]):
        alone = maps(tokens[row : row + 1, :count], placement[row : row + 1, :, :count])
        torch.testing.assert_close(painted[row], alone[0], rtol=0, atol=1e-5)


def test_order_of_tokens_does_not_matter():
    maps, tokens, placement, order = random_maps(), torch.randn(2, 5, 8), torch.randn(2, 36, 5), torch.randperm(5)
    painted = maps(tokens[:, order], placement[..., order])
    torch.testing.assert_close(painted, maps(tokens, placement), rtol=0, atol=1e-5)


def test_what_is_painted_teaches_where_tokens_lie():
    """A bump that is painted elsewhere pulls what its token tells to its place and size, without another loss."""
    maps = spelled_maps()
    hat = 1 - torch.linspace(-1, 1, KNOTS).abs()
    knots = torch.stack([hat[:, None] * hat, torch.zeros(KNOTS, KNOTS)], dim=-1)
    target = paint(maps, spell((0.58, 0.44), (0.13, 0.09), knots)).detach()
    start = spell((0.5, 0.5), (0.11, 0.11), knots)
    told = start[:4].clone().requires_grad_()
    optimizer = torch.optim.Adam([told], lr=0.02)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.mse_loss(paint(maps, torch.cat([told, start[4:]])), target).backward()
        optimizer.step()
    extents = maps.extents(torch.cat([told, start[4:]])[None, None]).detach()
    torch.testing.assert_close(extents[0, 0], torch.tensor([0.58, 0.44, 0.13, 0.09]), rtol=0, atol=0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_two_bytes_a_number(dtype):
    """Where tokens lie stays in float32, and a padding token hides behind the lowest float32."""
    maps, tokens, placement = random_maps(), torch.randn(2, 5, 8), torch.randn(2, 36, 5)
    placement[1, :, 3:] = HIDDEN
    expected, low = maps(tokens, placement), copy.deepcopy(maps).to(dtype)
    assert low.extents(tokens.to(dtype)).dtype == torch.float32
    painted = low(tokens.to(dtype), placement)
    assert painted.dtype == dtype and painted.isfinite().all()
    torch.testing.assert_close(painted.float(), expected, rtol=0.05, atol=0.02)


def rectangles() -> torch.LongTensor:
    """(1, 8, 8): ground, and two things of 3 x 4 and 2 x 2 cells; no cell is of token 3."""
    ids = torch.zeros(1, 8, 8, dtype=torch.long)
    ids[0, 1:4, 3:7] = 1
    ids[0, 5:7, 0:2] = 2
    return ids


def extents_of(ids: torch.LongTensor) -> torch.Tensor:
    return cluster_extents(ids.flatten(1)[:, None] == torch.arange(4)[:, None], ids.shape[1:])


def test_extent_error_by_hand():
    ids, maps = rectangles(), spelled_maps()
    extents = extents_of(ids)[0]
    extents[3] = torch.tensor([7.0, -7.0, 1.0, 1.0])  # of no cell: whatever it tells, it is not asked
    tokens = torch.stack([spell(tuple(row[:2]), tuple(row[2:]), flat_knots(0.0)) for row in extents.tolist()])[None]
    assert maps.extent_error(tokens, ids) < 1e-6
    tokens[0, 1, 0] += 1 / 16  # one of twelve numbers is wrong by one, which counts 1 - 0.25 / 2
    assert maps.extent_error(tokens, ids).item() == pytest.approx(0.875 / 12, abs=1e-5)


def setok_with_maps(**settings) -> SetokForPreTraining:
    """A picture of 32 pixels in 4 x 4 cells, from 8 x 8 patches."""
    small = {"intermediate_size": 32, "num_attention_heads": 2}
    vision_config = {"model_type": "siglip_vision_model", "num_hidden_layers": 1, "image_size": 32, "patch_size": 4}
    return SetokForPreTraining(SetokConfig(
        vision_config={**vision_config, "hidden_size": 16, **small}, hidden_size=16, num_inner_layers=1,
        num_inter_layers=1, num_neighbors=4, projection_dim=8, text_feature_dim=8, initializer_range=0.1, **small,
        detokenizer_config={
            "hidden_size": 16, "num_hidden_layers": 1, "grid_size": 4, "patch_size": 8, "map_size": 8,
            "map_hidden_size": 32, "initializer_range": 0.1, **small,
        },
        **settings,
    ))  # fmt: skip


def test_placement_loss_asks_tokens_where_they_lie():
    """Beside the cross-entropy of the cells it is nothing where the head tells exactly where each token lies."""
    model, ids, tokens = setok_with_maps(), rectangles(), torch.randn(1, 3, 16)
    output = SetokModelOutput(
        last_hidden_state=tokens, token_mask=torch.ones(1, 3, dtype=torch.bool), cluster_ids=ids.flatten(1),
        grid_size=(8, 8),
    )  # fmt: skip
    cells = ids[0, 1::2, 1::2].flatten()  # the patch below the middle of each of 4 x 4 cells
    cross_entropy = nn.functional.cross_entropy(model.detokenizer.placement(tokens)[0], cells)
    assert model.placement_loss(output) > cross_entropy + 0.1
    head = model.detokenizer.pixel_decoder.token_maps.extent
    exact = extents_of(ids)[0, :3]
    told = torch.cat([exact[:, :2] - 0.5, (exact[:, 2:] / TYPICAL_SPREAD).log()], dim=-1)
    with torch.no_grad():
        head[-1].weight.copy_((torch.linalg.pinv(head[:-1](tokens[0])) @ told).T)
        head[-1].bias.zero_()
    assert abs(model.placement_loss(output) - cross_entropy) < 1e-3


def test_training_paints_a_square_where_it_is():
    """A bright square on dark, of 3 x 3 patches: after some steps it stands out at its border, and its token tells
    where it lies."""
    square = torch.zeros(8, 8, dtype=torch.bool)
    square[1:4, 4:7] = True
    patches = torch.randn(2, 16)[square.flatten().long()][None]
    picture = 2.0 * square.float().repeat_interleave(4, 0).repeat_interleave(4, 1) - 1
    rows, inner, outer = slice(4, 16), slice(16, 18), slice(14, 16)  # two pixels on either side of its left border

    def contrast(model: SetokForPreTraining) -> float:
        tokens = model.setok(patch_embeddings=patches, grid_size=(8, 8))
        painted = model.detokenize(tokens.last_hidden_state, tokens.token_mask).detach()[0, :, rows]
        return (painted[..., inner].mean() - painted[..., outer].mean()).item()

    model = setok_with_maps(placement_weight=1.0)
    assert abs(contrast(model)) < 0.5
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(60):
        optimizer.zero_grad()
        output = model(patch_embeddings=patches, grid_size=(8, 8), target_pixel_values=picture.expand(1, 3, 32, 32))
        output.loss.backward()
        optimizer.step()
    assert output.setok_output.num_tokens.tolist() == [2]
    assert contrast(model) > 1.5  # of 2
    token = output.setok_output.cluster_ids.unflatten(1, (8, 8))[0, 2, 5]
    maps = model.detokenizer.pixel_decoder.token_maps
    extents = maps.extents(output.setok_output.last_hidden_state)[0, token].detach()
    true = torch.tensor([5.5 / 8, 2.5 / 8, 3 / 8 / math.sqrt(12), 3 / 8 / math.sqrt(12)])
    torch.testing.assert_close(extents, true, rtol=0, atol=0.02)
