"""results.json, tables.md and report.html of a run folder, from all results that it has."""

from __future__ import annotations

import io
import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from PIL import Image

from eval.figures.canvas import DPI, save
from eval.figures.comparison import comparison
from eval.figures.curves import plot_curves, read_curves
from eval.figures.paper import CAPTIONS, paper_figures
from eval.files import write_file
from eval.pages.collected import paper_tables
from eval.pages.html import data_uri, environment, jpeg, png
from eval.protocol import check_protocols
from eval.records import made_of
from eval.runs import METRICS, PAGE, Run, read_run
from eval.samples.conditions import picture_label, rows_in
from eval.samples.folder import GRID, SampleFolder, attributions
from eval.tables.further import METRICS as FURTHER
from eval.tables.main import main_table, probe_table, seconds_table
from eval.tables.tabular import Table
from eval.votes.votes import counted

RESULT_KEYS = (
    *("condition", "n", "frechet", "fid", "clip_score", "accuracy", "accuracy_by_kind", "diversity"),
    *(*FURTHER, "binding", "accuracy_by_count", "lettering", "spelled", "drawn", "shared_with_reference", "warnings"),
)
IN_REPORT = ("further", "accuracy_by_kind", "accuracy_by_count", "lettering", "spelling", "ablation", "binding")
VOTES = "table_1_humans"
SIDE_BY_SIDE = "The same captions, condition by condition"
PICTURES = ("figure_06", "figure_07", "figure_08", "figure_09", "figure_12")
"""The comparison and the page of manipulations show them."""
LEAST, MOST = 86, 110  # CSS pixels of a plot's inch: type of 8 points has 9.6 or more
PACKAGES = ("unclip", "torch", "lightning", "open_clip_torch", "torchvision", "numpy", "clean-fid")


def results(run: Run) -> dict[str, Any]:
    """The content of results.json, the report for programs."""
    return {
        "rows": [{key: row[key] for key in RESULT_KEYS if key in row} for row in run.rows],
        "clip_probe": run.probe,
        "protocol": check_protocols(run.rows) if run.rows else {},
        "seconds": run.seconds,
    }


def tables(run: Run) -> list[Table]:
    """The tables of a run, the main one first; those of sweeps and of binding where there are any."""
    more = paper_tables(run.path, run.rows)
    wanted = (*IN_REPORT, VOTES) if counted(run.path) else IN_REPORT
    shown = [table for name, table in more.items() if name in wanted or name.startswith("sweep_")]
    return [main_table(run.rows), *shown, probe_table(run.probe), seconds_table(run.seconds)]


def drawn(run: Run) -> dict[str, bytes]:
    """The plots of a run as PNG, by name; pictures of samples are on the page anyway."""
    figures, _ = paper_figures(run.path, run.rows)
    return {name: save(figure, ["png"])["png"] for name, figure in figures.items() if not name.startswith(PICTURES)}


def write_report(path: str | Path, running: Mapping[str, dict[str, Any]] | None = None) -> tuple[Path, list[Table]]:
    """Writes results.json, tables.md, comparison.png (if there are samples) and report.html into a run folder.

    Args:
        path: the run folder.
        running: records of stages that are not done, such as the report's own: they count with their seconds so far.

    Returns:
        The path of report.html, and the tables.

    Raises:
        InputError: the folder or something in it cannot be read, rows do not go together, or nothing can be written.
    """
    run = read_run(path)
    run = replace(run, stages={**run.stages, **(running or {})})
    with made_of(run.path):
        made = tables(run)
        folders = sample_folders(run)
        comparison_png = compare(folders)
        page = html(run, made, folders, comparison_png)
    write_file(
        run.path / "results.json", json.dumps(results(run), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    )
    write_file(run.path / "tables.md", f"# {run.path.resolve().name}\n\n" + "\n".join(t.markdown() for t in made))
    if comparison_png is not None:
        write_file(run.path / "comparison.png", comparison_png)
    write_file(run.path / "report.html", page)
    return run.path / "report.html", made


def sample_folders(run: Run) -> dict[str, SampleFolder]:
    """The sample folders of the run by condition, in the order of the table."""
    paths = {name: run.samples / name for name in rows_in(run.samples)}
    return {name: SampleFolder.open(path) for name, path in paths.items() if path.is_dir()}


def compare(folders: Mapping[str, SampleFolder]) -> bytes | None:
    """The conditions side by side, as PNG; None if there are no samples."""
    if not folders:
        return None
    return png(comparison({picture_label(name): folder for name, folder in folders.items()}))


def html(run: Run, made: list[Table], folders: Mapping[str, SampleFolder], comparison_png: bytes | None) -> str:
    """One page that needs no other file; `comparison_png` is what `compare` returns for the sample folders."""
    pages = environment()
    logs = [run.path, *sorted(p for p in run.path.glob("[!.]*") if p.is_dir())]
    curves = {folder.name: plot_curves(folder.name, read_curves(folder)) for folder in logs}
    grids = {name: run.samples / name / GRID for name in rows_in(run.samples)}
    figures = plots(drawn(run))
    further = {
        SIDE_BY_SIDE: comparison_png is not None,
        "Figures": figures,
        "More samples": any(grid.is_file() for grid in grids.values()),
        "Training curves": any(curves.values()),
        "How it was made": True,
    }
    titles = [table.title for table in made] + [title for title, there in further.items() if there]
    return pages.get_template("report.html.j2").render(
        name=run.path.resolve().name,
        date=measured_on(run),
        contents={title: f"part-{k}" for k, title in enumerate(titles, 1)},
        SIDE_BY_SIDE=SIDE_BY_SIDE,
        tables=made,
        comparison=None if comparison_png is None else data_uri(comparison_png, "png"),
        plots=figures,
        curves={name: data_uri(plot, "png") for name, plot in curves.items() if plot},
        grids={picture_label(name): data_uri(jpeg(grid), "jpeg") for name, grid in grids.items() if grid.is_file()},
        commands={name: record["command"] for name, record in run.stages.items() if record.get("command")},
        versions=versions(),
        commits=commits(folders),
        attributions=attributions(record for f in folders.values() for record in f.records),
        manipulations=PAGE if (run.path / PAGE).is_file() else None,
    )


def measured_on(run: Run) -> str | None:
    """The day on which the newest metrics.json was written, as 2026-11-28 (UTC); None if nothing was measured."""
    files = (run.samples / str(row["condition"]) / METRICS for row in run.rows)
    times = [file.stat().st_mtime for file in files if file.is_file()]
    return datetime.fromtimestamp(max(times), timezone.utc).date().isoformat() if times else None


def plots(drawn: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """URI, caption and width of each plot, with the {"least", "most"} CSS pixels at which its text can be read."""
    found = []
    for name, content in drawn.items():
        inches = Image.open(io.BytesIO(content)).width / DPI
        sizes = {"least": round(LEAST * inches), "most": round(MOST * inches)}
        found.append({"uri": data_uri(content, "png"), "caption": CAPTIONS.get(name, name.replace("_", " ")), **sizes})
    return found


def commits(folders: Mapping[str, SampleFolder]) -> list[str]:
    """The commits of the code that made the samples."""
    found = {str(r["commit"]) for f in folders.values() for r in f.records if r.get("commit")}
    return sorted(found)


def versions() -> dict[str, str]:
    """Versions of Python, of the packages that decide the numbers, and of the machine's system."""
    found = {"python": sys.version.split()[0], "system": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
