"""Seeds name pictures, whatever else is drawn beside them."""

from __future__ import annotations

import pytest
import torch

from modules.errors import InputError
from modules.seeds import ImageSeeds, image_generators


def draw(generators):
    return [float(torch.rand((), generator=generator)) for generator in generators]


def test_one_seed_counts_places_and_a_list_counts_seeds():
    assert draw(ImageSeeds.of(3, 2).generators("prior")) == draw(image_generators(3, [(0, 0), (1, 0)], "prior"))
    listed = ImageSeeds.of([3, 9], 2)
    assert draw(listed.generators("prior")) == draw(
        image_generators(3, [(0, 0)], "prior") + image_generators(9, [(0, 0)], "prior")
    )
    assert draw(listed[1:].generators("prior")) == draw(listed.generators("prior"))[1:]
    assert draw(listed.repeat(2).generators("x")) == [v for v in draw(listed.generators("x")) for _ in range(2)]


def test_stages_differ_and_repeat():
    seeds = ImageSeeds.of(0, 1)
    assert draw(seeds.generators("prior")) == draw(seeds.generators("prior")) != draw(seeds.generators("decoder"))


def test_seeds_and_pictures_must_agree():
    with pytest.raises(InputError, match="2 seeds do not go with 3 pictures"):
        ImageSeeds.of([1, 2], 3)
