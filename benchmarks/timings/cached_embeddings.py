"""Training a prior on cached embeddings, against having a CLIP embed every batch: what `unclip embed` saves."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F

from benchmarks.timings.setting import PRIOR, Bench
from benchmarks.timings.timing import Result, paired
from datamodules.embeddings import EmbeddingsDataModule
from datamodules.embeddings.folder import EmbeddingsInfo
from datamodules.embeddings.writer import EmbeddingsWriter
from datamodules.order import SeededBatchSampler
from datamodules.rendered.cache import MappedArray
from datamodules.rendered.pairs import ImageTextDataset, Records
from modules.batches import EmbeddingBatch, embeddings_of
from modules.diffusion_prior import DiffusionPrior
from modules.networks.priors.diffusion_prior import DiffusionPriorNetwork

PAIRS = 512
CLIPS = {"ViT-B-32": 32, "ViT-L-14": 4}
"""Architecture -> batch size."""


def prior_from_cache(bench: Bench) -> Iterator[Result]:
    """A training step of the diffusion prior with its data: rows of an embeddings folder, against cached pictures,
    captions and CLIPs of the usual sizes in every step (random weights take as long as trained ones)."""
    for name, size in CLIPS.items():
        with tempfile.TemporaryDirectory() as folder:
            yield _case(bench, name, bench.batch(size), Path(folder))


def _case(bench: Bench, name: str, batch_size: int, folder: Path) -> Result:
    clip: Any = open_clip.create_model(name).to(bench.device).eval().requires_grad_(False)
    dim, side = clip.text_projection.shape[1], clip.visual.image_size[0]
    tokenize = open_clip.get_tokenizer(name)
    pairs = _pictures(folder, side)
    sizes = {**PRIOR, "vocab_size": clip.vocab_size, "context_length": clip.context_length}
    stage = DiffusionPrior(DiffusionPriorNetwork(dim, **sizes)).to(bench.device)
    rows = _embeddings(folder, dim, tokenize(pairs.records.captions)).dataset("train")

    def cached(indices: list[int]) -> EmbeddingBatch:
        return embeddings_of(stage.transfer(rows.__getitems__(indices)))

    @torch.no_grad()
    def embedded(indices: list[int]) -> EmbeddingBatch:
        batch = pairs.__getitems__(indices)
        tokens = tokenize(batch.captions).to(bench.device)
        with bench.autocast():
            z_i, z_t = clip.encode_image(batch.images.to(bench.device)), clip.encode_text(tokens)
        z_i, z_t = (F.normalize(z.float(), dim=1) for z in (z_i, z_t))
        return EmbeddingBatch(z_i, z_t, tokens, batch.index.to(bench.device))

    def step(get: Callable[[list[int]], EmbeddingBatch]) -> Callable[[], None]:
        order = iter(SeededBatchSampler(PAIRS, batch_size, seed=0, total=10_000))
        generator = torch.Generator().manual_seed(0)
        return bench.training_step(stage.network, lambda: stage.training_loss(get(next(order)), generator), ours=True)

    return paired("prior_from_cache", step(cached), f"{name} in every step", step(embedded), bench.device, bench.few)


def _pictures(folder: Path, side: int) -> ImageTextDataset:
    """Pictures that need no decoding, which is the least that a CLIP in the loop can read, with ordinary captions."""
    rng = np.random.default_rng(0)
    np.save(folder / "images.npy", rng.integers(0, 256, (PAIRS, side, side, 3), np.uint8))
    captions = [f"a photograph of {number} people who cross a street in the rain" for number in range(PAIRS)]
    return ImageTextDataset(MappedArray(folder / "images.npy"), Records(captions, None), None)


def _embeddings(folder: Path, dim: int, tokens: torch.Tensor) -> EmbeddingsDataModule:
    generator = torch.Generator().manual_seed(0)
    z_i, z_t = (F.normalize(torch.randn(PAIRS, dim, generator=generator), dim=1) for _ in range(2))
    writer = EmbeddingsWriter(folder / "embeddings", EmbeddingsInfo("random", dim, tokens.shape[1]))
    writer.write("train", PAIRS, "none", [(z_i, z_t, tokens)])
    return EmbeddingsDataModule(str(folder / "embeddings"))
