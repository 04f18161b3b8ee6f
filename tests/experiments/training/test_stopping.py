"""Training that is asked to stop while it validates."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from benchmarks.trials.compare import differing
from experiments.cli import main
from experiments.training.checkpoints import load_checkpoint

VALIDATING = """
import os
from toy import Toy


class Validating(Toy):
    def validation_step(self, batch, batch_idx):
        with open("validated", "a") as file:
            file.write("seen\\n")
        if "IN_VALIDATION" in os.environ:
            os.kill(os.getpid(), int(os.environ["IN_VALIDATION"]))
        super().validation_step(batch, batch_idx)
"""


def fit(folder: str, *words: str) -> int:
    return main(["fit", "--config", "toy.yaml", f"--trainer.default_root_dir={folder}", *words])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_in_validation_is_obeyed_after_its_batch_and_on_slurm_the_job_requeued(
    toy, slurm_job, monkeypatch, capsys, number
):
    """The scheduler's time runs: no further batch is validated, and no step taken."""
    (toy / "validating.py").write_text(VALIDATING)
    (toy / "toy.yaml").write_text((toy / "toy.yaml").read_text().replace("toy.Toy", "validating.Validating"))
    assert fit("whole") == 0
    Path("validated").unlink()
    monkeypatch.setenv("IN_VALIDATION", str(int(number)))
    with pytest.raises(SystemExit) as left:
        fit("stopped", "--checkpoint.every_n_train_steps=4")
    assert left.value.code == (130 if number == signal.SIGINT else 75)
    assert "stopped in validation; `--ckpt_path last` goes on from the last checkpoint" in capsys.readouterr().err
    assert Path("validated").read_text() == "seen\n"
    assert load_checkpoint(Path("stopped/checkpoints/last.ckpt"))["global_step"] == 4
    assert Path("requeued").exists() == (number == signal.SIGUSR1)
    monkeypatch.delenv("IN_VALIDATION")
    assert fit("stopped", "--ckpt_path", "last") == 0
    whole, resumed = (load_checkpoint(Path(f"{name}/checkpoints/last.ckpt")) for name in ("whole", "stopped"))
    assert differing(whole, resumed) == []
