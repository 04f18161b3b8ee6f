"""A tiny model and data set for tests of the command line, as modules that YAML can name."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.trials.forked import Forked

TOY = '''
import os
import time
import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from torch.utils.data import DataLoader
from modules.errors import InputError


class Net(nn.Module):
    def __init__(self, width: int = 4, dropout: float = 0.5):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 8), nn.Dropout(dropout), nn.Linear(8, 1))

    def forward(self, x):
        return self.layers(x)


class Toy(pl.LightningModule):
    """Draws from the global random state in each step (dropout, noise), in training and in validation."""

    def __init__(self, network: nn.Module, optimizer: OptimizerCallable = torch.optim.AdamW, step_seconds: float = 0.0):
        super().__init__()
        self.network, self.optimizer, self.step_seconds = network, optimizer, step_seconds

    def training_step(self, batch, batch_idx):
        time.sleep(self.step_seconds)
        self.hold(batch_idx)
        self.send_signal(batch_idx)
        return (self.network(batch) - torch.randn(len(batch), 1)).square().mean()

    @staticmethod
    def send_signal(batch_idx):
        at, _, number = os.environ.get("TOY_SIGNAL", "-1:0").partition(":")
        if batch_idx == int(at):
            os.kill(os.getpid(), int(number))

    @staticmethod
    def hold(batch_idx):
        """In batch TOY_HOLD: make the file `held`, and wait for the file `let_go`."""
        if batch_idx == int(os.environ.get("TOY_HOLD", -1)):
            open("held", "w").close()
            while not os.path.exists("let_go"):
                time.sleep(0.02)

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", (self.network(batch) - torch.randn(len(batch), 1)).square().mean())

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


class Ordered(torch.utils.data.Sampler):
    batch_size = 4

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return self.data.trainer.max_steps * self.data.trainer.accumulate_grad_batches

    def __iter__(self):
        done = self.data.trainer.fit_loop.epoch_loop.batch_progress.total.processed
        return iter([[(k * 4 + i) % self.data.size for i in range(4)] for k in range(done, len(self))])


class Loader(DataLoader):
    """Its position is the Trainer's."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Data(pl.LightningDataModule):
    def __init__(self, size: int = 64, width: int = 4):
        super().__init__()
        if size < 1:
            raise InputError(f"size must be 1 or more, not {size}")
        self.size, self.width = size, width

    def rows(self):
        return torch.randn(self.size, self.width, generator=torch.Generator().manual_seed(0))

    def train_dataloader(self):
        return Loader(self.rows(), batch_sampler=Ordered(self))

    def val_dataloader(self):
        return DataLoader(self.rows()[:8], batch_size=4)
'''

CONFIG = """
seed_everything: 0
trainer:
  accelerator: cpu
  max_steps: 12
  val_check_interval: 5
  default_root_dir: runs/toy
model:
  class_path: toy.Toy
  init_args:
    network: {class_path: toy.Net, init_args: {width: 4}}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.01}}
data:
  class_path: toy.Data
  init_args:
    width: ${model.init_args.network.init_args.width}
"""

ROOT = Path(__file__).parents[2]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with `toy.py` and `toy.yaml`, importable here and in subprocesses."""
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "toy.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("UNCLIP_PROGRESS", raising=False)
    monkeypatch.delenv("UNCLIP_DEBUG", raising=False)
    return tmp_path


@pytest.fixture
def slurm_job(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of job 17, with an scontrol that writes what it is asked into the file `requeued`."""
    for name, value in {"NTASKS": 1, "JOB_ID": 17, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "JOB_NAME": "x"}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    scontrol = toy / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text('#!/bin/sh\necho "$@" >> requeued\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}{os.pathsep}{os.environ['PATH']}")


def start(*words: str) -> subprocess.Popen[str]:
    """`unclip WORDS` as a process, in a process group of its own."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "experiments.cli", *words], start_new_session=True, **pipes)


@pytest.fixture
def when_waiting(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Calls a function once, as soon as this process waits for a lock that another one holds."""

    def arrange(act: Callable[[], object]) -> None:
        from experiments.storage import holding

        left = [act]

        def sleep(seconds: float) -> None:
            if left:
                left.pop()()
            time.sleep(seconds)

        monkeypatch.setattr(holding, "time", SimpleNamespace(sleep=sleep))

    return arrange


@pytest.fixture
def unclip(tmp_path_factory: pytest.TempPathFactory):
    """Starts `unclip WORDS` as a process; what still runs at the end is killed.

    `fit`, which takes seconds to import, is forked from a process that has imported it.
    """
    started: list[subprocess.Popen[str] | Forked] = []

    def run(*words: str) -> subprocess.Popen[str] | Forked:
        if words[0] == "fit":
            said = tmp_path_factory.mktemp("said")
            started.append(Forked(list(words), Path.cwd(), os.environ, said / "out.txt", said / "errors.txt"))
        else:
            started.append(start(*words))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()
