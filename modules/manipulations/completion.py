"""Completion, or priming: the first rows of a picture's tokens are given, the rest is drawn (DALL-E 1, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.conditions import CONDITIONS
from modules.errors import InputError
from modules.images.tensors import resized
from modules.seeds import ImageSeeds
from modules.trained_run import TrainedRun


@torch.no_grad()
def complete(system: TrainedRun, images: Tensor, captions: Sequence[str], rows: int, seeds: ImageSeeds) -> Tensor:
    """Pictures (B, 3, h, w) in [-1, 1] at the dVAE's size that begin with the rows of others.

    With 0 rows these are the pictures that DALL-E draws for the captions under the same seeds.

    Args:
        system: a run with a dVAE and a token Transformer.
        images: (B, 3, S, S) in [-1, 1], any S.
        captions: B of them.
        rows: of the grid of tokens, from the top; the paper gives 15 of 32.
        seeds: one a picture.

    Raises:
        InputError: more rows than the grid has.
    """
    condition = CONDITIONS["dalle"]
    assert condition.prior is not None
    dvae = system.dvae(condition.decoder)
    if not 0 <= rows <= dvae.grid:
        raise InputError(f"{rows} rows cannot be given: the grid of tokens has {dvae.grid}")
    given = dvae.encode(resized(images.to(system.device), dvae.image_size))[:, :rows].flatten(1)
    text, _ = system.embed_text(captions)
    tokens = system.sample_tokens(condition.prior, text, seeds.generators("prior"), given)
    return system.finite(condition.decoder, dvae.decode(tokens))
