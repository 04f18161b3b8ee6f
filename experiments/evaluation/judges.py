"""The judges that `unclip evaluate` and `unclip sweep` measure by."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from eval.judges.features import CLIPExtractor
from eval.judges.judges import Judges
from eval.runs import run_of
from experiments.console.devices import find_device
from modules.errors import InputError


def named_judges(options: argparse.Namespace) -> bool:
    """Whether the options name a network that judges images."""
    from eval.judges.features import find_inception

    named = (options.classifier, options.clip, options.network, options.metric)
    return any(named) or find_inception(options.inception) is not None


def judges_of(run: Path, options: argparse.Namespace) -> None:
    """Names the run's own classifier and its CLIP for evaluation, if it has them and no judge is named."""
    options.classifier = options.classifier or existing(run / "classifier")
    options.clip = options.clip or existing(run / "eval_clip" / "export")


def existing(folder: Path) -> str | None:
    """A folder's name, if it is there."""
    return str(folder) if folder.is_dir() else None


def make_judges(options: argparse.Namespace, folders: list[Any]) -> Judges:
    """Loads the networks that look at the images.

    Raises:
        InputError: one of them is not there, none was given, or the CLIP is the one that the samples were made with.
    """
    from eval.judges.aesthetics import LinearProbe
    from eval.judges.attributes import load_classifier
    from eval.judges.features import AttributeExtractor, InceptionExtractor, find_inception
    from eval.judges.judges import Judges
    from eval.judges.published.metrics import load_published
    from eval.judges.timm_features import make_network
    from modules.clip.folder import clip_folder

    device = find_device(getattr(options, "device", None))
    weights = find_inception(options.inception)
    named = clip_folder(options.clip) if options.clip else None
    if named is not None:
        refuse_conditioning_clip(named, folders)
    clip = make_clip(named, device) if named is not None else None
    if named is not None and clip is not None:
        refuse_named_clip(named, clip, folders)
    probes = {
        kind: LinearProbe.load(getattr(options, kind), kind, clip.name if clip else None)
        for kind in ("aesthetic", "preference")
        if getattr(options, kind)
    }
    return Judges(
        classifier=AttributeExtractor(load_classifier(options.classifier), device) if options.classifier else None,
        clip=clip,
        inception=InceptionExtractor(weights, device) if weights else None,
        network=make_network(options.network, device) if options.network else None,
        published=load_published(options.metric, options.weights, device),
        **probes,
    )


def feature_cache(named: str | None, *folders: Path) -> Path | None:
    """Where features are kept: the folder that was named, or RUN/features of the first of these folders in a run.

    Returns:
        None where '' was named, or none of them is in a run.
    """
    if named is not None:
        return Path(named) if named else None
    return next((run / "features" for run in map(run_of, folders) if run is not None), None)


@contextmanager
def feature_folder(named: str | None, folders: Sequence[Path]) -> Iterator[Path]:
    """`feature_cache`, or a folder in the system's temporary one that goes afterwards.

    Features are always memory maps, for memory has to hold whatever the number of images, and wherever they lie.
    """
    cache = feature_cache(named, *folders)
    if cache is not None:
        yield cache
        return
    with TemporaryDirectory(prefix="unclip-features-", ignore_cleanup_errors=True) as temporary:
        yield Path(temporary)


def make_clip(name: str, device: str | torch.device) -> CLIPExtractor:
    """The CLIP in a folder, or open_clip's NAME:PRETRAINED, with its tokeniser."""
    from eval.judges.features import load_clip
    from modules.clip.folder import clip_folder
    from modules.clip.frozen import load_tokenizer

    name, pretrained = clip_folder(name), None
    if not Path(name).is_dir() and ":" in name:
        name, pretrained = name.split(":", 1)
    extractor = load_clip(name, pretrained, device=device)
    extractor.tokenizer = load_tokenizer(name)
    return extractor


def refuse_conditioning_clip(clip: str, folders: list[Any]) -> None:
    """Refuse the CLIP that made the embeddings: it would judge its own work.

    Raises:
        InputError: its weights are those of the run that a folder belongs to.
    """
    weights = "open_clip_model.safetensors"
    judge = Path(clip) / weights
    for folder in folders:
        run = run_of(folder.path)
        own = None if run is None else run / "clip" / "export" / weights
        if own is not None and own.is_file() and judge.is_file() and own.read_bytes() == judge.read_bytes():
            raise InputError(f"--clip {clip} is the CLIP that {folder.path} was made with; judge with another")


def refuse_named_clip(name: str, clip: CLIPExtractor, folders: list[Any]) -> None:
    """The same check by the manifests, which name the CLIP, because samples may lie outside of their run.

    Raises:
        InputError: a folder was made with this CLIP.
    """
    for folder in folders:
        for key, role in (("clip", "was made with"), ("rank_clip", "was chosen by, among candidates")):
            if any(str(record.get(key, "")).startswith(clip.fingerprint) for record in folder.records):
                raise InputError(f"--clip {name} is the CLIP that {folder.path} {role}; judge with another")
