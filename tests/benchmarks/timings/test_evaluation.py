"""The benchmark of evaluation measures what `unclip evaluate` does with folders that it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.timings import evaluation
from benchmarks.timings.evaluation import (
    CONDITION,
    Measured,
    caption,
    command,
    line,
    make_folder,
    make_judges,
    own_memory,
)
from experiments.cli import main


def test_the_command_measures_everything(tmp_path, monkeypatch):
    monkeypatch.delenv("UNCLIP_INCEPTION", raising=False)
    make_folder(tmp_path / CONDITION, 12, 32, "diffusion_prior", seed=1)
    folder = make_folder(tmp_path / "reference", 12, 32, "real", seed=2)
    assert len(set(folder.captions)) == 12 and folder.size == (32, 32)
    assert main([*command(tmp_path, make_judges(tmp_path)), "--bootstrap", "5"]) == 0
    row = json.loads((tmp_path / CONDITION / "metrics.json").read_text())
    names = ("frechet", "fid", "clip_score", "kid", "cmmd", "precision", "recall", "r_precision", "inception_score")
    for name in names:
        assert row[name] is not None, name
    widths = {np.load(file, mmap_mode="r").shape[-1] for file in (tmp_path / "features").glob("*.npy")}
    assert 2048 in widths and len(widths) > 2


def test_the_command_is_the_documented_one(tmp_path):
    words = command(Path("runs/coco"), {"--inception": "FILE", "--clip": "ViT-B-16:openai"})
    assert " ".join(["unclip", *words]) in (Path(__file__).parents[3] / "docs" / "protocols.md").read_text()


def test_captions_differ():
    assert len({caption(k) for k in range(30_000)}) == 30_000


def test_a_line():
    text = line(Measured(30_000, 120.0, 500.0, 640.4))
    assert text == "30,000 samples and as many real images: 120 s, 500 images/s, peak 640 MB"
    assert line(Measured(3, 1.0, 6.0, 640.4, 410.2)).endswith(", peak 640 MB, 410 MB without pages of files")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
def test_pages_of_files_are_not_a_process_own(tmp_path):
    """Of a process that has so much memory of its own, and maps twice as much of a file."""
    size = 2**26
    np.zeros(2 * size, np.uint8).tofile(tmp_path / "file")
    work = f"held = np.ones({size}, np.uint8); mapped = np.memmap('file', mode='r'); assert mapped.sum() == 0"
    code = f"import numpy as np; {work}; print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        found = own_memory(process.pid)
        process.communicate("\n")
    assert process.returncode == 0
    assert size < found < 2 * size  # Python and numpy take some 20 MB more.
    assert own_memory(2**22 + 1) == 0  # no such process


def test_a_failure_is_no_measurement(tmp_path, monkeypatch):
    started = subprocess.Popen
    monkeypatch.setattr(evaluation.subprocess, "Popen", lambda words, **kwargs: started(["false"]))
    with pytest.raises(RuntimeError, match="of 6 images failed with 1"):
        evaluation.measure(6, 16, tmp_path)
    assert not list(tmp_path.iterdir())  # the scratch folder is gone
