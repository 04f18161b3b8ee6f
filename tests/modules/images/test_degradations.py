"""What the upsamplers' conditions go through: the blur of the formula, and crops that are windows."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from modules.images import degradations
from modules.images.degradations import bsr_degrade, gaussian_blur, gaussian_kernels, random_crop


@pytest.mark.parametrize(("size", "sigma"), [(3, 0.6), (5, 1.1)])
def test_the_blur_is_the_gaussian_kernel(size, sigma):
    weights = torch.tensor([math.exp(-((k - size // 2) ** 2) / (2 * sigma**2)) for k in range(size)])
    weights = weights / weights.sum()
    images = torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = images.clone()
    padded = F.pad(images, [size // 2] * 4, mode="reflect")
    kernel = (weights[:, None] * weights).expand(3, 1, -1, -1)
    expected = F.conv2d(padded, kernel, groups=3)
    assert_close(gaussian_blur(images, size, sigma), expected, atol=1e-5, rtol=1e-4)
    if size == 3:
        assert torch.equal(gaussian_blur(images), gaussian_blur(images, 3, 0.6))  # the paper's is the default
    assert torch.equal(images, before)


def coordinates(count, height, width):
    """Images whose pixels say where they are, and in which image."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.stack([y, x, torch.full_like(y, k)]) for k in range(count)]).float()


@pytest.mark.parametrize("multiple", [1, 4])
def test_every_crop_is_a_window_of_its_own_image(multiple):
    images = coordinates(400, 16, 24)
    crops = random_crop(images, 8, multiple, torch.Generator().manual_seed(0))
    corners = crops[:, :2, 0, 0]
    assert torch.equal(crops, coordinates(400, 8, 8) + F.pad(corners, (0, 1))[:, :, None, None])
    assert (corners % multiple == 0).all()
    for axis, side in enumerate((16, 24)):
        places, counts = corners[:, axis].unique(return_counts=True)
        assert places.tolist() == list(range(0, side - 8 + 1, multiple))  # the last one too
        assert counts.min() > 0.4 * 400 / len(places)
    assert len(corners.unique(dim=0)) > max(len(corners[:, 0].unique()), len(corners[:, 1].unique()))


def test_the_window_of_a_shrunk_image_is_the_shrunk_window():
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    crops = [
        random_crop(x, side, unit, torch.Generator().manual_seed(5))
        for x, side, unit in ((images, 8, 4), (F.avg_pool2d(images, 4), 2, 1))
    ]
    assert_close(F.avg_pool2d(crops[0], 4), crops[1])


def test_the_whole_image_is_a_window():
    images = coordinates(2, 8, 8)
    assert torch.equal(random_crop(images, 8, 4, torch.Generator()), images)


def test_a_crop_larger_than_the_image():
    with pytest.raises(ValueError, match="a crop of 16 pixels does not fit into 8 x 24"):
        random_crop(torch.zeros(1, 3, 8, 24), 16, 4, torch.Generator())


def test_the_kernels_have_the_variances_along_their_axes():
    variances, angle = torch.tensor([[1.2, 0.3], [0.5, 0.5]]), torch.tensor([0.7, 2.0])
    kernels = gaussian_kernels(variances, angle, side=21)
    place = torch.arange(21) - 10.0
    y, x = torch.meshgrid(place, place, indexing="ij")
    for kernel, (first, second), a in zip(kernels, variances, angle, strict=True):
        assert_close(kernel.sum(), torch.tensor(1.0))
        along, across = x * a.cos() + y * a.sin(), y * a.cos() - x * a.sin()
        assert_close((kernel * along**2).sum(), first, atol=0.02, rtol=0)
        assert_close((kernel * across**2).sum(), second, atol=0.02, rtol=0)
        assert (kernel * along * across).sum().abs() < 0.01


def smooth(count=8, side=32):
    g = torch.Generator().manual_seed(0)
    return F.interpolate(torch.rand(count, 3, 4, 4, generator=g) * 1.6 - 0.8, (side, side), mode="bicubic").clamp(-1, 1)


def test_the_bsr_degradation_is_a_worse_small_image_of_the_same_thing():
    images = smooth()
    before = images.clone()
    low = bsr_degrade(images, 4, torch.Generator().manual_seed(1))
    clean = F.interpolate(images, (8, 8), mode="bicubic", antialias=True)
    error = (low - clean).square().mean(dim=(1, 2, 3)).sqrt()
    assert low.shape == (8, 3, 8, 8)
    assert low.abs().max() <= 1
    assert (error > 0.005).all()  # noise, at the least
    assert (error < 0.35).all()
    spread = clean.std(dim=(1, 2, 3))
    assert (error < 0.8 * spread).all()
    assert torch.equal(images, before)


def test_the_bsr_degradation_is_the_generators():
    images = smooth()
    same = [bsr_degrade(images, 4, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(same[0], same[1])
    assert not torch.allclose(same[0], same[2], atol=1e-2)


def test_every_image_has_its_own_degradation():
    low = bsr_degrade(smooth(1).expand(8, -1, -1, -1), 4, torch.Generator().manual_seed(0))
    assert len({tuple(image.flatten().tolist()) for image in low}) == 8


def test_the_steps_are_shuffled_and_the_final_size_comes_last_of_the_two(monkeypatch):
    """In every order: two blurs, two sizes, noise, JPEG; and JPEG at the end."""
    steps = []
    for name in ("_random_blur", "_random_downscale", "_resize", "_random_noise", "_random_jpeg"):
        whole = getattr(degradations, name)
        monkeypatch.setattr(degradations, name, lambda *a, _n=name, _f=whole, **k: steps.append(_n) or _f(*a, **k))
    orders = set()
    for seed in range(12):
        steps.clear()
        bsr_degrade(smooth(1, 16), 4, torch.Generator().manual_seed(seed), groups=1)
        assert sorted(steps) == sorted(
            ["_random_blur"] * 2 + ["_random_downscale"] + ["_resize"] * 2 + ["_random_noise"] + ["_random_jpeg"] * 2
        )
        assert steps[-1] == "_random_jpeg"
        assert steps.index("_random_downscale") < steps.index("_resize")  # its own resize comes first
        orders.add(tuple(steps))
    assert len(orders) > 8


FEW = 800  # images, of which a half is more than 40 % and less than 60 % but for 1 in 10^7 seeds


def seen(monkeypatch, name):
    """Lets a function of the degradations run; the list of what it was called with."""
    calls, whole = [], getattr(degradations, name)
    monkeypatch.setattr(degradations, name, lambda *a, **k: calls.append((*a, *k.values())) or whole(*a, **k))
    return calls


def fills(values, low, high):
    """Uniform between two ends, as far as many draws tell: nothing beyond them, and a tenth in every tenth."""
    assert low <= values.min() and values.max() <= high
    tenths = torch.histc(values.flatten(), 10, low, high) / values.numel()
    assert (tenths - 0.1).abs().max() < 0.04, tenths


@pytest.mark.parametrize("factor", [2, 4])
def test_half_of_the_kernels_are_round_and_all_are_as_wide_as_bsr_has_them(monkeypatch, factor):
    """BSR's light form: round ones of standard deviations to (2 + 0.2 f) / 4, others of variances to (4 + f) / 4."""
    calls = seen(monkeypatch, "gaussian_kernels")
    degradations._random_blur(torch.zeros(FEW, 1, 4, 4), factor, torch.Generator().manual_seed(0))
    (variances, angle), *none = calls
    assert not none
    assert variances.shape == (FEW, 2)
    round_ones = variances[:, 0] == variances[:, 1]
    assert 0.4 < round_ones.float().mean() < 0.6
    fills(variances[round_ones, 0].sqrt(), 0.1, (2 + 0.2 * factor) / 4)
    others = variances[~round_ones]
    fills(others, 0.05, (4 + factor) / 4)
    assert others.T.corrcoef()[0, 1].abs() < 0.2  # along and across, each for itself
    fills(angle, 0, math.pi)


def test_the_blur_is_that_of_the_kernels(monkeypatch):
    """On a point of light: each image's own kernel, alike in its channels, of 7 pixels."""
    calls = seen(monkeypatch, "gaussian_kernels")
    point = torch.zeros(3, 2, 11, 11)
    point[:, :, 5, 5] = 1
    out = degradations._random_blur(point, 4, torch.Generator().manual_seed(0))
    expected = gaussian_kernels(*calls[0], side=7)
    assert_close(out[:, :, 2:9, 2:9], expected.flip(1, 2)[:, None].expand(-1, 2, -1, -1))
    assert out.sum(dim=(2, 3)).allclose(torch.ones(3, 2))


def test_the_noise_is_of_one_or_two_levels_and_half_of_it_grey():
    out = degradations._random_noise(torch.zeros(FEW, 3, 24, 24), torch.Generator().manual_seed(0))
    levels = out[:, 0].flatten(1).std(dim=1) * 255 / 2
    assert ((levels - 1).abs().minimum((levels - 2).abs()) < 0.25).all()
    assert 0.4 < (levels > 1.5).float().mean() < 0.6
    grey = (out == out[:, :1]).all(dim=(1, 2, 3))
    assert 0.4 < grey.float().mean() < 0.6
    assert abs(float(grey[levels > 1.5].float().mean()) - 0.5) < 0.15  # whatever the level
    channels = out[~grey].transpose(0, 1).flatten(1)
    assert (channels.corrcoef() - torch.eye(3)).abs().max() < 0.02


def test_jpeg_has_qualities_of_80_to_95_and_so_many_images(monkeypatch):
    calls = seen(monkeypatch, "jpeg")
    images = torch.rand(FEW, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for share, low, high in ((0.9, 0.86, 0.94), (1.0, 1.0, 1.0)):
        calls.clear()
        out = degradations._random_jpeg(images, share, torch.Generator().manual_seed(0))
        quality = calls[0][1]
        kinds, counts = quality.unique(return_counts=True)
        assert kinds.tolist() == list(range(80, 96))
        assert counts.min() > FEW / 16 / 2.5
        coded = (out != images).flatten(1).any(dim=1)
        assert low <= coded.float().mean() <= high


def test_jpeg_on_the_way_is_for_nine_of_ten_and_at_the_end_for_all(monkeypatch):
    calls = seen(monkeypatch, "_random_jpeg")
    bsr_degrade(smooth(2, 16), 4, torch.Generator().manual_seed(0), groups=1)
    assert [call[1] for call in calls] == [0.9, 1.0]


@pytest.mark.parametrize("factor", [2, 4])
def test_the_first_size_is_up_to_twice_as_small_as_the_last_and_all_interpolations_occur(monkeypatch, factor):
    generator, scales, modes = torch.Generator().manual_seed(0), [], []
    monkeypatch.setattr(degradations, "_resize", lambda x, size, generator: scales.append(1000 / size[0]))
    large = torch.zeros(1).expand(1, 1, 1000, 1000)
    for _ in range(FEW):
        degradations._random_downscale(large, factor, generator)
    fills(torch.tensor(scales), 1, 2 * factor * 1.01)
    monkeypatch.undo()
    resize = F.interpolate
    monkeypatch.setattr(degradations.F, "interpolate", lambda x, size, mode: modes.append(mode) or resize(x, size))
    for _ in range(300):
        degradations._resize(torch.zeros(1, 1, 4, 4), [2, 2], generator)
    assert all(70 < modes.count(mode) < 130 for mode in ("bilinear", "bicubic", "area"))
    assert len(modes) == 300
