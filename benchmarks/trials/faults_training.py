"""Faults of one training run, tried for real on the small quickstart's diffusion prior."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.trials.compare import differing_runs
from benchmarks.trials.small_training import AT, STAGE, STEPS, Outcome, Training, shorten
from benchmarks.trials.workspace import kill, wait_for
from experiments.training.checkpoint_files import earlier
from experiments.training.checkpoints import load_checkpoint

RANKS_LOCK = threading.Lock()
CAP_DAC_OVERRIDE, PR_CAPBSET_DROP = 1, 24


def killed(training: Training) -> Outcome:
    """The step is lost, and those since the last checkpoint."""
    done = training.suffer("killed", "Signal", number=int(signal.SIGKILL))
    outcome = training.verdict("killed", done, -signal.SIGKILL)
    return replace(outcome, happened=f"{outcome.happened}; its loader processes were gone after {done.lingering:.0f} s")


def signalled(number: signal.Signals) -> Callable[[Training], Outcome]:
    """A signal that asks to stop."""

    def attempt(training: Training) -> Outcome:
        name = number.name.lower()
        done = training.suffer(name, "Signal", number=int(number))
        code = 130 if number == signal.SIGINT else 75
        return training.verdict(name, done, code, f"stopped after step {AT + 1}; `--ckpt_path last` goes on")

    return attempt


def damaged(damage: Callable[[Path], object], notice: str) -> Callable[[Training], Outcome]:
    """Something that happens to the last checkpoint of a run that was killed."""
    name = f"damaged_{damage.__name__}"

    def attempt(training: Training) -> Outcome:
        training.suffer(name, "Signal", number=int(signal.SIGKILL))
        damage(training.last(name))
        done = training.fit(name)
        warnings = [line for line in done.out.splitlines() if line.startswith("unclip: ")]
        different = differing_runs(training.whole, training.workspace.folder / name) if done.code == 0 else []
        end = "the end is identical to an untouched run's" if done.code == 0 else "nothing is trained"
        happened = f"exit code {done.code}, `{shorten(' '.join(warnings))}`; {end}"
        return Outcome(happened, notice in done.out and not different and "Traceback" not in done.out)

    return attempt


def truncate(path: Path) -> None:
    """Half of it is gone."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """One bit of a weight is another."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def all_of_them(path: Path) -> None:
    """That one and the one before."""
    for each in (path, earlier(path, 1)):
        truncate(each)


class Evil:
    """A pickle that makes a file."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch sentinel",)


def poisoned(path: Path) -> None:
    """It runs a command when it is unpickled."""
    torch.save({**load_checkpoint(path), "extra": Evil()}, path)


def poison(training: Training) -> Outcome:
    """It has to be refused, and nothing may have been run."""
    found = damaged(poisoned, "cannot be read (it holds posix.system, and only tensors")(training)
    ran = (training.workspace.folder / "sentinel").exists()
    end = "; IT RAN" if ran else "; the command did not run"
    return Outcome(found.happened + end, found.well and not ran)


def not_a_number(training: Training) -> Outcome:
    """It stops before the step that would spoil the weights."""
    done = training.suffer("nan", "NotANumber")
    return training.verdict("nan", done, 2, "the loss is nan at step 17", "z_i")


def spike(training: Training) -> Outcome:
    """Clipping bounds what one step can do."""
    done = training.suffer("spike", "Spike")
    losses = logged(training.workspace.folder / "spike"), logged(training.whole)
    before, after, end = (" and ".join(f"{run[step]:.3f}" for run in losses) for step in (AT, AT + 1, STEPS - 1))
    well = done.code == 0 and abs(losses[0][STEPS - 1] - losses[1][STEPS - 1]) < 0.1 * losses[1][STEPS - 1]
    happened = (
        f"trains on: gradients are clipped to norm 1; its loss and an untouched run's are {before} in that step, "
        f"{after} in the next, {end} in the last"
    )
    return Outcome(happened, well)


def logged(run: Path) -> dict[int, float]:
    """Step -> training loss, from TensorBoard's file."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run))
    events.Reload()
    return {event.step: event.value for event in events.Scalars("train/loss")}


def dead_worker(training: Training) -> Outcome:
    """As when memory runs out."""
    done = training.suffer("worker", "DeadWorker")
    return training.verdict("worker", done, 2, "a worker process of the data loader died")


RANKS = ("--trainer.devices=2", "--trainer.strategy=ddp_find_unused_parameters_false")
ANEW = ("env",)
"""A rank starts the next by loading the program, so it has to be loaded itself."""


def after_ranks(training: Training, name: str) -> str:
    """Two ranks go on; what differs from two untouched ones, which see other batches than one process."""
    folder = training.workspace.folder
    whole = folder / "whole_ranks"
    with RANKS_LOCK:
        codes = [] if (whole / "export").exists() else [training.fit(whole.name, *RANKS, before=ANEW).code]
    codes.append(training.fit(name, *RANKS, before=ANEW).code)
    different = [f"exit codes {codes}"] if any(codes) else differing_runs(whole, folder / name)
    return f"DIFFERS: {different[0]}" if different else "the end is identical to that of two untouched ranks"


def dead_rank(training: Training) -> Outcome:
    """Two processes on the CPU, of which the second one is killed."""
    done = training.suffer("rank", "SignalToRank", *RANKS, before=ANEW, number=int(signal.SIGKILL), rank=1)
    how = f"exit code {done.code}" if done.code >= 0 else f"killed by {signal.Signals(-done.code).name}"
    there = training.step("rank")
    end = after_ranks(training, "rank")
    happened = (
        f"the other ends too, after {done.seconds:.0f} s in all ({how}); checkpoint of step {there} is sound; {end}"
    )
    return Outcome(happened, done.code not in (0, 1) and "DIFFERS" not in end)


def stopped_rank(training: Training) -> Outcome:
    """Two processes, of which the second one is asked to stop."""
    done = training.suffer("stopped_rank", "SignalToRank", *RANKS, before=ANEW, number=int(signal.SIGTERM), rank=1)
    there = training.step("stopped_rank")
    end = after_ranks(training, "stopped_rank")
    happened = f"both stop after that step: exit code {done.code}; checkpoint of step {there} is sound; {end}"
    return Outcome(happened, done.code == 75 and there == AT + 1 and "DIFFERS" not in end)


def clock(training: Training) -> Outcome:
    """Nothing that matters looks at it."""
    done = training.suffer("clock", "ClockJump")
    different = differing_runs(training.whole, training.workspace.folder / "clock") if done.code == 0 else ["?"]
    steps = [
        load_checkpoint(path)["global_step"] for path in (training.last("clock"), earlier(training.last("clock"), 1))
    ]
    happened = f"exit code {done.code}; checkpoints of steps {steps}; the end is identical to an untouched run's"
    return Outcome(happened if not different else f"DIFFERS: {different[0]}", not different)


def obey_permissions() -> None:
    """In the child: root too is kept out by permissions."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


def read_only(training: Training) -> Outcome:
    """Root is kept out too."""
    folder = training.workspace.folder / "readonly"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o555)
    done = training.fit("readonly", preexec_fn=obey_permissions)
    well = done.code == 2 and "no permission for 'readonly" in done.out and done.out.count("\n") == 1
    return Outcome(f"exit code {done.code}, `{shorten(done.last_line)}`", well)


def becomes_read_only(training: Training) -> Outcome:
    """The last checkpoint stays as it is."""
    name = "becomes"
    shutil.rmtree(training.workspace.folder / name, ignore_errors=True)
    callback = {"class_path": "benchmarks.trials.injected.ReadOnly", "init_args": {"at": AT}}
    done = training.fit(name, f"--trainer.callbacks={json.dumps([callback])}", preexec_fn=obey_permissions)
    training.last(name).parent.chmod(0o755)
    return training.verdict(name, done, 2, "no permission for", "last.ckpt")


def full_disk(training: Training) -> Outcome:
    """Likewise."""
    folder = training.workspace.folder / "disk"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    size = training.last("whole").stat().st_size
    # Room for two checkpoints and some logs: the third, beside the two that are kept, does not fit.
    script = f'mount -t tmpfs -o size={2 * size + size // 2} none disk && "$@"; code=$?; cp -r disk rescued; exit $code'
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        done = training.suffer("rescued", "FileLimit")
        return training.verdict("rescued", done, 2, "last.ckpt")
    shutil.rmtree(training.workspace.folder / "rescued", ignore_errors=True)
    done = training.fit("disk", before=["unshare", "-m", "bash", "-c", script, "bash"])
    return training.verdict("rescued", done, 2, "disk full while writing")


def second_fit(training: Training) -> Outcome:
    """The first one is slow, and then killed."""
    shutil.rmtree(training.workspace.folder / "two", ignore_errors=True)
    callback = {
        "class_path": "benchmarks.trials.injected.Signal",
        "init_args": {"at": AT, "number": int(signal.SIGSTOP)},
    }
    words = ["fit", "--config", f"{STAGE}.yaml", "--trainer.default_root_dir=two", "--ckpt_path", "last"]
    first = training.workspace.start(*words, f"--trainer.callbacks={json.dumps([callback])}", log="first.txt")
    wait_for(lambda: Path(f"/proc/{first.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T", first)
    second = training.fit("two")
    kill(first)
    text, well = training.goes_on("two")
    happened = (
        f"exit code {second.code}, `{shorten(second.last_line)}`; when the first one has been killed, the second {text}"
    )
    return Outcome(happened, well and second.code == 2 and f"process {first.pid} on" in second.out)


FAULTS: dict[str, Callable[[Training], Outcome]] = {
    "`kill -9` in a step": killed,
    "SIGTERM, as a scheduler sends it": signalled(signal.SIGTERM),
    "SIGUSR1, as a scheduler sends it before the time is over": signalled(signal.SIGUSR1),
    "Ctrl-C": signalled(signal.SIGINT),
    "the last checkpoint is cut off in the middle": damaged(truncate, "going on from the one before it"),
    "one bit of the last checkpoint is flipped": damaged(flip, "going on from the one before it"),
    "all checkpoints are cut off": damaged(all_of_them, "cannot be read"),
    "a checkpoint whose pickle runs a command": poison,
    "NaN in a batch, and so in the loss": not_a_number,
    "one gradient 10,000 times too large": spike,
    "`kill -9` to a worker process of the data loader": dead_worker,
    "`kill -9` to one of two ranks": dead_rank,
    "SIGTERM to one of two ranks": stopped_rank,
    "the wall clock jumps a day ahead, then two days back": clock,
    "the run folder is read-only from the start": read_only,
    "the checkpoints' folder becomes read-only in training": becomes_read_only,
    "the disk is full when a checkpoint is written": full_disk,
    "a second `unclip fit` into the same run folder": second_fit,
}
