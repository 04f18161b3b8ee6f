"""R-precision: whether a CLIP finds a picture's caption among others (2018, Xu et al., AttnGAN; here with a CLIP)."""

from __future__ import annotations

import numpy as np

from eval.errors import InputError

CANDIDATES = 100  # the picture's own caption and 99 others, as in AttnGAN's protocol


def r_precision(
    image_features: np.ndarray, text_features: np.ndarray, captions: list[str], candidates: int, seed: int
) -> np.ndarray:
    """(N,) 1 where a picture's own caption has a larger cosine than all others of its candidates.

    Args:
        image_features: (N, D).
        text_features: (N, D) of the N captions.
        captions: N texts; the others are drawn from those that differ in their words.
        candidates: captions to choose from, the own one included; chance is 1 / candidates.
        seed: of the draw of the others.

    Raises:
        InputError: fewer different captions than candidates.
    """
    place = {caption: k for k, caption in enumerate(captions)}
    own = {caption: row for row, caption in enumerate(place)}
    if candidates < 2 or len(own) < candidates:
        raise InputError(
            f"R-precision needs {max(2, candidates)} different captions or more, found {len(own)}:"
            " ask for fewer candidates, or give more captions"
        )
    texts = _unit(text_features[list(place.values())])
    rng = np.random.default_rng(seed)
    right = np.empty(len(captions))
    for k, caption in enumerate(captions):
        row = own[caption]
        others = rng.choice(len(own) - 1, candidates - 1, replace=False)
        others += others >= row
        # Of the candidates only: all cosines of 30,000 pictures and captions would be 7 GB.
        cosines = texts[[row, *others]] @ _unit(image_features[k : k + 1])[0]
        right[k] = cosines[0] > cosines[1:].max()
    return right


def _unit(features: np.ndarray) -> np.ndarray:
    x = np.asarray(features, dtype=np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
