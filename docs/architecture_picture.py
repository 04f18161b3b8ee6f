"""Draws docs/architecture.svg, the rooms of the house: `python docs/architecture_picture.py`.

A room may import from rooms below it, and never from rooms above it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

WIDTH, HEIGHT = 12.6, 9.9
HOUSE = {
    "unclip": ("#fdf1d8", "#b7791f"),
    "experiments": ("#e3edfb", "#2b5ea7"),
    "datamodules": ("#e4f3e6", "#2f7d3b"),
    "eval": ("#f3e6f5", "#7d3c8c"),
    "modules": ("#fbe6e1", "#b0452c"),
}
"""Package -> its ground and its line."""


def box(ax: Axes, place: tuple[float, float, float, float], colours: tuple[str, str], line: float) -> None:
    """A room at (left, top, width, height), in inches from the picture's top left corner."""
    left, top, width, height = place
    shape = "round,pad=0,rounding_size=0.06"
    ax.add_patch(
        FancyBboxPatch((left, top), width, height, shape, facecolor=colours[0], edgecolor=colours[1], linewidth=line)
    )


def package(ax: Axes, place: tuple[float, float, float, float], name: str, what: str) -> None:
    """A package with its name and what it is for."""
    box(ax, place, HOUSE[name], 1.6)
    ax.text(place[0] + 0.15, place[1] + 0.26, f"{name}/", color=HOUSE[name][1], weight="bold", size=13, va="center")
    ax.text(place[0] + 1.62, place[1] + 0.26, what, color="#333333", size=9.5, va="center")


def room(ax: Axes, place: tuple[float, float, float, float], house: str, name: str, what: str) -> None:
    """A room of a package: its name, and one line or two of what is in it."""
    box(ax, place, ("white", HOUSE[house][1]), 0.8)
    middle = place[0] + place[2] / 2
    lines = what.count("\n") + 1 if what else 0
    top = place[1] + place[3] / 2 - 0.095 * lines
    ax.text(middle, top, name, weight="bold", size=9.5, ha="center", va="center", color="#1a1a1a")
    if what:
        ax.text(middle, top + 0.105 + 0.095 * lines, what, size=8, ha="center", va="center", color="#444444")


def row(
    ax: Axes, top: float, height: float, left: float, width: float, house: str, rooms: list[tuple[str, str]]
) -> None:
    """Rooms beside each other, all of one width."""
    gap = 0.1
    each = (width - gap * (len(rooms) - 1)) / len(rooms)
    for k, (name, what) in enumerate(rooms):
        room(ax, (left + k * (each + gap), top, each, height), house, name, what)


def experiments(ax: Axes, top: float) -> None:
    """The rooms of `experiments`, in their layers."""
    package(ax, (0.2, top, 12.2, 4.02), "experiments", "everything that a person runs: commands by topic, and YAMLs")
    left, width = 0.35, 9.85
    row(ax, top + 0.48, 0.44, left, width, "experiments", [("cli.py", "the one door: group → command → room")])
    floors = [
        [
            ("costs", "plan, table3"),
            ("publishing", "report, tables, figures, votes, export"),
            ("sweeps", "sweep"),
        ],
        [
            ("embeddings", "embed, probe, rank"),
            ("evaluation", "evaluate, judge, coco"),
            ("suites", "reproduce"),
        ],
        [
            ("data", "data check, data export"),
            ("manipulations", "invert, variations, inpaint, ..."),
            ("sampling", "sample"),
            ("training", "fit, validate, test, predict"),
        ],
    ]
    for k, rooms in enumerate(floors):
        row(ax, top + 1.02 + 0.68 * k, 0.58, left, width, "experiments", rooms)
    row(ax, top + 3.06, 0.38, left, width, "experiments", [("console", "")])
    row(ax, top + 3.54, 0.38, left, width, "experiments", [("storage", "")])
    for y, text in ((3.25, "options, messages, progress, signals"), (3.73, "run folders, locks, provenance")):
        ax.text(left + width / 2 + 0.45, top + y, text, size=8, va="center", color="#444444")
    folders = "quickstart/  shapes/\ndrawings/  emoji/\npriors/  crowds/  signs/\n"
    folders += "dalle1/  dalle3/  karlo/\nlearned_sigma/  sam/\nprotocols/  paper/"
    what = "one file: one stage,\none suite or one sweep"
    room(ax, (10.3, top + 0.48, 1.95, 3.44), "experiments", "YAML", f"{folders}\n\n{what}")


def modules(ax: Axes, top: float) -> None:
    """The rooms of `modules`, in their layers."""
    package(ax, (0.2, top, 12.2, 3.12), "modules", "what is trained, and what draws with it")
    half, right = 5.9, 6.35
    train = (
        "ar_prior.py  diffusion_prior.py  linear_prior.py  projection_prior.py\n"
        "decoder.py  upsampler.py  clip/trainer.py  distillation/  dalle1/  dalle3/"
    )
    room(ax, (0.35, top + 0.48, half, 0.68), "modules", "LightningModules", train)
    shared = [("training/", "optimiser, average of the weights, sharding, export")]
    row(ax, top + 1.24, 0.44, 0.35, half, "modules", shared)
    row(ax, top + 0.48, 0.36, right, half, "modules", [("pipeline.py: UnCLIP, caption to picture", "")])
    row(ax, top + 0.9, 0.36, right, half, "modules", [("manipulations/: all that the paper does to an image", "")])
    row(ax, top + 1.32, 0.36, right, half, "modules", [("trained_run.py: the trained stages of a run", "")])
    models = "each trained thing as a plain object with loss and sample, in one file; none needs Lightning"
    row(ax, top + 1.76, 0.44, 0.35, 11.9, "modules", [("models/", models)])
    floor = [
        ("diffusion/", "schedules, losses, samplers"),
        ("networks/", "nn.Modules"),
        ("clip/frozen.py", "the CLIP that is used"),
        ("images/", "files and tensors"),
    ]
    row(ax, top + 2.28, 0.44, 0.35, 11.9, "modules", floor)
    names = (
        "batches.py   seeds.py   errors.py   conditions.py (the table of conditions)   aliases.py (moved names)   "
        "untrusted/   placement/   pretrained/   shipped/"
    )
    ax.text(6.3, top + 2.92, names, size=9, ha="center", va="center", color="#333333")


def house() -> Figure:
    """The whole picture."""
    figure = plt.figure(figsize=(WIDTH, HEIGHT), facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_xlim(0, WIDTH)
    ax.set_ylim(HEIGHT, 0)
    ax.axis("off")
    package(ax, (0.2, 0.2, 12.2, 0.52), "unclip", "the public name:  unclip COMMAND,  from unclip import UnCLIP, Walk")
    experiments(ax, 0.92)
    package(ax, (0.2, 5.14, 6.0, 0.86), "datamodules", "image-text pairs; all yield the same batch")
    ax.text(1.82, 5.72, "rendered/  pictures/  embeddings/", size=9, va="center", color="#333333")
    package(ax, (6.4, 5.14, 6.0, 0.86), "eval", "folders of pictures in; numbers and pages out")
    ax.text(
        8.02, 5.72, "samples/ metrics/ judges/ tables/ figures/ pages/ votes/", size=9, va="center", color="#333333"
    )
    modules(ax, 6.2)
    ax.text(
        6.3,
        9.6,
        "Imports go down, never up.  eval takes the table of conditions and readers of files from modules.",
        size=9.5,
        ha="center",
        va="center",
        color="#333333",
        style="italic",
    )
    return figure


def main(folder: Path) -> None:
    """Write architecture.svg into a folder."""
    matplotlib.rcParams.update({"svg.fonttype": "path", "svg.hashsalt": "architecture", "font.family": "DejaVu Sans"})
    house().savefig(folder / "architecture.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
