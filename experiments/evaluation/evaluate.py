"""`unclip evaluate`: measures folders of samples against a folder of real images; writes metrics.json into each."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.runs import run_of
from experiments.console.progress import Progress, progress
from experiments.console.show import show
from experiments.evaluation.board import Evaluated, differing, log_to_board
from experiments.evaluation.judges import feature_folder, judges_of, make_judges, named_judges
from experiments.evaluation.processes import look_in_processes
from experiments.evaluation.statistics import read_statistics, statistics_files, statistics_paths, with_statistics
from modules.errors import InputError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

    from eval.samples.folder import SampleFolder


def run(options: argparse.Namespace) -> int:
    """Run `unclip evaluate`; returns the exit code."""
    from eval.files import require_place, write_files
    from eval.judges.judges import look
    from eval.measure import check_comparable, content_shared, measure, read_reference
    from eval.protocol import require_protocol
    from eval.tables.flat import flat_csv
    from eval.tables.further import further_table
    from eval.tables.main import main_table
    from eval.tables.published_metrics import published_table

    check_options(options)
    targets = metrics_paths(options.samples, options.out)
    folders, real = open_folders(options)
    check_comparable(folders, real)
    if real is not None and not options.other_captions:
        for folder in folders:
            require_protocol(folder.records, folder.path, real.path)
    loggers = [_loggers(options.logger, folder.path) for folder in folders]
    for target in [
        *targets,
        *([Path(options.csv)] if options.csv else []),
        *statistics_paths(options.write_statistics, ["any"]).values(),
    ]:
        require_place(target)
    opened = [*([] if real is None else [real]), *folders]
    run = next((run for run in map(run_of, (folder.path for folder in opened)) if run is not None), None)
    if run is not None and not named_judges(options):
        judges_of(run, options)
    judges = make_judges(options, folders)
    statistics = {} if real is None else read_statistics(options.statistics, real, judges)
    rows: list[dict[str, Any]] = []
    written: dict[Path, str | bytes] = {}
    bar: Progress[int] = progress(sum(map(len, opened)), "evaluating")
    with bar, feature_folder(options.cache, [folder.path for folder in opened]) as cache:
        if options.processes > 1:
            look_in_processes(options, real, folders, judges, cache)
        reference = None if real is None else read_reference(real, judges, tick=bar.advance, cache=cache)
        if reference is not None:
            written = statistics_files(options.write_statistics, reference, judges)
            reference = with_statistics(statistics, reference)
        for folder in folders:
            seen = look(folder, judges, tick=bar.advance, cache=cache)
            row = measure(folder, seen, judges, reference, options.bootstrap, options.seed)
            rows.append({**row, "shared_with_reference": 0 if real is None else content_shared(folder, real)})
    table = main_table(rows)
    texts = [json.dumps(row, indent=1, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    listed = {Path(options.csv): flat_csv(rows)} if options.csv else {}
    write_files({**written, **listed, **dict(zip(targets, texts, strict=True))})
    found = [Evaluated.of_folder(folder, row) for folder, row in zip(folders, rows, strict=True)]
    for folder, evaluated, shown, own in zip(folders, found, differing(found), loggers, strict=True):
        log_to_board(folder, shown)
        if own:
            from experiments.evaluation.loggers import log_to_loggers

            log_to_loggers(own, evaluated)
    show(table)
    for more in (further_table(rows), published_table(rows)):
        if more.rows:
            show(more)
    return 0


def check_options(options: argparse.Namespace) -> None:
    """Refuse impossible options before a folder is opened.

    Raises:
        InputError: no draws, a seed below 0, or no --reference where one is needed.
    """
    if options.bootstrap < 1:
        raise InputError(f"--bootstrap must be 1 or more, got {options.bootstrap}")
    if options.seed < 0:
        raise InputError(f"--seed must be 0 or more, got {options.seed}")
    if options.reference is not None:
        return
    if options.statistics or options.write_statistics:
        raise InputError("--statistics and --write-statistics are of real images: name them by --reference")
    for samples in map(Path, options.samples):
        if run_of(samples) is not None:
            raise InputError(
                f"{samples} is part of a run, whose tables compare with real images: give --reference, as"
                f" {samples.parent / 'reference'}"
            )


def open_folders(options: argparse.Namespace) -> tuple[list[SampleFolder], SampleFolder | None]:
    """The folders of samples and the real images, if some are named, of one size and with captions numbered alike.

    Raises:
        InputError: one is no folder of pictures, sizes differ without --size, or --captions goes with none of them.
    """
    from eval.samples.plain import at_one_size, is_plain, numbered_like, open_folder

    folders = [open_folder(path) for path in options.samples]
    if options.captions:
        bare = [k for k, folder in enumerate(folders) if not folder.captioned]
        if not bare:
            raise InputError("--captions: every folder of samples has captions of its own; leave it out")
        for k in bare:
            folders[k] = open_folder(options.samples[k], options.captions)
    first = next((folder for folder in folders if not is_plain(folder)), folders[0])
    folders = [numbered_like(folder, first) if is_plain(folder) else folder for folder in folders]
    if options.reference is None:
        return at_one_size(folders, options.size), None
    real = open_folder(options.reference, wanted=False)
    *folders, real = at_one_size([*folders, real], options.size)
    return folders, real


def _loggers(named: Sequence[str], samples: Path) -> list[Logger]:
    """Those of --logger, made before the work starts; Lightning is imported only if there are some."""
    if not named:
        return []
    from experiments.evaluation.loggers import make_loggers

    return make_loggers(named, samples)


def metrics_paths(samples: list[str], out: str | None) -> list[Path]:
    """The file for the metrics of each sample folder."""
    if out is None:
        return [Path(folder) / "metrics.json" for folder in samples]
    if len(samples) > 1:
        raise InputError(
            "--out names one file; evaluate one folder at a time, or leave it out: each gets a metrics.json"
        )
    return [Path(out)]
