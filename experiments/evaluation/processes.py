"""Pictures looked at by several processes, each on its device; the features are those of one process to the bit."""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from experiments.console.devices import find_device
from experiments.evaluation.judges import make_judges
from modules.errors import InputError

if TYPE_CHECKING:
    from eval.judges.judges import Judges
    from eval.samples.folder import SampleFolder


def look_in_processes(
    options: argparse.Namespace,
    real: SampleFolder | None,
    folders: Sequence[SampleFolder],
    judges: Judges,
    cache: Path,
) -> None:
    """Fills the cache of features, with `options.processes` processes.

    Args:
        options: of `unclip evaluate`; each process makes its judges from them.
        real: the real images, at which scorers do not look; None where there are none.
        folders: samples.
        judges: this process's own.
        cache: where features are kept.

    Raises:
        InputError: a process has failed.
    """
    from eval.judges.parts import join_parts

    world = options.processes
    shown = [*([] if real is None else [(real, False)]), *((folder, True) for folder in folders)]
    start = multiprocessing.get_context("spawn")
    threads = torch.get_num_threads()  # As many in each: sums depend on their number.
    processes = [
        start.Process(target=_look, args=(options, shown, cache, rank, world, threads)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    failed = [process.exitcode for process in processes if process.exitcode]
    if failed:
        raise InputError(f"{len(failed)} of {world} processes of --processes failed (exit code {failed[0]}), see above")
    for folder, scores in shown:
        join_parts(folder, judges, cache, world, scores)


def _look(
    options: argparse.Namespace,
    shown: Sequence[tuple[SampleFolder, bool]],
    cache: Path,
    rank: int,
    world: int,
    threads: int,
) -> None:
    from eval.judges.parts import look_at_part

    torch.set_num_threads(threads)
    device = find_device(options.device)
    if device.type != "cpu":
        options.device = f"{device.type}:{((device.index or 0) + rank) % torch.accelerator.device_count()}"
    judges = make_judges(options, [folder for folder, scores in shown if scores])
    for folder, scores in shown:
        look_at_part(folder, judges, cache, rank, world, scores)
