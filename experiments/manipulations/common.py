"""The common part of these commands: where their pictures come from, and how a figure is written."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from datamodules.rendered.scenes import caption_of
from eval.figures.folder import FigureRecord, require_writable_figure, write_figure
from eval.metrics.bootstrap import Interval, Resampler
from eval.samples.folder import ATTRIBUTION, SampleFolder
from eval.samples.manifest import plain_records
from eval.tables.main import Cell
from experiments.console.devices import find_device
from experiments.console.errors import say
from experiments.console.show import show
from experiments.storage.provenance import commit
from modules.errors import InputError
from modules.images.tensors import load_images, to_pil
from modules.manipulations import Latents, Walk, decoder_size, enlarge, invert, load_latents, reachable_sizes, redraw
from modules.models.configs import GUIDANCE, check_value
from modules.models.licences import attribution_of_run, joined
from modules.pipeline import UnCLIP
from modules.placement.settings import Placement
from modules.seeds import ImageSeeds
from modules.shipped import run_folder
from modules.shipped.newest import chosen_run
from modules.untrusted.reading import printable, read_bytes, reason

DRAWS = 1000
MAX_NAMES = 20_000
"""Bytes of a file that names whom to name."""
SAME_PICTURE = 0.995
"""Smallest cosine of a picture's z_i and that of its latents; the files of one picture may differ a little."""


@dataclass(frozen=True)
class Sources:
    """Pictures to work on.

    Attributes:
        images: (B, 3, S, S) in [-1, 1].
        names: what rows are called.
        records: their manifest lines, where they come from a sample folder; else {}.
    """

    images: Tensor
    names: list[str]
    records: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.images)


def start(options: argparse.Namespace, decoder: str = "decoder") -> UnCLIP:
    """The system, after what can be checked has been checked.

    Args:
        decoder: the stage that draws.
    """
    check_guidance(options)
    require_writable_figure(options.out, options.overwrite)
    options.run = str(run_folder(chosen_run(options.run)))
    system = UnCLIP(options.run, find_device(options.device), None, Placement(options.precision))
    options.size = reachable_sizes(system, options.size, decoder_size(system, decoder))[-1]
    return system


def check_guidance(options: argparse.Namespace) -> None:
    """Refuse a guidance scale that no decoder takes, before anything is loaded."""
    for name in ("guidance", "sweep_guidance", "scales"):
        given = getattr(options, name, None)
        for scale in given if isinstance(given, list) else [given]:
            if scale is not None:
                check_value(f"--{name.replace('_', '-')}", scale, GUIDANCE)


def walk_of(options: argparse.Namespace) -> Walk:
    """The trajectory that the options ask for."""
    return Walk(options.steps, options.guidance, batch_size=options.batch_size)


def read_latents(
    system: UnCLIP, options: argparse.Namespace, pictures_too: bool = False, walk: Walk | None = None
) -> tuple[Sources, Latents]:
    """The pictures and their latents: inverted, or from --latents, and then on the trajectory that they were found on.

    Args:
        walk: the trajectory of an inversion where neither the options nor a file say another.
        pictures_too: whether the pictures are needed for latents from a file too; the reconstructions stand in for
            them otherwise, unless pictures are named.

    Raises:
        InputError: latents of other pictures, or options that say another trajectory than the file.
    """
    latents = load_latents(options.latents, system) if options.latents else None
    own = latents.walk if latents is not None and latents.walk is not None else walk or Walk()
    for name, value in (("steps", own.steps), ("guidance", own.guidance_scale)):
        given = getattr(options, name)
        if given is None:
            setattr(options, name, value)
        elif latents is not None and latents.walk is not None and given != value:
            raise InputError(
                f"{options.latents} was inverted in {own.steps} steps at guidance {own.guidance_scale:g} and is drawn "
                f"again in the same way: leave --{name} out, or invert the pictures again"
            )
    walk = replace(own, steps=options.steps, guidance_scale=options.guidance, batch_size=options.batch_size)
    if latents is None:
        found = sources(options)
        return found, invert(system, found.images, None, walk)
    latents = replace(latents, walk=walk)
    if not (options.images or pictures_too):
        names = [f"latents {k + 1}" for k in range(len(latents))]
        return Sources(redraw(system, latents), names, [{}] * len(latents)), latents
    found = sources(options, len(latents))
    if len(found) != len(latents):
        raise InputError(
            f"{options.latents} holds the latents of {len(latents)} pictures, and there are {len(found)}: name the "
            "pictures that were inverted, in their order"
        )
    cosines = (system.clip.unit(system.embed_image(found.images)) * system.clip.unit(latents.z_i)).sum(dim=1)
    if float(cosines.min()) < SAME_PICTURE:
        k = int(cosines.argmin())
        raise InputError(
            f"row {k + 1} of {options.latents} is not of the picture {found.names[k]!r} (their z_i have a cosine of "
            f"{cosines[k]:.2f}): name the pictures that were inverted, in their order"
        )
    return found, latents


def sources(options: argparse.Namespace, count: int | None = None) -> Sources:
    """The pictures that were named, or the first test pictures of the run.

    Raises:
        InputError: a picture cannot be read, or there are neither pictures nor a sample folder.
    """
    if options.images:
        return Sources(load_images(options.images), [Path(p).stem for p in options.images], [{}] * len(options.images))
    folder = test_folder(options)
    chosen = [k for k, record in enumerate(folder.records) if record["sample_index"] == 0][: count or options.n]
    return pick(folder, chosen)


def test_folder(options: argparse.Namespace) -> SampleFolder:
    """The sample folder of real test pictures."""
    path = Path(options.source or Path(options.run) / "samples" / "real")
    if not path.is_dir():
        raise InputError(
            f"no test pictures at {path}: name picture files, or a folder of `unclip data export` with --from"
        )
    return SampleFolder.open(path)


def pick(folder: SampleFolder, chosen: Sequence[int]) -> Sources:
    """Some pictures of a sample folder."""
    if not chosen:
        raise InputError(f"{folder.path} holds no picture to take; export more")
    uint8 = torch.cat([folder.images(k, k + 1) for k in chosen])
    records = [folder.records[k] for k in chosen]
    return Sources(uint8.float() / 127.5 - 1, [record["caption"] for record in records], records)


def captions_of(options: argparse.Namespace) -> list[str]:
    """The captions that were given, or the first ones of the run's test pictures."""
    if options.captions:
        return list(options.captions)
    path = Path(options.run) / "samples" / "real" / "manifest.jsonl"
    if not path.is_file():
        raise InputError(f"give captions: the run's own, in {path}, are not there")
    try:
        found = dict.fromkeys(str(record["caption"]) for record in plain_records(path))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not a manifest of samples ({reason(error)}): give captions") from error
    return list(found)[: options.n]


def enlarged(system: UnCLIP, options: argparse.Namespace, low: Tensor, seed: int | None = None) -> list[Image.Image]:
    """Pictures at the size asked for; all with the same upsampling noise, so that a row changes by what it shows."""
    seeds = ImageSeeds.of([options.seed if seed is None else seed] * len(low), len(low))
    return pictures(enlarge(system, low, options.size, seeds, options.batch_size))


def noise_pictures(x_T: Tensor) -> list[Image.Image]:
    """Noise (B, C, s, s) as pictures: -2.5 standard deviations of unit noise are black, 2.5 are white."""
    from eval.figures.panels import CELL

    sides = [to_pil(image) for image in (x_T[:, :3] / 2.5).clamp(-1, 1).cpu()]
    return [image.resize((CELL, CELL), Image.Resampling.NEAREST) for image in sides]


def pictures(images: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1] as PIL pictures."""
    return [to_pil(image) for image in images]


def _named_beside(options: argparse.Namespace) -> list[str]:
    """The attributions that lie beside the pictures that a figure was made from."""
    source = getattr(options, "source", None) or Path(options.run) / "samples" / "real"
    folders = dict.fromkeys(Path(given).parent for given in getattr(options, "images", None) or []) or [Path(source)]
    found = []
    for file in (folder / ATTRIBUTION for folder in folders):
        try:
            found += read_bytes(file, MAX_NAMES).decode("utf-8", "replace").splitlines()
        except (InputError, OSError):
            continue  # No such file, mostly.
    return [printable(line) for line in found]


def finish(
    options: argparse.Namespace,
    command: str,
    record: FigureRecord,
    shown: Mapping[str, Image.Image | bytes],
    extra: Mapping[str, Image.Image | bytes] | None = None,
) -> int:
    """Writes the figure with how it was made, and prints its tables."""
    settings = {key: value for key, value in vars(options).items() if key not in ("out", "overwrite")}
    how = {"command": shlex.join(["unclip", command, *options.words]), "settings": settings, "commit": commit()}
    whom = joined([attribution_of_run(run_folder(options.run)), *_named_beside(options)])
    notes = record.notes if whom is None else [*record.notes, f"Training data and real pictures: {whom}"]
    folder = write_figure(options.out, replace(record, how=how, notes=notes), shown, extra, options.overwrite)
    for table in record.tables:
        show(table)
    for note in notes:
        say(f"- {note}")
    print(f"{folder / next(iter(shown))}")
    return 0


def numbered(images: Sequence[Image.Image], folder: str = "images") -> dict[str, Image.Image]:
    """File names for single pictures."""
    return {f"{folder}/{k:05d}.png": image for k, image in enumerate(images)}


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """(B,) peak signal-to-noise ratio in dB of images in [-1, 1]."""
    error = (images.cpu() - truth.cpu()).square().mean(dim=(1, 2, 3)) / 4
    return -10 * error.clamp(min=1e-10).log10()


def distance(images: Tensor, others: Tensor) -> Tensor:
    """(B,) root mean square difference, as a share of the range from black to white."""
    return (images.cpu() - others.cpu()).square().mean(dim=(1, 2, 3)).sqrt() / 2


def interval(values: Tensor | Sequence[float], seed: int = 0) -> Interval:
    """The mean over images with its 95 % bootstrap interval."""
    import numpy as np

    array = np.asarray(values, dtype=np.float64)
    return Resampler(np.arange(len(array)), DRAWS, seed).mean(array)


def cell(found: Interval, digits: int = 2) -> Cell:
    """A number with its interval."""
    if found.value != found.value:
        return Cell("-")
    return Cell(f"{found.value:.{digits}f}", f"[{found.low:.{digits}f}, {found.high:.{digits}f}]")


def use_sampler(system: UnCLIP, steps: int | None, guidance: float | None) -> None:
    """The decoders sample as their stages say, but for what is given here."""
    chosen = {"steps": steps, "guidance_scale": guidance}
    fields = {key: value for key, value in chosen.items() if value is not None}
    own = {name: {**system.overrides.get(name, {}), **fields} for name in ("decoder", "glide") if system.has(name)}
    system.overrides = {**system.overrides, **own}


def hatched(side: int) -> Tensor:
    """(3, side, side) magenta and white stripes, which no picture is taken for."""
    places = torch.arange(side)
    width = max(2, side // 16)
    stripe = ((places[:, None] + places[None]) // width % 2).float()
    return torch.stack([torch.ones(side, side), stripe * 2 - 1, torch.ones(side, side)])


def whole_caption(record: dict[str, Any]) -> str:
    """A test picture's caption. If the scene is known, the caption says all of it, so that the new part can fit."""
    scene = record.get("scene")
    return caption_of(scene) if scene else record.get("caption", "")
