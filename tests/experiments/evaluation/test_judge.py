"""`unclip judge`: a probe of images' ratings, used by `unclip evaluate`; what is missing is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.judges.aesthetics import LinearProbe
from experiments.cli import main


@pytest.fixture
def rated(tmp_path: Path) -> Path:
    """Plain pictures, the redder the better."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    ratings, votes = ["image,rating"], ["better,worse"]
    for k in range(24):
        colour = rng.integers(0, 256, 3, dtype=np.uint8)
        Image.fromarray(np.full((20, 24, 3), colour, dtype=np.uint8)).save(tmp_path / "images" / f"{k}.png")
        ratings.append(f"{k}.png,{colour[0] / 25:.3f}")
        votes.append(f"{k}.png,{(k + 1) % 24}.png")
    (tmp_path / "ratings.csv").write_text("\n".join(ratings))
    (tmp_path / "votes.csv").write_text("\n".join(votes))
    return tmp_path


def judge(rated: Path, clip: Path, kind: str, csv: str) -> int:
    words = ["--csv", str(rated / csv), "--images", str(rated / "images"), "--clip", str(clip)]
    return main(["judge", kind, *words, "--out", str(rated / f"{kind}.json")])


def test_probes(rated: Path, stored_run: Path, capsys: pytest.CaptureFixture):
    clip = stored_run / "clip" / "export"
    assert judge(rated, clip, "aesthetic", "ratings.csv") == 0 and "n 24" in capsys.readouterr().out
    assert judge(rated, clip, "preference", "votes.csv") == 0
    probe = LinearProbe.load(rated / "aesthetic.json", "aesthetic")
    assert probe.clip.startswith("clip ") and probe.fit["n"] == 24 and len(probe.weights) == 16
    assert LinearProbe.load(rated / "preference.json", "preference").bias == 0


def test_what_is_missing(rated: Path, stored_run: Path, capsys: pytest.CaptureFixture):
    clip = stored_run / "clip" / "export"
    for change, line in (
        (lambda: (rated / "images" / "5.png").unlink(), "lacks 5.png, which"),
        (lambda: (rated / "ratings.csv").unlink(), "cannot read the ratings"),
    ):
        change()
        assert judge(rated, clip, "aesthetic", "ratings.csv") == 2
        error = capsys.readouterr().err.strip()
        assert line in error and "\n" not in error and not (rated / "aesthetic.json").exists()
