"""Every command writes a figure with its numbers, says what is wrong in one line, and leaves nothing half made."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from eval.figure_folder import read_figure
from eval.pages import ORDER, write_manipulations_page
from experiments import cli

COMMANDS = {
    "reconstruct": ["-n", "2", "--steps", "3", "--sweep-steps", "2", "--sweep-guidance", "1", "2"],
    "variations": ["-n", "3", "--steps", "3", "--eta", "0", "0.5", "1", "--shown", "2"],
    "interpolate": ["--count", "3", "--grid", "2", "--steps", "2", "--captions", "a red circle", "a blue square"],
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


def test_every_command_of_the_package_is_here_and_listed():
    assert set(COMMANDS) | {"invert", "gallery"} == set(cli.MANIPULATIONS) <= set(cli.COMMANDS)


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
    assert "latents of 1 pictures" in out
    code, again, _, _ = unclip("reconstruct", picture, "--latents", str(file), *COMMANDS["reconstruct"][2:])
    assert code == 0
    shown = out.split("reconstructed at ")[1].split(" dB")[0]
    assert f"00000: {shown} dB, from fresh noise" in again
    code, _, err, _ = unclip("invert", picture, out=tmp_path / "latents.safetensors")
    assert (code, err.count("\n")) == (2, 1)


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

    from modules.images import load_images

    return ((load_images(path, size)[0].numpy().astype(np.float64)) + 1) / 2


def test_the_same_seed_draws_the_same_and_another_does_not(unclip, tmp_path):
    words = COMMANDS["variations"]
    pictures = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        _, _, _, folder = unclip("variations", *words, "--seed", seed, "--batch-size", "2", out=tmp_path / name)
        pictures.append([path.read_bytes() for path in sorted(folder.glob("images/*.png"))])
    assert pictures[0] == pictures[1] != pictures[2]


def test_edits_are_measured(unclip):
    code, _, err, folder = unclip("text-diff", "--table", "2", "--theta", "0", "0.5", "--steps", "2", "--size", "16")
    assert (code, err) == (0, "")
    record = read_figure(folder)
    table = record.tables[0]
    assert table.columns[:3] == ["edit", "hit, theta 0", "hit, theta 0.5"]
    assert len(table.rows) == 5
    assert [row[-1].text == "no" for row in table.rows] == [not at for at in record.numbers["works"].values()]
    assert [row[0].text for row in record.tables[1].rows] == ["what the picture is", "a shape", "none"]


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("variations", ["absent.png"], "absent.png: No such file"),
        ("variations", ["--eta", "2"], "--eta goes from 0 to 1"),
        ("variations", ["--size", "48"], "makes pictures of 16, 32 pixels a side, not of 48"),
        ("variations", ["--from", "nowhere"], "no test pictures at nowhere"),
        ("reconstruct", ["--steps", "0"], "steps and the batch size are 1 or more"),
        ("reconstruct", ["--latents", "absent.safetensors"], "no latents at absent.safetensors"),
        ("interpolate", ["--captions", "a red circle"], "--captions needs two or more"),
        ("interpolate", ["-n", "1", "--count", "1"], "--count and --grid need 2 or more"),
        ("text-diff", [], "give a --target caption, or --table N"),
        ("text-diff", ["--target", "a red circle", "--base", "a red circle"], "no direction between them"),
        ("text-diff", ["--target", "red", "--theta", "1.5"], "--theta goes from 0 to 1"),
        ("pca", ["--components", "99"], "--components go from 0 to 16"),
        ("inpaint", ["--mask", "absent.png"], "absent.png: No such file"),
        ("inpaint", ["--fills", "0"], "--fills and --resamples are 1 or more"),
        ("conditioning-grid", ["--conditions", "image_embedding"], "no condition 'image_embedding' here"),
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
