"""A run that was stopped or killed, and then resumed, ends with the weights of one that was not, bit for bit."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest
import torch

from experiments.callbacks import StopSignals
from experiments.cli import main


def fit(folder: str, *words: str) -> int:
    return main(["fit", "--config", "toy.yaml", f"--trainer.default_root_dir={folder}", *words])


def checkpoint(folder: str):
    return torch.load(f"{folder}/checkpoints/last.ckpt", weights_only=True)


def assert_same(first, second) -> None:
    assert first["global_step"] == second["global_step"]
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name]), name
    for a, b in zip(first["optimizer_states"], second["optimizer_states"], strict=True):
        for key, state in a["state"].items():
            assert all(torch.equal(state[name], b["state"][key][name]) for name in state), key


@pytest.mark.parametrize(
    ("number", "batch", "step", "words"),
    [
        (signal.SIGINT, 6, 7, []),
        (signal.SIGTERM, 6, 7, []),
        (signal.SIGINT, 4, 5, []),  # validation follows this step
        # Within a step of two batches: it is finished first.
        (signal.SIGINT, 6, 4, ["--trainer.accumulate_grad_batches=2"]),
    ],
)
def test_a_stopped_run_has_its_checkpoint_and_goes_on_as_if_nothing_had_been(
    toy, monkeypatch, capsys, number, batch, step, words
):
    assert fit("whole", *words) == 0
    monkeypatch.setenv("TOY_SIGNAL", f"{batch}:{int(number)}")
    with pytest.raises(SystemExit) as left:
        fit("stopped", *words)
    assert left.value.code == 128 + number
    assert f"stopped after step {step}; `--ckpt_path last` goes on" in capsys.readouterr().err
    assert checkpoint("stopped")["global_step"] == step
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.delenv("TOY_SIGNAL")
    assert fit("stopped", "--ckpt_path", "last", *words) == 0
    assert_same(checkpoint("whole"), checkpoint("stopped"))


def test_a_killed_run_goes_on_from_its_last_checkpoint(toy, monkeypatch, unclip):
    assert fit("whole") == 0
    monkeypatch.setenv("TOY_SIGNAL", f"8:{int(signal.SIGKILL)}")
    words = ["--trainer.default_root_dir=killed", "--checkpoint.every_n_train_steps=3"]
    process = unclip("fit", "--config", "toy.yaml", *words)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert checkpoint("killed")["global_step"] == 6
    monkeypatch.delenv("TOY_SIGNAL")
    assert fit("killed", "--ckpt_path", "last") == 0
    assert_same(checkpoint("whole"), checkpoint("killed"))


def test_validation_leaves_training_as_it_was(toy):
    """The toy's validation draws from the global random state; how often it runs must not matter."""
    assert fit("whole") == 0
    assert fit("often", "--trainer.val_check_interval=2") == 0
    assert_same(checkpoint("whole"), checkpoint("often"))


STAGE = '''
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from modules.stage import Stage, TrainingConfig, adamw
from toy import Toy

CONFIG = TrainingConfig()


class Batch:
    def __init__(self, rows):
        self.rows, self.index = rows, torch.arange(len(rows))


class Small(Stage):
    """The stages' base class, with noise from its own generator."""

    def __init__(self, network: nn.Module, optimizer: OptimizerCallable = adamw, training: TrainingConfig = CONFIG):
        super().__init__(network, optimizer, training)

    def training_step(self, batch, batch_idx):
        Toy.send_signal(batch_idx)
        return super().training_step(Batch(batch), batch_idx)

    def training_loss(self, batch, generator):
        return (self.network(batch.rows) - torch.randn(len(batch.rows), 1, generator=generator)).square().mean()

    def validation_step(self, batch, batch_idx):
        pass
'''


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_stage_goes_on_with_the_same_average_and_noise(toy, monkeypatch, accumulate):
    (toy / "small.py").write_text(STAGE)
    config = (toy / "toy.yaml").read_text().replace("toy.Toy", "small.Small")
    (toy / "toy.yaml").write_text(
        config.replace("{lr: 0.01}}", "{lr: 0.01}}\n    training: {ema_decay: 0.5, warmup_steps: 3}")
    )
    words = [f"--trainer.accumulate_grad_batches={accumulate}", "--checkpoint.every_n_train_steps=1"]
    assert fit("whole", *words) == 0
    monkeypatch.setenv("TOY_SIGNAL", f"7:{int(signal.SIGINT)}")
    with pytest.raises(SystemExit):
        fit("stopped", *words)
    monkeypatch.delenv("TOY_SIGNAL")
    assert fit("stopped", "--ckpt_path", "last", *words) == 0
    whole = checkpoint("whole")
    assert whole["state_dict"]["average.n_averaged"].item() == 12
    assert_same(whole, checkpoint("stopped"))


def test_after_the_last_step_signals_are_the_callers_again():
    """What follows the last step (the export) has no step to wait for: Ctrl-C ends it at once."""
    before, callback = signal.getsignal(signal.SIGINT), StopSignals()
    callback.on_train_start(SimpleNamespace(global_step=0), None)
    assert signal.getsignal(signal.SIGINT) == callback._receive
    callback.on_train_end(None, None)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_does_not_wait(capsys):
    callback = StopSignals()
    callback._receive(signal.SIGINT, None)
    assert capsys.readouterr().err == "stopping after this step; once more stops at once\n"
    with pytest.raises(KeyboardInterrupt):
        callback._receive(signal.SIGINT, None)
