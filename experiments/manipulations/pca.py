"""`unclip pca`: pictures from ever more principal components of their z_i (unCLIP, section 4 and figure 7)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from datamodules.embeddings.folder import open_embeddings
from eval.figures.folder import FigureRecord
from eval.figures.panels import line_plot, panel
from eval.judges.attributes import load_classifier
from eval.metrics.bootstrap import as_json
from eval.metrics.scoring import describe, score_all
from eval.tables.main import Cell, Table
from experiments.manipulations.common import (
    cell,
    enlarged,
    finish,
    interval,
    numbered,
    pictures,
    sources,
    start,
    walk_of,
)
from modules.clip.origin import same_clip
from modules.errors import InputError
from modules.manipulations import Latents, component_counts, fresh_noise, principal_components, redraw, tokens_of
from modules.models.priors.embedding_codec import EmbeddingCodec
from modules.pipeline import UnCLIP
from modules.seeds import ImageSeeds

ATTRIBUTES = ("background", "count", "colour", "shape", "size", "relation")
SHARE = 0.9  # of its final accuracy, at which an attribute counts as there
LARGEST_FIT = 50_000  # embeddings that the components are fitted to


def run(options: argparse.Namespace) -> int:
    """Run `unclip pca`; returns the exit code."""
    system = start(options)
    found, walk = sources(options), walk_of(options)
    codec = fit(options.embeddings or Path(options.run) / "embeddings", system)
    counts = sorted(set(options.components or component_counts(codec)))
    if counts[0] < 0 or counts[-1] > codec.num_codes:
        raise InputError(f"--components go from 0 to {codec.num_codes}, the embedding's dimensions")
    z_i = system.embed_image(found.images)
    # One seed for all pictures, as in the paper: what differs between them is z_i.
    noise = fresh_noise(system, ImageSeeds.of([options.seed] * len(found), len(found)))
    tokens = tokens_of(system, None, len(found))
    drawn = [redraw(system, Latents(codec.reconstruct(z_i, k, system.raw), noise, tokens), walk) for k in counts]
    drawn.append(redraw(system, Latents(z_i, noise, tokens), walk))
    kept = codec.eigenvalues.cumsum(0) / codec.eigenvalues.sum()
    variance = float(kept[counts[-1] - 1]) if counts[-1] else 0.0
    notes = [
        f"z_i from its leading principal components alone, decoded on one fixed seed ({options.steps} DDIM steps, "
        f"guidance {options.guidance:g}); the last column has all of z_i. {counts[-1]} of {codec.num_codes} components "
        f"hold {variance:.1%} of the variance"
        + ("." if options.components else "; the numbers are the paper's, scaled to this embedding's rank."),
    ]
    names = [*(str(count) for count in counts), "all of z_i"]
    tables: list[Table] = []
    numbers: dict[str, Any] = {"components": counts}
    shown: dict[str, Image.Image | bytes] = {}
    if found.records[0].get("scene") and (Path(options.run) / "classifier" / "export").is_dir():
        scores = accuracies(options.run, drawn, [record["scene"] for record in found.records])
        tables.append(table(names, scores, len(found)))
        means = {name: [float(torch.nanmean(s[name])) for s in scores] for name in scores[0]}
        numbers["accuracy"] = {name: [as_json(interval(s[name])) for s in scores] for name in scores[0]}
        notes.append(first_seen(counts, means))
        shown["accuracy.png"] = line_plot(counts, {k: v[:-1] for k, v in means.items()}, "components", "accuracy")
    first = min(options.shown, len(found))
    columns = [pictures(found.images[:first]), *(enlarged(system, options, images[:first]) for images in drawn)]
    page = panel(
        [list(row) for row in zip(*columns, strict=True)], ["picture", *heads(counts)], found.names[:first], 96
    )
    extra = numbered([image for column in columns[1:] for image in column])
    record = FigureRecord("Principal components of z_i", notes, tables, numbers=numbers)
    return finish(options, "pca", record, {"figure.png": page, **shown}, extra)


def heads(counts: list[int]) -> list[str]:
    """The headings of the columns that are drawn."""
    return [*(f"{count} component{'' if count == 1 else 's'}" for count in counts), "all of z_i"]


def fit(folder: str | Path, system: UnCLIP) -> EmbeddingCodec:
    """Components of the training embeddings of the run's CLIP.

    Raises:
        InputError: embeddings of another CLIP.
    """
    opened = open_embeddings(folder)
    if not same_clip(opened.info.clip_fingerprint, system.clip.fingerprint):
        raise InputError(f"{folder} holds embeddings of another CLIP than that of {system.run}: embed the data again")
    rows = opened.rows("train")
    return principal_components(rows[range(min(len(rows), LARGEST_FIT))].z_i).to(system.device)


def accuracies(run: str, drawn: list[Tensor], scenes: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
    """For each number of components: attribute -> (N,) accuracy, nan where it does not apply."""
    classifier = load_classifier(Path(run) / "classifier")
    scores = []
    for images in drawn:
        seen = describe(classifier.look(images.cpu()).classes.numpy(), classifier.attributes)
        found = score_all(seen, scenes)
        scores.append({name: torch.from_numpy(found[name]) for name in ATTRIBUTES})
    return scores


def table(names: list[str], scores: list[dict[str, Tensor]], count: int) -> Table:
    """Accuracy of each attribute against the number of components."""
    rows = [[Cell(name), *(cell(interval(s[a])) for a in ATTRIBUTES)] for name, s in zip(names, scores, strict=True)]
    fewer = {a: int((~scores[0][a].isnan()).sum()) for a in ATTRIBUTES}
    apply = ", ".join(f"{a} {n}" for a, n in fewer.items() if n < count)
    note = (
        f"n = {count} test pictures{f' ({apply}: the others have none)' if apply else ''}; the share of a scene's "
        "attributes that the classifier sees in what is drawn. In brackets: 95% bootstrap interval over pictures."
    )
    return Table("Accuracy against components", ["components", *ATTRIBUTES], rows, [note])


def first_seen(counts: list[int], means: dict[str, list[float]]) -> str:
    """The sentence that says which attribute appears first."""
    places = {}
    for name, values in means.items():
        reached = [count for count, value in zip(counts, values, strict=False) if value >= SHARE * values[-1]]
        places[name] = reached[0] if reached else None
    known = sorted((count, name) for name, count in places.items() if count is not None)
    together = {count: " and ".join(name for c, name in known if c == count) for count, _ in known}
    order = ", ".join(f"{names} ({count})" for count, names in together.items())
    late = [name for name, count in places.items() if count is None]
    return f"Order of appearance (components at {SHARE:.0%} of the accuracy with all of z_i): {order or 'none'}" + (
        f"; not before all of z_i: {', '.join(late)}." if late else "."
    )
