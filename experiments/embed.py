"""`unclip embed`: CLIP embeddings of a data set, computed once, for the priors and the decoder."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from datamodules.embeddings import EmbeddingsInfo, EmbeddingsWriter
from datamodules.loading import SPLITS, evaluation_batches
from datamodules.pairs import PairDataModule
from experiments.data import load_data
from experiments.progress import Progress, progress
from modules.errors import InputError


class Encoder(Protocol):
    """What a frozen CLIP offers: token ids (0 = padding) and unit-norm embeddings."""

    @property
    def fingerprint(self) -> str: ...

    def tokenize(self, captions: list[str]) -> Tensor: ...

    def encode_image(self, images: Tensor) -> Tensor: ...

    def encode_text(self, tokens: Tensor) -> Tensor: ...


def main(argv: list[str]) -> int:
    """Runs `unclip embed ...`; returns the exit code."""
    options = _parser().parse_args(argv)
    if options.batch_size < 1:
        raise InputError(f"--batch-size must be 1 or more, got {options.batch_size}")
    data, section = load_data(options.config, PairDataModule, embeddings=None)
    from modules.clip import FrozenCLIP

    device = find_device(options.device)
    clip = FrozenCLIP(options.clip, options.pretrained).to(device)
    source = {"data": section, "clip": options.clip, "pretrained": options.pretrained, "image_size": data.image_size}
    embed(data, clip, options.out, options.splits, options.batch_size, device, source, options.overwrite)
    return 0


def embed(
    data: PairDataModule,
    clip: Encoder,
    out: str | Path,
    splits: Sequence[str] = SPLITS,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    source: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes z_i, z_t and tokens of every pair; splits that are there already are kept.

    Args:
        data: the pairs, at the size at which the CLIP shall see them.
        clip: a frozen CLIP.
        out: the embeddings folder (see `datamodules.embeddings`).
        splits: which to embed.
        batch_size: pairs at once; the result does not depend on it.
        device: where the CLIP is.
        source: what a person may want to know about the origin; JSON-able.
        overwrite: replace embeddings of another CLIP or of other data.

    Raises:
        InputError: the folder holds embeddings of another CLIP or of other data.
        OSError: it can't be written.
    """
    with torch.inference_mode():
        tokens = clip.tokenize(["a"])
        dim = clip.encode_text(tokens.to(device)).shape[1]
    info = EmbeddingsInfo(clip.fingerprint, dim, tokens.shape[1], source=source or {})
    writer = EmbeddingsWriter(out, info, overwrite)
    for split in splits:
        size, data_hash = data.size(split), data.data_hash(split)
        if writer.holds(split, size, data_hash, overwrite):
            print(f"{split}: {size} rows are there")
        else:
            writer.write(split, size, data_hash, _encode(data, clip, split, batch_size, device))
            print(f"{split}: {size} rows of {dim} written to {out}")


def _encode(
    data: PairDataModule, clip: Encoder, split: str, batch_size: int, device: torch.device | str
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    dataset = data.dataset(split)
    bar: Progress[None] = progress(len(dataset), f"embedding {split}")
    with bar, torch.inference_mode():
        for indices in evaluation_batches(len(dataset), batch_size):
            batch = dataset.__getitems__(indices)
            tokens = clip.tokenize(batch.captions)
            yield clip.encode_image(batch.images.to(device)), clip.encode_text(tokens.to(device)), tokens
            bar.advance(len(indices))


def find_device(name: str | None) -> torch.device:
    """The device of that name; for None the accelerator, or the CPU where there is none.

    Raises:
        InputError: there is no such device here.
    """
    if name is not None:
        try:
            return torch.empty(0, device=name).device
        except RuntimeError as error:
            raise InputError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from error
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="unclip embed", description="Compute CLIP embeddings of a data set once.")
    parser.add_argument("--config", required=True, help="any YAML with a data: section")
    parser.add_argument("--clip", required=True, help="CLIP folder, or the name of an open_clip model")
    parser.add_argument("--pretrained", help="open_clip's name of the weights, for a model given by name")
    parser.add_argument("--out", required=True, help="embeddings folder to write, or to go on with")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS))
    parser.add_argument("--batch-size", type=int, default=256, help="pairs at once (default 256)")
    parser.add_argument("--device", help="such as cpu (default: the accelerator, if there is one)")
    parser.add_argument("--overwrite", action="store_true", help="replace embeddings of another CLIP or other data")
    return parser
