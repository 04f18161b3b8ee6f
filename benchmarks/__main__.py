"""`make bench`, or `python -m benchmarks`: times everything in turns with its peer, writes runs/bench.json."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from benchmarks.timings.cases import rows
from benchmarks.timings.setting import Bench
from benchmarks.timings.timing import Result
from eval.files import write_file
from experiments.console.freed_memory import keep_freed_memory


def main() -> None:
    """Run the cases that are asked for, printing each line as it is known."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--pairs", type=int, default=5, help="repetitions of the short cases")
    parser.add_argument("--shrink", type=int, default=1, help="divide the batch sizes, for a quick look")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--out", type=Path, default=Path("runs/bench.json"))
    options = parser.parse_args()
    keep_freed_memory()  # as `unclip` does; the peers' steps gain by it, too
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    gpu = torch.cuda.is_available()
    bench = Bench(torch.device("cuda" if gpu else "cpu"), options.pairs, options.shrink, half=gpu, compile=gpu)
    kept = earlier(options.out) if options.only else {}
    for result in rows(bench, options.only):
        kept[result.name, result.peer] = result.as_dict()
        print(line(result), flush=True)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_file(options.out, json.dumps(list(kept.values()), indent=1))


def earlier(path: Path) -> dict[tuple[str, str], dict[str, object]]:
    """What the file holds of earlier runs, by case and peer; cases that are timed anew take their place."""
    if not path.is_file():
        return {}
    return {(row["name"], row["peer"]): row for row in json.loads(path.read_text(encoding="utf-8"))}


def line(result: Result) -> str:
    """'prior_training  ours 2.1 s, diffusers 2.6 s: 1.24x (1.20 to 1.27 in 5 pairs), 61 % of the matrix peak, cpu'."""
    peak = "" if result.peak_share is None else f", {100 * result.peak_share:.0f} % of the matrix peak"
    return (
        f"{result.name:26} ours {result.ours_s:7.3f} s, {result.peer} {result.peer_s:7.3f} s: "
        f"{result.ratio:.2f}x ({result.low:.2f} to {result.high:.2f} in {result.pairs} pairs){peak}, {result.device}"
    )


if __name__ == "__main__":
    main()
