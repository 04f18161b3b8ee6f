"""Where z_i goes: paths, grids, text diffs and principal components."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from modules.errors import InputError
from modules.manipulations import (
    Latents,
    blend,
    component_counts,
    from_captions,
    path,
    principal_components,
    redraw,
    slerp,
    square,
    text_diff,
    text_direction,
)
from modules.seeds import ImageSeeds


def latents(count: int) -> Latents:
    g = torch.Generator().manual_seed(0)
    z_i = F.normalize(torch.randn(count, 16, generator=g), dim=1)
    return Latents(z_i, torch.randn(count, 3, 4, 4, generator=g), torch.zeros(count, 5, dtype=torch.int64))


def test_ends_of_an_interpolation_are_the_reconstructions(system, inverted):
    ends = redraw(system, path(inverted[:2], 3))[[0, 2]]
    assert_close(ends, redraw(system, inverted[:2]), atol=1e-5, rtol=0)


def test_a_path_goes_through_its_stops():
    stops = latents(3)
    points = path(stops, 5)
    for name in ("z_i", "x_T"):
        assert torch.equal(getattr(points, name)[[0, 2, 4]], getattr(stops, name))
    middle = points[1:2]
    assert_close(middle.z_i, slerp(stops.z_i[:1], stops.z_i[1:2], 0.5))
    assert_close(middle.x_T, slerp(stops.x_T[:1], stops.x_T[1:2], 0.5))


def test_shared_noise_is_the_same_everywhere():
    stops, noise = latents(2), torch.full((1, 3, 4, 4), 0.5)
    points = path(stops, 4, noise)
    assert torch.equal(points.x_T, noise.expand(4, -1, -1, -1))
    assert torch.equal(points.z_i[[0, 3]], stops.z_i)


def test_a_grid_has_the_images_in_its_corners():
    corners = latents(4)
    points = square(corners, 3)
    assert torch.equal(points.z_i[[0, 2, 6, 8]], corners.z_i)
    assert torch.equal(points.x_T[[0, 2, 6, 8]], corners.x_T)
    assert_close(points.z_i[1], slerp(corners.z_i[:1], corners.z_i[1:2], 0.5)[0])
    assert_close(points.z_i[3], slerp(corners.z_i[:1], corners.z_i[2:3], 0.5)[0])


def test_a_blend_keeps_a_caption_that_both_have():
    a = latents(1)
    same = Latents(a.z_i, a.x_T, a.tokens + 3)
    assert torch.equal(blend(same, same, 0.5).tokens, same.tokens)
    assert torch.equal(blend(a, same, 0.5).tokens, torch.zeros_like(a.tokens))


def test_captions_blend_with_the_same_noise(system):
    seeds = ImageSeeds.of([5, 5], 2)
    stops = from_captions(system, ["a red circle", "a blue square"], seeds, "text_embedding")
    assert torch.equal(stops.x_T[0], stops.x_T[1])
    assert_close(stops.z_i, system.embed_text(["a red circle", "a blue square"])[1])
    assert not stops.tokens.any()
    with pytest.raises(InputError, match="gives no z_i"):
        from_captions(system, ["a red circle"], seeds[:1], "caption_only")


def test_a_text_direction_is_the_normalised_difference(system):
    z_t = system.embed_text(["a blue circle", "a red circle"])[1]
    z_d = text_direction(system, ["a blue circle"], ["a red circle"])
    assert_close(z_d, F.normalize(z_t[:1] - z_t[1:], dim=1))
    assert_close(text_direction(system, ["a blue circle"]), z_t[:1])
    with pytest.raises(InputError, match="no direction between them"):
        text_direction(system, ["a red circle"], ["a red circle"])
    with pytest.raises(InputError, match="1 base captions do not go with 2 targets"):
        text_direction(system, ["a", "one"], ["a"])


def test_a_text_diff_turns_z_i_by_theta_and_keeps_the_rest():
    source = latents(2)
    z_d = latents(3).z_i[2:].expand(2, -1)
    moved = text_diff(source, z_d, 0.25)
    whole = (source.z_i * z_d).sum(dim=1).acos()
    assert_close((moved.z_i * source.z_i).sum(dim=1).acos(), 0.25 * whole, atol=1e-4, rtol=0)
    assert torch.equal(moved.x_T, source.x_T)
    assert_close(text_diff(source, z_d, 0.0).z_i, source.z_i)


def test_components_rebuild_more_the_more_there_are():
    g = torch.Generator().manual_seed(0)
    spread = torch.tensor([1.0, 0.5, 0.2, 0.1, 0.01, 0.0, 0.0, 0.0])
    z_i = F.normalize(torch.randn(200, 8, generator=g) * spread + 0.2, dim=1)
    codec = principal_components(z_i)
    errors = [float((codec.reconstruct(z_i, k) - z_i).square().mean()) for k in range(9)]
    assert errors[:7] == sorted(errors[:7], reverse=True)
    assert max(errors[6:]) < 1e-10
    counts = component_counts(codec)
    kept = codec.eigenvalues.cumsum(0) / codec.eigenvalues.sum()
    assert kept[counts[-1] - 1] >= 0.99 > kept[counts[-1] - 2]
    assert counts == sorted(set(counts))
    raw = principal_components(5 * z_i)
    assert_close(raw.reconstruct(5 * z_i, 8, raw=True), 5 * z_i, atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="too few"):
        principal_components(z_i[:8])


@pytest.mark.parametrize(("stops", "count"), [(1, 3), (2, 1), (3, 2)])
def test_a_path_needs_two_stops_and_two_points(stops, count):
    with pytest.raises(InputError, match="2 or more"):
        path(latents(stops), count)


def test_a_grid_needs_four_corners():
    with pytest.raises(InputError, match="between 4 pictures"):
        square(latents(3), 3)
