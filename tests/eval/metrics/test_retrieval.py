"""R-precision: where the right caption is known to win, to lose, and at chance."""

from __future__ import annotations

import numpy as np
import pytest

from eval.errors import InputError
from eval.metrics.retrieval import r_precision

CAPTIONS = [f"caption {k // 2}" for k in range(40)]  # 20 captions, two pictures each
TEXTS = np.eye(20)[np.arange(40) // 2]


def test_own_caption_wins_and_another_loses():
    assert r_precision(5 * TEXTS, TEXTS, CAPTIONS, candidates=20, seed=0).mean() == 1
    assert r_precision(np.roll(TEXTS, 2, axis=0), TEXTS, CAPTIONS, candidates=20, seed=0).mean() == 0
    assert r_precision(np.ones((40, 20)), TEXTS, CAPTIONS, candidates=20, seed=0).mean() == 0  # a tie is no find


def test_chance_is_one_among_the_candidates():
    rng = np.random.default_rng(0)
    captions = [f"caption {k}" for k in range(2000)]
    found = r_precision(rng.normal(size=(2000, 8)), rng.normal(size=(2000, 8)), captions, candidates=5, seed=0)
    assert found.mean() == pytest.approx(1 / 5, abs=0.03)


def test_only_the_drawn_others_compete():
    # Picture 0 is nearest to caption 1: it is wrong exactly where caption 1 is among its candidates.
    images = TEXTS.copy()
    images[0] = TEXTS[0] + 2 * TEXTS[2]
    found = [r_precision(images, TEXTS, CAPTIONS, candidates=2, seed=k)[0] for k in range(400)]
    assert np.mean(found) == pytest.approx(1 - 1 / 19, abs=0.03)
    assert all(r_precision(images, TEXTS, CAPTIONS, 2, k)[5] == 1 for k in range(5))


def test_too_few_captions():
    with pytest.raises(InputError, match="needs 21 different captions or more, found 20"):
        r_precision(TEXTS, TEXTS, CAPTIONS, candidates=21, seed=0)
