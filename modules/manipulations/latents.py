"""The two-part latent of an image, (z_i, x_T), as a value and as a file (unCLIP, section 3)."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from modules.clip.origin import same_clip
from modules.diffusion.schedules import Spacing
from modules.errors import InputError
from modules.models.configs import GUIDANCE, check_value
from modules.trained_run import TrainedRun
from modules.untrusted.reading import parse_json
from modules.untrusted.weights import check_finite, check_header

FORMAT = "unclip latents 1"
EDIT_STEPS = 8
"""DDIM steps of an inversion before an edit by words. Fewer steps leave more of the picture in x_T, which then holds
what the edit must keep; in 25 steps and more an edit also moves the object (measured in docs/manipulations.md)."""


@dataclass(frozen=True)
class Walk:
    """How the decoder's DDIM trajectory is followed, in inversion and in drawing alike.

    Attributes:
        steps: number of DDIM steps. More steps reconstruct better, and leave less of the picture in x_T.
        guidance_scale: guidance scale of the decoder; 1 is no guidance, and reconstructs best.
        spacing: spacing of the timesteps, see `modules.diffusion.schedules.respace`.
        fixed_point_iterations: further evaluations for each step of an inversion, see `ddim_invert`. They make the
            reconstruction nearly exact at few steps, and x_T less like noise.
        batch_size: images at once; changes no image.
    """

    steps: int = 50
    guidance_scale: float = 1.0
    spacing: Spacing = "trailing"
    fixed_point_iterations: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.fixed_point_iterations < 0:
            raise InputError(
                f"steps and the batch size are 1 or more and fixed-point iterations 0 or more, got {self.steps}, "
                f"{self.batch_size} and {self.fixed_point_iterations}"
            )
        check_value("guidance_scale", self.guidance_scale, GUIDANCE)


@dataclass(frozen=True)
class Latents:
    """The latents of B images under one decoder.

    Attributes:
        z_i: (B, D) CLIP embeddings of unit norm.
        x_T: (B, C, s, s) noise from which the decoder's DDIM arrives at the images.
        tokens: (B, L) tokens of the captions; all 0 for none.
        walk: the trajectory on which x_T was found by inversion; None for fresh noise, or a blend of walks.
    """

    z_i: Tensor
    x_T: Tensor
    tokens: Tensor
    walk: Walk | None = None

    def __len__(self) -> int:
        return len(self.z_i)

    def __repr__(self) -> str:
        """Shapes instead of numbers."""
        shapes = ", ".join(f"{name} {tuple(getattr(self, name).shape)}" for name in ("z_i", "x_T", "tokens"))
        walk = "fresh noise" if self.walk is None else f"inverted in {self.walk.steps} steps"
        return f"Latents of {len(self)}: {shapes}; {walk}"

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> Latents:
        return Latents(self.z_i[rows], self.x_T[rows], self.tokens[rows], self.walk)

    def with_embedding(self, z_i: Tensor) -> Latents:
        """Latents with the same noise and captions, and other embeddings."""
        return replace(self, z_i=z_i)

    def repeat(self, count: int) -> Latents:
        """Each image `count` times in a row: (count B, ...)."""
        z_i, x_T, tokens = (part.repeat_interleave(count, dim=0) for part in (self.z_i, self.x_T, self.tokens))
        return Latents(z_i, x_T, tokens, self.walk)


def save_latents(path: str | Path, latents: Latents, system: TrainedRun) -> None:
    """Write latents into one safetensors file, with the fingerprints of the CLIP and decoder that they belong to.

    Their walk is written too, so that a reader of the file draws along the same trajectory.

    Raises:
        OSError: it could not be written; an older file is then as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    tensors = {name: getattr(latents, name).detach().cpu().contiguous() for name in ("z_i", "x_T", "tokens")}
    metadata = {"format": FORMAT, "made_by": json.dumps(_fingerprints(system))}
    if latents.walk is not None:
        metadata["walk"] = json.dumps({k: v for k, v in asdict(latents.walk).items() if k != "batch_size"})
    content = save(tensors, metadata)
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # Errors of writing name no file by themselves.
        raise
    finally:
        with contextlib.suppress(OSError):  # renamed, or never there
            partial.unlink()


def load_latents(path: str | Path, system: TrainedRun) -> Latents:
    """Read what `save_latents` wrote, onto the system's device.

    Raises:
        InputError: no such file, another kind of file, or latents of another run's CLIP or decoder.
    """
    path = Path(path)
    try:
        check_header(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise InputError(f"no latents at {path}: write them with `unclip invert`") from None
    except (SafetensorError, OSError, InputError) as error:
        raise InputError(f"{path} cannot be read as latents ({error}): invert the image again") from None
    if metadata.get("format") != FORMAT or set(tensors) != {"z_i", "x_T", "tokens"}:
        raise InputError(f"{path} holds no inverted latents (format {metadata.get('format')!r}): see `unclip invert`")
    _check_latents(tensors, path)
    try:
        made_by = parse_json(metadata.get("made_by", ""), f"{path}: made_by")
        made_by = {part: str(made_by.get(part, "")) for part in ("decoder", "clip")}
    except (InputError, AttributeError) as error:
        raise InputError(f"{path} does not say what it was inverted under ({error}): invert the image again") from error
    for part, own in _fingerprints(system).items():
        if not same_clip(made_by.get(part, ""), own):
            raise InputError(
                f"{path} was inverted under another {part} ({made_by.get(part)}) than that of {system.run} ({own}): "
                "invert the image again under this run, or name the run that it came from"
            )
    try:  # Files of the first versions record no walk.
        walk = Walk(**parse_json(metadata["walk"], "walk")) if "walk" in metadata else None
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} names no trajectory that is known here ({error}): invert the image again") from error
    return Latents(**{name: tensor.to(system.device) for name, tensor in tensors.items()}, walk=walk)


def _check_latents(tensors: dict[str, Tensor], path: Path) -> None:
    """Refuse latents of other types or shapes than inversion writes, or that are not finite."""
    check_finite(tensors, path)
    kinds = {"z_i": (2, torch.float32), "x_T": (4, torch.float32), "tokens": (2, torch.int64)}
    right = all((tensors[name].ndim, tensors[name].dtype) == kind for name, kind in kinds.items())
    if not right or len({len(tensor) for tensor in tensors.values()}) != 1:
        shown = ", ".join(f"{name} {tuple(tensor.shape)} of {tensor.dtype}" for name, tensor in sorted(tensors.items()))
        raise InputError(f"{path} holds {shown}, which is not what `unclip invert` writes: invert the image again")


def _fingerprints(system: TrainedRun) -> dict[str, str]:
    return {"decoder": system.stage("decoder").fingerprint, "clip": system.clip.fingerprint}


def stack_latents(parts: Sequence[Latents]) -> Latents:
    """Several batches of latents as one batch. The walk is kept if all have the same."""
    tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in ("z_i", "x_T", "tokens")}
    walk = parts[0].walk
    return Latents(**tensors, walk=walk if all(part.walk == walk for part in parts) else None)
