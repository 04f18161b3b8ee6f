"""A report from whatever a run folder holds, self-contained; damage is named, and nothing is written then."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from eval.errors import InputError
from eval.figures.canvas import canvas
from eval.further import NAMES
from eval.pages.report import drawn, html, sample_folders, write_report
from eval.runs import read_run
from eval.samples.folder import SampleFolder, write_samples
from eval.untrusted import read_json


@pytest.fixture
def run(tmp_path: Path, make_folder, row) -> Path:
    run = tmp_path / "runs" / "small"
    for k, condition in enumerate(("glide", "real")):
        folder = make_folder(f"runs/small/samples/{condition}", condition=condition, seed=k)
        (folder.path / "metrics.json").write_text(json.dumps(row(condition)))
    (run / "clip").mkdir()
    (run / "probe.json").write_text('{"colour": 0.95, "shape": 0.85, "background": 1.0}')
    for started, name, seconds in ((2, "decoder", 300.5), (1, "clip", 90)):
        (run / name).mkdir(exist_ok=True)
        record = {
            "seconds": seconds,
            "status": "done",
            "started": f"2026-11-0{started}",
            "command": f"unclip fit {name} <x>",
        }
        (run / name / "stage.json").write_text(json.dumps(record))
    (run / "sampling").mkdir()
    (run / "sampling" / "stage.json").write_text('{"seconds": 5, "status": "failed"}')
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run / "decoder")) as writer:
        writer.add_scalar("train/loss", 1.0, 0)
    return run


def test_results_for_programs(run: Path, row):
    page, tables = write_report(run)
    found = json.loads((run / "results.json").read_text())
    assert [r["condition"] for r in found["rows"]] == ["glide", "real"]
    first, given = found["rows"][0], row("glide")
    assert first == {key: given[key] for key in given if key != "protocol"}
    assert found["clip_probe"] == {"colour": 0.95, "shape": 0.85, "background": 1.0}
    assert found["seconds"] == {"clip": 90, "decoder": 300.5} and list(found["seconds"]) == ["clip", "decoder"]
    assert found["protocol"] == given["protocol"]
    assert page == run / "report.html" and tables[0].title == "Main table"


def test_further_metrics_are_in_results_and_on_the_page(run: Path, row):
    share = {"value": 0.123, "low": 0.1, "high": 0.2}
    more: dict = dict.fromkeys(NAMES, share)
    more |= {"binding": {"any": {"n": 3, "bound": share, "swapped": share, "missing": share}}, "warnings": ["few"]}
    more["drawn"] = {"decoder": {"steps": 7}}
    for condition in ("glide", "real"):
        (run / "samples" / condition / "metrics.json").write_text(json.dumps(row(condition, **more)))
    write_report(run)
    found = json.loads((run / "results.json").read_text())["rows"][0]
    assert {key: found[key] for key in more} == more
    assert "\n## Further metrics\n" in (run / "tables.md").read_text()
    page = (run / "report.html").read_text()
    assert page.index(">Main table</h2>") < page.index(">Further metrics</h2>") and "KID ↓" in page


def test_a_running_stage_counts_with_its_seconds_so_far(run: Path):
    write_report(run, {"report": {"seconds": 2.5, "command": "unclip report it"}})
    assert json.loads((run / "results.json").read_text())["seconds"] == {"clip": 90, "decoder": 300.5, "report": 2.5}
    assert "unclip report it" in (run / "report.html").read_text()


def test_tables_for_people(run: Path):
    write_report(run)
    text = (run / "tables.md").read_text()
    assert text.startswith("# small\n") and text.count("\n## ") == 3
    for line in ("| GLIDE | 512 | 1.50 [1.49, 1.52] |", "| shape | 0.850 |", "| clip | 0:01:30 |"):
        assert line in text


def test_the_page_needs_no_other_file(run: Path):
    write_report(run)
    page = (run / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^#"][^"]*)"', page)
    assert len(sources) == 4  # the comparison, two grids, one stage's curves
    assert all(source.startswith("data:image/") for source in sources)
    assert "http" not in page and "viewport" in page and "<small>[1.49, 1.52]</small>" in page
    assert "unclip fit clip &lt;x&gt;" in page and "abc123" in page and "torch" in page
    assert page.index("GLIDE") < page.index("real images (floor)")
    assert (run / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_plots_are_as_wide_as_their_type_needs():
    import io

    from PIL import Image

    from eval.pages.report import plots

    out = io.BytesIO()
    Image.new("RGB", (1890, 510)).save(out, format="PNG")
    named, other = plots({"figure_11_guidance": out.getvalue(), "new_plot": out.getvalue()})
    # 12.6 inches; type of 8 points is at least 8 / 72 * 86 = 9.6 CSS pixels high
    assert (named["least"], named["most"]) == (1084, 1386) and named["caption"].startswith("Figure 11: Frechet")
    assert other["caption"] == "new plot"


def test_the_only_link_says_what_it_needs(run: Path):
    """manipulations.html is another file: a report that travels alone says so."""
    (run / "manipulations.html").write_text("")
    write_report(run)
    page = (run / "report.html").read_text()
    assert re.findall(r'href="([^#"][^"]*)"', page) == ["manipulations.html"]
    assert "(a page of its own, manipulations.html: the link needs it beside this one)" in page


def test_whom_to_name_stands_on_the_page_and_beside_the_pictures(tmp_path: Path, make_folder, monkeypatch):
    monkeypatch.setattr("eval.pages.report.drawn", lambda run: {})
    run = make_folder("run/samples/glide", condition="glide").path.parents[1]
    page = html(read_run(run), [], sample_folders(read_run(run)), None)
    assert "Pictures:" not in page and not list(run.glob("samples/*/ATTRIBUTION.txt"))
    whom = ["Cats by A <a@b> (CC BY 4.0)", "Dogs by B (CC0)"]
    folder = make_folder("other", condition="ar_prior")
    records = [{**record, "attribution": whom[k % 2]} for k, record in enumerate(folder.records)]
    write_samples(run / "samples" / "ar_prior", folder.images(), records)
    assert (run / "samples" / "ar_prior" / "ATTRIBUTION.txt").read_text() == "\n".join(whom) + "\n"
    SampleFolder.open(run / "samples" / "ar_prior")
    page = html(read_run(run), [], sample_folders(read_run(run)), None)
    assert "Pictures: Cats by A &lt;a@b&gt; (CC BY 4.0)<br>Dogs by B (CC0)</p>" in page


def test_a_folder_of_no_run_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no stage, samples or sweeps: name a run folder"):
        write_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_without_results_has_a_report(tmp_path: Path):
    (tmp_path / "samples").mkdir()
    write_report(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == {
        "rows": [], "clip_probe": {}, "protocol": {}, "seconds": {},
    }  # fmt: skip
    assert "nothing has been evaluated yet" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "comparison.png").exists()


def test_samples_that_were_not_measured_are_shown(run: Path):
    for file in run.glob("samples/*/metrics.json"):
        file.unlink()
    write_report(run)
    assert (run / "comparison.png").exists() and json.loads((run / "results.json").read_text())["rows"] == []


def test_without_ground_truth(run: Path, row):
    for condition in ("glide", "real"):
        measured = {**row(condition), "accuracy": None}
        (run / "samples" / condition / "metrics.json").write_text(json.dumps(measured))
    write_report(run)
    assert json.loads((run / "results.json").read_text())["rows"][0]["accuracy"] is None
    assert "colour ↑" not in (run / "tables.md").read_text()


def test_hidden_folders_are_no_stages(run: Path):
    (run / ".previous").mkdir()
    (run / ".previous" / "stage.json").write_text('{"seconds": 1, "status": "done"}')
    assert list(read_run(run).stages) == ["clip", "decoder"]


DAMAGES = {
    "cannot read .*glide/metrics.json": lambda run: (run / "samples/glide/metrics.json").write_text("{"),
    "holds no JSON object": lambda run: (run / "samples/glide/metrics.json").write_text("[]"),
    "cannot read .*probe.json": lambda run: (run / "probe.json").write_bytes(b"\xff"),
    "lacks 00000.png": lambda run: (run / "samples/glide/00000.png").unlink(),
    "grid.png cannot be decoded": lambda run: (run / "samples/glide/grid.png").write_bytes(b"x"),
    "n = 512 and real with 100": lambda run: change_protocol(run / "samples/real/metrics.json"),
}


def change_protocol(path: Path) -> None:
    content = json.loads(path.read_text())
    content["protocol"]["n"] = 100
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("words", DAMAGES)
def test_damage_is_named_and_nothing_written(run: Path, words: str):
    DAMAGES[words](run)
    before = {p.name for p in run.iterdir()}
    with pytest.raises(InputError, match=words) as caught:
        write_report(run)
    assert "\n" not in str(caught.value)
    assert {p.name for p in run.iterdir()} == before


def test_no_such_run(tmp_path: Path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        write_report(tmp_path / "nowhere")


def test_the_page_says_what_it_is_when_and_where_things_are(run: Path):
    import os

    for k, condition in enumerate(("glide", "real")):
        os.utime(run / "samples" / condition / "metrics.json", (86_400 * k, 86_400 * k + 43_200))
    write_report(run)
    page = (run / "report.html").read_text()
    assert "What the run <em>small</em> has learned" in page and "Measured on 1970-01-02." in page
    anchors = dict(re.findall(r'<li><a href="#([\w-]+)">([^<]+)</a></li>', page))
    headings = dict(re.findall(r'<h2 id="([\w-]+)">([^<]+)</h2>', page))
    assert anchors == headings and "Main table" in anchors.values() and "How it was made" in anchors.values()
    assert '<td data-label="CLIP score ↑">' in page and "<figcaption>GLIDE: the first held-out captions" in page


def test_each_sample_folder_is_opened_once_for_the_page_and_once_for_the_figures(run: Path, monkeypatch):
    opened, whole = [], SampleFolder.open
    monkeypatch.setattr(SampleFolder, "open", lambda path: (opened.append(Path(path).name), whole(path))[1])
    write_report(run)
    assert sorted(opened) == ["glide", "glide", "real", "real"]


def test_plots_are_drawn_as_png_alone(run: Path, monkeypatch):
    figure, _ = canvas(1)
    written = []
    monkeypatch.setattr("eval.pages.report.paper_figures", lambda path, rows: ({"figure_11_guidance": figure}, {}))
    monkeypatch.setattr(figure, "savefig", lambda stream, format, **more: written.append(format))
    drawn(read_run(run))
    assert written == ["png"]


def test_a_record_that_vanishes_counts_as_no_stage(run: Path, monkeypatch):
    """A stage may begin anew while the report reads: the runner takes its old record away."""
    assert list(read_run(run).stages) == ["clip", "decoder"]
    monkeypatch.setattr("eval.runs.read_json", lambda path: None if path.parent.name == "clip" else read_json(path))
    assert list(read_run(run).stages) == ["decoder"]
