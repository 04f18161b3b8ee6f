"""A training step makes no device wait; what is not finite is found all the same, and never saved."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.training.checkpoints import Checkpoints
from modules.errors import InputError
from modules.training.average import ExponentialAverage
from modules.training.finite import FiniteGuard, Seen
from modules.training.stage import Stage

INDEX = torch.tensor([4, 2])


class HostReads(TorchDispatchMode):
    """Counts operations that copy a number of the device to the host, or whose shape depends on numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select"):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def test_values_are_read_together_and_the_first_that_is_not_finite_is_named():
    guard = FiniteGuard(4)
    values = [1.0, float("nan"), float("inf")]
    for step, value in enumerate(values):
        guard.see(Seen("the loss", step, torch.tensor(value), INDEX + step))
    with pytest.raises(InputError, match=r"the loss is nan at step 1 \(samples \[5, 3\]\), found at step 3"):
        guard.see(Seen("the loss", 3, torch.tensor(2.0), INDEX))
    guard.check()  # What was read is not read again.
    guard.see(Seen("a gradient", 9, torch.tensor(float("-inf")), INDEX))
    with pytest.raises(InputError, match=r"a gradient is -inf at step 9"):
        guard.check()


@pytest.fixture
def accelerated(monkeypatch):
    """As on an accelerator, where reading a number means waiting."""
    monkeypatch.setattr(Stage, "waits_for_device", property(lambda stage: True))


@pytest.mark.parametrize("name", ["linear_prior", "ar_prior", "diffusion_prior", "decoder", "upsampler", "clip"])
def test_a_training_step_reads_nothing_from_the_device(tiny, shapes, tmp_path, accelerated, monkeypatch, name):
    """From the batch to the average, ten steps, with losses logged and gradients clipped."""
    stage, reads = tiny.make_stage(name), HostReads()
    first, last = Stage.training_step, Stage.on_train_batch_end

    def step(self, batch, batch_idx):
        reads.__enter__()
        return first(self, batch, batch_idx)

    def after(self, outputs, batch, batch_idx):
        reads.__exit__(None, None, None)
        last(self, outputs, batch, batch_idx)

    monkeypatch.setattr(Stage, "training_step", step)
    monkeypatch.setattr(Stage, "on_train_batch_end", after)
    data = shapes(image_size=32) if name == "upsampler" else shapes()
    tiny.fit(stage, data, 10, tmp_path, limit_val_batches=0, log_every_n_steps=50)
    assert not reads.found


def test_a_spoilt_step_is_found_before_a_checkpoint_and_nothing_is_saved(tiny, shapes, tmp_path, accelerated):
    stage = tiny.make_stage("linear_prior")
    whole = stage.network.forward
    stage.network.forward = lambda z_t: whole(z_t) * (torch.nan if stage.global_step == 2 else 1)
    with pytest.raises(InputError, match=r"the loss is nan at step 2 \(samples .*\), found at step"):
        tiny.fit(
            stage, shapes(), 4, tmp_path, limit_val_batches=0, enable_checkpointing=True, callbacks=[Checkpoints()]
        )
    assert not list(tmp_path.rglob("*.ckpt"))


def test_the_average_is_torchs_bit_for_bit_also_after_loading():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7))
    ours, theirs = ExponentialAverage(network, 0.9), AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    def go_on(steps):
        for _ in range(steps):
            with torch.no_grad():
                for tensor in (*network.parameters(), *network.buffers()):
                    tensor.add_(torch.randn(tensor.shape).to(tensor.dtype))
            ours.update_parameters(network)
            theirs.update_parameters(network)
            for name, tensor in theirs.module.named_parameters():
                assert torch.equal(ours.get_parameter(f"module.{name}"), tensor), name
        for name, tensor in network.named_buffers():
            assert torch.equal(ours.get_buffer(f"module.{name}"), tensor), name
        assert ours.n_averaged == theirs.n_averaged

    go_on(3)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    loaded = ExponentialAverage(network, 0.9)
    loaded.load_state_dict(ours.state_dict())
    ours = loaded
    go_on(2)
