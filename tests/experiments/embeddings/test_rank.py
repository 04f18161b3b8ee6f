"""unclip rank: components by retained variance, over a whole embeddings folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.decomposition import PCA

from datamodules.embeddings.folder import open_embeddings
from experiments.cli import main
from experiments.embeddings import rank


def test_the_counts_are_scikit_learns(embeddings, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rank, "CHUNK", 24)  # several parts, the last one smaller
    assert main(["rank", str(embeddings), "--out", str(tmp_path / "deep" / "rank.json")]) == 0
    out = capsys.readouterr().out
    z_i = open_embeddings(embeddings).rows("train")[range(64)].z_i.double().numpy()
    shares = PCA().fit(z_i).explained_variance_ratio_.cumsum()
    for share in (0.9, 0.99):
        assert f"{100 * share:g} %: {int(np.argmax(shares >= share)) + 1}" in out
    assert "64 embeddings of 16 dimensions" in out
    p = PCA().fit(z_i).explained_variance_ratio_
    effective = float(out.split("effective rank ")[1])
    assert effective == pytest.approx(np.exp(-(p[p > 0] * np.log(p[p > 0])).sum()), abs=0.06)
    written = json.loads((tmp_path / "deep" / "rank.json").read_text())[str(embeddings)]
    assert written["components"]["0.9"] == int(np.argmax(shares >= 0.9)) + 1
    assert written["effective_rank"] == pytest.approx(effective, abs=0.06)
    assert np.allclose(written["eigenvalues"], PCA().fit(z_i).explained_variance_, atol=1e-9)
