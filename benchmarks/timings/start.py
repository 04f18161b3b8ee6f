"""`python -m benchmarks.timings.start`: CPU seconds that commands take to start, of this checkout and of another.

Each line is a process of its own, whose user and system time the kernel reports: the `--help` of every command, the
import of torch and of `modules.pipeline`, `unclip sample` of a picture from the shipped weights, and, with --run, of
four pictures from a run. With --before CHECKOUT the same words run in that checkout in turns with this one, and the
ratio is before / now. The smallest of --repeats counts, for other programs only lengthen a start.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
CAPTION = "a small red circle above a large blue square"
IMPORTS = {"import torch": "import torch", "import modules.pipeline": "import modules.pipeline"}


@dataclass(frozen=True)
class Start:
    """A process to time.

    Attributes:
        name: what the line is called.
        words: after `python`.
    """

    name: str
    words: tuple[str, ...]


def starts(only: Sequence[str], run: Path | None, out: Path, shipped: bool = True) -> list[Start]:
    """What is timed.

    Args:
        only: commands whose --help is; all if empty.
        run: run folder of the pictures; None leaves them out.
        out: sample folder that they are written to.
        shipped: whether a picture from the shipped weights is timed, too.
    """
    helps = [Start(f"{name} --help", ("-m", "experiments.cli", name, "--help")) for name in only or COMMANDS]
    found = [*helps, *(Start(name, ("-c", code)) for name, code in IMPORTS.items())]
    if shipped:
        words = ["sample", CAPTION, "--run", "shipped:shapes", "--out", str(out), "--device", "cpu", "--overwrite"]
        found.append(Start("sample, shipped:shapes", ("-m", "experiments.cli", *words)))
    if run is not None:
        words = ["sample", "a large red circle", "-n", "4", "--run", str(run.resolve()), "--out", str(out)]
        words += ["--condition", "text_embedding", "--device", "cpu", "--overwrite"]
        found.append(Start("sample, 4 pictures", ("-m", "experiments.cli", *words)))
    return found


def cpu_seconds(start: Start, checkout: Path) -> float:
    """User and system seconds of a process, and of the processes that it has waited for.

    Raises:
        ChildProcessError: it failed.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([sys.executable, *start.words], cwd=checkout, env=env, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            said = output.read().decode(errors="replace").strip()[-400:]
            raise ChildProcessError(f"{start.name} in {checkout} ended with {process.returncode}: {said}")
    return usage.ru_utime + usage.ru_stime


def line(name: str, now: float, before: float | None) -> str:
    """'sample --help             0.10 s    8.20 s   82.0'."""
    text = f"{name:26} {now:7.2f} s"
    return text if before is None else f"{text} {before:7.2f} s {before / now:7.1f}"


def main(argv: list[str] | None = None) -> None:
    """Print a line for each start."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.timings.start", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="another checkout, to compare with")
    parser.add_argument("--run", type=Path, help="run folder whose decoder draws the four pictures")
    parser.add_argument(
        "--only", nargs="+", choices=COMMANDS, default=[], metavar="COMMAND", help="of commands, only their --help"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of each start; the smallest counts (default 3)")
    options = parser.parse_args(argv)
    print(f"{'CPU seconds':26} {'now':>9}" + (f" {'before':>9} {'ratio':>7}" if options.before else ""))
    with tempfile.TemporaryDirectory() as scratch:
        checkouts = [ROOT, *([options.before.resolve()] if options.before else [])]
        shipped = all((checkout / "modules" / "shipped" / "shapes").is_dir() for checkout in checkouts)
        for start in starts(options.only, options.run, Path(scratch) / "samples", shipped):
            turns = [[cpu_seconds(start, checkout) for checkout in checkouts] for _ in range(options.repeats)]
            now, *before = (min(column) for column in zip(*turns, strict=True))
            print(line(start.name, now, before[0] if before else None), flush=True)


if __name__ == "__main__":
    main()
