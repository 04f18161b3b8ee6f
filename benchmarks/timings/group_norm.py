"""`python -m benchmarks.timings.group_norm`: group norm in both memory layouts, by torch's kernels and by ours.

Prints CPU milliseconds of a forward and a backward pass with scale and shift, for feature maps of the quickstart's
decoder (batch 64) and of a paper-size one. All forms run in turns in one process with one thread; each number is the
smallest of its repetitions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.networks.group_norm import GroupNorm

CASES = ((64, 32, 16, 8), (64, 64, 8, 16), (64, 128, 4, 32), (8, 192, 64, 32), (8, 384, 32, 32))
"""Batch, channels, side, groups."""

Form = Callable[[Tensor, Tensor, Tensor], Tensor]


def torchs(norm: GroupNorm) -> Form:
    """torch's kernel, with the scale and shift behind it."""

    def form(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        h = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
        return torch.addcmul(shift[:, :, None, None], h, 1 + scale[:, :, None, None])

    return form


def seconds(form: Form, given: list[Tensor], gradient: Tensor) -> tuple[float, float]:
    """CPU seconds of a forward and a backward pass."""
    begin = time.process_time()
    y = form(*given)
    middle = time.process_time()
    torch.autograd.grad(y, given, gradient)
    return middle - begin, time.process_time() - middle


def main() -> int:
    """Time and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=20)
    repetitions = parser.parse_args().repetitions
    torch.set_num_threads(1)
    print("| batch, channels, side, groups | torch, contiguous | torch, channels_last | ours, channels_last |")
    print("| --- | --- | --- | --- |")
    for batch, channels, side, groups in CASES:
        norm = GroupNorm(groups, channels)
        x, vectors = torch.randn(batch, channels, side, side), torch.randn(2, batch, channels)
        last = x.contiguous(memory_format=torch.channels_last)
        forms = ((torchs(norm), x), (torchs(norm), last), (norm, last))
        rows = [(form, [t.clone().requires_grad_() for t in (base, *vectors)], base.clone()) for form, base in forms]
        found = [[seconds(*row) for row in rows] for _ in range(repetitions)]
        best = [[1e3 * min(turn[form][way] for turn in found) for way in (0, 1)] for form in range(len(forms))]
        cells = [f"{forward:.2f} + {backward:.2f} ms" for forward, backward in best]
        print(f"| {batch}, {channels}, {side}, {groups} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
