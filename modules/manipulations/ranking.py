"""Re-ranking: of N candidate pictures of a caption the one that a CLIP finds nearest to it (DALL-E 1, section 2.6)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from modules.errors import InputError
from modules.models.exports import weights_file
from modules.untrusted.weights import read_weights

Place = tuple[int, int]
"""(caption's position, sample's position) of a picture, which with the seed decide its noise."""

STRIDE = 2**32
"""Between the places of a picture's candidates: more than any sample's position."""


@dataclass(frozen=True)
class Best:
    """The best candidates so far, of B pictures.

    Attributes:
        pictures: (B, 3, h, w) in [-1, 1].
        scores: (B,) cosine of picture and caption, by the ranking CLIP.
        places: which candidates they are.
        count: candidates seen so far.
    """

    pictures: Tensor
    scores: Tensor
    places: list[Place]
    count: int


def candidate_places(places: Sequence[Place], candidate: int) -> list[Place]:
    """The places that decide a candidate's noise. Candidate 0 is the picture that is drawn without re-ranking."""
    return [(caption, sample + candidate * STRIDE) for caption, sample in places]


def best_of(
    count: int,
    places: Sequence[Place],
    draw: Callable[[list[Place]], Tensor],
    score: Callable[[Tensor], Tensor],
    start: Best | None = None,
    together: int = 1,
) -> Best:
    """The best of the first `count` candidates of each picture; of equal ones the first.

    The candidates of a smaller count are among those of a larger one.

    Args:
        places: those of the B pictures.
        draw: places of K candidates of each, [all first ones, all second ones, ...] -> (K B, 3, h, w).
        score: pictures -> (B,), the larger the better.
        start: the best of fewer candidates of the same pictures, from which to go on.
        together: K, candidates of each that are drawn in one call; changes no picture.

    Raises:
        ValueError: `start` has seen more candidates.
    """
    if start is not None and start.count > count:
        raise ValueError(f"the best of {start.count} candidates cannot become the best of {count}")
    best = start
    for first in range(0 if start is None else start.count, count, together):
        own = [candidate_places(places, candidate) for candidate in range(first, min(first + together, count))]
        drawn = draw(list(itertools.chain.from_iterable(own))).split(len(places))
        for seen, (pictures, its) in enumerate(zip(drawn, own, strict=True), first + 1):
            best = _better(best, Best(pictures, score(pictures), its, seen))
    if best is None:
        raise ValueError(f"the best of {count} candidates: there must be 1 or more")
    return best


def _better(best: Best | None, other: Best) -> Best:
    if best is None:
        return other
    taken = other.scores > best.scores
    return Best(
        torch.where(taken[:, None, None, None], other.pictures, best.pictures),
        torch.where(taken, other.scores, best.scores),
        [new if take else old for take, new, old in zip(taken.tolist(), other.places, best.places, strict=True)],
        other.count,
    )


def check_ranking_clip(folder: str, run: Path) -> None:
    """Refuse a ranking CLIP that conditions the run's stages or judges its pictures: it would choose what it measures.

    Args:
        folder: of the ranking CLIP; a name of open_clip's is not looked at here.
        run: its CLIPs are clip and eval_clip.

    Raises:
        InputError: the weights are the same.
    """
    roles = {"clip": "that the run's stages are conditioned on", "eval_clip": "that judges the run's pictures"}
    for name, role in roles.items():
        if same_weights(folder, run / name):
            raise InputError(
                f"--rank-clip {folder} is the CLIP {role} ({run / name}): rank with a third one, which neither "
                "conditions nor judges"
            )


def same_weights(first: str | Path, second: str | Path) -> bool:
    """Whether two folders hold the same weights; a file written anew, with another header, makes no other CLIP.

    Args:
        first, second: stages' folders or exports; False if one has no weights.
    """
    files = weights_file(first), weights_file(second)
    if not all(file.is_file() for file in files):
        return False
    if files[0].read_bytes() == files[1].read_bytes():
        return True
    ours, theirs = (read_weights(file)[0] for file in files)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
