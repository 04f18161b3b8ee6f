"""Checkpoint files: how many are kept, which one is used, and that no damage goes unnoticed."""

from __future__ import annotations

import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch

from experiments.cli import main
from experiments.training.checkpoint_files import damage, earlier, keeping, kept, newest_sound, tidy
from experiments.training.checkpoints import AtomicCheckpointIO, load_checkpoint
from modules.errors import InputError


@pytest.fixture
def last(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "last.ckpt"


def save(last: Path, step: int, keep: int = 3) -> None:
    with keeping(last, keep):
        AtomicCheckpointIO().save_checkpoint({"global_step": step, "x": torch.arange(100) + step}, last)


def steps(last: Path) -> list[int]:
    return [load_checkpoint(path)["global_step"] for path in kept(last)]


def names(last: Path) -> list[str]:
    return sorted(path.name for path in last.parent.iterdir())


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def test_as_many_are_kept_as_asked_for(last):
    for step in range(1, 6):
        save(last, step)
    assert steps(last) == [5, 4, 3]
    assert names(last) == ["last-1.ckpt", "last-2.ckpt", "last.ckpt"]
    save(last, 6, keep=2)
    assert steps(last) == [6, 5]
    save(last, 7, keep=1)
    assert names(last) == ["last.ckpt"]


@pytest.mark.parametrize("links", [True, False])
def test_a_failed_save_changes_nothing(last, monkeypatch, links):
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", lambda *paths: (_ for _ in ()).throw(OSError("no links here")))
    save(last, 1)
    save(last, 2)
    with pytest.raises(OSError, match="full"), keeping(last, 3):
        raise OSError("full")
    assert steps(last) == [2, 1]
    assert names(last) == ["last-1.ckpt", "last.ckpt"]
    save(last, 3)
    assert steps(last) == [3, 2, 1]


@pytest.mark.parametrize("links", [True, False])
def test_a_kill_at_any_moment_of_a_save_leaves_the_newest_whole_one(last, monkeypatch, links):
    """Every call that changes the folder is the last one, in turn; then the run goes on, and is killed so once more."""
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", lambda *paths: (_ for _ in ()).throw(OSError("no links here")))
    moments = 0
    while True:
        for path in last.parent.glob("*") if last.parent.exists() else ():
            path.unlink()
        save(last, 1)
        save(last, 2)
        left = moments

        def ending(real):
            def call(*arguments, **options):
                nonlocal left
                if left == 0:
                    raise KeyboardInterrupt
                left -= 1
                return real(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for name in ("unlink", "replace", "hardlink_to"):
                patch.setattr(Path, name, ending(getattr(Path, name)))
            # A killed process tidies nothing up.
            patch.setattr("contextlib.suppress", lambda *kinds: (_ for _ in ()).throw(KeyboardInterrupt))
            try:
                save(last, 3)
            except KeyboardInterrupt:
                pass
            else:
                break
        found = newest_sound(last)
        # Clear the way for 3, hold on to 2 (by a link, or else by renaming it), rename 3 into its place; then 1 moves
        # on, and 2.
        newest = 2 if moments < (4 if links else 5) else 3
        assert found is not None and load_checkpoint(found)["global_step"] == newest, moments
        tidy(last)
        assert newest_sound(last) == found  # Other ranks may have chosen it.
        with pytest.raises(KeyboardInterrupt), keeping(last, 3), monkeypatch.context() as patch:
            patch.setattr("contextlib.suppress", lambda *kinds: (_ for _ in ()).throw(KeyboardInterrupt))
            raise KeyboardInterrupt
        tidy(last)
        again = newest_sound(last)
        assert again is not None and load_checkpoint(again)["global_step"] == newest, moments
        save(last, 4, keep=1 + moments % 2)
        assert steps(last) == [4, newest][: 1 + moments % 2]
        assert len(names(last)) == 1 + moments % 2
        moments += 1
    assert moments == (6 if links else 7)


def test_a_flipped_bit_anywhere_is_found_or_changes_nothing(last):
    save(last, 1)
    content, sound = last.read_bytes(), load_checkpoint(last)
    noticed = 0
    # All of the table of contents, at the file's end, and places in the rest of it.
    table = range(zipfile.ZipFile(last).start_dir, len(content))
    for position in [*table, *random.Random(0).sample(range(len(content)), 200)]:
        last.write_bytes(content)
        flip(last, position)
        os.utime(last, ns=(position, position))
        if damage(last) is None:  # torch aligns its records: between them there is nothing
            again = load_checkpoint(last)
            assert again["global_step"] == 1 and torch.equal(again["x"], sound["x"]), position
        else:
            noticed += 1
    assert noticed > 100
    # In the tensor itself, always.
    where = content.index(sound["x"].numpy().tobytes())
    last.write_bytes(content)
    flip(last, where + 8)
    assert "the checksum of" in str(damage(last))
    with pytest.raises(InputError, match=r"last.ckpt' cannot be read \(the checksum of"):
        load_checkpoint(last)


def test_the_one_before_a_damaged_one_is_used_and_both_are_named(last, capsys):
    save(last, 1)
    save(last, 2)
    last.write_bytes(last.read_bytes()[:-200])
    assert newest_sound(last) == earlier(last, 1)
    warning = capsys.readouterr().err
    assert warning.startswith(f"unclip: warning: checkpoint '{last}' is damaged (")
    assert warning.endswith(f"going on from the one before it, '{earlier(last, 1)}'\n")
    tidy(last)
    assert names(last) == ["last-1.ckpt", "last.ckpt.damaged"]
    # The sound one is not dropped in favour of the damaged one.
    save(last, 3, keep=2)
    assert steps(last) == [3, 1]
    for path in kept(last):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"last.ckpt' cannot be read .*, .*last-1.ckpt' cannot be read .*--overwrite"):
        newest_sound(last)


def test_what_killed_writers_left_goes(last):
    save(last, 1)
    (last.parent / ".last.ckpt.17.part").write_bytes(b"half")
    (last.parent / ".last.ckpt.held").write_bytes(b"x")
    tidy(last)
    assert names(last) == ["last.ckpt"]


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(toy, capsys):
    words = ["fit", "--config", "toy.yaml", "--ckpt_path", "last", "--checkpoint.every_n_train_steps=5"]
    assert main([*words, "--trainer.default_root_dir=whole"]) == 0
    assert main(words) == 0
    last = Path("runs/toy/checkpoints/last.ckpt")
    assert steps(last) == [12, 10]
    flip(last, len(last.read_bytes()) // 2)
    capsys.readouterr()
    assert main(words) == 0
    captured = capsys.readouterr()
    assert "last.ckpt' is damaged" in captured.err and "going on from the one before it" in captured.err
    assert "steps 10 to 12" in captured.out
    whole, again = load_checkpoint(Path("whole/checkpoints/last.ckpt")), load_checkpoint(last)
    assert all(torch.equal(value, again["state_dict"][name]) for name, value in whole["state_dict"].items())
    assert names(last) == ["last-1.ckpt", "last.ckpt", "last.ckpt.damaged"]


class Payload:
    def __reduce__(self):
        return (os.system, ("touch sentinel",))


SHARDED = """
from torch import distributed
from torch.distributed.fsdp import fully_shard
from toy import Toy


class ShardedToy(Toy):
    def configure_model(self):
        fully_shard(self.network, mesh=self.device_mesh["data_parallel"])

    def teardown(self, stage):
        distributed.destroy_process_group()
"""


@pytest.fixture(params=["one device", "FSDP2"])
def trained(request, toy, capsys):
    """(command, ckpt_path) -> what `unclip` says when it refuses; a run is there.

    Under FSDP2, Lightning's strategy reads checkpoints itself.
    """
    assert main(["fit", "--config", "toy.yaml"]) == 0
    words = ["--config", "toy.yaml"]
    if request.param == "FSDP2":
        (toy / "sharded.py").write_text(SHARDED)
        config = (toy / "toy.yaml").read_text().replace("toy.Toy", "sharded.ShardedToy")
        (toy / "toy.yaml").write_text(config)
        sizes = "{data_parallel_size: 1, tensor_parallel_size: 1, save_distributed_checkpoint: false}"
        strategy = f"{{class_path: lightning.pytorch.strategies.ModelParallelStrategy, init_args: {sizes}}}"
        words += ["--overwrite", f"--trainer.strategy={strategy}"]
    capsys.readouterr()

    def refused(command: str, path: str) -> str:
        assert main([command, *words, "--ckpt_path", path]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    return refused


@pytest.mark.parametrize("place", ["last", "given"])
def test_a_checkpoint_that_would_run_code_is_refused(trained, place):
    last = Path("runs/toy/checkpoints/last.ckpt")
    evil = last if place == "last" else Path("evil.ckpt")
    content = load_checkpoint(last)
    torch.save({**content, "hyper_parameters": Payload()}, evil)
    reason = "it holds posix.system, and only tensors and plain values are read"
    for command in ("fit", "validate"):
        error = trained(command, "last" if place == "last" else "evil.ckpt")
        assert f"unclip: checkpoint '{evil}' cannot be read ({reason}" in error
    assert not Path("sentinel").exists()
    torch.load(evil, weights_only=False)  # It would have.
    assert Path("sentinel").exists()


def test_a_checkpoint_given_by_path_that_is_none_is_refused(trained):
    last = Path("runs/toy/checkpoints/last.ckpt")
    Path("cut.ckpt").write_bytes(last.read_bytes()[:-200])
    Path("of_all_ranks").mkdir()
    for name in (".metadata", "meta.pt"):  # As Lightning writes one file of each rank, with its pickles.
        Path("of_all_ranks", name).write_bytes(pickle.dumps(Payload()))
    torch.save({"x": 1}, "other.ckpt")
    for command in ("fit", "validate"):
        assert "unclip: checkpoint 'cut.ckpt' cannot be read (" in trained(command, "cut.ckpt")
        assert "checkpoint 'of_all_ranks' cannot be read (it is a folder, and" in trained(command, "of_all_ranks")
        assert "checkpoint 'other.ckpt' holds no training state; use another" in trained(command, "other.ckpt")
    assert not Path("sentinel").exists()


def test_what_lightning_would_requeue_from_is_refused_too(toy, capsys, monkeypatch):
    for name, value in {"NTASKS": 1, "JOB_ID": 17, "PROCID": 0, "LOCALID": 0, "NODEID": 0, "JOB_NAME": "x"}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    evil = toy / "runs" / "toy" / "hpc_ckpt_1.ckpt"
    evil.parent.mkdir(parents=True)
    torch.save({"hyper_parameters": Payload()}, evil)
    assert main(["fit", "--config", "toy.yaml"]) == 2
    assert "hpc_ckpt_1.ckpt' cannot be read (it holds posix.system" in capsys.readouterr().err
    assert list(evil.parent.iterdir()) == [evil]  # Nothing has been begun: no strategy has seen it.
