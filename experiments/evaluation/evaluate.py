"""`unclip evaluate`: measures folders of samples against a folder of real images; writes metrics.json into each."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from eval.runs import run_of
from experiments.console.arguments import CommandParser
from experiments.console.progress import Progress, progress
from experiments.console.show import show
from experiments.evaluation.board import log_to_board
from experiments.evaluation.judges import add_judges, feature_folder, judges_of, make_judges, named_judges
from experiments.evaluation.statistics import read_statistics, statistics_files, statistics_paths, with_statistics
from modules.errors import InputError

if TYPE_CHECKING:
    pass


def main(argv: list[str]) -> int:
    """Runs `unclip evaluate ...`; returns the exit code."""
    options = parser().parse_args(argv)
    from eval.files import require_place, write_files
    from eval.judges.judges import look
    from eval.measure import check_comparable, content_shared, measure, read_reference
    from eval.protocol import require_protocol
    from eval.samples.folder import SampleFolder
    from eval.tables.main import main_table

    if options.bootstrap < 1:
        raise InputError(f"--bootstrap must be 1 or more, got {options.bootstrap}")
    if options.seed < 0:
        raise InputError(f"--seed must be 0 or more, got {options.seed}")
    targets = metrics_paths(options.samples, options.out)
    folders = [SampleFolder.open(path) for path in options.samples]
    real = SampleFolder.open(options.reference)
    check_comparable(folders, real)
    for folder in [] if options.other_captions else folders:
        require_protocol(folder.records, folder.path, real.path)
    for target in [*targets, *statistics_paths(options.write_statistics, ["any"]).values()]:
        require_place(target)
    run = next((run for run in map(run_of, (real.path, *(folder.path for folder in folders))) if run is not None), None)
    if run is not None and not named_judges(options):
        judges_of(run, options)
    judges = make_judges(options, folders)
    statistics = read_statistics(options.statistics, real, judges)
    rows = []
    bar: Progress[int] = progress(len(real) + sum(map(len, folders)), "evaluating")
    with bar, feature_folder(options.cache, [real.path, *(folder.path for folder in folders)]) as cache:
        reference = read_reference(real, judges, tick=bar.advance, cache=cache)
        written = statistics_files(options.write_statistics, reference, judges)
        reference = with_statistics(statistics, reference)
        for folder in folders:
            seen = look(folder, judges, tick=bar.advance, cache=cache)
            row = measure(folder, seen, judges, reference, options.bootstrap, options.seed)
            rows.append({**row, "shared_with_reference": content_shared(folder, real)})
    table = main_table(rows)
    texts = [json.dumps(row, indent=1, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    write_files({**written, **dict(zip(targets, texts, strict=True))})
    for folder, row in zip(folders, rows, strict=True):
        log_to_board(folder, row)
    show(table)
    return 0


def metrics_paths(samples: list[str], out: str | None) -> list[Path]:
    """Where the metrics of each sample folder go."""
    if out is None:
        return [Path(folder) / "metrics.json" for folder in samples]
    if len(samples) > 1:
        raise InputError(
            "--out names one file; evaluate one folder at a time, or leave it out: each gets a metrics.json"
        )
    return [Path(out)]


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = CommandParser(prog="unclip evaluate", description="Measure samples against real images.")
    made.add_argument("samples", nargs="+", help="sample folders, of equally many samples")
    add_judges(made)
    made.add_argument("--bootstrap", type=int, default=1000, help="draws for the 95%% intervals (default 1000)")
    made.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    made.add_argument(
        "--statistics",
        action="append",
        default=[],
        metavar="FILE.npz",
        help="of other real images than --reference, to compute FID or the Frechet distance against; may be repeated",
    )
    made.add_argument("--write-statistics", metavar="DIR", help="write such files from --reference, one a network")
    other = "measure samples of other captions than those that the protocol of the reference (`unclip coco`) drew"
    made.add_argument("--other-captions", action="store_true", help=f"{other}; the row says so")
    made.add_argument("--out", help="file to write (default: metrics.json in each sample folder)")
    return made
