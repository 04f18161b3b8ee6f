"""Enlarging what the decoder drew, by as many upsamplers as a run has."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from modules.errors import InputError
from modules.manipulations.inversion import decoder_size
from modules.models.upsampler import UpsamplerModel
from modules.seeds import ImageSeeds
from modules.trained_run import TrainedRun

UPSAMPLER = re.compile(r"upsampler(?:_(\d+))?")
"""Names of upsampling stages: `upsampler`, or with the side that it makes, as in `upsampler_256`, `upsampler_1024`."""


def upsampler_names(system: TrainedRun) -> list[str]:
    """The run's upsamplers, the first one first: the one without a number, then by their numbers."""
    matches = (UPSAMPLER.fullmatch(path.name) for path in system.run.iterdir())
    found = sorted((int(match[1] or 0), match[0]) for match in matches if match)
    return [name for _, name in found if system.has(name)]


def reachable_sizes(system: TrainedRun, size: int | None = None, first: int | None = None) -> list[int]:
    """Sides that the run's stages reach: the decoder's, then one for each upsampler; up to `size` if it is given.

    Args:
        size: where to stop; by default the largest.
        first: side of the pictures that the first upsampler is given; by default the decoder's.

    Raises:
        InputError: `size` is not among them.
    """
    sizes = [decoder_size(system) if first is None else first]
    for name in upsampler_names(system):
        sizes.append(sizes[-1] * system.upsampler(name).network.factor)
    if size is None:
        return sizes
    if size not in sizes:
        raise InputError(f"{system.run} makes pictures of {', '.join(map(str, sizes))} pixels a side, not of {size}")
    return sizes[: sizes.index(size) + 1]


def enlarge(
    system: TrainedRun,
    low: Tensor,
    size: int | None,
    seeds: ImageSeeds,
    batch_size: int = 32,
    captions: Sequence[str] | None = None,
) -> Tensor:
    """(B, 3, s, s) as a decoder drew them -> (B, 3, size, size), both in [-1, 1].

    Args:
        size: see `reachable_sizes`; None is the largest.
        seeds: one an image.
        batch_size: images at once; changes no image.
        captions: B of them, for upsamplers that read captions; None for none.
    """
    names = upsampler_names(system)[: len(reachable_sizes(system, size, low.shape[-1])) - 1]
    for name in names:
        upsampler = system.upsampler(name)
        parts = [slice(k, k + batch_size) for k in range(0, len(low), batch_size)]
        tokens = None if captions is None else upsampler_tokens(system, upsampler, captions)
        drawn = [
            upsampler.sample(low[p], seeds[p].generators(name), tokens=None if tokens is None else tokens[p])
            for p in parts
        ]
        low = torch.cat(drawn)
        system.finite(name, low)
    return low


def upsampler_tokens(system: TrainedRun, upsampler: UpsamplerModel, captions: Sequence[str]) -> Tensor | None:
    """(B, L) tokens of captions as an upsampler reads them; None for one that reads none."""
    if upsampler.network.text is None:
        return None
    if upsampler.reads == "clip":
        return upsampler.tokens_of(captions, system.clip.tokenize(list(captions)).to(system.device))
    some = torch.ones(len(captions), 1, dtype=torch.int64, device=system.device)  # None of them is dropped.
    return upsampler.tokens_of(captions, some)
