"""What the whitenings of a stage are fitted to, and when."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from modules.batches import EmbeddingBatch
from modules.networks.embedding_pathway import Whitening
from modules.training import whitening
from modules.training.whitening import fit_whitenings, spread_embeddings

D, N = 4, 3000


class Rows:
    """Embeddings whose mean moves along the split."""

    def __init__(self):
        g = torch.Generator().manual_seed(0)
        self.z_i = torch.randn(N, D, generator=g) + torch.linspace(0, 5, N)[:, None]
        self.z_t = -3 * self.z_i
        self.asked = []

    def __len__(self):
        return N

    def __getitems__(self, places):
        self.asked += places
        tokens, index = torch.zeros(len(places), 2, dtype=torch.int64), torch.tensor(places)
        return EmbeddingBatch(self.z_i[places], self.z_t[places], tokens, index)


class Begun(nn.Module):
    """As much of a stage as is asked for: a trained network and its average."""

    def __init__(self, begins=True, initial=(), whitenings=2):
        super().__init__()
        self.parts = nn.ModuleList([Whitening(D) for _ in range(whitenings)])
        self.begins, self.initial, self.device, self.rows = begins, initial, torch.device("cpu"), Rows()
        self.trainer = SimpleNamespace(datamodule=SimpleNamespace(dataset=lambda split: self.rows))


@pytest.mark.parametrize("embedding", ["z_i", "z_t"])
def test_every_whitening_is_fitted_to_the_embedding_that_is_read(embedding):
    stage, expected = Begun(), Whitening(D)
    fit_whitenings(stage, embedding)
    expected.fit(getattr(stage.rows, embedding))
    for part in stage.parts:
        assert_close(part.state_dict(), expected.state_dict())


def test_a_large_split_is_read_here_and_there(monkeypatch):
    monkeypatch.setattr(whitening, "WHITENING_SAMPLES", 1500)
    rows = Rows()
    found = spread_embeddings(rows, "z_i")
    assert rows.asked == list(range(0, N, 2))
    assert torch.equal(found, rows.z_i[::2])


@pytest.mark.parametrize(
    "given", [{"begins": False}, {"initial": ("a", "clip_features.whitening.mean")}, {"whitenings": 0}]
)
def test_a_run_that_goes_on_and_one_with_given_weights_keep_theirs(given):
    stage = Begun(**given)
    fit_whitenings(stage)
    assert stage.rows.asked == []
    for part in stage.parts:
        assert_close(part.state_dict(), Whitening(D).state_dict())
