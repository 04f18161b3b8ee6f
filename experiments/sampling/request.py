"""The common part of commands that draw sample folders: the stages, their settings, and the record of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from eval.samples.folder import SampleFolder, require_writable
from eval.samples.shards import Shards
from experiments.console.arguments import setting
from experiments.console.devices import find_device
from experiments.sampling.drawing import draw, first_process
from experiments.sampling.jobs import Drawing, Job
from experiments.sampling.ranking import ranking_clip
from experiments.storage.provenance import commit, config_hash, file_hashes
from modules.clip.frozen import FrozenCLIP
from modules.conditions import CONDITIONS, row_name, sampled
from modules.errors import InputError
from modules.manipulations.enlarging import reachable_sizes, upsampler_names
from modules.manipulations.inversion import decoder_size
from modules.models.base import Model
from modules.models.configs import SamplerConfig
from modules.models.exports import export_folder
from modules.models.licences import attribution_of_run
from modules.models.upsampler import UpsamplerModel
from modules.pipeline import UnCLIP
from modules.placement.settings import Placement
from modules.shipped.newest import chosen_run
from modules.untrusted.reading import parse_yaml


@dataclass(frozen=True)
class Session:
    """The system and the settings with which a command draws.

    Attributes:
        system: the run's stages, with the settings of the command line.
        device: where the first process computes.
        first: whether this is the first of the processes that draw.
    """

    system: UnCLIP
    device: torch.device
    first: bool


def check_counts(options: argparse.Namespace) -> None:
    """Refuse counts below 1.

    Raises:
        InputError: names them.
    """
    if options.n < 1 or options.batch_size < 1:
        raise InputError(f"-n and --batch-size must be 1 or more, got {options.n} and {options.batch_size}")
    if options.devices < 1:
        raise InputError(f"--devices must be 1 or more, got {options.devices}")


def started(options: argparse.Namespace) -> Session:
    """The system as the options set it, after a look at whether the run has all that is needed.

    Raises:
        InputError: the folder to write is there, or a stage, a size or a setting is not.
    """
    options.run = chosen_run(options.run)
    first = first_process(options.devices)
    if first:
        require_writable(options.out, options.overwrite)
    device = find_device(options.device)
    system = UnCLIP(options.run, device if first else "cpu", None, Placement(options.precision, options.offload))
    check_stages(system, options)
    system.overrides = overrides_of(system, options)
    if options.guiding_clip:
        system.guiding_clip = FrozenCLIP(options.guiding_clip).to(system.device)
    if getattr(options, "rank_clip", None):  # Not every command that draws ranks.
        system.ranking_clip = ranking_clip(system, options.rank_clip)
    return Session(system, device, first)


def drawn(session: Session, options: argparse.Namespace, job: Job) -> SampleFolder | None:
    """Draw a job's pictures into --out, or those that are still wanting; None in all processes but the first."""
    system, shards = session.system, Shards(options.out)
    drawing = Drawing(system, job, shards, options.batch_size)
    if not session.first:
        draw(drawing, session.device, options.devices, options.strategy)
        return None
    with shards.started(request_of(system, options, job), options.overwrite, options.resume) as finished:
        if finished:
            print(f"{options.out}: going on, {finished} of {len(job)} pictures are there", flush=True)
        with _said_what_is_kept(shards, len(job)):
            draw(replace(drawing, finished=finished), session.device, options.devices, options.strategy)
            return shards.finish(len(job), options.overwrite)


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


def check_stages(system: UnCLIP, options: argparse.Namespace) -> None:
    """Refuse a run that lacks a stage which takes part, before anything is read.

    Raises:
        InputError: names the stage.
    """
    if options.condition not in sampled():
        raise InputError(f"unknown condition {options.condition!r}; there are {', '.join(sampled())}")
    if options.size is not None and not options.upsample:
        raise InputError("--size and --no-upsample exclude each other: leave one out")
    if options.decoder and CONDITIONS[options.condition].z_i in ("tokens", "true tokens"):
        raise InputError(f"--decoder {options.decoder}: the tokens of {options.condition} are read by its dVAE alone")
    needed = [*_networks(options), *(["upsampler"] if options.upsample and not upsampler_names(system) else [])]
    for name in needed:
        if not system.has(name):
            raise InputError(
                f"the run {system.run} holds no trained {name}, which --condition {options.condition} needs: train it, "
                "or choose another condition or run" + (", or pass --no-upsample" if name == "upsampler" else "")
            )
    upsamplers(system, options)  # A size that they do not reach is refused before any work.


def _networks(options: argparse.Namespace) -> list[str]:
    """The decoder and the prior that take part."""
    prior = CONDITIONS[options.condition].prior
    return [_decoder(options), *([] if prior is None else [prior])]


def _decoder(options: argparse.Namespace) -> str:
    return options.decoder or CONDITIONS[options.condition].decoder


def upsamplers(system: UnCLIP, options: argparse.Namespace) -> list[str]:
    """The upsamplers that take part."""
    if not options.upsample:
        return []
    first = decoder_size(system, _decoder(options))
    return upsampler_names(system)[: len(reachable_sizes(system, options.size, first)) - 1]


def _needed(system: UnCLIP, options: argparse.Namespace) -> list[str]:
    """All stages that take part."""
    return [*_networks(options), *upsamplers(system, options)]


def overrides_of(system: UnCLIP, options: argparse.Namespace) -> dict[str, dict[str, object]]:
    """The settings that the command line names, by the stages that take part."""
    prior = {"guidance_scale": options.prior_guidance, "steps": options.prior_steps}
    decoder = {
        "guidance_scale": options.decoder_guidance,
        "steps": options.decoder_steps,
        "name": options.decoder_sampler,
    }
    condition = CONDITIONS[options.condition]
    chosen = {_decoder(options): decoder, **({condition.prior: prior} if condition.prior else {})}
    chosen |= {name: {"steps": options.upsampler_steps} for name in upsamplers(system, options)}
    found = {stage: {k: v for k, v in fields.items() if v is not None} for stage, fields in chosen.items()}
    for word in options.set:
        key, text = setting(word)
        part, _, name = key.partition(".")
        stages = {"decoder": [_decoder(options)], "upsampler": upsamplers(system, options)}
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
        value = parse_yaml(text, "the value")
    except yaml.YAMLError as error:
        raise InputError(f"--set {word}: {text!r} is no value ({' '.join(str(error).split())})") from None
    return tuple(value) if isinstance(value, list) else value


def sampled_how(stages: Mapping[str, Model[Any]]) -> dict[str, dict[str, Any]]:
    """How stages are sampled, as lines of a manifest say it.

    Args:
        stages: "decoder", "prior" and the upsamplers, with the settings that they are sampled with.

    Returns:
        {"guidance", "sampler", "steps"}, each by stage, of those that have such a setting.
    """
    found = {name: getattr(model, "sampler", None) for name, model in stages.items()}
    samplers = {name: sampler for name, sampler in found.items() if isinstance(sampler, SamplerConfig)}
    scales = {
        name: getattr(samplers.get(name, model), "guidance_scale", None)
        for name, model in stages.items()
        if not isinstance(model, UpsamplerModel)  # They have no condition to drop.
    }
    return {
        "guidance": {name: scale for name, scale in scales.items() if scale is not None},
        "sampler": {name: sampler.name for name, sampler in samplers.items()},
        "steps": {name: sampler.steps for name, sampler in samplers.items()},
    }


def provenance(system: UnCLIP, options: argparse.Namespace) -> dict[str, Any]:
    """The fields that all lines of the manifest share: how the pictures were made."""
    enlarging = upsamplers(system, options)
    of_tokens = CONDITIONS[options.condition].z_i in ("tokens", "true tokens")
    stages: dict[str, Model[Any]] = {} if of_tokens else {"decoder": system.decoder(_decoder(options))}
    named = CONDITIONS[options.condition].prior
    if named is not None:
        stages["prior"] = system.model(named, Model)
    how: dict[str, Any] = {**sampled_how({**stages, **{name: system.upsampler(name) for name in enlarging}})}
    if options.set:
        how["settings"] = dict(map(setting, options.set))
    if options.negative:
        how["negative"] = options.negative
    if options.decoder:
        how["decoder"] = options.decoder
    if options.precision != "32":
        how["precision"] = options.precision
    if options.guiding_clip:
        how["guiding_clip"] = system.guiding_clip.fingerprint
    weights = {name: system.stage(name).fingerprint for name in _needed(system, options)}
    count = getattr(options, "best_of", 1)
    if system.ranking_clip is not None:
        how |= {"best_of": count, "rank_clip": system.ranking_clip.fingerprint}
    condition = row_name(options.condition, count)
    clip = system.clip_facts[1] if system.needs_clip(options.condition, options.decoder) else None
    made_with = {"condition": condition, **how, "weights": weights, "clip": clip}
    return {
        "condition": condition,
        **how,
        "config_hash": config_hash(made_with),
        "clip": clip,
        "commit": commit(),
        **attribution_field(system.run),
    }


def attribution_field(run: Path) -> dict[str, str]:
    """Whom to name with pictures that a run draws, as a field of manifests; empty where its data ask for none."""
    whom = attribution_of_run(run)
    return {} if whom is None else {"attribution": whom}


def request_of(system: UnCLIP, options: argparse.Namespace, job: Job) -> dict[str, Any]:
    """All that decides the pictures. A run goes on with an unfinished folder only if this is the same."""
    captions = [[request.caption, request.index, request.known] for request in job.requests]
    truth: Any = None
    if job.source is not None:
        truth = [[job.source.records[k].get("sha256") for k in request.images] for request in job.requests]
    folders = {name: system.run / name for name in _needed(system, options)}
    exports = {name: file_hashes(export_folder(folder) / "config.yaml") for name, folder in folders.items()}
    made = {key: value for key, value in job.shared.items() if key not in ("commit", "attribution")}
    return {
        **made,
        "captions": config_hash({"captions": captions}),
        "pictures": len(job),
        "seed": job.seed,
        "settings of the stages": config_hash({"exports": exports, "overrides": system.overrides}),
        "true images": config_hash({"sha256": truth}),
    }
