"""Where the priors' embeddings come from, and the cosines that judge them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from modules.batches import EmbeddingBatch, ImageTextBatch, embeddings_of
from modules.errors import InputError
from modules.training.model_stage import cosines, per_sample_generators

ROWS = EmbeddingBatch(
    z_i=torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
    z_t=torch.tensor([[0.6, 0.8], [0.8, 0.6]]),
    tokens=torch.zeros(2, 3, dtype=torch.int64),
    index=torch.arange(2),
)


def test_both_kinds_of_batches_give_their_embeddings():
    pairs = ImageTextBatch(torch.zeros(2, 3, 8, 8), ["a", "b"], ROWS.index)
    assert embeddings_of(ROWS) is ROWS
    assert embeddings_of(pairs._replace(embeddings=ROWS)) is ROWS
    with pytest.raises(InputError, match=r"`unclip embed` and set data.init_args.embeddings"):
        embeddings_of(pairs)


def test_cosines_are_of_each_sample():
    drawn = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    found = {name: value.mean().item() for name, value in cosines(drawn, ROWS).items()}
    assert found == pytest.approx({"cosine_to_z_i": 0.5, "cosine_to_z_t": 0.7, "cosine_of_z_t": 0.6})


def test_cosines_of_a_clips_own_embeddings_are_cosines():
    drawn = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    longer = ROWS._replace(z_i=5 * ROWS.z_i, z_t=0.1 * ROWS.z_t)
    found, wanted = cosines(drawn, longer, raw=True), cosines(F.normalize(drawn, dim=1), ROWS)
    for name in wanted:
        assert_close(found[name], wanted[name])


def test_each_position_has_its_own_noise_whatever_the_batch():
    long, short = (
        [torch.randn(2, generator=g) for g in per_sample_generators(count, seed)] for count, seed in ((4, 0), (2, 0))
    )
    assert_close(torch.stack(long[:2]), torch.stack(short), rtol=0, atol=0)
    other = [torch.randn(2, generator=g) for g in per_sample_generators(4, 1)]
    assert len(torch.stack(long + other).unique()) == 16
