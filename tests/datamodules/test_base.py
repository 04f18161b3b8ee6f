"""The order of the data: exact, stateless, and the same after an interruption (with the real Trainer)."""

import json
import multiprocessing
import os
import re
import signal
import time
import warnings

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import Dataset

from datamodules.base import SplitDataModule
from datamodules.order import ResumableLoader, SeededBatchSampler, evaluation_batches, leave_signals_to_training
from modules.errors import InputError


def test_every_sample_exactly_once_a_pass_and_reshuffled():
    sampler = SeededBatchSampler(n=10, batch_size=4, seed=3, total=5)
    stream = [index for batch in sampler for index in batch]
    assert len(stream) == 20
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))
    assert stream[:10] != stream[10:]
    assert stream[:10] != sorted(stream[:10])


def test_a_batch_depends_on_nothing_but_seed_and_number():
    def new(seed: int) -> SeededBatchSampler:
        return SeededBatchSampler(n=7, batch_size=5, seed=seed, total=40)

    in_order = list(new(1))
    assert [new(1).batch(k) for k in reversed(range(40))] == in_order[::-1]
    assert list(SeededBatchSampler(7, 5, 1, start=13, total=40)) == in_order[13:]
    assert list(new(2)) != in_order


def test_ranks_share_each_pass_and_together_make_the_larger_batch():
    ranks = [SeededBatchSampler(n=12, batch_size=2, seed=0, total=6, rank=r, world=2) for r in range(2)]
    one = SeededBatchSampler(n=12, batch_size=4, seed=0, total=6)
    assert [a + b for a, b in zip(*ranks, strict=True)] == list(one)
    assert sorted(index for rank in ranks for k in range(3) for index in rank.batch(k)) == list(range(12))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"batch_size": 2, "world": 4}, None),
        ({"batch_size": 8, "world": 1}, None),
        ({"world": 4}, None),
        ({"seed": 1}, r"\(seed 1 -> 0\)"),
        ({"n": 11, "batch_size": 8, "world": 1}, r"\(n 11 -> 12\)"),
    ],
)
def test_the_order_is_said_to_change_only_where_it_does(changed, named):
    """The same batch of all ranks together, on fewer or more of them, is the same order."""
    loader = ResumableLoader([None] * 12, batch_sampler=SeededBatchSampler(12, 4, seed=0, world=2))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loader.load_state_dict({"n": 12, "batch_size": 4, "seed": 0, "world": 2, **changed})
    assert len(said) == (named is not None)
    assert named is None or re.search(named, str(said[0].message))


def test_a_split_smaller_than_a_batch_still_gives_full_batches():
    batch = SeededBatchSampler(n=3, batch_size=8, seed=0).batch(0)
    assert len(batch) == 8
    assert {2, 3} == set(np.bincount(batch))


def test_length_is_the_whole_run_while_iteration_begins_at_start():
    sampler = SeededBatchSampler(n=10, batch_size=2, seed=0, start=lambda: 7, total=9)
    assert len(sampler) == 9
    assert len(list(sampler)) == 2
    assert len(SeededBatchSampler(n=10, batch_size=4, seed=0)) == 3


@pytest.mark.parametrize(("n", "size", "world"), [(10, 4, 1), (8, 4, 1), (10, 4, 2), (11, 4, 2), (5, 1, 2), (2, 8, 2)])
def test_evaluation_sees_everything_once_in_equally_many_batches(n, size, world):
    ranks = [evaluation_batches(n, size, rank, world) for rank in range(world)]
    assert sorted(index for batches in ranks for batch in batches for index in batch) == list(range(n))
    assert len({len(batches) for batches in ranks}) == 1
    assert all(0 < len(batch) <= size + (world > 1) for batches in ranks for batch in batches)


def test_evaluation_order_and_last_partial_batch():
    assert evaluation_batches(10, 4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    with pytest.raises(InputError, match="1 samples can't be shared by 2"):
        evaluation_batches(1, 4, 0, 2)


class Numbers(Dataset):
    def __len__(self):
        return 11

    def __getitems__(self, indices):
        return torch.tensor(indices)


class NumbersDataModule(SplitDataModule):
    def dataset(self, split):
        return Numbers()


class Watcher(LightningModule):
    """A one-weight model that notes the batches that it sees."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.stop_at, self.seen, self.validated = stop_at, [], []

    def training_step(self, batch, batch_idx):
        if self.stop_at is not None and len(self.seen) == self.stop_at:
            raise RuntimeError("killed")
        self.seen.append(batch.tolist())
        return (self.weight - batch.float().mean()) ** 2

    def validation_step(self, batch, batch_idx):
        self.validated.append(batch.tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(folder, model, workers=0, ckpt=None, steps=12, seed=5, batch_size=3, callbacks=(), **options):
    data = NumbersDataModule(batch_size=batch_size, seed=seed, num_workers=workers)
    settings = {"max_steps": steps, "val_check_interval": 4, "check_val_every_n_epoch": None, **options}
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        callbacks=list(callbacks),
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **settings,
    )
    trainer.fit(model, datamodule=data, ckpt_path=ckpt)
    return trainer


def every(folder, steps):
    from lightning.pytorch.callbacks import ModelCheckpoint

    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=steps, save_top_k=-1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("at", [3, 4, 6, 10])  # 4: validation follows; 3 and 6: between validations; 10: third pass
def test_a_resumed_run_sees_the_batches_of_the_uninterrupted_one(tmp_path, at, workers):
    whole = Watcher()
    fit(tmp_path, whole, workers)
    assert len(whole.seen) == 12

    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path, Watcher(stop_at=at + 1), workers, callbacks=[every(tmp_path, at)])
    rest = Watcher()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*dataloader is not resumable.*")
        fit(tmp_path, rest, workers, ckpt=tmp_path / f"step={at}.ckpt")
    assert rest.seen == whole.seen[at:]
    assert torch.equal(rest.weight, whole.weight)
    assert rest.validated[-4:] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]]


@pytest.mark.parametrize("workers", [0, 2])
def test_gradient_accumulation_counts_batches_not_steps(tmp_path, workers):
    whole, rest = Watcher(), Watcher()
    fit(tmp_path, whole, workers, accumulate_grad_batches=3, steps=4)
    assert len(whole.seen) == 12
    with pytest.raises(RuntimeError, match="killed"):
        fit(
            tmp_path,
            Watcher(stop_at=7),
            workers,
            accumulate_grad_batches=3,
            steps=4,
            callbacks=[every(tmp_path, 2)],
        )
    fit(tmp_path, rest, workers, ckpt=tmp_path / "step=2.ckpt", accumulate_grad_batches=3, steps=4)
    assert rest.seen == whole.seen[6:]
    assert torch.equal(rest.weight, whole.weight)


def test_a_checkpoint_written_on_an_exception_repeats_the_batch_that_failed(tmp_path):
    from lightning.pytorch.callbacks import OnExceptionCheckpoint

    whole, rest = Watcher(), Watcher()
    fit(tmp_path, whole)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path, Watcher(stop_at=5), callbacks=[OnExceptionCheckpoint(tmp_path, "failed")])
    fit(tmp_path, rest, ckpt=tmp_path / "failed.ckpt")
    assert rest.seen == whole.seen[5:]


@pytest.mark.parametrize("workers", [0, 2])
def test_other_batches_go_on_from_the_very_next_sample(tmp_path, workers):
    """As on another number of devices, or with other accumulation; and once more with others yet."""
    stream = [index for batch in SeededBatchSampler(11, 1, seed=5, total=99) for index in batch]
    fit(tmp_path, first := Watcher(), workers, batch_size=4, steps=6, callbacks=[every(tmp_path, 6)])
    options = {"batch_size": 3, "accumulate_grad_batches": 2, "callbacks": [every(tmp_path, 9)]}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the data order")
        fit(tmp_path, second := Watcher(), workers, ckpt=tmp_path / "step=6.ckpt", steps=9, **options)
        fit(tmp_path, again := Watcher(), workers, ckpt=tmp_path / "step=9.ckpt", steps=10, **options)
        fit(tmp_path, last := Watcher(), workers, ckpt=tmp_path / "step=9.ckpt", steps=12, batch_size=5)
    seen = [index for model in (first, second) for batch in model.seen for index in batch]
    assert len(seen) == 6 * 4 + 3 * 2 * 3 and seen == stream[: len(seen)]
    for model, count in ((again, 2 * 3), (last, 3 * 5)):
        assert [index for batch in model.seen for index in batch] == stream[len(seen) :][:count]


def test_ranks_that_come_or_go_take_their_shares_from_there():
    """Three batches on four ranks, then on two, by the state that the first rank has saved."""

    def loader(rank, world, behind):
        sampler = SeededBatchSampler(50, 2, seed=1, start=behind, total=9, rank=rank, world=world)
        return ResumableLoader([None] * 50, batch_sampler=sampler)

    stream = SeededBatchSampler(50, 50, seed=1).batch(0)
    state, taken = loader(0, 4, 0).state_dict(), []
    for rank in range(2):
        resumed = loader(rank, 2, 3)
        resumed.load_state_dict(json.loads(json.dumps(state)))
        taken.append(list(resumed.batch_sampler)[:2])
    assert [*taken[0][0], *taken[1][0], *taken[0][1], *taken[1][1]] == stream[24:32]


def test_a_longer_run_continues_a_finished_one(tmp_path):
    whole, rest = Watcher(), Watcher()
    fit(tmp_path, whole, steps=20)
    fit(tmp_path, Watcher(), steps=12).save_checkpoint(tmp_path / "end.ckpt")
    fit(tmp_path, rest, steps=20, ckpt=tmp_path / "end.ckpt")
    assert rest.seen == whole.seen[12:]


def test_without_max_steps_an_epoch_is_a_pass_and_order_goes_on(tmp_path):
    model = Watcher()
    fit(tmp_path, model, steps=-1, max_epochs=3, val_check_interval=1.0, check_val_every_n_epoch=1)
    sampler = SeededBatchSampler(n=11, batch_size=3, seed=5, total=12)
    assert model.seen == list(sampler)


def test_limited_epochs_do_not_repeat_the_first_batches(tmp_path):
    model = Watcher()
    fit(tmp_path, model, steps=12, limit_train_batches=5, limit_val_batches=0)
    assert model.seen == list(SeededBatchSampler(n=11, batch_size=3, seed=5, total=12))


def test_another_order_on_resume_is_said(tmp_path):
    fit(tmp_path, Watcher(), steps=4, callbacks=[every(tmp_path, 4)])
    with pytest.warns(UserWarning, match=r"\(seed 5 -> 6\)"):
        fit(tmp_path, Watcher(), batch_size=2, seed=6, ckpt=tmp_path / "step=4.ckpt")


def test_validate_test_and_predict_run_in_order(tmp_path):
    class Predictor(Watcher):
        def predict_step(self, batch, batch_idx):
            return batch

        test_step = Watcher.validation_step

    model = Predictor()
    data = NumbersDataModule(batch_size=4, seed=0, num_workers=0)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    trainer.test(model, datamodule=data, verbose=False)
    assert model.validated == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert torch.equal(torch.cat(trainer.predict(model, datamodule=data)), torch.arange(11))


def test_bad_arguments_are_named():
    for name, arguments in {"batch_size": (0, 0, 0), "seed": (1, -1, 0), "num_workers": (1, 0, -1)}.items():
        with pytest.raises(InputError, match=name):
            SplitDataModule(*arguments)
    with pytest.raises(InputError, match="empty"):
        SeededBatchSampler(0, 4, 0)


class Reporter(Watcher):
    """Writes what this rank saw to a file, since its process ends with the run."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_train_end(self):
        text = json.dumps({"train": self.seen, "val": self.validated})
        (self.folder / f"rank{self.global_rank}.json").write_text(text)


def test_two_processes_share_the_data_and_go_on_after_an_interruption(tmp_path):
    options = {"strategy": "ddp_fork", "devices": 2, "steps": 6, "val_check_interval": 6}
    fit(tmp_path, Reporter(tmp_path), callbacks=[every(tmp_path, 4)], **options)
    for rank in range(2):
        seen = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert seen["train"] == list(SeededBatchSampler(11, 3, seed=5, total=6, rank=rank, world=2))
        assert seen["val"] == evaluation_batches(11, 3, rank, 2)
    fit(tmp_path, Reporter(tmp_path), ckpt=tmp_path / "step=4.ckpt", **options)
    for rank in range(2):
        seen = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert seen["train"] == list(SeededBatchSampler(11, 3, seed=5, start=4, total=6, rank=rank, world=2))


def test_a_loader_obeys_the_second_sigterm_only():
    """The first is training's, which still needs batches; Python ends a loader that hangs with further ones."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()

    def work():
        leave_signals_to_training()
        while True:
            theirs.send("at work")
            time.sleep(0.05)

    process = context.Process(target=work, daemon=True)
    process.start()
    assert mine.recv() == "at work"
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
        os.kill(process.pid, number)
        for _ in range(3):  # One may have been on its way.
            assert mine.poll(60) and mine.recv() == "at work"
        assert process.is_alive()
    process.terminate()
    process.join(60)
    assert process.exitcode == -signal.SIGTERM
