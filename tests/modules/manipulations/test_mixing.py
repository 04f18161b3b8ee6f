"""Weighted mixtures of pictures and captions."""

from __future__ import annotations

import pytest
import torch

from modules.errors import InputError
from modules.manipulations import Mix, weighted_sum
from modules.pipeline import UnCLIP


def test_the_weighted_sum_of_orthogonal_embeddings():
    parts = torch.eye(3)[:2][:, None]  # Two parts of one picture.
    assert torch.allclose(weighted_sum(parts, [3.0, 4.0]), torch.tensor([[0.6, 0.8, 0.0]]))
    assert torch.allclose(weighted_sum(parts, [30.0, 40.0]), weighted_sum(parts, [3.0, 4.0]))
    assert torch.allclose(weighted_sum(parts, [3.0, -4.0]), torch.tensor([[0.6, -0.8, 0.0]]))
    assert torch.equal(weighted_sum(parts, [0.0, 1.0]), parts[1])


def test_raw_embeddings_keep_their_norms():
    parts = torch.tensor([[[2.0, 0.0]], [[0.0, 4.0]]])
    assert torch.allclose(weighted_sum(parts, [0.3, 0.7], raw=True), torch.tensor([[0.6, 2.8]]))
    assert torch.allclose(weighted_sum(parts, [3.0, 7.0], raw=True), torch.tensor([[0.6, 2.8]]))


@pytest.mark.parametrize("raw", [False, True])
def test_what_cancels_is_refused(raw):
    same = torch.eye(3)[:1].expand(2, 1, 3)
    with pytest.raises(InputError, match="cancel"):
        weighted_sum(same, [1.0, -1.0], raw)


@pytest.mark.parametrize(
    ("captions", "weights", "line"),
    [((), (), "nothing was given"), (("a",), (1.0, 2.0), "2 weights"), (("a",), (0.0,), "other than 0")],
)
def test_what_is_no_mix(captions, weights, line):
    with pytest.raises(InputError, match=line):
        Mix(None, captions, weights)


def test_one_caption_is_drawn_as_by_text_to_image(stored_run):
    system = UnCLIP.from_run(stored_run)
    wanted = system.text_to_image("a red circle", seed=[5, 6], negative="a blue square").tensor
    found = system.mix(captions="a red circle", caption="a red circle", negative="a blue square", seed=[5, 6]).tensor
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)  # The sum of one is normalised once more.


def test_pictures_and_captions_are_weighted_in_their_order(stored_run):
    system = UnCLIP.from_run(stored_run)
    pictures = [torch.rand(3, 16, 16) * 2 - 1 for _ in range(2)]
    first = system.mix(pictures[:1], seed=1).tensor
    assert torch.equal(system.mix(pictures, "a red circle", [2.0, 0.0, 0.0], seed=1).tensor, first)
    assert not torch.equal(system.mix(pictures, "a red circle", [0.0, 2.0, 0.0], seed=1).tensor, first)
    z_i = torch.stack([system.embed_image(picture[None]) for picture in pictures])
    from modules.manipulations import mixed
    from modules.seeds import ImageSeeds

    mix = Mix(torch.stack(pictures), (), (1.0, 3.0))
    wanted = torch.nn.functional.normalize(z_i[0] + 3 * z_i[1], dim=1)
    torch.testing.assert_close(mixed(system, mix, ImageSeeds.of([1], 1)), wanted)
