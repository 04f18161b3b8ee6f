"""`unclip sample`: pictures for one caption or a file of captions, as a sample folder.

What is interrupted or killed can be gone on with: the same command does so, or `--resume` where `--overwrite` is given
too (`--overwrite` alone starts afresh). Until all pictures are there they lie beside the folder, in .NAME.sampling.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import yaml

from eval.samples.folder import MANIFEST, SampleFolder, require_writable
from eval.samples.shards import Shards
from experiments.console.arguments import setting
from experiments.console.devices import find_device
from experiments.sampling.captions import Request, read_requests
from experiments.sampling.drawing import draw, first_process
from experiments.sampling.jobs import Drawing, Job
from experiments.sampling.ranking import ranking_clip
from experiments.storage.provenance import commit, config_hash, file_hashes
from modules.clip.frozen import FrozenCLIP, warn_unknown_words
from modules.conditions import CONDITIONS, row_name, sampled
from modules.errors import InputError
from modules.manipulations.enlarging import reachable_sizes, upsampler_names
from modules.manipulations.inversion import decoder_size
from modules.models.base import Model
from modules.models.configs import SamplerConfig
from modules.models.exports import export_folder
from modules.pipeline import UnCLIP
from modules.shipped import chosen_run


def run(options: argparse.Namespace) -> int:
    """Run `unclip sample`; returns the exit code. The processes that a strategy starts come through here, too."""
    if options.n < 1 or options.batch_size < 1:
        raise InputError(f"-n and --batch-size must be 1 or more, got {options.n} and {options.batch_size}")
    if options.devices < 1:
        raise InputError(f"--devices must be 1 or more, got {options.devices}")
    options.run = chosen_run(options.run)
    _check_ranking(options)
    requests, source = read_requests(options.caption, options.captions)
    first = first_process(options.devices)
    if first:
        require_writable(options.out, options.overwrite)
    device = find_device(options.device)
    system = UnCLIP(options.run, device if first else "cpu")
    _check_stages(system, options)
    system.overrides = _overrides(system, options)
    if options.guiding_clip:
        system.guiding_clip = FrozenCLIP(options.guiding_clip).to(system.device)
    if options.rank_clip:
        system.ranking_clip = ranking_clip(system, options.rank_clip)
    captions = [request.caption for request in requests]
    system.clip.tokenize(captions)  # A caption that does not fit is refused before any work.
    images = _true_images(options, source)
    shared = _provenance(system, options)
    job = Job(
        requests,
        options.n,
        options.condition,
        options.seed,
        options.upsample,
        shared,
        images,
        options.size,
        options.best_of,
    )
    shards = Shards(options.out)
    drawing = Drawing(system, job, shards, options.batch_size)
    if not first:
        draw(drawing, device, options.devices, options.strategy)
        return 0
    warn_unknown_words(system.clip.tokenize, captions)
    if images is not None:
        _warn_few_images(requests, options.n)
    with shards.started(_request(system, options, job), options.overwrite, options.resume) as finished:
        if finished:
            print(f"{options.out}: going on, {finished} of {len(job)} pictures are there", flush=True)
        with _said_what_is_kept(shards, len(job)):
            draw(replace(drawing, finished=finished), device, options.devices, options.strategy)
            folder = shards.finish(len(job), options.overwrite)
    print(f"{folder.path}: {len(job)} pictures of {len(requests)} captions, condition {shared['condition']}")
    return 0


def _check_ranking(options: argparse.Namespace) -> None:
    if (options.best_of > 1) != bool(options.rank_clip):
        raise InputError(
            f"--best-of {options.best_of} and --rank-clip {options.rank_clip}: a CLIP chooses a candidate, so give "
            "both (--best-of 2 or more), or neither"
        )
    if options.best_of > 1 and CONDITIONS.get(options.condition) and not CONDITIONS[options.condition].draws:
        raise InputError(f"--best-of: {options.condition} draws nothing, so that all candidates are the same picture")


@contextmanager
def _said_what_is_kept(shards: Shards, count: int) -> Iterator[None]:
    """If the block fails, says on stderr how many pictures are finished and how to go on."""
    try:
        yield
    except BaseException:
        kept = len(shards.lines())
        if kept:
            print(f"{kept} of {count} pictures are finished; the same command with --resume goes on", file=sys.stderr)
        raise


def _check_stages(system: UnCLIP, options: argparse.Namespace) -> None:
    if options.condition not in sampled():
        raise InputError(f"unknown condition {options.condition!r}; there are {', '.join(sampled())}")
    if options.size is not None and not options.upsample:
        raise InputError("--size and --no-upsample exclude each other: leave one out")
    needed = [*_networks(options), *(["upsampler"] if options.upsample and not upsampler_names(system) else [])]
    for name in needed:
        if not system.has(name):
            raise InputError(
                f"the run {system.run} holds no trained {name}, which --condition {options.condition} needs: train it, "
                "or choose another condition or run" + (", or pass --no-upsample" if name == "upsampler" else "")
            )
    _upsamplers(system, options)  # A size that they do not reach is refused before any work.


def _networks(options: argparse.Namespace) -> list[str]:
    """The decoder and the prior that take part."""
    return list(CONDITIONS[options.condition].stages)


def _decoder(options: argparse.Namespace) -> str:
    return CONDITIONS[options.condition].decoder


def _upsamplers(system: UnCLIP, options: argparse.Namespace) -> list[str]:
    """The upsamplers that take part."""
    if not options.upsample:
        return []
    first = decoder_size(system, _decoder(options))
    return upsampler_names(system)[: len(reachable_sizes(system, options.size, first)) - 1]


def _needed(system: UnCLIP, options: argparse.Namespace) -> list[str]:
    """All stages that take part."""
    return [*_networks(options), *_upsamplers(system, options)]


def _true_images(options: argparse.Namespace, source: SampleFolder | None) -> SampleFolder | None:
    """The folder of the true images whose z_i the decoder is given; None for other conditions."""
    if not CONDITIONS[options.condition].needs_images:
        return None
    if source is None:
        raise InputError(
            f"the condition {options.condition} needs true images: pass --captions DIR/{MANIFEST} of a folder that "
            "`unclip data export` wrote"
        )
    return source


def _warn_few_images(requests: list[Request], n: int) -> None:
    few = sum(len(request.images) < n for request in requests)
    if few:
        print(f"{few} of {len(requests)} captions have fewer than {n} true images: these are taken in turn", flush=True)


def _overrides(system: UnCLIP, options: argparse.Namespace) -> dict[str, dict[str, object]]:
    """The settings that the command line names, by the stages that take part."""
    prior = {"guidance_scale": options.prior_guidance, "steps": options.prior_steps}
    decoder = {
        "guidance_scale": options.decoder_guidance,
        "steps": options.decoder_steps,
        "name": options.decoder_sampler,
    }
    condition = CONDITIONS[options.condition]
    chosen = {condition.decoder: decoder, **({condition.prior: prior} if condition.prior else {})}
    chosen |= {name: {"steps": options.upsampler_steps} for name in _upsamplers(system, options)}
    found = {stage: {k: v for k, v in fields.items() if v is not None} for stage, fields in chosen.items()}
    for word in options.set:
        key, text = setting(word)
        part, _, name = key.partition(".")
        stages = {"decoder": [condition.decoder], "upsampler": _upsamplers(system, options)}
        stages["prior"] = [condition.prior] if condition.prior else []
        if not stages.get(part):
            raise InputError(
                f"--set {word}: the condition {options.condition} has no {part} here; it has "
                f"{', '.join(part for part, names in stages.items() if names)}"
            )
        for stage in stages[part]:
            found[stage][name] = _value(word, text)
    return found


def _value(word: str, text: str) -> object:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {word}: {text!r} is no value ({' '.join(str(error).split())})") from None
    return tuple(value) if isinstance(value, list) else value


def _provenance(system: UnCLIP, options: argparse.Namespace) -> dict[str, Any]:
    """What all lines of the manifest share: how the pictures were made."""
    upsamplers = _upsamplers(system, options)
    drawn = CONDITIONS[options.condition].z_i in ("tokens", "true tokens")
    stages = {} if drawn else {"decoder": system.decoder(_decoder(options)).sampler}
    named = CONDITIONS[options.condition].prior
    prior = None if named is None else system.model(named, Model)
    of_prior = getattr(prior, "sampler", None)
    if isinstance(of_prior, SamplerConfig):
        stages["prior"] = of_prior
    stages |= {name: system.upsampler(name).sampler for name in upsamplers}
    guidance = {name: sampler.guidance_scale for name, sampler in stages.items() if name not in upsamplers}
    of_guidance = getattr(prior, "guidance_scale", None)
    if of_guidance is not None:
        guidance["prior"] = of_guidance
    how = {
        "guidance": guidance,
        "sampler": {name: sampler.name for name, sampler in stages.items()},
        "steps": {name: sampler.steps for name, sampler in stages.items()},
    }
    if options.set:
        how["settings"] = dict(map(setting, options.set))
    if options.guiding_clip:
        how["guiding_clip"] = system.guiding_clip.fingerprint
    weights = {name: system.stage(name).fingerprint for name in _needed(system, options)}
    if options.best_of > 1 and system.ranking_clip is not None:
        how |= {"best_of": options.best_of, "rank_clip": system.ranking_clip.fingerprint}
    condition = row_name(options.condition, options.best_of)
    made_with = {"condition": condition, **how, "weights": weights, "clip": system.clip.fingerprint}
    return {
        "condition": condition,
        **how,
        "config_hash": config_hash(made_with),
        "clip": system.clip.fingerprint,
        "commit": commit(),
    }


def _request(system: UnCLIP, options: argparse.Namespace, job: Job) -> dict[str, Any]:
    """All that decides the pictures. A run goes on with an unfinished folder only if this is the same."""
    captions = [[request.caption, request.index, request.known] for request in job.requests]
    truth: Any = None
    if job.source is not None:
        truth = [[job.source.records[k].get("sha256") for k in request.images] for request in job.requests]
    folders = {name: system.run / name for name in _needed(system, options)}
    exports = {name: file_hashes(export_folder(folder) / "config.yaml") for name, folder in folders.items()}
    made = {key: value for key, value in job.shared.items() if key != "commit"}
    return {
        **made,
        "captions": config_hash({"captions": captions}),
        "pictures": len(job),
        "seed": job.seed,
        "settings of the stages": config_hash({"exports": exports, "overrides": system.overrides}),
        "true images": config_hash({"sha256": truth}),
    }
