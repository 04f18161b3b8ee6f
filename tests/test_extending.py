"""docs/extending.md, followed to the letter: its blocks of code go where they say, and do what a section promises."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import cdist

from eval.samples.folder import SampleFolder
from experiments.cli import main
from modules.errors import InputError

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "extending.md"
PACKAGES = ("unclip", "modules", "datamodules", "eval", "experiments")
HEADER = re.compile(r"# ([\w/]+\.(?:py|yaml))(?:, (below|above) (.+))?")
SMALL = """
trainer: {accelerator: cpu, max_steps: 4, val_check_interval: 4, limit_val_batches: 1}
data: {init_args: {batch_size: 64}}
"""


class Edit(NamedTuple):
    """Text for a file: the whole of a new one, or what goes beside the line that begins with `anchor`."""

    path: str
    side: str | None
    anchor: str
    text: str


def recipe(section: str) -> list[Edit]:
    """The edits of a section of the page, in order."""
    (body,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    edits = []
    for block in re.findall(r"```(?:python|yaml)\n(.*?)```", body, re.DOTALL):
        before, *parts = re.split(r"^(?=# [\w/]+\.(?:py|yaml)(?:$|, ))", block, flags=re.MULTILINE)
        assert before == "", f"a block of {section!r} does not begin with the name of a file"
        for part in parts:
            header, _, text = part.partition("\n")
            path, side, anchor = HEADER.fullmatch(header).groups()
            edits.append(Edit(path, side, anchor or "", text))
    return edits


def apply(edits: list[Edit], folder: Path) -> list[str]:
    """Make the edits in a folder; returns the files touched, in order."""
    for path, side, anchor, text in edits:
        file = folder / path
        if side is None:
            assert not file.exists(), f"{path} is no new file"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            continue
        lines = file.read_text().splitlines(keepends=True)
        (at,) = [k for k, line in enumerate(lines) if line.strip().startswith(anchor)]
        lines.insert(at + (side == "below"), text)
        file.write_text("".join(lines))
    return list(dict.fromkeys(edit.path for edit in edits))


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the project's packages."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / "house" / name)
    return tmp_path / "house"


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes the new files of a section importable in this process, for one test; returns their folder."""
    placed: list[str] = []

    def place(section: str) -> Path:
        folder, edits = tmp_path / "beside", recipe(section)
        assert all(edit.side is None for edit in edits)
        names = [edit.path.removesuffix(".py").replace("/", ".") for edit in edits if edit.path.endswith(".py")]
        apply(edits, folder)
        for package in {name.rpartition(".")[0] for name in names}:
            paths = [*importlib.import_module(package).__path__, str(folder / package.replace(".", "/"))]
            monkeypatch.setattr(f"{package}.__path__", paths)
        placed.extend(names)
        return folder

    yield place
    for name in placed:
        sys.modules.pop(name, None)


@pytest.fixture
def run(stored_run: Path, embeddings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a run with every stage, and with the embeddings."""
    shutil.copytree(stored_run, tmp_path / "run")
    (tmp_path / "run" / "embeddings").symlink_to(embeddings)
    for name in ("UNCLIP_INCEPTION", "UNCLIP_PROGRESS", "UNCLIP_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UNCLIP_RUN", str(tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def in_house(house: Path, *commands: list[str], then: str = "") -> list[str]:
    """Run `unclip` commands of a copy, and Python code, in one process; returns what that code printed."""
    code = f"""
import json
from experiments.cli import main
import modules
assert modules.__file__.startswith({str(house)!r})
for words in {[list(map(str, words)) for words in commands]!r}:
    code = main(words)
    assert code == 0, (code, words)
print("then")
{then}
"""
    env = {**os.environ, "PYTHONPATH": str(house), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.rpartition("then\n")[2].splitlines()


def export_real(folder: Path, name: str, split: str, captions: int) -> Path:
    """True pictures, two of each caption."""
    config = folder / "shapes.yaml"
    init = "{image_size: 32, train_size: 8, val_size: 16, test_size: 16, cache_dir: null}"
    config.write_text(f"data: {{class_path: datamodules.shapes.ShapesDataModule, init_args: {init}}}")
    words = ["--config", str(config), "--split", split, "--captions", str(captions), "--per-caption", "2"]
    assert main(["data", "export", *words, "--out", str(folder / name)]) == 0
    return folder / name


def small(folder: Path, name: str, text: str = "") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(SMALL + text)
    return path


def prior_and_metric(house, run, tiny, tmp_path):
    """The commands that train and measure them, and code that prints the model's class and its shift."""
    prior, metric = apply(recipe("A prior"), house), apply(recipe("A metric"), house)
    assert prior == [
        "modules/networks/shift_prior.py",
        "modules/models/shift_prior.py",
        "modules/shift_prior.py",
        "modules/conditions.py",
        "experiments/quickstart/shift_prior.yaml",
    ]
    assert metric == ["eval/metrics/nearest.py", "eval/further.py", "eval/tables/further.py"]
    real = export_real(tmp_path, "real", "test", 6)
    reference = export_real(tmp_path, "reference", "val", 8)
    judge = tiny.write_clip(tmp_path / "judge", seed=1)
    yaml = house / "experiments/quickstart/shift_prior.yaml"
    # All 64 pairs are one batch: a step of length 1/2 is the whole way to the optimum.
    init = "{network: {init_args: {embedding_dim: 16}}, training: {warmup_steps: 1, decay_share: 0.0}, "
    init += "optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.5}}}"
    config = small(tmp_path, "small", f"model: {{init_args: {init}}}\n")
    samples = run / "samples" / "shift_prior"
    quick = ["--decoder-steps", "1", "--upsampler-steps", "1"]
    sampled = ["--condition", "shift_prior", "--captions", real / "manifest.jsonl", "-n", "2", "--out", samples]
    commands = [
        ["plan", yaml, config, "--devices", "1"],
        ["fit", "--config", yaml, "--config", config],
        ["sample", "--run", run, *sampled, *quick],
        ["evaluate", samples, "--reference", reference, "--clip", judge, "--bootstrap", "20"],
        ["report", run],
    ]
    then = f"""
from modules.models.exports import load_model
model = load_model({str(run / "shift_prior")!r}).model
about = f"{{type(model).__module__}}.{{type(model).__qualname__}}"
print(json.dumps([about, model.network.shift.tolist()]))
"""
    return commands, then


def check_prior_and_metric(run, embeddings, answer):
    """The gap that least squares finds, and the distance, are computed here once more."""
    from datamodules.embeddings.folder import open_embeddings

    about, shift = json.loads(answer)
    assert about == "modules.models.shift_prior.ShiftPriorModel"
    rows = open_embeddings(embeddings).rows("train")[range(64)]
    torch.testing.assert_close(torch.tensor(shift), (rows.z_i - rows.z_t).mean(dim=0), atol=1e-6, rtol=0)

    (row,) = json.loads((run / "results.json").read_text())["rows"]
    tables = (run / "tables.md").read_text()
    assert row["condition"] == "shift_prior" and row["n"] == 12
    assert "| shift prior | 12 |" in tables and "shift prior" in (run / "report.html").read_text()

    found = json.loads((run / "samples" / "shift_prior" / "metrics.json").read_text())["nearest"]
    arrays = {len(array): array for array in map(np.load, (run / "features").glob("*.npy"))}
    value = cdist(arrays[12], arrays[16]).min(axis=1).mean()
    assert found["value"] == row["nearest"]["value"] == pytest.approx(value, rel=1e-5)
    assert found["low"] < found["value"] < found["high"]
    (heads,) = [line for line in tables.splitlines() if "nearest real image ↑" in line]
    (cells,) = [line for line in tables.split(heads)[1].splitlines() if line.startswith("| shift prior")]
    by_head = dict(zip(heads.split(" | "), cells.split(" | "), strict=True))
    (cell,) = [text for head, text in by_head.items() if "nearest" in head]
    assert cell.startswith(f"{value:.2f} [")
    assert any("nearest real image" in line for line in tables.splitlines() if line.startswith("- KID, "))


def test_a_stage(beside, run, tmp_path, capsys):
    """Fit, go on, predict and plan; the export is the model, and its loss is that of its equation."""
    from datamodules.embeddings.folder import open_embeddings
    from modules.models.exports import load_model

    folder = beside("A stage")
    yaml = str(folder / "experiments/quickstart/text_reader.yaml")
    init = "network: {init_args: {in_features: 16, out_features: 16}}, training: {ema_decay: 0.5, warmup_steps: 1}"
    config = str(small(tmp_path, "small", f"model: {{init_args: {{{init}}}}}\n"))
    words = ["--config", yaml, "--config", config, "--data.init_args.batch_size=8"]
    assert main(["plan", yaml, config, "--devices", "1"]) == 0
    assert "TextReader: 272 parameters, batch 64 a device" in capsys.readouterr().out
    assert main(["fit", *words]) == 0
    kind = importlib.import_module("modules.models.text_reader").TextReaderModel
    stored = load_model(run / "text_reader", kind)
    assert type(stored.model).__name__ == "TextReaderModel"
    rows = open_embeddings(run / "embeddings").rows("val")[range(8)]
    network = stored.model.network
    expected = ((rows.z_i @ network.weight.T + network.bias - rows.z_t) ** 2).sum(1).mean()
    torch.testing.assert_close(stored.model.loss(rows, torch.Generator()), expected)

    # Two steps and then two more are four.
    again = f"--trainer.default_root_dir={tmp_path / 'again'}"
    assert main(["fit", *words, again, "--trainer.max_steps=2", "--trainer.val_check_interval=2"]) == 0
    assert main(["fit", *words, again, "--ckpt_path=last", "--overwrite"]) == 0
    resumed = load_model(tmp_path / "again", kind).model.network
    assert torch.equal(resumed.weight, network.weight) and torch.equal(resumed.bias, network.bias)

    assert main(["predict", *words, "--ckpt_path=last"]) == 0
    assert list((run / "text_reader").rglob("*.safetensors"))
    with pytest.raises(InputError, match="holds a TextReaderModel, where a LinearPriorModel is needed"):
        load_model(run / "text_reader", importlib.import_module("modules.models.priors.linear_prior").LinearPriorModel)


def test_a_data_format(beside, tmp_path):
    """Every pair once a pass, the same order after a resume, splits apart, and bad lines counted."""
    from lightning import LightningModule, Trainer

    beside("A data format")
    kind = importlib.import_module("datamodules.tab_separated").TabSeparatedDataModule
    lines = []
    for k in range(20):
        Image.fromarray(np.full((12, 10, 3), 12 * k, np.uint8)).save(tmp_path / f"{k}.png")
        lines.append(f"{k}.png\tnumber {k}")
    (tmp_path / "pairs.tsv").write_text("\n".join([*lines, "20.png", ""]))

    class Watcher(LightningModule):
        """Notes the pairs that it sees: caption and grey."""

        def __init__(self):
            super().__init__()
            self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []

        def training_step(self, batch, batch_idx):
            greys = ((batch.images.mean(dim=(1, 2, 3)) + 1) * 127.5 / 12).round().int().tolist()
            self.seen.append(list(zip(batch.index.tolist(), batch.captions, greys, strict=True)))
            return self.weight**2

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def make(**more):
        from datamodules.pictures.module import SplitConfig

        splits = SplitConfig(val_share=0.2, test_share=0.2)
        return kind(str(tmp_path / "pairs.tsv"), image_size=8, batch_size=3, seed=5, splits=splits, **more)

    def fit(steps, checkpoint=None, **more):
        names = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
        off = {**dict.fromkeys(names, False), "use_distributed_sampler": False, "limit_val_batches": 0}
        model = Watcher()
        made = Trainer(accelerator="cpu", max_steps=steps, default_root_dir=tmp_path, num_sanity_val_steps=0, **off)
        made.fit(model, datamodule=make(**more), ckpt_path=checkpoint)
        return made, model.seen

    data = make()
    parts = {split: set(data.captions(split)) for split in ("train", "val", "test")}
    assert set.union(*parts.values()) == {f"number {k}" for k in range(20)}
    assert sum(map(len, parts.values())) == 20 and min(map(len, parts.values())) > 0
    assert data.log("train").summary() == "1 skipped from train (1 for an empty caption)"

    n = len(parts["train"])
    _, whole = fit(12)
    first, seen = fit(5)
    first.save_checkpoint(tmp_path / "five.ckpt")
    _, rest = fit(12, tmp_path / "five.ckpt")
    assert seen + rest == whole
    stream = [pair for batch in whole for pair in batch]
    assert len(stream) == 36 and sorted(index for index, _, _ in stream[:n]) == list(range(n))
    assert all(caption == f"number {grey}" and caption in parts["train"] for _, caption, grey in stream)
    assert fit(4, num_workers=1)[1] == whole[:4]
    with pytest.raises(InputError, match=r"no file gone\.tsv"):
        kind("gone.tsv").dataset("train")


def sampler_and_scheduler(house, run, tmp_path):
    """The commands that draw and train with them, and code that prints what they make of schedules."""
    sampler, scheduler = apply(recipe("A sampler"), house), apply(recipe("A scheduler"), house)
    assert sampler == [
        "modules/diffusion/samplers/euler.py",
        "modules/models/sampler_names.py",
        "modules/models/diffusion_model.py",
    ]
    assert scheduler == ["modules/diffusion/spacing.py", "modules/diffusion/schedules.py"]
    base = ["sample", "a small red circle", "-n", "4", "--run", run, "--condition", "diffusion_prior", "--no-upsample"]
    base += ["--set", "prior.spacing=quadratic", "--decoder-steps", "5"]
    by = {name: ["--set", f"prior.name={name}", "--decoder-sampler", name] for name in ("ddim", "euler")}
    init = "{objective: {schedule: sigmoid}, sampler: {name: euler, spacing: quadratic, steps: 4}, "
    init += "network: {init_args: {embedding_dim: 16, vocab_size: 30, context_length: 20, "
    init += "width: 16, depth: 1, heads: 2}}}"
    config = small(tmp_path, "small_prior", f"model: {{init_args: {init}}}\n")
    fit = ["fit", "--config", house / "experiments/quickstart/diffusion_prior.yaml", "--config", config]
    commands = [
        *([*base, *words, "--out", tmp_path / name] for name, words in by.items()),
        [*fit, f"--trainer.default_root_dir={tmp_path / 'prior'}"],
    ]
    then = f"""
import contextlib, io
from modules.diffusion.schedules import linear, respace
from modules.models.exports import load_model
model = load_model({str(tmp_path / "prior")!r}).model
said = io.StringIO()
with contextlib.redirect_stderr(said):
    assert main({[*map(str, base)]!r} + ["--set", "decoder.name=eulr", "--out", "none"]) == 2
try:
    respace(linear(100), 90, "quadratic")
except ValueError as error:
    refused = str(error)
print(json.dumps({{
    "timesteps": respace(linear(1000), 10, "quadratic").timesteps.tolist(),
    "alpha_bar": model.objective.noise_schedule.alpha_bar.tolist(),
    "trajectory": model.trajectory.timesteps.tolist(),
    "sampler": model.sampler.name,
    "said": said.getvalue(),
    "refused": refused,
}}))
"""
    return commands, then


def check_sampler_and_scheduler(tmp_path, answer):
    """Euler's method in sigma is DDIM; the spacing and the schedule have their closed forms."""
    ddim, euler = (SampleFolder.open(tmp_path / name) for name in ("ddim", "euler"))
    assert euler.records[0]["sampler"] == {"decoder": "euler", "prior": "euler"}
    assert (ddim.images().int() - euler.images().int()).abs().max() <= 1 and ddim.images().float().std() > 1

    found = json.loads(answer)
    assert found["timesteps"] == [10, 40, 90, 160, 250, 360, 490, 639, 809, 999]
    assert found["refused"] == "90 steps of quadratic spacing would repeat a timestep; take fewer or another spacing"
    assert "euler" in found["said"] and "eulr" in found["said"]
    alpha_bar = found["alpha_bar"]
    steps = len(alpha_bar)
    logistic = [1 / (1 + math.exp(-(6 * k / (steps + 1) - 3))) for k in range(steps + 2)]
    expected = [(logistic[-1] - value) / (logistic[-1] - logistic[0]) for value in logistic[1:-1]]
    assert alpha_bar == pytest.approx(expected, abs=1e-12)
    assert (found["sampler"], found["trajectory"]) == ("euler", [round((steps - 1) * k * k / 16) for k in range(1, 5)])


@pytest.mark.timeout(900)  # A process with eight commands, on a machine that has other things to do.
def test_a_prior_and_a_metric_a_sampler_and_a_scheduler(house, run, tiny, embeddings, tmp_path):
    """From the YAML to the tables; all in one process, which takes seconds to import a copy of the project."""
    parts = prior_and_metric(house, run, tiny, tmp_path), sampler_and_scheduler(house, run, tmp_path)
    commands = [command for part, _ in parts for command in part]
    first, second = in_house(house, *commands, then="\n".join(then for _, then in parts))
    check_prior_and_metric(run, embeddings, first)
    check_sampler_and_scheduler(tmp_path, second)


def test_the_page_is_code_that_passes_the_checks(house):
    """Every block is formatted and linted as the project is."""
    sections = re.findall(r"^## (.+)$", PAGE.read_text(), re.MULTILINE)
    assert sections == ["A prior", "A metric", "A stage", "A data format", "A sampler", "A scheduler"]
    touched = [path for section in sections for path in apply(recipe(section), house) if path.endswith(".py")]
    shutil.copy(ROOT / "pyproject.toml", house)
    for words in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *words, *touched]
        done = subprocess.run(command, cwd=house, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
