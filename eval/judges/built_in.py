"""The metrics of `unclip evaluate` that have options of their own, beside the published ones, for `--list`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_VARIABLE = "UNCLIP_INCEPTION"
"""The file of the network that FID is computed with, and what may name it."""


@dataclass(frozen=True)
class BuiltIn:
    """The metrics that one option turns on.

    Attributes:
        names: of the metrics, as `metrics.json` has them.
        option: what to give.
        file: what the option names.
        source: where people get it.
        protocol: what is computed, in words.
        needs: what the pictures must have.
    """

    names: str
    option: str
    file: str
    source: str
    protocol: str
    needs: str = "pictures only"


INCEPTION = BuiltIn(
    "fid, inception_score",
    f"--inception FILE, or ${INCEPTION_VARIABLE}",
    INCEPTION_FILE,
    "NVlabs/stylegan2-ada-pytorch; the file that clean-fid downloads",
    "FID by clean-fid's network and resizing; the Inception Score over all pictures at once",
)
BUILT_IN = (
    INCEPTION,
    BuiltIn(
        "frechet, kid, precision, recall, density, coverage, diversity",
        "the first that is given of --network, --classifier, --clip, --inception",
        "any network",
        "timm (--network NAME=FILE), open_clip (--clip NAME:FILE), or a run of yours",
        "distances and manifolds in the features of that network, which the table names",
        "pictures only; diversity: several of a caption",
    ),
    BuiltIn(
        "clip_score, r_precision, cmmd",
        "--clip FOLDER or NAME:FILE",
        "a CLIP that open_clip reads",
        "open_clip, or a run's eval_clip",
        "mean cosine; own caption first among 100; 1,000 x squared MMD of image embeddings",
        "captions (cmmd: pictures only)",
    ),
    BuiltIn(
        "accuracy, binding, shapes_geneval",
        "--classifier FOLDER",
        "an attribute classifier",
        "`unclip fit` of eval.judges.attributes.AttributeClassifier",
        "what a caption mentions and the classifier finds in the picture",
        "captions with ground truth in the manifest",
    ),
    BuiltIn(
        "aesthetic, preference",
        "--aesthetic FILE, --preference FILE, with --clip",
        "a probe",
        "`unclip judge`",
        "linear probes on embeddings of a CLIP",
    ),
)


def lines(folder: Path | None) -> Sequence[str]:
    """What --list says of them; of FID, whether its file is named by the environment or lies in the folder."""
    named = os.environ.get(INCEPTION_VARIABLE)
    places = [*([Path(named)] if named else []), *([folder / INCEPTION_FILE] if folder else [])]
    there = "here" if any(place.is_file() for place in places) else "not here"
    said = []
    for each in BUILT_IN:
        said += [
            f"{each.names}{f' ({there})' if each is INCEPTION else ''}",
            f"  {each.protocol}",
            f"  by:    {each.option}",
            f"  files: {each.file}",
            f"  from:  {each.source}",
            f"  needs: {each.needs}",
        ]
    return said
