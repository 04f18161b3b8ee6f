"""What the stages share, on a network of one parameter: every number here is worked out by hand."""

from __future__ import annotations

import contextlib
import errno
import resource
from typing import NamedTuple

import lightning
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from modules.errors import InputError
from modules.models.exports import write_weights
from modules.training.stage import Stage, TrainingConfig

LR = 0.1


class Rows(NamedTuple):
    x: torch.Tensor
    index: torch.Tensor


class Slope(nn.Module):
    """w, of which the loss below is linear: every step of SGD subtracts lr * mean(x). The other is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0]))
        self.frozen = nn.Parameter(torch.tensor([5.0]), requires_grad=False)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen += self.training
        return x * self.w


class Line(Stage):
    def __init__(self, **training) -> None:
        super().__init__(Slope(), lambda params: torch.optim.SGD(params, lr=LR), TrainingConfig(**training))
        self.noise, self.validation_noise = [], []

    def training_loss(self, batch, generator):
        self.noise.append(torch.randn(2, generator=generator))
        return self.trained(batch.x).mean()

    def validation_loss(self, batch, generator):
        self.validation_noise.append(torch.randn(2, generator=generator))
        return self.averaged(batch.x).mean()


class Batches(lightning.LightningDataModule):
    def __init__(self, values) -> None:
        super().__init__()
        self.rows = [Rows(torch.tensor([[v]]), torch.tensor([k])) for k, v in enumerate(values)]

    def train_dataloader(self):
        return DataLoader(self.rows, batch_size=None)

    def val_dataloader(self):
        return DataLoader(self.rows[:2], batch_size=None)


class Record(Callback):
    """Learning rate, weight and average of each step."""

    def __init__(self) -> None:
        self.lr, self.w, self.average = [], [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.lr.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.w.append(module.network.w.item())
        self.average.append(module.averaged.w.item())


def run(tiny, tmp_path, stage, values, **trainer):
    record = Record()
    steps = len(values) // trainer.get("accumulate_grad_batches", 1)
    made = tiny.fit(stage, Batches(values), steps, tmp_path, callbacks=[record], gradient_clip_val=0, **trainer)
    return record, made


def test_warm_up_and_decay(tiny, tmp_path):
    """4 steps up; over the last half of 20 a half cosine: 0.51 in its middle, 0.02 at its end, which is never used."""
    record, _ = run(tiny, tmp_path, Line(warmup_steps=4, decay_share=0.5), [0.0] * 20)
    factors = torch.tensor(record.lr) / LR
    assert_close(factors[:11], torch.tensor([0.25, 0.5, 0.75, *[1.0] * 8]))
    assert_close(factors[15], torch.tensor(0.51))
    assert_close(factors[19], torch.tensor(0.02 + 0.98 * (1 - 0.95105652) / 2))
    assert (factors[11:].diff() < 0).all()


def test_without_a_decay_the_rate_stays(tiny, tmp_path):
    record, _ = run(tiny, tmp_path, Line(warmup_steps=2), [0.0] * 6)
    assert_close(torch.tensor(record.lr), torch.tensor([LR / 2, *[LR] * 5]))


def test_the_average_is_that_of_the_weights_after_each_step(tiny, tmp_path):
    stage = Line(ema_decay=0.75, warmup_steps=0)
    record, _ = run(tiny, tmp_path, stage, [1.0, 2.0, 3.0, 4.0])
    assert_close(torch.tensor(record.w), torch.tensor([0.9, 0.7, 0.4, 0.0]))
    # The first step is copied; then 0.75 of the old and 0.25 of the new.
    by_hand = [0.9, 0.85, 0.85 * 0.75 + 0.1, (0.85 * 0.75 + 0.1) * 0.75]
    assert_close(torch.tensor(record.average), torch.tensor(by_hand))
    assert stage.averaged.seen.item() == 4  # Buffers are those of the network.
    assert not any(p.requires_grad for p in stage.averaged.parameters())


def test_accumulated_batches_are_one_step_of_the_average(tiny, tmp_path):
    record, trainer = run(tiny, tmp_path, Line(ema_decay=0.5, warmup_steps=0), [1.0] * 6, accumulate_grad_batches=2)
    assert trainer.global_step == 3
    assert_close(torch.tensor(record.average), torch.tensor([1.0, 0.9, 0.9, 0.85, 0.85, 0.775]))


def test_what_is_frozen_is_not_given_to_the_optimizer(tiny, tmp_path):
    stage = Line()
    _, trainer = run(tiny, tmp_path, stage, [1.0])
    (group,) = trainer.optimizers[0].param_groups
    assert [id(p) for p in group["params"]] == [id(stage.network.w)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_training_and_names_step_and_samples(tiny, tmp_path, value):
    stage = Line(warmup_steps=0)
    with pytest.raises(InputError, match=r"the loss is (nan|inf) at step 2 \(samples \[2\]\).*lower learning rate"):
        run(tiny, tmp_path, stage, [1.0, 1.0, value, 1.0])
    assert_close(stage.network.w.detach(), torch.tensor([0.8]))


def noise(tiny, tmp_path, seed, values=(0.0,) * 3, **trainer):
    stage = Line(seed=seed)
    run(tiny, tmp_path, stage, list(values), **trainer)
    return torch.stack(stage.noise), stage


def test_the_noise_is_the_seeds_and_the_steps(tiny, tmp_path):
    first, stage = noise(tiny, tmp_path, 0)
    again, _ = noise(tiny, tmp_path, 0)
    other, _ = noise(tiny, tmp_path, 1)
    assert torch.equal(first, again)
    assert len(torch.cat([first, other]).unique()) == 12
    # A pure function of (seed, kind, step, rank): as a person could compute it.
    assert torch.equal(first[2], torch.randn(2, generator=stage.generator(0, 2)))
    numbers = [torch.randn(1, generator=stage.generator(*key)).item() for key in ((0, 1), (0, 2), (1, 1), (0, 1))]
    assert numbers[0] == numbers[3]
    assert len(set(numbers)) == 3


def test_batches_of_one_accumulated_step_have_noise_of_their_own(tiny, tmp_path):
    drawn, _ = noise(tiny, tmp_path, 0, values=[0.0] * 4, accumulate_grad_batches=2)
    assert len(drawn.unique(dim=0)) == 4


def test_each_rank_draws_its_own_noise():
    class Second(Line):
        global_rank = 1

    draws = [torch.randn(3, generator=stage().generator(0, 5)) for stage in (Line, Second)]
    assert not torch.equal(*draws)


def test_validation_judges_the_average_with_the_same_noise_each_time(tiny, tmp_path):
    stage = Line(ema_decay=0.5, warmup_steps=0)
    values = [1.0, 2.0, 1.0, 1.0]
    _, trainer = run(tiny, tmp_path, stage, values, val_check_interval=2, limit_val_batches=2)
    first, second = torch.stack(stage.validation_noise).chunk(2)
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    # Average: 0.9, 0.8, 0.7, 0.6; the two batches' x are 1 and 2.
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(0.6 * 1.5)


CONFIG = {"model": {"class_path": "x.Line", "init_args": {"a": 1}}, "data": {}}


def test_export_holds_the_average_and_the_models_part_of_the_config(tiny, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    stage = Line(ema_decay=0.5, warmup_steps=0)
    run(tiny, tmp_path, stage, [1.0, 2.0])
    state = load_file(tmp_path / "export" / "model.safetensors")
    assert set(state) == {"w", "frozen", "seen"}
    assert state["w"].item() == pytest.approx(0.8)
    config = yaml.safe_load((tmp_path / "export" / "config.yaml").read_text())
    assert config == {**CONFIG["model"], "step": 2, "clip_fingerprint": None}  # its data know of no CLIP
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == ["config.yaml", "model.safetensors"]


def test_a_run_that_its_epochs_have_ended_is_exported(tiny, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    trainer = tiny.fit(Line(), Batches([0.0] * 2), 3, tmp_path, max_epochs=1, val_check_interval=1)
    assert trainer.global_step == 2
    assert yaml.safe_load((tmp_path / "export" / "config.yaml").read_text())["step"] == 2


def test_an_interrupted_run_exports_nothing(tiny, tmp_path):
    class Interrupt(Callback):
        def on_train_batch_end(self, trainer, *others):
            raise SystemExit(75)

    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    with pytest.raises(SystemExit):
        tiny.fit(Line(), Batches([0.0] * 2), 3, tmp_path, callbacks=[Interrupt()])
    assert not (tmp_path / "export").exists()


def test_compiling_adds_no_second_copy_to_the_checkpoint():
    plain, compiled = Line(), Line(compile=True)
    assert compiled.trained is compiled.trained is not compiled.network
    assert set(compiled.state_dict()) == set(plain.state_dict())
    assert [id(p) for p in compiled.trained.parameters()] == [id(p) for p in compiled.network.parameters()]


def test_channels_last_is_the_networks_memory_format():
    def made(flag):
        network = nn.Conv2d(2, 4, 3)
        stage = Stage(network, torch.optim.SGD, TrainingConfig(channels_last=flag))
        return [
            w.is_contiguous(memory_format=torch.channels_last) for w in (stage.network.weight, stage.averaged.weight)
        ]

    assert made(True) == [True, True]
    assert made(False) == [False, False]


@contextlib.contextmanager
def full_after(count):
    """Files cannot grow beyond `count` bytes, as when a disk is full; Python gets an OSError for it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_weights_that_can_not_be_written_leave_what_was_there(tmp_path):
    path = tmp_path / "model.safetensors"
    write_weights({"w": torch.ones(3)}, path)
    other = tmp_path / "other"
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode  # who may read the rest may read it
    other.unlink()
    before = path.read_bytes()
    with full_after(1000), pytest.raises(OSError, match=r"model.safetensors") as error:
        write_weights({"w": torch.zeros(100_000)}, path)
    assert error.value.errno == errno.EFBIG
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]
