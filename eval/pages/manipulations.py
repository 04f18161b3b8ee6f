"""manipulations.html: what was done to images, on one page that needs no other file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jinja2 import UndefinedError

from eval.errors import InputError
from eval.figures.folder import RECORD, FigureRecord, read_figure
from eval.files import write_file
from eval.pages.html import environment
from eval.runs import FOLDER, PAGE
from eval.untrusted import read_picture, require_below

ORDER = (
    "reconstruct",
    "variations",
    "interpolate",
    "text_diff",
    "text_diff_table",
    "pca",
    "typographic",
    "conditioning_grid",
    "guidance_grid",
    "inpaint",
)
"""Figures in the order of the paper; others follow by name."""


@dataclass(frozen=True)
class Section:
    """One figure of the page: its record, and its pictures as URIs by file name."""

    name: str
    record: FigureRecord
    pictures: dict[str, str]


def read_sections(run: Path) -> list[Section]:
    """The figures of a run, in order.

    Raises:
        InputError: one of them is damaged.
    """
    from eval.pages.html import data_uri  # It imports this module.

    folders = [path.parent for path in (run / FOLDER).glob(f"[!.]*/{RECORD}")]
    places = {name: k for k, name in enumerate(ORDER)}
    sections = []
    for folder in sorted(folders, key=lambda f: (places.get(f.name, len(ORDER)), f.name)):
        record = read_figure(require_below(run, f"{FOLDER}/{folder.name}"))
        pictures = {name: data_uri(read_picture(folder, name), "png") for name in record.pictures}
        sections.append(Section(folder.name, record, pictures))
    return sections


def write_manipulations_page(run: str | Path) -> Path | None:
    """Writes manipulations.html into a run folder that holds such figures.

    Returns:
        Its path; None if there are no figures, and then an older page is removed.
    """
    run = Path(run)
    sections = read_sections(run)
    if not sections:
        (run / PAGE).unlink(missing_ok=True)
        return None
    pages = environment()
    template = pages.get_template("manipulations.html.j2")
    try:
        page = template.render(name=run.resolve().name, sections=sections)
    except (UndefinedError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"a {RECORD} of {run / FOLDER} cannot be shown ({error}); make the figure again") from error
    write_file(run / PAGE, page)
    return run / PAGE
