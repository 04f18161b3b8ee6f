"""Two upsamplers behind one another, under the names that the paper's sizes give them: every method reaches 64 px."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch.testing import assert_close

from modules.errors import InputError
from modules.manipulations import Hole, Walk, enlarge, reachable_sizes
from modules.manipulations.enlarging import upsampler_names
from modules.models.upsampler import UpsamplerModel
from modules.pipeline import UnCLIP
from modules.seeds import ImageSeeds

QUICK = Walk(steps=3)


@pytest.fixture(scope="module")
def chained(chained_run):
    return UnCLIP(chained_run)


def through(system: UnCLIP, low: torch.Tensor, seeds: ImageSeeds, *names: str) -> torch.Tensor:
    """What the named upsamplers make of an image, one after the other."""
    for name in names:
        stored = system.stage(name).model
        low = UpsamplerModel(stored.network, stored.objective, stored.sampler).sample(low, seeds.generators(name))
    return low


def test_upsamplers_come_in_the_order_of_their_sizes(chained, chained_run, tmp_path):
    assert upsampler_names(chained) == ["upsampler_256", "upsampler_1024"]
    assert reachable_sizes(chained) == [16, 32, 64]
    assert reachable_sizes(chained, 32) == [16, 32]
    run = tmp_path / "run"
    shutil.copytree(chained_run, run)
    shutil.copytree(run / "upsampler_256", run / "upsampler")
    for name in ("upsampler_x", "upsampler_2_old", "my_upsampler_64", "upsampler_512"):
        (run / name).mkdir()  # The last has the right name and no weights.
    (run / "upsampler.log").write_text("")
    assert upsampler_names(UnCLIP(run)) == ["upsampler", "upsampler_256", "upsampler_1024"]


def test_what_is_drawn_goes_through_all_of_them(chained):
    """The first one's output is the second one's input, each with noise of its own."""
    seeds, low = ImageSeeds.of(3, 2), torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    middle = through(chained, low, seeds, "upsampler_256")
    high = through(chained, middle, seeds, "upsampler_1024")
    assert high.shape == (2, 3, 64, 64)
    assert_close(enlarge(chained, low, None, seeds), high)
    assert_close(enlarge(chained, low, 64, seeds, batch_size=1), high, atol=1e-4, rtol=0)
    assert_close(enlarge(chained, low, 32, seeds), middle)
    assert_close(enlarge(chained, low, 16, seeds), low)
    assert_close(chained.upsample(low, seeds), high)
    assert_close(chained.upsample(low, seeds, 32), middle)
    swapped = through(chained, low, seeds, "upsampler_1024", "upsampler_256")
    assert (swapped - high).abs().max() > 0.1  # or the order would not show


def test_captions_are_drawn_at_every_size(chained):
    seeds = ImageSeeds.of(1, 2)
    captions = ["a red circle", "a blue square"]
    low, middle, high = (chained.text_to_image(captions, seed=1, size=size).tensor for size in (16, 32, 64))
    assert_close(middle, through(chained, low, seeds, "upsampler_256"))
    assert_close(high, through(chained, middle, seeds, "upsampler_1024"))
    assert torch.equal(chained.text_to_image(captions, seed=1).tensor, high)
    assert torch.equal(chained.generate(captions, seed=1), high)
    assert torch.equal(chained.generate(captions, seed=1, size=32), middle)
    assert torch.equal(chained.generate(captions, seed=1, upsample=False), low)


def test_variations_are_enlarged_to_the_largest_size(chained, test_pictures):
    latents = chained.invert(test_pictures[:1], walk=QUICK)
    low, high = (
        chained.image_variations(latents, eta=0.5, seed=[4], walk=QUICK, size=size).tensor for size in (16, None)
    )
    assert_close(high, through(chained, low, ImageSeeds.of([4], 1), "upsampler_256", "upsampler_1024"))


def test_inpainting_keeps_known_pixels_at_every_size(chained, test_pictures):
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[:, 8:] = True
    made = chained.inpaint(test_pictures[0], mask, "a red circle", seed=[1, 2], walk=QUICK, resamples=1).tensor
    assert made.shape == (2, 3, 64, 64)
    keep = torch.ones(1, 1, 16, 16)
    keep[..., 8:] = 0
    known = Hole(test_pictures[:1], keep).at(64)
    assert_close(made[..., :32], known.images[..., :32].expand(2, -1, -1, -1))
    assert (made[0, ..., 32:] - made[1, ..., 32:]).abs().max() > 1e-2
    smaller = chained.inpaint(test_pictures[0], mask, "a red circle", seed=1, walk=QUICK, resamples=1, size=32)
    assert smaller[0].size == (32, 32)


def test_sizes_between_are_refused(chained, stored_run, tmp_path):
    with pytest.raises(InputError, match="makes pictures of 16, 32, 64 pixels a side, not of 48"):
        chained.text_to_image("a red circle", size=48)
    run = tmp_path / "run"
    for name in ("clip", "decoder"):
        shutil.copytree(stored_run / name, run / name)
    with pytest.raises(InputError, match=r"no trained stage at .*upsampler: train it, or keep"):
        UnCLIP(run).upsample(torch.zeros(1, 3, 16, 16), ImageSeeds.of(0, 1))
