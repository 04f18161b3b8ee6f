"""Two ranks, of which one or both are asked to stop: one checkpoint, one exit code, the same numbers when resumed."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from benchmarks.trials.compare import differing
from benchmarks.trials.forked import Forked
from experiments.training.checkpoints import load_checkpoint

LIMIT = 560.0  # seconds; some 15 on an idle machine
WHO = {"first": [0], "second": [1], "both": [0, 1]}
BOTH = '''
import os
import torch
from toy import Toy


class TwoRanks(Toy):
    """Each rank draws noise of its own from its global random state."""

    def on_train_start(self):
        if self.trainer.global_step == 0:
            torch.manual_seed(100 + self.global_rank)

    def validation_step(self, batch, batch_idx):
        if batch_idx == 0:
            self.send_signal("validation")
        super().validation_step(batch, batch_idx)

    @staticmethod
    def send_signal(place):
        if os.environ["TOY_SIGNAL"].startswith(f"{place}:"):
            os.kill(os.getpid(), int(os.environ["TOY_SIGNAL"].partition(":")[2]))
'''
RANK = """
import json, os, sys
from datetime import timedelta
import torch

rank, cases = int(sys.argv[1]), json.loads(sys.argv[2])
# As torchrun sets them; but a file brings the ranks together, so that no port has to be free.
for key, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}.items():
    os.environ[key] = str(value)
os.environ |= {"TORCHELASTIC_RUN_ID": "tests", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
store = f"file://{os.getcwd()}/store"
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", store, timedelta(seconds=500), rank=rank, world_size=2)
from experiments.cli import main
from experiments.training.checkpoints import AtomicCheckpointIO

written = []
save = AtomicCheckpointIO.save_checkpoint


def noted(self, content, path, *more, **options):
    written.append(os.path.relpath(path))
    save(self, content, path, *more, **options)


AtomicCheckpointIO.save_checkpoint = noted


def fit(folder, number=None, place=6, every=0):
    os.environ["TOY_SIGNAL"] = f"{place}:{number}" if number else "-1:0"
    written.clear()
    words = ["--trainer.devices=2", "--trainer.strategy=ddp", f"--trainer.default_root_dir={folder}"]
    words.append(f"--checkpoint.every_n_train_steps={every}")
    try:
        return main(["fit", "--config", "toy.yaml", "--ckpt_path", "last", *words])
    except SystemExit as left:
        return left.code


codes = {"whole": fit("whole")}
for name, (ranks, number, *more) in cases.items():
    codes[name] = fit(name, number if rank in ranks else None, *more)
    codes[name + " wrote"] = list(written)
    torch.distributed.barrier()
    if rank == 0:
        os.mkdir(name + "_kept")
        os.link(f"{name}/checkpoints/last.ckpt", f"{name}_kept/last.ckpt")
        codes[name + " files"] = sorted(os.listdir(f"{name}/checkpoints"))
    torch.distributed.barrier()
    codes[name + " resumed"] = fit(name)
with open(f"codes.{rank}.json", "w") as file:
    json.dump(codes, file)
"""


@pytest.fixture
def two_ranks(toy):
    """A toy for two ranks, which differ in what they draw."""
    (toy / "both.py").write_text(BOTH)
    (toy / "toy.yaml").write_text((toy / "toy.yaml").read_text().replace("toy.Toy", "both.TwoRanks"))
    return toy


def wait(processes: list[Forked]) -> list[int]:
    """Their exit codes; when one fails, which leaves the other waiting, or the time is over, all are killed."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end and any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes):
            break
        time.sleep(0.05)
    for process in processes:
        process.kill()
    return [process.wait() for process in processes]


@pytest.mark.timeout(600)
def test_whoever_gets_the_signal_all_stop_with_one_checkpoint_and_go_on(two_ranks):
    (two_ranks / "rank.py").write_text(RANK)
    cases = {name: (ranks, int(signal.SIGTERM)) for name, ranks in WHO.items()}
    cases["usr1"] = ([1], int(signal.SIGUSR1))
    cases["validating"] = ([1], int(signal.SIGTERM), "validation", 3)  # after step 5, with a checkpoint of step 3
    processes = []
    for rank in range(2):
        environment, log = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}, two_ranks / f"rank{rank}.log"
        words, program = [str(rank), json.dumps(cases)], two_ranks / "rank.py"
        processes.append(Forked(words, two_ranks, environment, log, program=program))
    left = wait(processes)
    said = [Path(f"rank{rank}.log").read_text() for rank in range(2)]
    assert left == [0, 0], "\n".join(said)
    first, second = (json.loads(Path(f"codes.{rank}.json").read_text()) for rank in range(2))
    assert first["whole"] == second["whole"] == 0
    whole = load_checkpoint(Path("whole/checkpoints/last.ckpt"))
    states = whole["callbacks"]["RandomState"]["ranks"]
    assert differing(states[0]["torch"], states[1]["torch"])
    for name in cases:
        assert (first[name], second[name]) == (75, 75)
        assert (first[f"{name} wrote"], second[f"{name} wrote"]) == ([f"{name}/checkpoints/last.ckpt"], [])
        assert first[f"{name} files"] == ["last.ckpt"]
        assert load_checkpoint(Path(f"{name}_kept/last.ckpt"))["global_step"] == (3 if name == "validating" else 7)
        assert (first[f"{name} resumed"], second[f"{name} resumed"]) == (0, 0)
        assert differing(whole, load_checkpoint(Path(f"{name}/checkpoints/last.ckpt"))) == []
    assert said[0].count("stopped after step 7; `--ckpt_path last` goes on from here") == len(cases) - 1
    assert said[0].count("stopped in validation; `--ckpt_path last` goes on from the last checkpoint") == 1
    assert "stopped after" not in said[1] and "stopped in" not in said[1]
