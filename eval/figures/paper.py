"""All tables and figures of a run folder by file name; those that the run has nothing for, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from eval.blurring import read_blur
from eval.figures import plots
from eval.figures.captions import is_study, study_figures
from eval.figures.comparison import comparison
from eval.figures.folder import RECORD, read_figure
from eval.protocol import check_protocols
from eval.runs import FOLDER as MANIPULATIONS
from eval.samples.conditions import Row, picture_label, rows_in
from eval.samples.drawn import drawn
from eval.samples.folder import SampleFolder
from eval.samples.pictures import read_picture
from eval.tables.sweeps import Sweep, read_sweeps
from eval.untrusted import require_below, require_inside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTIONS = {
    "figure_10_13_trade_off": (
        "Figures 10 and 13: how much of the captions is right (or how pictures are rated) against the decoder's"
        " guidance scale, and against recall, where each guidance scale has its marker."
    ),
    "figure_11_guidance": (
        "Figure 11: Frechet distance (lower is better), CLIP score and accuracy as the decoder's guidance scale grows,"
        " a line for each condition."
    ),
    "figure_14_binding": (
        "Figure 14 as numbers: where a caption tells two objects apart, how often the picture has its attributes on the"
        " right objects (bound), on each other's (swapped), or not all of them (missing)."
    ),
    "sampler": (
        "Sampler sweep: what more evaluations of the decoder's network bring, by sampler; points of one number stand"
        " side by side."
    ),
    "prior": (
        "Prior sweep: how far each prior's z_i are from true ones as a whole (left, lower is better), and how near each"
        " is to its own (right, higher is better)."
    ),
}
"""Figure of numbers -> what one sees in it, for the report."""

SWEEP_HINT = "run `unclip sweep experiments/protocols/{name}.yaml --run RUN`"


def paper_figures(run: Path, rows: list[Row]) -> tuple[dict[str, Figure], dict[str, str]]:
    """File name -> figure, and file name -> why it cannot be made.

    Raises:
        InputError: rows of different protocols, or something in the run cannot be read.
    """
    if rows:
        check_protocols(rows)
    sweeps, made, absent = read_sweeps(run), {}, {}
    folders = {name: require_below(run, f"samples/{name}") for name in rows_in(run / "samples")}
    samples = {name: SampleFolder.open(path) for name, path in folders.items() if path.is_dir()}

    def add(name: str, figure: Figure | None, reason: str) -> None:
        if figure is None:
            absent[name] = reason
        else:
            made[name] = figure

    def of_sweep(name: str, sweep: str, draw: Callable[[Sweep], Figure | None]) -> None:
        add(name, draw(sweeps[sweep]) if sweep in sweeps else None, SWEEP_HINT.format(name=sweep))

    for number, name in (("06", "typographic"), ("07", "pca")):
        add(f"figure_{number}_{name}", _manipulation(run, name), f"run `unclip gallery RUN`, or `unclip {name}`")
    chosen = ("caption_only", "text_embedding", "diffusion_prior")
    add("figure_08_conditioning", _compared(samples, chosen), "sample these conditions with `unclip sample`")
    for condition, letter in (("glide", "a"), ("diffusion_prior", "b")):
        of_sweep(f"figure_09{letter}_guidance_{condition}", "guidance", lambda s, c=condition: _scales(run, s, c))  # type: ignore[misc]
    of_sweep("figure_10_13_trade_off", "guidance", plots.trade_off)
    of_sweep("figure_11_guidance", "guidance", plots.guidance)
    models = ("glide", "ar_prior", "diffusion_prior", "real")
    add("figure_12_models", _compared(samples, models), "sample these conditions with `unclip sample`")
    add("figure_14_binding", plots.binding(rows), "evaluate data with ground truth: `unclip evaluate --classifier`")
    of_sweep("sampler", "sampler", plots.samplers)
    of_sweep("prior", "prior", plots.priors)
    of_sweep("dalle1_figure_09c_best_of", "best_of", plots.candidates)
    add("dalle1_figure_09ab_blur", plots.blur(read_blur(run)), "run `unclip blur`")
    if is_study(run):
        for name, figure in study_figures(run).items():
            add(name, figure, "train the decoders of experiments/dalle3/suite.yaml, and run `unclip study RUN`")
    return made, absent


def _manipulation(run: Path, name: str) -> Figure | None:
    """The picture of RUN/manipulations/NAME."""
    folder = require_below(run, f"{MANIPULATIONS}/{name}")
    if not (folder / RECORD).is_file():
        return None
    record = read_figure(folder)
    if not record.pictures:
        return None
    picture = read_picture(require_inside(folder, record.pictures[0]), folder / record.pictures[0])
    return plots.picture(picture, " ".join(record.notes[:1]))


def _compared(samples: Mapping[str, SampleFolder], names: tuple[str, ...]) -> Figure | None:
    chosen = [name for name in names if name in samples]
    if len(chosen) < 2:
        return None
    page = comparison({picture_label(name): samples[name] for name in chosen}, captions=8)
    how = [{"condition": name, "drawn": drawn(samples[name].records)} for name in chosen]
    return plots.picture(page, plots.samples_foot(how))


def _scales(run: Path, sweep: Sweep, condition: str) -> Figure | None:
    paths = {point["folder"]: require_below(run, point["folder"]) for point in sweep.of(condition)}
    folders = {name: SampleFolder.open(path) for name, path in paths.items() if (path / "manifest.jsonl").is_file()}
    return plots.guidance_pictures(sweep, folders, condition)
