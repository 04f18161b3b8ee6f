"""`python -m benchmarks.timings.schedule_lookups --before CHECKOUT`: a training step's work on the noise schedule.

Draws a batch's noise and computes its loss, with this code and with that of another checkout, in turns and in two
processes of one run. The ratio of the two carries over to other machines, the microseconds do not. Samples of one
pixel show the schedule's share, where nearly all time goes into looking values up; larger ones show what is left of it
beside the arithmetic.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
CASES = [
    (side, parameterization, learned_sigma)
    for side in (1, 64)
    for parameterization, learned_sigma in (("epsilon", True), ("epsilon", False), ("x0", False), ("v", True))
]


class Worker:
    """A process that imports one checkout's `modules` and times a case at each request."""

    def __init__(self, checkout: Path, device: str) -> None:
        # Run from the checkout, whose packages are then found first.
        script = (
            f"import runpy; runpy.run_path({str(HERE.with_name('schedule_lookups_worker.py'))!r}, run_name='__main__')"
        )
        environment = {**os.environ, "PYTHONPATH": str(checkout), "BENCH_DEVICE": device}
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=checkout,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **case: Any) -> dict[str, Any]:
        """The worker's answer to one request."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(case), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of {self.process.args!r} ended without an answer")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def main(argv: list[str]) -> None:
    """Prints a line for each case."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.timings.schedule_lookups", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the code to compare with")
    parser.add_argument("--pairs", type=int, default=9, help="repetitions of each case")
    parser.add_argument("--calls", type=int, default=100, help="training steps of one repetition")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    if not (options.before / "modules" / "diffusion").is_dir():
        parser.error(f"--before: there is no modules/diffusion in {options.before}")
    ours, before = Worker(HERE.parents[1], options.device), Worker(options.before.resolve(), options.device)
    print(f"{'case':28} {'before':>10} {'now':>10} {'ratio':>22} {'operations':>14} {'copies':>9} {'host reads':>11}")
    for side, parameterization, learned_sigma in CASES:
        calls = options.calls if side == 1 else max(1, options.calls // 20)
        case = {
            "side": side,
            "parameterization": parameterization,
            "learned_sigma": learned_sigma,
            "batch": options.batch,
            "calls": calls,
        }
        pairs = [(before.ask(**case), ours.ask(**case)) for _ in range(options.pairs)]
        ratios = [a["seconds"] / b["seconds"] for a, b in pairs]
        middle = [
            statistics.median(answer["seconds"] for answer in answers) * 1e6 for answers in zip(*pairs, strict=True)
        ]
        counts = [f"{pairs[0][0][name]} -> {pairs[0][1][name]}" for name in ("operations", "copies", "reads")]
        name = f"{side} px, {parameterization}{', learned sigma' * learned_sigma}"
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
        print(
            f"{name:28} {middle[0]:7.0f} us {middle[1]:7.0f} us {ratio:>22} "
            f"{counts[0]:>14} {counts[1]:>9} {counts[2]:>11}"
        )
    ours.close()
    before.close()


if __name__ == "__main__":
    main(sys.argv[1:])
