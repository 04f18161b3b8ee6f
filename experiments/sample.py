"""`unclip sample`: pictures for one caption or a file of captions, as a sample folder."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.samples import MANIFEST, SampleFolder, require_writable, write_samples
from experiments.embed import find_device
from experiments.progress import Progress, progress
from experiments.provenance import commit, config_hash
from modules.clip import warn_unknown_words
from experiments.arguments import CommandParser
from modules.errors import InputError
from modules.pipeline import CONDITIONS, PRIORS, UnCLIP

COPIED = ("mentioned", "attribution")  # What a manifest of captions knows and the samples' manifest keeps.


@dataclass(frozen=True)
class Request:
    """One caption of which pictures are wanted: its position, what its source knows of it, and its image if any."""

    caption: str
    index: int
    known: dict[str, Any]
    image: int | None = None


def main(argv: list[str]) -> int:
    """Runs `unclip sample ...`; returns the exit code."""
    options = _parser().parse_args(argv)
    if options.n < 1 or options.batch_size < 1:
        raise InputError(f"-n and --batch-size must be 1 or more, got {options.n} and {options.batch_size}")
    requests, source = _requests(options)
    require_writable(options.out, options.overwrite)
    system = UnCLIP(options.run, find_device(options.device), _overrides(options))
    _check_stages(system, options)
    tokens_of_all = system.clip.tokenize  # A caption that does not fit is refused before any work.
    tokens_of_all([request.caption for request in requests])
    warn_unknown_words(system.clip.tokenize, [request.caption for request in requests])
    images = _images(options, source, requests)
    pictures, records = _draw(system, options, requests, images)
    folder = write_samples(options.out, pictures, records, options.overwrite)
    print(f"{folder.path}: {len(records)} pictures of {len(requests)} captions, condition {options.condition}")
    return 0


def _requests(options: argparse.Namespace) -> tuple[list[Request], SampleFolder | None]:
    if (options.caption is None) == (options.captions is None):
        raise InputError("give one caption, or a file of them with --captions")
    if options.caption is not None:
        return [Request(options.caption, 0, {})], None
    path = Path(options.captions)
    if path.name == MANIFEST or path.suffix == ".jsonl":
        return _from_manifest(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file in UTF-8 ({error.reason})") from error
    captions = [line for line in lines if line]
    if not captions:
        raise InputError(f"{path} holds no caption: write one a line")
    return [Request(caption, k, {}) for k, caption in enumerate(captions)], None


def _from_manifest(path: Path) -> tuple[list[Request], SampleFolder | None]:
    """The captions of a sample folder's manifest, each once, with the first of its images."""
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        found: dict[int, Request] = {}
        for k, record in enumerate(records):
            known = {key: record[key] for key in COPIED if key in record}
            found.setdefault(record["caption_index"], Request(record["caption"], record["caption_index"], known, k))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a manifest of samples ({error!r})") from error
    if not found:
        raise InputError(f"{path} holds no caption")
    return list(found.values()), SampleFolder.open(path.parent) if path.name == MANIFEST else None


def _check_stages(system: UnCLIP, options: argparse.Namespace) -> None:
    if options.condition not in CONDITIONS:
        raise InputError(f"unknown condition {options.condition!r}; there are {', '.join(CONDITIONS)}")
    for name in _needed(options):
        if not system.has(name):
            raise InputError(
                f"the run {system.run} holds no trained {name}, which --condition {options.condition} needs: train it, "
                "or choose another condition or run" + (", or pass --no-upsample" if name == "upsampler" else "")
            )


def _needed(options: argparse.Namespace) -> list[str]:
    """The stages that take part."""
    needed = ["glide" if options.condition == "glide" else "decoder"]
    needed += [options.condition] if options.condition in PRIORS else []
    return needed + (["upsampler"] if options.upsample else [])


def _images(options: argparse.Namespace, source: SampleFolder | None, requests: list[Request]) -> Tensor | None:
    """(N, 3, H, W) in [-1, 1], the true image of each request, for image_embedding."""
    if options.condition != "image_embedding":
        return None
    if source is None:
        raise InputError(
            f"the condition image_embedding needs true images: pass --captions DIR/{MANIFEST} of a folder that "
            "`unclip data export` wrote"
        )
    uint8 = torch.cat(
        [source.images(request.image, request.image + 1) for request in requests if request.image is not None]
    )
    return uint8.float() / 127.5 - 1


def _overrides(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    prior = {"guidance_scale": options.prior_guidance, "steps": options.prior_steps}
    decoder = {
        "guidance_scale": options.decoder_guidance,
        "steps": options.decoder_steps,
        "name": options.decoder_sampler,
    }
    chosen = {
        "ar_prior": {"guidance_scale": options.prior_guidance},
        "diffusion_prior": prior,
        "decoder": decoder,
        "glide": decoder,
        "upsampler": {"steps": options.upsampler_steps},
    }
    return {stage: {k: v for k, v in fields.items() if v is not None} for stage, fields in chosen.items()}


def _draw(
    system: UnCLIP, options: argparse.Namespace, requests: list[Request], images: Tensor | None
) -> tuple[Tensor, list[dict[str, Any]]]:
    """All pictures, uint8 (N, 3, H, W), and their manifest lines."""
    shared = _provenance(system, options)
    places = [(row, sample) for row in range(len(requests)) for sample in range(options.n)]
    pictures, records = [], []
    bar: Progress[None] = progress(len(places), f"sampling {options.condition}")
    with bar:
        for start in range(0, len(places), options.batch_size):
            chunk = places[start : start + options.batch_size]
            rows = [row for row, _ in chunk]
            drawn = system.generate(
                [requests[row].caption for row in rows],
                options.condition,
                options.seed,
                [(requests[row].index, sample) for row, sample in chunk],
                None if images is None else images[rows],
                options.upsample,
            )
            pictures.append(((drawn + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu())
            for row, sample in chunk:
                request = requests[row]
                place = {"caption": request.caption, "caption_index": request.index, "sample_index": sample}
                records.append({**place, "seed": options.seed, **shared, **request.known})
            bar.advance(len(chunk))
    return torch.cat(pictures), records


def _provenance(system: UnCLIP, options: argparse.Namespace) -> dict[str, Any]:
    """What all lines of the manifest share: how the pictures were made."""
    decoder = "glide" if options.condition == "glide" else "decoder"
    stages = {"decoder": system.sampler(decoder)}
    if options.condition == "diffusion_prior":
        stages["prior"] = system.sampler("diffusion_prior")
    if options.upsample:
        stages["upsampler"] = system.sampler("upsampler")
    guidance = {name: sampler.guidance_scale for name, sampler in stages.items() if name != "upsampler"}
    if options.condition == "ar_prior":
        own = system.stage("ar_prior").settings["guidance_scale"]
        guidance["prior"] = own if options.prior_guidance is None else options.prior_guidance
    how = {
        "guidance": guidance,
        "sampler": {name: sampler.name for name, sampler in stages.items()},
        "steps": {name: sampler.steps for name, sampler in stages.items()},
    }
    weights = {name: system.stage(name).fingerprint for name in _needed(options)}
    made_with = {"condition": options.condition, **how, "weights": weights, "clip": system.clip.fingerprint}
    return {
        "condition": options.condition,
        **how,
        "config_hash": config_hash(made_with),
        "commit": commit(),
    }


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="unclip sample", description="Draw pictures for captions.")
    parser.add_argument("caption", nargs="?", help="one caption")
    parser.add_argument("--captions", help="a text file, one caption a line, or the manifest.jsonl of a sample folder")
    parser.add_argument(
        "--run", default="runs/quickstart", help="run folder of the trained stages (default %(default)s)"
    )
    parser.add_argument("--out", required=True, help="sample folder to write")
    parser.add_argument("-n", type=int, default=1, help="pictures of each caption (default 1)")
    parser.add_argument(
        "--condition", default="diffusion_prior", help=f"what the decoder is given: {', '.join(CONDITIONS)}"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same pictures (default 0)")
    parser.add_argument("--batch-size", type=int, default=64, help="pictures at once; changes no picture (default 64)")
    parser.add_argument("--prior-guidance", type=float, help="guidance scale of the prior")
    parser.add_argument("--prior-steps", type=int, help="sampling steps of the diffusion prior")
    parser.add_argument("--decoder-guidance", type=float, help="guidance scale of the decoder; 1 is none")
    parser.add_argument("--decoder-steps", type=int, help="sampling steps of the decoder")
    parser.add_argument("--decoder-sampler", choices=("ddpm", "ddim", "dpm_solver_pp"), help="sampler of the decoder")
    parser.add_argument("--upsampler-steps", type=int, help="sampling steps of the upsampler")
    parser.add_argument("--no-upsample", dest="upsample", action="store_false", help="keep the decoder's own size")
    parser.add_argument("--device", default="cpu", help="where to compute (default cpu)")
    parser.add_argument("--overwrite", action="store_true", help="replace a sample folder that is there")
    return parser
