"""`python -m benchmarks.trials.same_numbers --before CHECKOUT --out FOLDER`: does this code compute what an older did?

Both versions run the same commands, and every number is compared, bit for bit: tensors of exports and checkpoints,
losses, pictures, metrics, tables. Both train by the YAMLs of the older version. The parts:

    train    each stage of the quickstart from one seed, 60 steps (--steps 200 for more)
    use      the old version's run folder: sampled, edited, swept, evaluated, reported
    resume   the old version's trainings, gone on with from a checkpoint at half of them
    suite    the whole quickstart made small, by `unclip reproduce`; of each version its own, so that recipes which were
             changed on purpose differ

What has been done is kept in FOLDER/before and FOLDER/after, and not done again while the code and the settings are the
same. `--prepare` makes the old version's results only, and `--kept FOLDER/before` takes them for another trial. The
exit code is 1 when something differs. Names of tensors may change: a tensor with the same bits is found under any name
(`same_tensors.RENAMED`).
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.trials.same_numbers.configs import Size, take_configs, write_configs, write_suite
from benchmarks.trials.same_numbers.found import Found
from benchmarks.trials.same_numbers.same_files import compare_folders
from benchmarks.trials.same_numbers.side import Side, Step, remove
from benchmarks.trials.same_numbers.steps import PARTS, steps

ROOT = Path(__file__).resolve().parents[3]
CAPTIONS = (
    *("a large red circle above a small blue square", "a small green triangle", "two yellow crosses"),
    *("a purple square to the left of a cyan circle", "a small red cross on a black background", "a large circle"),
)


def main() -> int:
    """Run the trial; returns the exit code."""
    options = parser().parse_args()
    if not (options.before or options.kept):
        parser().error("name the older version's checkout (--before), or results of it (--kept)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # The commands that run are ended, too.
    size = Size(options.steps, options.real)
    settings = {**size.settings(), "threads": options.threads, "run": options.run and str(options.run.resolve())}
    folder = (options.kept or options.out / "before").resolve()
    before = Side(folder, None if options.kept else options.before, settings, options.threads)
    after = Side((options.out / "after").resolve(), ROOT, settings, options.threads)
    prepare(before, size)
    take_configs(before.folder / "configs", after.folder / "configs")
    wanted = steps(tuple(options.only), settings["run"])
    try:
        if options.prepare:
            return make(wanted, before)
        return compare(wanted, before, after, options.out / "same_numbers.json")
    finally:
        before.stop()
        after.stop()


def make(wanted: list[Step], before: Side) -> int:
    """Do the steps with the older version only; returns the exit code, 1 when one has failed."""
    worst = 0
    for number, step in enumerate(wanted, 1):
        start(step, before)
        code = before.do(step, before)["exit code"]
        worst = max(worst, code)
        outcome = f"exit code {code}: {before.last_line(step)}" if code else "done"
        print(f"[{number}/{len(wanted)}] {step.part}, {step.name}: {outcome}", flush=True)
    return min(worst, 1)


def compare(wanted: list[Step], before: Side, after: Side, path: Path) -> int:
    """Do the steps with both versions and write what was found to `path`; returns the exit code.

    What is not the same is compared once more at the end, because kept folders of the older version hold what later
    steps have added to them, such as the metrics of samples.
    """
    named: dict[tuple[str, str], dict[str, Any]] = {}
    numbered = list(enumerate(wanted, 1))
    for rounds in ("", "once more, "):
        for number, step in numbered:
            if rounds and all(result["same"] for result in named.values() if result["step"] == number):
                continue
            for item, found in compared(step, before, after):
                print(f"[{number}/{len(wanted)}] {rounds}{step.part}, {item}: {found.line()}", flush=True)
                result = {"part": step.part, "item": item, "step": number, "same": found.same, **asdict(found)}
                named[step.part, item] = result
                path.write_text(json.dumps(list(named.values()), indent=1), encoding="utf-8")
    results = list(named.values())
    wrong = [f"{result['part']}, {result['item']}" for result in results if not result["same"]]
    print(f"{len(results)} comparisons, {len(wrong)} of them not the same; all in {path}")
    for name in wrong:
        print(f"  not the same: {name}")
    return 1 if wrong else 0


def prepare(side: Side, size: Size) -> None:
    """Write the YAMLs and captions that both versions' commands read, if the older one's results are not all there."""
    side.folder.mkdir(parents=True, exist_ok=True)
    if side.checkout is None:
        return
    side.checkout = side.checkout.resolve()
    write_configs(side.checkout, side.folder / "configs", size)
    (side.folder / "configs" / "captions.txt").write_text("\n".join(CAPTIONS) + "\n")


def start(step: Step, side: Side) -> None:
    """Write the small suite for a step that is about to run it."""
    if step.part == "suite" and side.checkout is not None and side.record(step) is None:
        remove(side.folder / "suite")
        write_suite(side.checkout, side.folder / "suite")


def compared(step: Step, before: Side, after: Side) -> Iterator[tuple[str, Found]]:
    """Do a step with both versions and compare what came out, under the name of each comparison."""
    for side in (before, after):
        start(step, side)
    first, second = (side.do(step, before) for side in (before, after))
    codes = [record["exit code"] for record in (first, second)]
    if any(codes):
        found = Found("commands", 1)
        last = [side.last_line(step) for side in (before, after)]
        found.differs("exit code", f"{codes[0]} before, {codes[1]} now; their last lines: {last[0]!r}, {last[1]!r}")
        yield step.name, found
        return
    yield step.name, compare_outputs(step.outputs, step.outputs, before, after)
    if step.part == "resume":
        whole = tuple(name.replace("resume/", "train/", 1) for name in step.outputs)
        for side, version in ((before, "the old version's"), (after, "this version's")):
            item = f"{step.name}, training in one go beside {version} resumption"
            yield item, compare_outputs(whole, step.outputs, before, side)


def compare_outputs(names: tuple[str, ...], others: tuple[str, ...], before: Side, after: Side) -> Found:
    """Compare files and folders of the old version with others of one of the two versions."""
    found = Found("values")
    for name, other in zip(names, others, strict=True):
        prefix = f"{name}: " if len(names) > 1 else ""
        found.add(compare_places(before.folder / name, after.folder / other), prefix)
    return found


def compare_places(before: Path, after: Path) -> Found:
    """Compare two files or folders, either of which may be missing."""
    there = [path.exists() for path in (before, after)]
    if all(there):
        return compare_folders(before, after)
    found = Found("values")
    if any(there):
        found.differs(before.name, "missing now" if there[0] else "not there before")
    return found


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.trials.same_numbers", description=__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--before", type=Path, metavar="CHECKOUT", help="of the older version")
    made.add_argument("--kept", type=Path, metavar="FOLDER", help="finished results of the older version, instead")
    made.add_argument("--prepare", action="store_true", help="only make the older version's results, to be kept")
    made.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for results")
    made.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts (default: all)")
    made.add_argument("--run", type=Path, metavar="RUN", help="run folder of the older version for `use`, with --real")
    made.add_argument("--steps", type=int, default=60, help="of each training, at most (default %(default)s)")
    made.add_argument("--real", action="store_true", help="data of the YAMLs' own sizes (default: 1,024 pairs)")
    made.add_argument("--threads", type=int, default=1, help="of each command (default %(default)s)")
    return made


if __name__ == "__main__":
    sys.exit(main())
