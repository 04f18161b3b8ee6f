"""A run that was stopped or killed, and then resumed, ends with the weights of one that was not, bit for bit."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.trials import orphans
from experiments.cli import main
from experiments.training.stopping import Stopped, StopSignals


def fit(folder: str, *words: str) -> int:
    return main(["fit", "--config", "toy.yaml", f"--trainer.default_root_dir={folder}", *words])


def checkpoint(folder: str):
    return torch.load(f"{folder}/checkpoints/last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def kept():
    """What `whole` has trained."""
    return {}


@pytest.fixture
def whole(toy, kept):
    """The checkpoint of a run that nothing happens to: words of the command line -> what it holds."""

    def run(*words: str):
        if words not in kept:
            assert fit("whole", *words) == 0
            kept[words] = checkpoint("whole")
        return kept[words]

    return run


def assert_same(first, second) -> None:
    assert first["global_step"] == second["global_step"]
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name]), name
    for a, b in zip(first["optimizer_states"], second["optimizer_states"], strict=True):
        for key, state in a["state"].items():
            assert all(torch.equal(state[name], b["state"][key][name]) for name in state), key


@pytest.mark.parametrize(
    ("number", "code", "batch", "step", "words"),
    [
        (signal.SIGINT, 130, 6, 7, []),
        (signal.SIGTERM, 75, 6, 7, []),
        (signal.SIGUSR1, 75, 6, 7, []),
        (signal.SIGINT, 130, 4, 5, []),  # validation follows this step
        # Within a step of two batches: it is finished first.
        (signal.SIGINT, 130, 6, 4, ["--trainer.accumulate_grad_batches=2"]),
    ],
)
def test_a_stopped_run_has_its_checkpoint_and_goes_on_as_if_nothing_had_been(
    toy, whole, monkeypatch, capsys, number, code, batch, step, words
):
    expected = whole(*words)
    monkeypatch.setenv("TOY_SIGNAL", f"{batch}:{int(number)}")
    with pytest.raises(SystemExit) as left:
        fit("stopped", *words)
    assert left.value.code == code
    assert f"stopped after step {step}; `--ckpt_path last` goes on" in capsys.readouterr().err
    assert checkpoint("stopped")["global_step"] == step
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.delenv("TOY_SIGNAL")
    assert fit("stopped", "--ckpt_path", "last", *words) == 0
    assert_same(expected, checkpoint("stopped"))


def test_a_killed_run_goes_on_from_its_last_checkpoint(toy, whole, monkeypatch, unclip):
    expected = whole()
    monkeypatch.setenv("TOY_SIGNAL", f"8:{int(signal.SIGKILL)}")
    words = ["--trainer.default_root_dir=killed", "--checkpoint.every_n_train_steps=3"]
    process = unclip("fit", "--config", "toy.yaml", *words)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert checkpoint("killed")["global_step"] == 6
    monkeypatch.delenv("TOY_SIGNAL")
    assert fit("killed", "--ckpt_path", "last") == 0
    assert_same(expected, checkpoint("killed"))


def test_validation_leaves_training_as_it_was(toy, whole):
    """The toy's validation draws from the global random state; how often it runs must not matter."""
    expected = whole()
    assert fit("often", "--trainer.val_check_interval=2") == 0
    assert_same(expected, checkpoint("often"))


STAGE = '''
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from modules.training.stage import Stage, TrainingConfig, adamw
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


LOADED = """
import torch
from datamodules.base import SplitDataModule

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitems__(self, indices):
        return torch.randn(64, 4, generator=torch.Generator().manual_seed(0))[indices]

class Data(SplitDataModule):
    def __init__(self, width: int):
        super().__init__(batch_size=4, seed=0, num_workers=2)

    def dataset(self, split):
        return Rows()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_whole_process_group_leaves_the_loaders_at_work(toy, monkeypatch, unclip, number):
    """As `timeout`, torchrun, systemd and LSF send it."""
    (toy / "loaded.py").write_text(LOADED)
    (toy / "toy.yaml").write_text((toy / "toy.yaml").read_text().replace("toy.Data", "loaded.Data"))
    (toy / "toy.py").write_text((toy / "toy.py").read_text().replace("os.kill(os.getpid(), int", "os.killpg(0, int"))
    assert fit("whole") == 0
    monkeypatch.setenv("TOY_SIGNAL", f"6:{int(number)}")
    process = unclip("fit", "--config", "toy.yaml", "--trainer.default_root_dir=stopped")
    _, error = process.communicate(timeout=200)
    assert process.returncode == 75, error
    assert error.count("stopping after this step") == 1 and "stopped after step 7; `--ckpt_path last` goes on" in error
    monkeypatch.delenv("TOY_SIGNAL")
    assert fit("stopped", "--ckpt_path", "last") == 0
    assert_same(checkpoint("whole"), checkpoint("stopped"))


def test_after_the_last_step_signals_are_the_callers_again():
    """What follows the last step (the export) has no step to wait for: Ctrl-C ends it at once."""
    before, callback = signal.getsignal(signal.SIGINT), StopSignals()
    callback.on_train_start(SimpleNamespace(global_step=0), None)
    assert signal.getsignal(signal.SIGINT) == callback._receive
    callback.on_fit_end(None, None)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_does_not_wait(capsys):
    callback = StopSignals()
    callback._receive(signal.SIGINT, None)
    assert capsys.readouterr().err == "stopping after this step; once more stops at once\n"
    with pytest.raises(KeyboardInterrupt):
        callback._receive(signal.SIGINT, None)


def test_the_schedulers_signal_and_the_runners_are_one_wish(monkeypatch):
    callback = StopSignals()
    callback._receive(signal.SIGTERM, None)
    callback._receive(signal.SIGINT, None)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    with pytest.raises(KeyboardInterrupt):
        callback._receive(signal.SIGINT, None)
    with pytest.raises(Stopped) as left:
        callback._receive(signal.SIGUSR1, None)
    assert left.value.code == 75


def test_a_signal_in_the_last_step_comes_too_late(toy, monkeypatch):
    """What a stage adds to its state when training is over has to be in its last checkpoint."""
    monkeypatch.setenv("TOY_SIGNAL", f"11:{int(signal.SIGTERM)}")
    assert fit("stopped") == 0
    assert checkpoint("stopped")["global_step"] == 12


def test_before_training_a_schedulers_signal_asks_for_a_requeue_too(toy, unclip):
    (toy / "toy.py").write_text((toy / "toy.py").read_text() + "\nos.kill(os.getpid(), 15)\n")
    process = unclip("fit", "--config", "toy.yaml")
    _, error = process.communicate()
    assert (process.returncode, error) == (75, "")


def test_on_slurm_lightning_requeues_after_the_step(toy, slurm_job, whole, monkeypatch, capsys, caplog):
    """Lightning's own handler saves and calls scontrol; here it does so between two steps."""
    expected = whole()
    monkeypatch.setenv("TOY_SIGNAL", f"6:{int(signal.SIGUSR1)}")
    with pytest.raises(SystemExit) as left:
        fit("stopped")
    assert left.value.code == 75
    assert Path("requeued").read_text() == "requeue 17\n"
    # Lightning's remark that the checkpoint it writes holds more than weights reads as if one were loaded so.
    assert "weights_only" not in caplog.text + capsys.readouterr().err
    assert [path.name for path in Path("stopped").glob("hpc*")] == ["hpc_ckpt_1.ckpt"]
    assert checkpoint("stopped")["global_step"] == 7
    monkeypatch.delenv("TOY_SIGNAL")
    assert fit("stopped", "--ckpt_path", "last") == 0
    assert_same(expected, checkpoint("stopped"))
    assert not list(Path("stopped").glob("hpc*"))


def test_two_trainings_do_not_share_a_run_folder(toy, unclip, monkeypatch, capsys):
    # The first one stops itself in its third step and waits there, however long the second takes.
    monkeypatch.setenv("TOY_SIGNAL", f"2:{int(signal.SIGSTOP)}")
    first = unclip("fit", "--config", "toy.yaml", "--checkpoint.every_n_train_steps=1")
    while (found := orphans.state(first.pid)[:1]) != ["T"]:
        assert found and first.poll() is None, first.communicate()[1]
        time.sleep(0.02)
    monkeypatch.delenv("TOY_SIGNAL")
    assert main(["fit", "--config", "toy.yaml", "--ckpt_path", "last"]) == 2
    assert f"unclip: run folder 'runs/toy' is in use by process {first.pid} on " in capsys.readouterr().err
    first.kill()  # However it ends, nobody is kept out by what it leaves.
    first.communicate()
    assert main(["fit", "--config", "toy.yaml", "--ckpt_path", "last"]) == 0
