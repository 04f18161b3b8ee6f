"""Sample folders and judges for the tests of the evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from eval.judges.attributes import AttributeClassifier
from eval.judges.features import NO_INCEPTION
from eval.samples.folder import SampleFolder, write_samples

ATTRIBUTES = {
    "count": ["one", "two"],
    "axis": ["vertical", "horizontal"],
    "background": ["white", "black"],
    "shape_1": ["circle", "square"],
    "colour_1": ["red", "blue"],
    "shape_2": ["circle", "square"],
    "colour_2": ["red", "blue"],
}


@pytest.fixture
def classifier() -> AttributeClassifier:
    """One that has learned nothing, but is always the same."""
    torch.manual_seed(0)
    return AttributeClassifier(ATTRIBUTES, image_size=16, width=4, features=6).eval()


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., SampleFolder]:
    """Writes a sample folder: captions x per_caption random pictures, brighter by `shift`."""

    def make(
        name: str, captions: int = 8, per_caption: int = 2, condition: str = "real", seed: int = 0, shift: int = 0,
        mentioned: bool = True, size: int = 16,
    ) -> SampleFolder:  # fmt: skip
        n = captions * per_caption
        g = torch.Generator().manual_seed(seed)
        low = torch.rand(n, 3, 4, 4, generator=g) * 150
        images = torch.nn.functional.interpolate(low, (size, size), mode="bilinear") + shift
        records = []
        for k in range(n):
            truth = {
                "objects": [{"shape": "circle" if k // per_caption % 2 else None, "colour": "red", "size": None}],
                "background": "white", "relation": None, "count": None,
            }  # fmt: skip
            record = {
                "caption": f"caption {k // per_caption}", "caption_index": k // per_caption,
                "sample_index": k % per_caption, "seed": k, "condition": condition, "commit": "abc123",
            }  # fmt: skip
            records.append({**record, "mentioned": truth} if mentioned else record)
        return write_samples(tmp_path / name, images.clamp(0, 255).to(torch.uint8), records)

    return make


PROTOCOL = {
    "n": 512, "captions": 256, "per_caption": 2, "extractor": "attribute classifier 12ab", "extractor_dim": 64,
    "clip": "eval_clip 34cd", "inception": NO_INCEPTION, "reference": "reference", "reference_n": 1024,
    "reference_digest": "56ef", "bootstrap": 1000, "level": 0.95, "seed": 0,
}  # fmt: skip


def interval(value: float) -> dict:
    return {"value": value, "low": value - 0.01, "high": value + 0.02}


def row(condition: str, accuracy: float | None = 0.5, **kwargs) -> dict:
    known = (
        None if accuracy is None else {"colour": {**interval(accuracy), "n": 9}, "all": interval(0.25), "size": None}
    )
    return {
        "condition": condition, "n": 512, "frechet": interval(1.5), "fid": None, "clip_score": interval(0.3),
        "accuracy": known, "diversity": interval(2), "protocol": dict(PROTOCOL), **kwargs,
    }  # fmt: skip


@pytest.fixture(name="row")
def row_fixture() -> Callable[..., dict]:
    """Makes what `measure` returns for a condition, with round numbers."""
    return row


def point(condition: str, scale: float, frechet: float, **more) -> dict:
    """One point of a guidance sweep, with round numbers."""
    protocol = {**PROTOCOL, "size": [32, 32]}
    numbers = {"frechet": interval(frechet), "recall": interval(1 / (1 + scale)), "precision": interval(0.5)}
    given = {"condition": condition, "settings": {"decoder.guidance_scale": scale, "decoder.steps": 8}}
    return {**row(condition), **numbers, **given, "protocol": protocol, "evaluations": 16, "folder": "none", **more}


@pytest.fixture
def guidance() -> dict:
    """What `unclip sweep` writes, of two conditions at three scales."""
    points = [
        point(c, s, d + abs(s - 1.5)) for c, d in (("glide", 5.0), ("diffusion_prior", 3.0)) for s in (1.0, 1.5, 3.0)
    ]
    return {
        "name": "guidance", "title": "Guidance sweep", "axis": "decoder.guidance_scale", "space": "images",
        "points": points, "missing": ["text_decoder"],
    }  # fmt: skip
