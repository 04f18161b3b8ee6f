"""The two-part latent of an image, (z_i, x_T), as a value and as a file (unCLIP, section 3)."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from modules.clip_origin import same_clip
from modules.errors import InputError
from modules.manipulations.system import System

FORMAT = "unclip latents 1"


@dataclass(frozen=True)
class Latents:
    """What B images are made from, under one decoder.

    Attributes:
        z_i: (B, D) CLIP embeddings of unit norm.
        x_T: (B, C, s, s) noise from which the decoder's DDIM arrives at the images.
        tokens: (B, L) tokens of the captions; all 0 for none.
    """

    z_i: Tensor
    x_T: Tensor
    tokens: Tensor

    def __len__(self) -> int:
        return len(self.z_i)

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> Latents:
        return Latents(self.z_i[rows], self.x_T[rows], self.tokens[rows])

    def with_embedding(self, z_i: Tensor) -> Latents:
        """The same noise and captions with other embeddings."""
        return Latents(z_i, self.x_T, self.tokens)

    def repeat(self, count: int) -> Latents:
        """Each image `count` times in a row: (count B, ...)."""
        return Latents(*(part.repeat_interleave(count, dim=0) for part in (self.z_i, self.x_T, self.tokens)))


def save_latents(path: str | Path, latents: Latents, system: System) -> None:
    """Write latents into one safetensors file, with the fingerprints of the CLIP and decoder that they belong to.

    Raises:
        OSError: it could not be written; an older file is then as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    tensors = {name: getattr(latents, name).detach().cpu().contiguous() for name in ("z_i", "x_T", "tokens")}
    content = save(tensors, {"format": FORMAT, "made_by": json.dumps(_fingerprints(system))})
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # What a write finds out names no file.
        raise
    finally:
        with contextlib.suppress(OSError):  # renamed, or never there
            partial.unlink()


def load_latents(path: str | Path, system: System) -> Latents:
    """Read what `save_latents` wrote, onto the system's device.

    Raises:
        InputError: no such file, another kind of file, or latents of another run's CLIP or decoder.
    """
    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise InputError(f"no latents at {path}: write them with `unclip invert`") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read as latents ({error}): invert the image again") from None
    if metadata.get("format") != FORMAT or set(tensors) != {"z_i", "x_T", "tokens"}:
        raise InputError(f"{path} holds no inverted latents (format {metadata.get('format')!r}): see `unclip invert`")
    made_by = json.loads(metadata["made_by"])
    for part, own in _fingerprints(system).items():
        if not same_clip(made_by.get(part, ""), own):
            raise InputError(
                f"{path} was inverted under another {part} ({made_by.get(part)}) than that of {system.run} ({own}): "
                "invert the image again under this run, or name the run that it came from"
            )
    return Latents(**{name: tensor.to(system.device) for name, tensor in tensors.items()})


def _fingerprints(system: System) -> dict[str, str]:
    return {"decoder": system.stage("decoder").fingerprint, "clip": system.clip.fingerprint}


def stack_latents(parts: Sequence[Latents]) -> Latents:
    """Batches behind one another."""
    return Latents(*(torch.cat([getattr(part, name) for part in parts]) for name in ("z_i", "x_T", "tokens")))
