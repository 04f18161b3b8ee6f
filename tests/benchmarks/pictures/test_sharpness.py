"""The numbers of sharp pictures against values that can be worked out, and the command on the shipped weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.pictures import sharpness
from benchmarks.pictures.flat_regions import edge_width, flatness, pattern
from datamodules.rendered import scenes
from modules.pipeline import UnCLIP


def square(side: int = 32) -> torch.Tensor:
    """(1, 3, S, S) uint8: a white square on black."""
    picture = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    picture[:, :, 8:24, 8:24] = 255
    return picture


def test_deviations_are_means_over_the_pixels_of_ground_and_object():
    noisy = square().clone()
    noisy[:, :, 8:24, 8:24:2] -= 20  # every second column of the object, so that each pixel is 10 from the mean
    noisy[:, :, ::2, 0:6] += 12
    noisy[:, :, ::2, 26:] += 12
    noisy[:, :, 0:6:2, 6:26] += 12
    noisy[:, :, 26::2, 6:26] += 12  # every second row of the ground, where it is not near an edge: 6 from the mean
    ground, thing = flatness(noisy, square())
    assert (ground, thing) == (pytest.approx(6.0), pytest.approx(10.0))


def test_the_width_of_an_edge_is_the_sum_over_partly_covered_pixels():
    """The rims' pixels have a grey each, so that a rim is no region of its own."""
    rims = {"true": torch.arange(60, 76), "ours": torch.arange(120, 136)}
    pictures, widths = {}, {}
    for name, rim in rims.items():
        pictures[name] = square().clone()
        pictures[name][:, :, 8:24, 8] = rim.to(torch.uint8)
        cover = rim / 255
        widths[name] = float((4 * cover * (1 - cover)).sum())
    assert edge_width(pictures["true"], pictures["true"]) == 1
    assert edge_width(pictures["ours"], pictures["true"]) == pytest.approx(widths["ours"] / widths["true"], rel=1e-5)


def test_a_pattern_of_a_tiles_period_is_found_and_others_are_not():
    true = square(64)
    marked, waves, shifted = (true.clone() for _ in range(3))
    marked[:, :, 3::8, 5::8] += 64 * (true[:, :, 3::8, 5::8] == 0)  # One dot in each tile: 64 there, 0 at 63 others.
    shifted[:, :, 1::8, 2::8] += 64 * (true[:, :, 1::8, 2::8] == 0)
    waves[:, :, 32:] = 10  # Half a ground lighter: every position in a tile has the same mean.
    dot = 64 * (1 / 64 * (1 - 1 / 64)) ** 0.5
    assert pattern(true, true) == 0
    assert pattern(marked, true) == pytest.approx(dot, rel=0.02) == pattern(shifted, true)
    assert pattern(waves, true) < 0.3
    assert pattern(torch.cat([marked, true]), torch.cat([true, true])) == pytest.approx(pattern(marked, true) / 2**0.5)


def test_the_command_prints_rows_and_writes_a_magnified_page(tmp_path, monkeypatch, capsys):
    file = tmp_path / "page.png"
    monkeypatch.setattr("sys.argv", ["sharpness", "--pictures", "2", "--page", str(file)])
    assert sharpness.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| pictures | PSNR, dB | ground | object | pattern | edges |"
    assert [line.split("|")[1].strip()[:7] for line in lines[2:]] == ["bicubic", "upsampl", "decoder", "real pi"]
    with Image.open(file) as page:
        cell = sharpness.MAGNIFIED
        assert page.width > 2 * cell and page.height > 4 * cell
        true = page.crop((page.width - cell, page.height - cell - 4, page.width - 4, page.height - 4))
        wide = page.crop((page.width - cell, page.height - 2 * cell - 8, page.width - 4, page.height - cell - 8))
    assert np.abs(np.asarray(true, float) - np.asarray(wide, float)).mean() > 1  # Real and drawn, in a row each.


def test_upsamplers_are_compared_with_the_same_noise(tmp_path, monkeypatch):
    """A copy of a stage has the numbers of the stage, and the decoder is asked once for both."""
    asked, generate = [], UnCLIP.generate
    monkeypatch.setattr(UnCLIP, "generate", lambda *words, **more: asked.append(words) or generate(*words, **more))
    run = tmp_path / "run"
    shutil.copytree(Path("modules/shipped/shapes"), run)
    shutil.copytree(run / "upsampler", run / "one_step_upsampler")
    drawn, _, _ = sharpness.ways(UnCLIP.from_run(str(run)), 2, upsamplers=["upsampler", "one_step_upsampler"])
    _, one, other, behind, behind_other, _ = drawn.values()
    assert list(drawn)[2] == "one step upsampler, 2 steps, from true 32 px"
    assert list(drawn)[4] == "decoder, one step upsampler, 2 steps, from true z_i"
    assert torch.equal(one, other) and torch.equal(behind, behind_other) and not torch.equal(one, behind)
    assert len(asked) == 1
    assert torch.equal(behind, UnCLIP.from_run("shipped:shapes").generate(*sharpness_captions(2)))


def sharpness_captions(count):
    """What `generate` is given for the first test pairs: captions, condition, seed, places, true pictures."""
    pairs = [scenes.make_pair("test", index) for index in range(count)]
    low = sharpness.true_pictures([pair.scene for pair in pairs], sharpness.SMALL)
    return [pair.caption for pair in pairs], "image_embedding", 0, None, low


def test_the_shipped_upsampler_is_nearer_than_bicubic_and_real_pictures_are_perfect():
    drawn, true, captions = sharpness.ways(UnCLIP.from_run("shipped:shapes"), 4, [1, 2])
    assert len(captions) == len(true) == 4
    found = {name: sharpness.judged(pictures, true) for name, pictures in drawn.items()}
    bicubic, one, two, _, drawn, real = found.values()
    assert list(found)[1:3] == ["upsampler, 1 step, from true 32 px", "upsampler, 2 steps, from true 32 px"]
    assert (
        real["ground"] == real["object"] == real["pattern"] == 0 < drawn["pattern"]
        and real["edges"] == 1
        and real["PSNR, dB"] == float("inf")
    )
    assert min(one["PSNR, dB"], two["PSNR, dB"]) > bicubic["PSNR, dB"] + 3
    assert max(one["edges"], two["edges"]) < bicubic["edges"]
    assert drawn["PSNR, dB"] < one["PSNR, dB"]
    assert sharpness.table(found).splitlines()[-1] == "| real pictures | inf | 0.00 | 0.00 | 0.00 | 1.00 |"
