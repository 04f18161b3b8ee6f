"""Seeds name pictures, whatever else is drawn beside them."""

from __future__ import annotations

import numpy as np
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


@pytest.mark.parametrize("seed", [np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)])
def test_one_whole_number_of_another_library_is_one_seed(seed):
    assert ImageSeeds.of(seed, 2) == ImageSeeds.of(3, 2)
    places = [(np.int64(0), np.int64(1))]
    assert draw(image_generators(seed, places, "x")) == draw(image_generators(3, [(0, 1)], "x"))


@pytest.mark.parametrize("seeds", [np.array([3, 9]), [np.int64(3), np.uint8(9)], torch.tensor([3, 9]), range(3, 10, 6)])
def test_several_of_another_library_are_a_list(seeds):
    assert ImageSeeds.of(seeds, 2) == ImageSeeds.of([3, 9], 2)


@pytest.mark.parametrize("seed", [1.0, np.float64(1), "1", None, [], [1.0], ["1"], np.array([[1, 2]])])
def test_what_is_no_seed(seed):
    with pytest.raises(InputError, match="seed is a whole number, or a list of at least one, not"):
        ImageSeeds.of(seed, 2)
