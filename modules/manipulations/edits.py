"""Moving z_i: blends of images and of captions, text diffs, principal components (unCLIP, sections 3 and 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.conditions import DEFAULT
from modules.errors import InputError
from modules.exact import exact
from modules.manipulations.inversion import fresh_noise
from modules.manipulations.latents import Latents, stack_latents
from modules.manipulations.slerp import slerp
from modules.models.embedding_codec import EmbeddingCodec
from modules.seeds import ImageSeeds
from modules.trained_run import TrainedRun

PAPER_COMPONENTS = (20, 30, 40, 80, 120, 160, 200, 320)
PAPER_RANK = 320


def blend(a: Latents, b: Latents, theta: float, shared_noise: Tensor | None = None) -> Latents:
    """The latents at theta between a (0) and b (1), z_i and x_T each along its great circle.

    Args:
        a, b: B each; the blend has no caption.
        shared_noise: (B, C, s, s) x_T for all blends, instead of a blend of both. This is the paper's other option; its
            ends are not the reconstructions.
    """
    x_T = slerp(a.x_T, b.x_T, theta) if shared_noise is None else shared_noise
    tokens = a.tokens if torch.equal(a.tokens, b.tokens) else torch.zeros_like(a.tokens)
    return Latents(slerp(a.z_i, b.z_i, theta), x_T, tokens, a.walk if a.walk == b.walk else None)


def path(stops: Latents, count: int, shared_noise: Tensor | None = None) -> Latents:
    """Latents on the way through two or more stops: `count` points at even distances from the first to the last.

    Args:
        stops: the latents of S images.
        count: points, both ends among them.
        shared_noise: (1, C, s, s) for every point, or None to blend the stops' own.

    Raises:
        InputError: fewer than two stops, or fewer points than stops.
    """
    if len(stops) < 2 or count < len(stops):
        raise InputError(
            f"an interpolation needs 2 or more pictures and at least as many points, got {len(stops)} and {count}"
        )
    points = []
    for k in range(count):
        place = k * (len(stops) - 1) / (count - 1)
        first = min(int(place), len(stops) - 2)
        a, b = stops[first : first + 1], stops[first + 1 : first + 2]
        points.append(blend(a, b, place - first, shared_noise))
    return stack_latents(points)


def square(corners: Latents, side: int, shared_noise: Tensor | None = None) -> Latents:
    """Latents on a grid between four images: side x side, row by row; the corners are the images, in reading order.

    Raises:
        InputError: other than four corners, or a side below 2.
    """
    if len(corners) != 4 or side < 2:
        raise InputError(f"a grid lies between 4 pictures and has a side of 2 or more, got {len(corners)} and {side}")
    left = path(corners[[0, 2]], side, shared_noise)
    right = path(corners[[1, 3]], side, shared_noise)
    rows = [path(stack_latents([left[k : k + 1], right[k : k + 1]]), side, shared_noise) for k in range(side)]
    return stack_latents(rows)


def from_captions(system: TrainedRun, captions: Sequence[str], seeds: ImageSeeds, prior: str = DEFAULT) -> Latents:
    """Latents of captions: z_i by a prior, x_T fresh; the decoder is not given the captions.

    Args:
        seeds: one a caption; the same one for all makes the prior's and the decoder's noise the same for all.
        prior: of the run, or "text_embedding".
    """
    tokens, z_t = system.embed_text(captions)
    z_i = system.embedding(prior, tokens, z_t, seeds.generators("prior"))
    if z_i is None:
        raise InputError(f"{prior} gives no z_i to move: name a prior of the run")
    return Latents(z_i, fresh_noise(system, seeds), torch.zeros_like(tokens))


def text_direction(system: TrainedRun, target: Sequence[str], base: Sequence[str] | None = None) -> Tensor:
    """z_d (B, D) of unit norm: from the base captions to the targets, or the targets' own z_t without a base.

    Args:
        target, base: B captions each. A base is what the image is ("a red circle"), or "a photo" and the like.

    Raises:
        InputError: not as many bases as targets, or a target whose embedding is its base's.
    """
    z_t = system.clip.unit(system.embed_text(list(target))[1])
    if base is None:
        return z_t
    if len(base) != len(target):
        raise InputError(f"{len(base)} base captions do not go with {len(target)} targets")
    z_d = z_t - system.clip.unit(system.embed_text(list(base))[1])
    for first, second, size in zip(base, target, z_d.norm(dim=1).tolist(), strict=True):
        if size < 1e-6:
            raise InputError(f"{first!r} and {second!r} have the same embedding: there is no direction between them")
    return F.normalize(z_d, dim=1)


def text_diff(latents: Latents, z_d: Tensor, theta: float) -> Latents:
    """The latents turned towards z_d by theta of the angle; x_T stays (unCLIP, section 3.3: up to 0.25 - 0.50).

    Raw embeddings, whose norm is not 1, keep it.
    """
    turned, norm = F.normalize(slerp(latents.z_i, z_d.to(latents.z_i), theta), dim=1), latents.z_i.norm(dim=1)
    raw = not torch.allclose(norm, torch.ones_like(norm), atol=1e-3)
    return latents.with_embedding(turned * norm[:, None] if raw else turned)


def principal_components(z_i: Tensor) -> EmbeddingCodec:
    """All principal components of training embeddings (N, D); `reconstruct` rebuilds others from the first few.

    Raises:
        InputError: for fewer embeddings than dimensions.
    """
    if len(z_i) <= z_i.shape[1]:
        raise InputError(f"{len(z_i)} embeddings of {z_i.shape[1]} dimensions are too few for their components")
    codec = EmbeddingCodec(z_i.shape[1], z_i.shape[1], num_buckets=2, num_dot_buckets=2)
    codec.fit(z_i, z_i)
    return codec


def component_counts(codec: EmbeddingCodec, error: float = 0.01) -> list[int]:
    """The paper's numbers of components, scaled to this embedding's rank.

    The rank is the smallest number of components that leaves less than `error` of the variance. In the paper it is 320.
    """
    held = exact(codec.eigenvalues)
    kept = held.cumsum(0) / held.sum()
    rank = int((kept < 1 - error).sum()) + 1
    return sorted({max(1, round(count * rank / PAPER_RANK)) for count in PAPER_COMPONENTS})
