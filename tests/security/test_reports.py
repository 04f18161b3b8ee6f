"""Tables, figures and pages of a stranger's run: its records are data, and a damaged one is one line."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct

import pytest
from PIL import Image

from benchmarks.made_up_data.run_records import interval, plan, records, row, texts, write
from benchmarks.trials.fuzz import watched
from eval.errors import InputError
from eval.figures.curves import plot_curves, read_curves
from eval.figures.paper import paper_figures
from eval.pages.manipulations import write_manipulations_page
from eval.runs import read_run
from eval.samples.folder import write_samples
from eval.samples.grid import LONGEST, wrap
from eval.tables.hyperparameters import setting
from eval.tables.tabular import Cell, Table
from experiments.cli import main


@pytest.fixture
def run(tmp_path):
    """A run folder that holds records alone."""
    write(tmp_path / "run", records())
    return tmp_path / "run"


def changed(run, name, *places, value):
    """Changes a value of a record."""
    content = inner = records()[name]
    for place in places[:-1]:
        inner = inner[place]
    inner[places[-1]] = value
    (run / name).write_text(json.dumps(content))


METRICS, SWEEP = "samples/glide/metrics.json", "sweeps/guidance.json"
DAMAGE = {
    "a number that is text": (METRICS, ("frechet", "value"), "x", "value must be a number"),
    "a limit that is a list": (METRICS, ("accuracy", "colour", "low"), [1], "low must be a number"),
    "a metric that is a number": (METRICS, ("diversity",), 3, "diversity must be a mapping"),
    "a condition that is none": (METRICS, ("condition",), ["glide"], "condition must be a text"),
    "a condition that is null": (METRICS, ("condition",), None, "condition is null"),
    "an n that is text": (METRICS, ("n",), "8", "n must be a number"),
    "a level that is text": (METRICS, ("protocol", "level"), "x", "level must be a number"),
    "a text without end": (METRICS, ("protocol", "extractor"), "x" * 5000, "extractor has 5,000 characters"),
    "warnings that are none": (METRICS, ("warnings",), [{}], "does not fit any table or figure"),
    "settings that are none": (SWEEP, ("points", 0, "settings"), "x", "settings must be a mapping"),
    "points that are none": (SWEEP, ("points",), {"a": 1}, "points is no list"),
    "a point that is none": (SWEEP, ("points", 0), 3, "point 1, lacks"),
    "a title that is none": (SWEEP, ("title",), {}, "title is no str"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_record_that_no_table_can_be_made_of_is_one_line(run, what):
    name, places, value, line = DAMAGE[what]
    changed(run, name, *places, value=value)
    with pytest.raises(InputError, match=line) as caught:
        texts(run)
    assert "run" in str(caught.value) and "\n" not in str(caught.value)


def test_the_commands_say_it_in_one_line_and_write_nothing(run, capsys):
    changed(run, METRICS, "warnings", value=[{}])
    for command in ("tables", "report", "figures"):
        assert main([command, str(run)]) == 2
        said = capsys.readouterr()
        assert said.err.count("\n") == 1 and said.out == ""
    assert not {"tables", "tables.md", "results.json", "figures"} & {path.name for path in run.iterdir()}


def test_sound_records_are_what_they_were(run):
    main_table, *_ = texts(run)
    assert "| 8 | 2.00 [1.90, 2.10] |" in main_table and "were drawn: decoder: ddim, 7 steps" in main_table


@pytest.mark.parametrize("folder", ["../private", "ABSOLUTE", "sweeps/link", 3, "a\0b"])
def test_a_sweep_shows_pictures_of_its_own_run_alone(run, tmp_path, folder):
    line = {"caption": "a", "caption_index": 0, "sample_index": 0, "condition": "glide"}
    private = tmp_path / "private"
    write_samples(private, iter([Image.new("RGB", (8, 8))]), [line])
    (run / "sweeps" / "link").symlink_to(private)
    changed(run, SWEEP, "points", 0, "folder", value=str(private) if folder == "ABSOLUTE" else folder)
    shutil.rmtree(run / "samples")
    with pytest.raises(InputError, match=r"relative to it|leads out of"):
        paper_figures(run, [])


@pytest.mark.parametrize("place", ["samples/real", "manipulations/x"])
def test_pictures_behind_a_link_out_of_the_run_are_on_no_page(run, tmp_path, place):
    private = tmp_path / "private"
    line = {"caption": "a", "caption_index": 0, "sample_index": 0, "condition": "real"}
    write_samples(private, iter([Image.new("RGB", (8, 8))]), [line])
    (private / "figure.json").write_text("{}")
    (run / place).parent.mkdir(exist_ok=True)
    (run / place).symlink_to(private)
    with watched(run), pytest.raises(InputError, match="is a link that leads out of"):
        write_manipulations_page(run)
        read_run(run)


STAGE, STARTED = "clip/stage.json", "clip/started.json"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seconds", "x"),
        ("seconds", [1]),
        ("recipe", "x"),
        ("recipe", {"files": [1], "needs": 3}),
        ("needs", ["data"]),
        ("hash", {}),
        ("status", 3),
    ],
)
def test_the_runner_passes_over_values_that_no_runner_writes(run, key, value):
    changed(run, STARTED, key, value=value)
    (run / STAGE).unlink()
    assert "would" in plan(run)


def test_a_runs_records_do_not_steer_the_terminal(run, capsys):
    from experiments.suites.display import Display

    escape = "\x1b]0;OWNED\x07[/red]"
    changed(run, STAGE, "recipe", value={"command": "unclip fit --x 1", "files": {f"{escape}.yaml": {}}})
    Display(1).say(plan(run))
    changed(run, SWEEP, "title", value=escape)
    changed(run, METRICS, "condition", value=escape)
    assert main(["tables", str(run)]) == 0
    from rich.console import Console

    for width in (40, 200):
        Table(escape, [escape, "b"], [[Cell(escape, escape), Cell("1")]], [escape]).print(Console(width=width))
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\x07" not in said and r"\x1b]0;OWNED\x07[/red]" in said


def record(content, length=None):
    """A record of a file of events, with right checksums."""
    from tensorboard.summary.writer.record_writer import masked_crc32c

    head = struct.pack("<Q", len(content) if length is None else length)
    return b"".join((head, struct.pack("<I", masked_crc32c(head)), content, struct.pack("<I", masked_crc32c(content))))


def scalar(tag):
    from tensorboard.compat.proto import event_pb2

    event = event_pb2.Event(step=1)
    event.summary.value.add(tag=tag, simple_value=0.5)
    return event.SerializeToString()


NAME = "events.out.tfevents.1"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (record(b"x" * 20, length=2**62), "says that it has 4,611,686,018,427,387,904 bytes"),
        (record(scalar("a/loss")) + record(b"x", length=2**40), "says that it has 1,099,511,627,776 bytes"),
        (record(b"\xff" * 5), "is damaged"),
    ],
    ids=["2^62", "2^40 later", "no event"],
)
def test_a_file_of_events_is_bounded(tmp_path, content, line):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(InputError, match=line):
        read_curves(tmp_path)


def test_a_file_of_events_is_no_fifo_and_no_link_out(tmp_path):
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / NAME)
    with pytest.raises(InputError, match="is a FIFO"):
        read_curves(tmp_path / "a")
    (tmp_path / "a" / NAME).unlink()
    (tmp_path / "private").write_bytes(record(scalar("a/loss")))
    (tmp_path / "a" / NAME).symlink_to(tmp_path / "private")
    with pytest.raises(InputError, match="leads out of the folder"):
        read_curves(tmp_path / "a")


def test_what_was_cut_off_is_read_up_to_there(tmp_path):
    whole = record(scalar("a/loss")) + record(scalar("b/loss"))
    for end in (len(whole), len(whole) - 3, len(whole) - 30):
        (tmp_path / NAME).write_bytes(whole[:end])
        assert next(iter(read_curves(tmp_path))) == "a/loss"
    (tmp_path / NAME).write_bytes(whole + bytes(2**16))  # As a power cut leaves it.
    assert list(read_curves(tmp_path)) == ["a/loss", "b/loss"]


def test_names_in_a_figure_are_no_formulas(run, recwarn):
    curves = {"loss $\\frac{$": ([1, 2], [0.5, 0.4]), "loss \x1b": ([1], [0.1])}
    assert plot_curves("a $\\bad{$ b", curves).startswith(b"\x89PNG")
    from eval.figures.plots import blur, priors
    from eval.tables.sweeps import Sweep

    points = [{**row("$\\frac{$"), "settings": {"a.b": "$\\bad{$"}, "evaluations": 1, "folder": "x"}]
    found = {"radii": [0], "rows": [{"condition": "$\\frac{$", "frechet": [interval(1)]}], "note": "$\\x{$ and $\\y{$"}
    for made in (priors(Sweep("p", "t", "evaluations", "embeddings", points, [])), blur(found)):
        made.savefig(io.BytesIO(), format="png", dpi=20)  # matplotlib reads formulas when it draws.
    assert not [str(w.message) for w in recwarn if "Glyph" in str(w.message)]


def test_a_caption_without_end_is_cut_off_in_a_figure():
    lines = wrap("x" * 10**6, 112, lambda text: 7.0 * len(text))
    assert len(lines) == LONGEST // 16 + 1 and "".join(lines) == "x" * LONGEST + "…"
    assert len(wrap("a " * 10**6, 112, lambda text: 7.0 * len(text))) < LONGEST
    ordinary = "a small red circle beside anextraordinarilylongword"
    assert wrap(ordinary, 70, lambda text: 7.0 * len(text)) == [
        "a small", "red circle", "beside", "anextraord", "inarilylon", "gword",
    ]  # fmt: skip


def test_a_batch_size_is_a_number():
    config = {"data": {"init_args": {"batch_size": "x"}}, "trainer": {"num_nodes": 10**12}}
    assert setting("decoder", "batch size", config) is None
    config["data"]["init_args"]["batch_size"] = 8
    assert setting("decoder", "batch size", {**config, "trainer": {"num_nodes": 2}}) == 16
