"""Every command writes a figure with its numbers, says what is wrong in one line, and leaves nothing half made."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval.figures.folder import read_figure
from eval.pages.manipulations import ORDER, write_manipulations_page
from eval.pages.stored import numbers_of_figure
from experiments import cli
from experiments.manipulations.interpolate import row_length
from experiments.manipulations.invert import neighbours
from experiments.manipulations.measured import table as edit_table
from experiments.manipulations.measured.edits import EDITS, make_task
from modules.manipulations import load_latents
from modules.pipeline import UnCLIP

COMMANDS = {
    "reconstruct": ["-n", "2", "--steps", "3", "--sweep-steps", "2", "--sweep-guidance", "1", "2"],
    "variations": ["-n", "3", "--steps", "3", "--eta", "0", "0.5", "1", "--shown", "2"],
    "interpolate": ["--count", "4", "--grid", "2", "--steps", "2", "--captions", "a red circle", "a blue square"],
    "text-diff": ["-n", "2", "--steps", "2", "--target", "a blue circle", "--base", "a red circle"],
    "inpaint": ["-n", "2", "--steps", "2", "--fills", "2", "--mask", "left", "--resamples", "2"],
    "pca": ["-n", "3", "--steps", "2", "--components", "1", "4", "--shown", "2"],
    "typographic": ["-n", "2", "--steps", "2", "--variations", "2"],
    "conditioning-grid": ["-n", "2", "--columns", "2", "--steps", "2"],
    "guidance-grid": ["-n", "2", "--scales", "1", "3", "--steps", "2"],
}


@pytest.fixture
def unclip(whole_run, tmp_path, capsys):
    """Runs a command on the run; returns its exit code, output and figure folder."""

    def run(command: str, *words: str, out: Path | None = None):
        out = out or tmp_path / command.replace("-", "_")
        code = cli.main([command, *words, "--run", str(whole_run), "--out", str(out)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err, out

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_writes_its_figure(unclip, command):
    code, out, err, folder = unclip(command, *COMMANDS[command])
    assert (code, err) == (0, "")
    record = read_figure(folder)
    assert record.how["command"].startswith(f"unclip {command} ")
    assert str(folder / "figure.png") in out
    with Image.open(folder / "figure.png") as figure:
        assert figure.height > 100
    assert record.notes
    singles = sorted(folder.glob("images/*.png"))
    with Image.open(singles[0]) as single:
        assert single.size == (32, 32)
    assert {path.name for path in folder.parent.iterdir()} == {folder.name}


def test_a_figure_in_half_precision_is_nearly_the_same(unclip, tmp_path):
    pixels = {}
    for precision in ("32", "bf16"):
        words = ["a red circle", "--columns", "1", "--steps", "2", "--size", "16", "--precision", precision]
        code, _, _, folder = unclip("conditioning-grid", *words, out=tmp_path / precision)
        assert code == 0 and read_figure(folder).how["settings"]["precision"] == precision
        singles = sorted(folder.glob("images/*.png"))
        pixels[precision] = torch.stack([torch.from_numpy(np.array(Image.open(path))).float() for path in singles])
    assert 0 < float((pixels["32"] - pixels["bf16"]).abs().mean()) < 6  # Of 255.


def test_a_figure_names_whom_the_training_data_want_to_be_named(whole_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    path = run / "decoder" / "export" / "config.yaml"
    path.write_text(path.read_text() + "attribution: A (CC BY 4.0)\n")
    words = ["a red circle", "--columns", "1", "--steps", "1", "--size", "16", "--run", str(run)]
    assert cli.main(["conditioning-grid", *words, "--out", str(tmp_path / "figure")]) == 0
    assert read_figure(tmp_path / "figure").notes[-1] == "Training data and real pictures: A (CC BY 4.0)"


def test_the_gallery_of_what_is_shipped_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["gallery", "shipped:shapes"]) == 2
    assert "name a run that was trained" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_every_command_of_the_package_is_here_and_listed():
    assert set(COMMANDS) | {"complete", "codes", "invert", "gallery"} == set(cli.GROUPS["manipulations"])


def test_the_page_holds_what_commands_wrote(unclip, tmp_path):
    run = tmp_path / "run"
    for command in ("variations", "pca"):
        unclip(command, *COMMANDS[command], out=run / "manipulations" / command)
    page = write_manipulations_page(run)
    text = page.read_text()
    assert text.count("<h2") == 2
    assert text.count("data:image/png") == 3  # the components' accuracy is a plot of its own


def test_the_gallery_is_made_of_commands_and_fills_the_runs_folder(whole_run, tmp_path, monkeypatch, capsys):
    from experiments.manipulations import gallery

    assert {shlex.split(words)[0] for words in gallery.FIGURES.values()} == set(COMMANDS)
    assert set(gallery.FIGURES) <= set(ORDER)
    quick = shlex.join(["guidance-grid", *COMMANDS["guidance-grid"]])
    monkeypatch.setitem(gallery.FIGURES, "guidance_grid", quick)
    shutil.copytree(whole_run, tmp_path / "run")
    for _ in range(2):  # again, over what is there
        assert cli.main(["gallery", str(tmp_path / "run"), "--only", "guidance_grid"]) == 0
    assert read_figure(tmp_path / "run" / "manipulations" / "guidance_grid").title == "Guidance"


def test_latents_go_through_a_file(unclip, whole_run, tmp_path):
    picture = str(whole_run / "samples" / "real" / "00000.png")
    code, out, err, file = unclip("invert", picture, "--steps", "3", out=tmp_path / "latents.safetensors")
    assert (code, err) == (0, "")
    assert "latents of 1 picture" in out
    code, again, _, _ = unclip("reconstruct", picture, "--latents", str(file), *COMMANDS["reconstruct"][2:])
    assert code == 0
    shown = out.split("reconstructed at ")[1].split(" dB")[0]
    assert f"00000: {shown} dB, from fresh noise" in again
    code, _, err, _ = unclip("invert", picture, out=tmp_path / "latents.safetensors")
    assert (code, err.count("\n")) == (2, 1)


@pytest.fixture
def latents(unclip, whole_run, tmp_path):
    """A file of the latents of two pictures, in 3 steps at guidance 1.5; and the pictures."""
    pictures = [str(whole_run / "samples" / "real" / f"{k:05d}.png") for k in (1, 0)]
    words = [*pictures, "--steps", "3", "--guidance", "1.5"]
    assert unclip("invert", *words, out=tmp_path / "made" / "latents.safetensors")[0] == 0
    return str(tmp_path / "made" / "latents.safetensors"), pictures


def test_latents_take_the_place_of_pictures(unclip, latents, tmp_path):
    """Drawn as they were inverted, whether or not the steps are said again, and as the pictures themselves would be."""
    file, pictures = latents
    edit = ["--target", "a blue circle", "--theta", "0", "0.4", "--size", "16"]
    for command, words in (("interpolate", ["--count", "3", "--size", "16"]), ("text-diff", edit)):
        found = []
        for k, start in enumerate(
            (["--latents", file], ["--latents", file, "--steps", "3"], [*pictures, "--steps", "3", "--guidance", "1.5"])
        ):
            code, _, err, folder = unclip(command, *start, *words, out=tmp_path / f"{command}{k}")
            assert (code, err) == (0, "")
            found.append([path.read_bytes() for path in sorted(folder.glob("images/*.png"))])
            settings = read_figure(folder).how["settings"]
            assert (settings["steps"], settings["guidance"]) == (3, 1.5)
        assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([0], "holds the latents of 2 pictures, and there are 1: name the pictures that were inverted"),
        ([0, 1, 0], "holds the latents of 2 pictures, and there are 3"),
        ([1, 0], "row 1 of "),
        (
            [0, 1, "--steps", "4"],
            "was inverted in 3 steps at guidance 1.5 and is drawn again in the same way: leave --steps",
        ),
        ([0, 1, "--guidance", "1"], "leave --guidance out"),
    ],
)
def test_latents_of_other_pictures_or_another_walk_are_refused(unclip, latents, tmp_path, words, message):
    file, pictures = latents
    words = [pictures[word] if isinstance(word, int) else word for word in words]
    code, _, err, folder = unclip("reconstruct", *words, "--latents", file)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not folder.exists()


def test_an_inversions_figure_shows_the_noise(unclip, whole_run, tmp_path):
    words = ["-n", "2", "--steps", "3", "--figure", str(tmp_path / "figure")]
    code, out, err, file = unclip("invert", *words, out=tmp_path / "latents.safetensors")
    assert (code, err) == (0, "")
    record = read_figure(tmp_path / "figure")
    found = load_latents(file, UnCLIP.from_run(whole_run))
    assert record.numbers["std"] == pytest.approx(found.x_T.flatten(1).std(dim=1).tolist(), abs=1e-3)
    assert [f"{value:.1f} dB" in out for value in record.numbers["psnr"]] == [True, True]
    with Image.open(tmp_path / "figure" / "figure.png") as page:
        assert page.width > 3 * 112
    code, _, err, _ = unclip("invert", *words, out=tmp_path / "other.safetensors")
    assert code == 2 and "holds a figure" in err and not (tmp_path / "other.safetensors").exists()


def test_neighbours_of_white_noise_have_no_correlation():
    noise = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert neighbours(noise).abs().max() < 0.03
    smooth = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    assert neighbours(smooth + 5) > 0.9
    stripes = (torch.arange(64) % 2 * 2.0 - 1).expand(1, 3, 64, 64)
    assert neighbours(stripes).abs() < 0.05  # opposite to the right, equal below


def test_numbers_of_reconstruct_are_its_pictures(unclip, whole_run):
    _, _, _, folder = unclip("reconstruct", *COMMANDS["reconstruct"], "--size", "16")
    numbers = read_figure(folder).numbers
    for k, expected in enumerate(numbers["psnr"]):
        truth = torch.from_numpy(_pixels(whole_run / "samples" / "real" / f"{k:05d}.png", 16))
        found = torch.from_numpy(_pixels(folder / "images" / f"{k:05d}.png", 16))
        error = (truth - found).square().mean()
        assert -10 * float(error.log10()) == pytest.approx(expected, abs=0.5)


def _pixels(path: Path, size: int):
    import numpy as np

    from modules.images.tensors import load_images

    return ((load_images(path, size)[0].numpy().astype(np.float64)) + 1) / 2


def test_the_same_seed_draws_the_same_and_another_does_not(unclip, tmp_path):
    words = COMMANDS["variations"]
    pictures = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        _, _, _, folder = unclip("variations", *words, "--seed", seed, "--batch-size", "2", out=tmp_path / name)
        pictures.append([path.read_bytes() for path in sorted(folder.glob("images/*.png"))])
    assert pictures[0] == pictures[1] != pictures[2]


EDIT_TABLE = ["--table", "3", "--theta", "0.3", "0.6", "--steps", "2", "--size", "16"]


@pytest.mark.parametrize(
    ("command", "words"),
    [*((name, COMMANDS[name]) for name in ("reconstruct", "variations", "inpaint", "pca")), ("text-diff", EDIT_TABLE)],
)
def test_every_interval_of_a_table_is_stored(unclip, tmp_path, command, words):
    """Rounded as the table has it. So no claim needs a number that was copied from a table."""
    unclip(command, *words, out=tmp_path / "figure")
    record = read_figure(tmp_path / "figure")
    cells = [cell for table in record.tables for row in table.rows for cell in row if cell.interval]
    found = list(intervals_in(numbers_of_figure(record.numbers)))
    assert cells
    for cell in cells:
        value = cell.text.split()[-1]
        digits = len(value.partition(".")[2])
        shown = {(f"{n['value']:.{digits}f}", f"[{n['low']:.{digits}f}, {n['high']:.{digits}f}]") for n in found}
        assert (value, cell.interval) in shown


def intervals_in(numbers):
    """All {"value", "low", "high"} of stored numbers."""
    if "low" in numbers:
        yield numbers
    else:
        for inner in numbers.values():
            if isinstance(inner, dict):
                yield from intervals_in(inner)


def test_text_diffs_of_three_thetas_are_three_numbers(unclip):
    words = [*COMMANDS["text-diff"], "--theta", "0", "0.2", "0.4"]
    numbers = numbers_of_figure(read_figure(unclip("text-diff", *words)[3]).numbers)
    assert list(numbers["cosine"]) == ["0", "1", "2"]
    assert all(one["low"] <= one["value"] <= one["high"] for one in numbers["cosine"].values())
    assert numbers["theta"] == {"0": {"value": 0}, "1": {"value": 0.2}, "2": {"value": 0.4}}


def test_an_attribute_that_no_picture_has_is_no_number(unclip, whole_run):
    """One picture of one object has no relation."""
    records = [
        json.loads(line) for line in (whole_run / "samples" / "real" / "manifest.jsonl").read_text().splitlines()
    ]
    assert records[0]["scene"]["relation"] is None
    code, _, err, folder = unclip("pca", "-n", "1", "--steps", "1", "--components", "1", "--shown", "1")
    assert (code, err) == (0, "")
    accuracy = read_figure(folder).numbers["accuracy"]
    assert accuracy["relation"] == [None, None] and set(accuracy["colour"][0]) == {"value", "low", "high"}


def test_edits_are_measured(unclip):
    code, _, err, folder = unclip("text-diff", "--table", "2", "--theta", "0", "0.5", "--steps", "2", "--size", "16")
    assert (code, err) == (0, "")
    record = read_figure(folder)
    table = record.tables[0]
    assert table.columns[:3] == ["edit", "hit, theta 0", "hit, theta 0.5"]
    assert len(table.rows) == 5
    assert [row[-1].text == "no" for row in table.rows] == [not at for at in record.numbers["works"].values()]
    assert [row[0].text for row in record.tables[1].rows] == ["what the picture is", "a shape", "none"]


def test_theta_is_chosen_on_scenes_that_are_not_counted(unclip, monkeypatch):
    """Of the thetas tried the one that does best on the others is reported, and on other scenes."""
    asked = []

    def task(edit, count, seed):
        asked.append((edit.name, count, seed))
        return make_task(edit, count, seed)

    monkeypatch.setattr(edit_table, "make_task", task)
    words = ["--table", "2", "--choose", "3", "--theta", "0.2", "0.4", "--steps", "2", "--size", "16", "--seed", "5"]
    code, _, err, folder = unclip("text-diff", *words)
    assert (code, err) == (0, "")
    for edit in EDITS:
        (_, tried, first), (_, counted, second) = (one for one in asked if one[0] == edit.name)
        assert (tried, counted, second) == (3, 2, 5)
        assert first != second
    record = read_figure(folder)
    assert record.tables[0].columns[:3] == ["edit", "theta", "wanted class"]
    for row, edit in zip(record.tables[0].rows, EDITS, strict=True):
        numbers = record.numbers["edits"][edit.name]
        assert numbers["theta"] == [0, float(row[1].text) / 2, float(row[1].text)]
        before, _, after = numbers["hit"]
        interval = f"[{after['low']:.2f}, {after['high']:.2f}]"
        assert row[2] == (f"{before['value']:.2f} → {after['value']:.2f}", interval)
        assert len(numbers["chosen_from"]) == 3
        assert row[-1].text == ("yes" if record.numbers["works"][edit.name] else "no")
    assert "n = 2 scenes" in record.tables[0].notes[0] and "on 3 other scenes" in record.tables[0].notes[0]


@pytest.mark.parametrize(
    ("stops", "count", "expected"), [(2, None, 7), (3, None, 7), (4, None, 10), (8, None, 22), (3, 3, 3)]
)
def test_a_row_stops_at_every_picture(stops, count, expected):
    assert row_length(stops, count, "pictures") == expected


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("variations", ["absent.png"], "absent.png: No such file"),
        ("variations", ["--eta", "2"], "--eta goes from 0 to 1"),
        ("variations", ["--size", "48"], "makes pictures of 16, 32 pixels a side, not of 48"),
        ("variations", ["--from", "nowhere"], "no test pictures at nowhere"),
        ("variations", ["--guidance", "1e30"], "--guidance must be a number from -100 to 100, found 1e+30"),
        ("reconstruct", ["--sweep-guidance", "2", "1e30"], "--sweep-guidance must be a number from -100 to 100"),
        ("guidance-grid", ["--scales", "2", "-200"], "--scales must be a number from -100 to 100, found -200.0"),
        ("reconstruct", ["--steps", "0"], "steps and the batch size are 1 or more"),
        ("reconstruct", ["--latents", "absent.safetensors"], "no latents at absent.safetensors"),
        ("interpolate", ["--captions", "a red circle"], "--captions needs two or more"),
        ("interpolate", ["-n", "1", "--count", "1"], "--count and --grid need 2 or more"),
        ("interpolate", ["-n", "1"], "an interpolation needs two pictures or more"),
        ("interpolate", ["-n", "3", "--count", "6"], "--count 6 does not stop at each of 3 pictures: take 5 or 7"),
        ("interpolate", ["-n", "4", "--count", "2"], "--count 2 does not stop at each of 4 pictures: take 4"),
        ("interpolate", ["-n", "3", "--grid", "3"], "--grid lies between four pictures, there are 3"),
        ("text-diff", ["--table", "2", "--latents", "a"], "--table draws its own scenes"),
        ("text-diff", ["--table", "2", "--theta", "0"], "--theta needs a theta above 0"),
        ("text-diff", ["--table", "2", "--choose", "1"], "--table and --choose need 2 scenes or more"),
        ("text-diff", ["--target", "a blue circle", "--choose", "8"], "--choose goes with --table"),
        ("guidance-grid", ["--guidance", "2"], "name them with --scales, not with --guidance"),
        ("text-diff", [], "give a --target caption, or --table N"),
        ("text-diff", ["--target", "a red circle", "--base", "a red circle"], "no direction between them"),
        ("text-diff", ["--target", "red", "--theta", "1.5"], "--theta goes from 0 to 1"),
        ("pca", ["--components", "99"], "--components go from 0 to 16"),
        ("inpaint", ["--mask", "absent.png"], "absent.png: No such file"),
        ("inpaint", ["--fills", "0"], "--fills and --resamples are 1 or more"),
        ("conditioning-grid", ["--conditions", "real"], "no condition 'real' here"),
        ("guidance-grid", ["--prior", "glide"], "no prior 'glide'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(unclip, tmp_path, command, words, message):
    code, out, err, folder = unclip(command, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert not folder.exists()


def test_a_run_without_decoder_is_named(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    code = cli.main(["variations", "a.png", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")])
    assert code == 2
    assert "no trained stage at" in capsys.readouterr().err
