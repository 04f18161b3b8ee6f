"""The process that `benchmarks.timings.schedule_lookups` starts in each checkout; it knows `modules.diffusion` only.

Reads a case as a line of JSON, answers with a line: seconds of a training step's draw and loss, and how many
operations, copies and reads of a value by the host it makes once the tables are there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from modules.diffusion.gaussian import q_sample
from modules.diffusion.losses import diffusion_loss, hybrid_loss
from modules.diffusion.schedules import cosine

SCHEDULE = cosine(1000)
DEVICE = torch.device(os.environ.get("BENCH_DEVICE", "cpu"))


class Counts(TorchDispatchMode):
    """How often each operation runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


def answer(side: int, parameterization: Any, learned_sigma: bool, batch: int, calls: int) -> dict[str, float]:
    """Times and counts one case."""
    g = torch.Generator().manual_seed(0)
    t = torch.randint(1000, (batch,), generator=g).to(DEVICE)
    x0, noise = (torch.randn(batch, 3, side, side, generator=g).to(DEVICE) for _ in range(2))

    def step() -> Tensor:
        x_t = q_sample(SCHEDULE, x0, t, noise)
        output = torch.cat([x_t, x_t], dim=1) if learned_sigma else x_t
        loss = hybrid_loss if learned_sigma else diffusion_loss
        return loss(output, SCHEDULE, x0, noise, t, parameterization, "min_snr").mean()

    step()
    with Counts() as counts:
        step()
    clock = time.process_time if DEVICE.type == "cpu" else time.perf_counter
    start = clock()
    for _ in range(calls):
        step()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize(DEVICE)
    return {
        "seconds": (clock() - start) / calls,
        "operations": len(counts.names),
        "copies": counts.names.count("aten._to_copy"),
        "reads": counts.names.count("aten._local_scalar_dense"),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), flush=True)
