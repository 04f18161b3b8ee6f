"""CLIP score: how well picture and caption agree to a CLIP that took no part in making the picture."""

from __future__ import annotations

import numpy as np


def clip_score(image_features: np.ndarray, text_features: np.ndarray) -> np.ndarray:
    """(N,) cosines of image features (N, D) and the features (N, D) of their captions, in [-1, 1].

    The plain mean cosine, as Karlo reports it; not multiplied by 100 or 2.5, not cut at 0.
    """
    if image_features.shape != text_features.shape:
        raise ValueError(f"image features {image_features.shape} do not go with text features {text_features.shape}")
    return (_unit(image_features) * _unit(text_features)).sum(1)


def _unit(features: np.ndarray) -> np.ndarray:
    x = np.asarray(features, dtype=np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
