"""CLIP score and diversity against values by hand."""

from __future__ import annotations

import numpy as np
import pytest

from eval.metrics.clip_score import clip_score
from eval.metrics.diversity import within_caption_distance


def test_cosines():
    images = np.array([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0], [0.0, 0.0]], dtype=np.float32)
    texts = np.array([[4.0, 3.0], [0.0, 9.0], [-5.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(clip_score(images, texts), [24 / 25, 1, -1, 0], atol=1e-7)


def test_features_must_go_together():
    with pytest.raises(ValueError, match=r"\(2, 3\) do not go with text features \(1, 3\)"):
        clip_score(np.ones((2, 3)), np.ones((1, 3)))


def test_mean_pairwise_distance():
    x = np.array([[0.0, 0], [3, 4], [9, 9], [3, 0]])
    groups = np.array([5, 5, 2, 5])
    # caption 5: distances 5 (0-1), 3 (0-3), 4 (1-3); the only sample of caption 2 has no partner
    np.testing.assert_allclose(within_caption_distance(x, groups), [4, 4.5, np.nan, 3.5])


def test_copies_have_no_diversity():
    x = np.repeat(np.random.default_rng(0).normal(size=(5, 7)), 2, axis=0)
    assert within_caption_distance(x, np.arange(10) // 2).max() == 0
