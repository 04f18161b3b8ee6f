"""The quickstart itself, from nothing to results.json and report.html: all of its stages, with two steps each."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
import yaml

from benchmarks.small import write_quickstart
from eval.samples import SampleFolder
from experiments.cli import main

PRIORS = ["linear_prior", "ar_prior", "diffusion_prior"]
CONDITIONS = ["caption_only", "glide", "text_embedding", *PRIORS, "image_embedding", "real"]

# Starting Python with torch and Lightning takes seconds, twenty times over. So stages are forked from one process that
# has imported everything; `unclip` as a process of its own is what test_reproduce.py and test_resume.py start.
PRELOAD = [
    f"experiments.{name}" for name in ("lightning_cli", "sample", "probe", "embed", "evaluate", "report", "data")
]
PRELOAD += [f"eval.{name}" for name in ("measure", "report", "attributes", "features")]
PRELOAD += [f"modules.{name}" for name in (*PRIORS, "decoder", "upsampler")]
PRELOAD += ["datamodules.shapes", "datamodules.embeddings", "torch.utils.tensorboard"]
WORKER = """
import os, sys

def run(words, env, log):
    os.environ.update(env)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    import torch
    torch.set_num_threads(1)
    from experiments.cli import main
    sys.exit(main(words))
"""


class Forked:
    """What the runner takes for a stage's process."""

    context = multiprocessing.get_context("forkserver")
    started = 0

    def __init__(self, words, env, log, lock) -> None:
        import worker

        assert words[0] == "unclip"
        Forked.started += 1
        self.process = self.context.Process(target=worker.run, args=(words[1:], env, str(log)))
        self.process.start()

    @property
    def code(self):
        return self.process.exitcode

    def send(self, number) -> None:
        self.process.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The quickstart's files, shrunk."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "worker.py").write_text(WORKER)
    write_quickstart(folder)
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    for name in ("UNCLIP_PROGRESS", "UNCLIP_RUN", "UNCLIP_INCEPTION", "UNCLIP_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(folder)
    Forked.context.set_forkserver_preload(PRELOAD)
    monkeypatch.setattr("experiments.runner.StageProcess", Forked)
    return folder


def reproduce(*words: str) -> int:
    return main(["reproduce", "experiments/quickstart/suite.yaml", *words])


def state(run: Path) -> dict[str, tuple[int, int]]:
    """When each file was written, and its size."""
    found = {str(path): path.stat() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in found.items()}


@pytest.mark.timeout(1200)  # On a machine that has other things to do.
def test_the_quickstart(here, monkeypatch, capsys):
    code = reproduce()
    out = capsys.readouterr().out
    assert code == 0, out
    stages = [
        entry["name"] for entry in yaml.safe_load(Path("experiments/quickstart/suite.yaml").read_text())["stages"]
    ]
    assert Forked.started == len(stages)
    assert "Traceback" not in out and "real images (floor)" in out  # The table is shown.

    run = Path("runs/quickstart")
    results = json.loads((run / "results.json").read_text())
    assert [row["condition"] for row in results["rows"]] == CONDITIONS
    for row in results["rows"]:
        assert row["n"] == 8
        for key in ("frechet", "clip_score", "diversity"):
            assert row[key]["low"] <= row[key]["value"] <= row[key]["high"], (row["condition"], key)
        assert {"colour", "shape", "size", "background", "count", "relation", "all"} <= set(row["accuracy"])
    assert {"background", "colour", "shape"} <= set(results["clip_probe"])
    assert set(results["seconds"]) == set(stages) - {"report", "tables", "figures"}  # Written before these end.
    assert all(value > 0 for value in results["seconds"].values())
    assert "data:image/png" in (run / "report.html").read_text()
    assert "GLIDE" in (run / "tables.md").read_text()
    for name in ("guidance", "sampler", "prior"):
        points = json.loads((run / "sweeps" / f"{name}.json").read_text())["points"]
        assert {point["condition"] for point in points} <= set(CONDITIONS) and points
        assert f"{name.capitalize()} sweep" in (run / "report.html").read_text()
    assert "| AR prior |" in (run / "tables" / "main.md").read_text()
    assert list((run / "figures").glob("*.svg")) and (run / "manipulations" / "inpaint" / "figure.png").exists()

    folders = {name: SampleFolder.open(run / "samples" / name) for name in CONDITIONS}
    assert all(folder.captions == folders["real"].captions for folder in folders.values())
    assert all(folder.size == (128, 128) for folder in folders.values())
    assert len({tuple(record["sha256"] for record in folder.records) for folder in folders.values()}) == len(CONDITIONS)

    # The second call computes nothing.
    before = state(run)
    monkeypatch.setattr("experiments.runner.StageProcess", lambda words, *rest: pytest.fail(f"{words} was run"))
    assert reproduce() == 0
    assert "all stages are up to date" in capsys.readouterr().out
    assert state(run) == before

    # The CLIP that gave the embeddings is no judge of what was made from them.
    words = ["--reference", str(run / "samples/reference"), "--clip", str(run / "clip/export"), "--bootstrap", "2"]
    assert main(["evaluate", str(run / "samples/glide"), *words]) == 2
    assert "is the CLIP that" in capsys.readouterr().err


def test_a_changed_yaml_runs_its_stage_and_what_depends_on_it(here, capsys):
    if not Path("runs/quickstart/results.json").exists():
        pytest.skip("the test above makes it")
    path = Path("experiments/quickstart/diffusion_prior.yaml")
    text = path.read_text()
    path.write_text(text.replace("drop_text: 0.1", "drop_text: 0.2"))
    try:
        assert reproduce("--dry-run") == 0
    finally:
        path.write_text(text)
    lines = capsys.readouterr().out.splitlines()[1:]
    would = {line.split()[0] for line in lines if "would run" in line}
    sweeps = {"sweep_guidance", "sweep_sampler", "sweep_prior", "gallery"}
    assert would == {"diffusion_prior", "sample_diffusion_prior", "evaluate", "report", "tables", "figures"} | sweeps
    assert any("drop_text: 0.1 -> 0.2" in line for line in lines)
