"""Two programs timed side by side: ratios of one run carry over to other machines, seconds do not."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Run = Callable[[], object]


@dataclass(frozen=True)
class Result:
    """One line of runs/bench.json, and what is printed beside it.

    Attributes:
        name: what was timed.
        ours_s, peer_s: medians, in seconds (see `seconds`).
        peer: whom it was timed against.
        ratio: median over the pairs of peer / ours; above 1 ours is faster.
        low, high: the smallest and the largest of the pairs' ratios.
        device: where.
        pairs: how many.
        peak_share: what ours computes a second, of the device's measured matrix peak; None where it was not counted.
            Convolutions count as direct ones, so that Winograd's may bring it above 1.
    """

    name: str
    ours_s: float
    peer: str
    peer_s: float
    ratio: float
    low: float
    high: float
    device: str
    pairs: int
    peak_share: float | None = None

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "name": self.name,
            "ours_s": round(self.ours_s, 5),
            "peer": self.peer,
            "peer_s": round(self.peer_s, 5),
            "ratio": round(self.ratio, 5),
            "device": self.device,
        }


def device_name(device: torch.device) -> str:
    """'cpu (Intel(R) Xeon(R), 1 thread)' or the GPU's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({processor()}, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)})"


def processor() -> str:
    """The CPU's name where the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - not a file of ours
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def seconds(run: Run, device: torch.device) -> float:
    """One call: in one CPU thread the process's CPU time, which other programs lengthen least; elsewhere wall time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def matrix_peak(device: torch.device, dtype: torch.dtype, size: int | None = None) -> float:
    """FLOPs a second of the best of ten products of two square matrices; the share of it says how good a step is."""
    size = size or (8192 if device.type == "cuda" else 1024)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    return 2 * size**3 / min(seconds(lambda: torch.mm(a, b), device) for _ in range(10))


def paired(
    name: str,
    ours: Run,
    peer_name: str,
    peer: Run,
    device: torch.device,
    pairs: int = 5,
    peak_seconds: float | None = None,
) -> Result:
    """Both once to warm up, then in turns, so that what else the machine does hits both alike.

    Args:
        peak_seconds: what ours would take at the matrix peak.
    """
    ours(), peer()
    times = [(seconds(ours, device), seconds(peer, device)) for _ in range(pairs)]
    ratios = [theirs / mine for mine, theirs in times]
    mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    return Result(
        name,
        mine,
        peer_name,
        theirs,
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        device_name(device),
        pairs,
        None if peak_seconds is None else peak_seconds / mine,
    )
