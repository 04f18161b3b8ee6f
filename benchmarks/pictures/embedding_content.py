"""`python -m benchmarks.pictures.embedding_content --config DATA.yaml --embeddings FOLDER`: what z_i says of a picture.

A small network learns to give training pictures back from their z_i, at 32 px. Prints its mean squared error (values in
[-1, 1]) for training pictures and for those of another split, and the error of the mean picture. What a
decoder can read from z_i is at least what this network reads. FOLDER is what `unclip embed` wrote for the same data.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from datamodules.rendered.pairs import PairDataModule
from experiments.data.sources import load_data
from modules.errors import InputError
from modules.networks.embedding_pathway import Whitening
from modules.networks.reconstruction import ReconstructionConfig, ReconstructionHead, shrunk

STEPS, BATCH, RATE = 1500, 256, 2e-3


def main() -> int:
    """Fit, measure, print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML with a data section")
    parser.add_argument("--embeddings", required=True, help="folder that `unclip embed` wrote")
    parser.add_argument(
        "--split", default="test", choices=("val", "test"), help="unseen pictures (default: %(default)s)"
    )
    parser.add_argument("--size", type=int, default=32, help="side in pixels (default: %(default)s)")
    options = parser.parse_args()
    data, _ = load_data(options.config, PairDataModule, embeddings=options.embeddings)
    seen, unseen = (pairs(data, split, options.size) for split in ("train", options.split))
    found = errors(seen, unseen, options.size)
    for name, value in zip(("training pictures", f"{options.split} pictures", "mean picture"), found, strict=True):
        print(f"{name}: {value:.4f}")
    return 0


def pairs(data: PairDataModule, split: str, size: int) -> tuple[Tensor, Tensor]:
    """z_i (N, D) and pictures (N, 3, size, size) of a split."""
    dataset = data.dataset(split)
    if dataset.embeddings is None:
        raise InputError("give --embeddings a folder that `unclip embed` wrote")
    rows = list(range(len(dataset)))
    parts = (dataset.__getitems__(rows[k : k + BATCH]).images for k in range(0, len(rows), BATCH))
    return dataset.embeddings[rows].z_i, torch.cat([shrunk(images, size) for images in parts])


def errors(
    seen: tuple[Tensor, Tensor], unseen: tuple[Tensor, Tensor], size: int = 32, steps: int | None = None, seed: int = 0
) -> tuple[float, float, float]:
    """The mean squared error for seen and for unseen pictures, and that of the mean picture for seen ones.

    Args:
        seen, unseen: embeddings (N, D) of unit norm and pictures (N, 3, S, S) in [-1, 1].
        size: side of the pictures that are given back.
        steps: of training.
        seed: of weights and batches.
    """
    torch.manual_seed(seed)
    steps = STEPS if steps is None else steps
    head = ReconstructionHead(seen[0].shape[1], ReconstructionConfig(size=size))
    whitening = Whitening(seen[0].shape[1])
    whitening.fit(seen[0])
    scale = seen[0].shape[1] ** -0.5  # The head multiplies with the inverse.
    (z, images), (z_unseen, images_unseen) = ((scale * whitening(z_i), images) for z_i, images in (seen, unseen))
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        rows = torch.randint(len(z), (min(BATCH, len(z)),))
        optimizer.zero_grad()
        head.error(z[rows], images[rows]).mean().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        ours, others = (
            torch.cat([head.error(*part) for part in zip(a.split(BATCH), b.split(BATCH), strict=True)]).mean()
            for a, b in ((z, images), (z_unseen, images_unseen))
        )
        small = torch.cat([shrunk(part, size) for part in images.split(BATCH)])
    return float(ours), float(others), float(small.var(dim=0, correction=0).mean())


if __name__ == "__main__":
    raise SystemExit(main())
