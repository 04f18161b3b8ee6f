"""A figure's folder holds all of it or is not there; the page shows every figure of a run."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from eval.errors import InputError
from eval.figures.folder import FigureRecord, read_figure, require_writable_figure, write_figure
from eval.pages.manipulations import write_manipulations_page
from eval.runs import PAGE
from eval.tables.main import Cell, Table

TABLE = Table("Errors <b>", ["steps", "PSNR"], [[Cell("10"), Cell("31.2", "[30.1, 32.3]")]], ["n = 4"])
RECORD = FigureRecord(
    "Reconstruction & more", ["It comes back."], [TABLE], numbers={"gain": 6.5}, how={"command": "unclip x"}
)
RED = Image.new("RGB", (8, 8), "red")


def test_a_figure_is_read_as_it_was_written(tmp_path):
    folder = write_figure(tmp_path / "deep" / "figure", RECORD, {"figure.png": RED}, {"images/00000.png": RED})
    found = read_figure(folder)
    assert found == FigureRecord(RECORD.title, RECORD.notes, [TABLE], ["figure.png"], RECORD.numbers, RECORD.how)
    assert Image.open(folder / "images" / "00000.png").size == (8, 8)
    assert [p.name for p in folder.parent.iterdir()] == ["figure"]


def test_a_figure_that_is_there_stays_unless_told_otherwise(tmp_path):
    folder = write_figure(tmp_path / "figure", RECORD, {"figure.png": RED}, {"images/00000.png": RED})
    with pytest.raises(InputError, match="holds a figure; choose another folder or pass --overwrite"):
        require_writable_figure(folder)
    write_figure(folder, RECORD, {"figure.png": RED}, overwrite=True)
    assert not (folder / "images").exists()
    (folder / "figure.json").unlink()  # as a suite leaves it before it makes the figure again
    write_figure(folder, RECORD, {"figure.png": RED}, overwrite=True)
    assert (folder / "figure.json").is_file()
    other = tmp_path / "other"
    other.mkdir()
    require_writable_figure(other)
    (other / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="holds no figure"):
        require_writable_figure(other, overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        require_writable_figure(other / "thesis.txt")


def test_half_a_figure_is_never_left(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_figure(tmp_path / "figure", FigureRecord("t", numbers={"x": float("nan")}), {"figure.png": RED})
    assert list(tmp_path.iterdir()) == []


def test_damage_is_named(tmp_path):
    folder = write_figure(tmp_path / "figure", RECORD, {"figure.png": RED})
    (folder / "figure.png").unlink()
    with pytest.raises(InputError, match=r"names figure\.png, which is not there"):
        read_figure(folder)
    (folder / "figure.json").write_text("{")
    with pytest.raises(InputError, match=r"cannot read .*make the figure again"):
        read_figure(folder)


def test_the_page_shows_every_figure_in_order_and_needs_no_other_file(tmp_path):
    for name in ("zebra", "variations", "reconstruct"):
        record = FigureRecord(f"{name} & title", ["a note"], [TABLE], how={"command": f"unclip {name}"})
        write_figure(tmp_path / "manipulations" / name, record, {"figure.png": RED})
    assert write_manipulations_page(tmp_path) == tmp_path / PAGE
    page = (tmp_path / PAGE).read_text()
    assert re.findall(r'<h2 id="(\w+)">', page) == ["reconstruct", "variations", "zebra"]
    assert page.count("data:image/png;base64,") == 3
    assert "reconstruct &amp; title" in page
    assert "Errors &lt;b&gt;" in page
    assert "[30.1, 32.3]" in page
    assert set(re.findall(r'(?:src|href)="([^"#d]\S*?)"', page)) == {"report.html"}


def test_no_figures_no_page(tmp_path):
    (tmp_path / PAGE).write_text("old")
    assert write_manipulations_page(tmp_path) is None
    assert not (tmp_path / PAGE).exists()


def test_records_are_json_for_programs(tmp_path):
    folder = write_figure(tmp_path / "figure", RECORD, {"figure.png": RED})
    assert json.loads((folder / "figure.json").read_text())["numbers"] == {"gain": 6.5}


def test_the_report_links_to_the_page_if_there_is_one(tmp_path):
    from eval.pages.report import write_report
    from experiments.cli import main

    (tmp_path / "samples").mkdir()
    write_report(tmp_path)
    assert PAGE not in (tmp_path / "report.html").read_text()
    write_figure(tmp_path / "manipulations" / "pca", RECORD, {"figure.png": RED})
    assert main(["report", str(tmp_path)]) == 0
    assert f'href="{PAGE}"' in (tmp_path / "report.html").read_text()
    assert (tmp_path / PAGE).is_file()
