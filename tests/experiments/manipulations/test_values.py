"""What stands in a figure's pictures and numbers, against the functions that they are to show."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from eval.figures.folder import read_figure
from experiments import cli
from experiments.manipulations import options
from experiments.manipulations.common import hatched
from experiments.manipulations.inpaint import seams
from experiments.manipulations.pca import ATTRIBUTES, first_seen, heads, table
from modules.images.tensors import load_images, to_pil
from modules.manipulations import (
    EDIT_STEPS,
    Latents,
    Walk,
    blend,
    fresh_noise,
    invert,
    redraw,
    tokens_of,
    write_over,
    zero_shot,
)
from modules.pipeline import UnCLIP
from modules.seeds import ImageSeeds

STEP = 1.01 / 127.5  # of a picture's 256 values


@pytest.fixture
def figure(whole_run, tmp_path, capsys):
    """Runs a command at the decoder's size; returns its record and its single pictures (N, 3, 16, 16)."""

    def run(command: str, *words: str):
        out = tmp_path / command
        assert cli.main([command, *words, "--size", "16", "--run", str(whole_run), "--out", str(out)]) == 0
        capsys.readouterr()
        return read_figure(out), load_images(sorted(out.glob("images/*.png")))

    return run


def system_of(run: Path, **settings) -> UnCLIP:
    return UnCLIP.from_run(run, decoder=settings, glide=settings)


@pytest.fixture
def sources(whole_run):
    """The run's test pictures (4, 3, 32, 32), and their captions."""
    folder = whole_run / "samples" / "real"
    records = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    return load_images([folder / record["file"] for record in records]), [record["caption"] for record in records]


def assert_pictures(found, expected):
    assert_close(found, expected, atol=STEP, rtol=0)
    assert (expected[0] - expected[-1]).abs().max() > 10 * STEP  # or anything would do


def test_the_conditioning_grid_has_one_noise_a_column(figure, whole_run):
    """Each picture is the one of its caption, condition and seed."""
    captions, conditions = (
        ["a red circle", "a blue square"],
        ["caption_only", "text_embedding", "diffusion_prior", "glide"],
    )
    _, found = figure("conditioning-grid", *captions, "--columns", "2", "--steps", "2", "--conditions", *conditions)
    system = system_of(whole_run, steps=2)
    expected = [
        system.text_to_image(caption, seed=[0, 1], condition=condition, size=16).tensor
        for caption in captions
        for condition in conditions
    ]
    assert_pictures(found, torch.cat(expected))


def test_the_guidance_grid_fixes_z_i_and_noise(figure, whole_run):
    """Along a row the scale alone grows; GLIDE's rows lie between unCLIP's."""
    captions, scales = ["a red circle", "a blue square"], [1.0, 3.0]
    record, found = figure("guidance-grid", *captions, "--scales", "1", "3", "--steps", "2", "--seed", "5")
    assert record.how["settings"]["guidance"] is None and record.how["settings"]["scales"] == scales
    drawn = {}
    for scale in scales:
        system = system_of(whole_run, steps=2, guidance_scale=scale)
        for condition in ("diffusion_prior", "glide"):
            made = system.text_to_image(captions, seed=[5, 5], condition=condition, size=16)
            drawn[condition, scale] = made.tensor
    expected = [
        drawn[condition, scale][k] for k in range(2) for condition in ("diffusion_prior", "glide") for scale in scales
    ]
    assert_pictures(found, torch.stack(expected))


def test_typographic_shows_clips_probabilities_and_variations_of_z_i(figure, whole_run, sources):
    words = ["-n", "2", "--steps", "2", "--variations", "2", "--text", "cube"]
    record, found = figure("typographic", *words)
    system, (images, captions) = system_of(whole_run), sources
    classes = record.numbers["classes"]
    assert classes == list(dict.fromkeys([*captions[:2], "cube"]))
    noise = fresh_noise(system, ImageSeeds.of(0, 2))
    for k, numbers in enumerate(record.numbers["pictures"]):
        pair = [to_pil(images[k]), write_over(to_pil(images[k]), "cube")]
        shares = zero_shot(system, load_images(pair), classes)
        assert_close(torch.tensor([numbers["plain"], numbers["written"]]), shares, atol=1e-5, rtol=0)
        z_i = system.embed_image(load_images(pair)).repeat_interleave(2, dim=0)
        expected = redraw(system, Latents(z_i, noise.repeat(2, 1, 1, 1), tokens_of(system, None, 4)), Walk(steps=2))
        assert_pictures(found[4 * k : 4 * k + 4], expected)


def test_variations_distances_are_those_of_the_pictures(figure, sources):
    record, found = figure("variations", "-n", "3", "--shown", "3", "--steps", "3", "--eta", "0", "0.5", "1")
    truth = load_images([*sources[0][:3]], size=16)
    for k, name in enumerate(("eta 0", "eta 0.5", "eta 1", "fresh noise")):
        error = (found[3 * k : 3 * k + 3] - truth).square().mean(dim=(1, 2, 3)).sqrt() / 2
        assert record.numbers[name]["distance"]["value"] == pytest.approx(float(error.mean()), abs=0.01)
    means = [record.numbers[name]["distance"]["value"] for name in ("eta 0", "eta 0.5", "eta 1")]
    assert record.numbers["monotonic"] == (means == sorted(means))


def test_whether_the_distance_grows_with_eta_is_said(figure):
    record, _ = figure("variations", "-n", "2", "--shown", "1", "--steps", "2", "--eta", "1", "0")
    first, second = (record.numbers[name]["distance"]["value"] for name in ("eta 0", "eta 1"))
    assert first != second and record.numbers["monotonic"] == (first < second)


def test_ends_of_the_interpolation_are_the_reconstructions(figure, whole_run, sources):
    record, found = figure("interpolate", "-n", "2", "--count", "3", "--steps", "3")
    assert min(record.numbers["ends_psnr"]) > 60
    system = system_of(whole_run)
    again = redraw(system, invert(system, sources[0][:2], None, Walk(steps=3)), Walk(steps=3))
    assert_pictures(found[[0, 2]], again)
    noise = fresh_noise(system, ImageSeeds.of([0], 1))
    latents = Latents(system.embed_image(sources[0][:2]), noise.repeat(2, 1, 1, 1), tokens_of(system, None, 2))
    assert_pictures(found[[3, 5]], redraw(system, latents, Walk(steps=3)))


def test_a_row_goes_through_all_pictures(figure, whole_run, sources):
    """Three pictures stand at a half and at the ends, in the row of their own noise and in that of a fresh one."""
    files = [str(whole_run / "samples" / "real" / f"{k:05d}.png") for k in (2, 0, 1)]
    record, found = figure("interpolate", *files, "--count", "5", "--steps", "2")
    assert len(found) == 10 and len(record.numbers["ends_psnr"]) == 3 and min(record.numbers["ends_psnr"]) > 60
    assert record.pictures == ["figure.png"]
    system, images = system_of(whole_run), sources[0][[2, 0, 1]]
    latents = invert(system, images, None, Walk(steps=2))
    assert_pictures(found[[0, 2, 4]], redraw(system, latents))
    noise = fresh_noise(system, ImageSeeds.of([0], 1)).repeat(3, 1, 1, 1)
    assert_pictures(found[[5, 7, 9]], redraw(system, replace(latents, x_T=noise)))
    between = redraw(system, blend(latents[[1]], latents[[2]], 0.5))
    assert_close(found[[3]], between, atol=STEP, rtol=0)


def test_text_diff_turns_z_i_alone(figure, whole_run, sources):
    words = ["--target", "a blue circle", "--base", "a red circle", "--theta", "0", "0.4", "-n", "2", "--steps", "3"]
    record, found = figure("text-diff", *words)
    system = system_of(whole_run)
    latents = invert(system, sources[0][:2], None, Walk(steps=3))
    made = system.text_diff(latents, "a blue circle", "a red circle", theta=[0.0, 0.4], walk=Walk(steps=3), size=16)
    assert_pictures(found, made.tensor[[0, 2, 1, 3]])
    z_t = system.embed_text(["a blue circle", "a red circle"])[1]
    z_d = torch.nn.functional.normalize(z_t[0] - z_t[1], dim=0)
    cosines = (system.embed_image(made.tensor[[1, 3]]) @ z_d).mean()
    assert record.numbers["cosine"][1]["value"] == pytest.approx(float(cosines), abs=1e-4)


def test_text_diff_takes_the_steps_and_thetas_that_were_measured_to_work(figure):
    record, found = figure("text-diff", "--target", "a blue circle", "--base", "a red circle", "-n", "1")
    settings = record.how["settings"]
    assert settings["steps"] == EDIT_STEPS == options.EDIT_STEPS == 8
    assert settings["theta"] == options.THETAS and len(found) == len(options.THETAS)
    assert "(8 steps, guidance 1)" in record.notes[0]


def test_all_components_are_z_i_and_few_are_not(figure):
    record, found = figure("pca", "-n", "2", "--shown", "2", "--steps", "3", "--components", "1", "16")
    assert record.numbers["components"] == [1, 16]
    few, all_of_them, z_i = found[:2], found[2:4], found[4:]
    assert_close(all_of_them, z_i, atol=3 * STEP, rtol=0)
    assert (few - z_i).abs().amax() > 10 * STEP
    assert set(record.numbers["accuracy"]) == {"background", "count", "colour", "shape", "size", "relation"}


def test_columns_say_what_their_numbers_are():
    assert heads([1, 5]) == ["1 component", "5 components", "all of z_i"]


def test_attributes_that_appear_together_are_said_together():
    means = {
        "colour": [0.5, 0.9, 1.0],
        "shape": [0.2, 0.95, 1.0],
        "count": [0.95, 1.0, 1.0],
        "relation": [0.0, 0.1, 1.0],
    }
    said = first_seen([5, 10], means)
    assert "count (5), colour and shape (10); not before all of z_i: relation." in said


def test_the_table_of_components_says_how_many_pictures_have_an_attribute():
    scores = {name: torch.tensor([1.0, 0.0, 1.0]) for name in ATTRIBUTES}
    scores["relation"] = torch.tensor([float("nan"), 1.0, float("nan")])
    note = table(["5"], [scores], 3).notes[0]
    assert "n = 3 test pictures (relation 1: the others have none)" in note
    scores["relation"] = scores["colour"]
    assert "n = 3 test pictures; the share" in table(["5"], [scores], 3).notes[0]


def test_inpainting_leaves_what_is_known(figure, sources):
    words = ["-n", "2", "--steps", "2", "--fills", "2", "--mask", "left", "--resamples", "1"]
    record, found = figure("inpaint", *words)
    truth = load_images([*sources[0][:2]], size=16).repeat_interleave(2, dim=0)
    assert_close(found[..., 8:], truth[..., 8:], atol=STEP, rtol=0)
    assert (found[..., :8] - truth[..., :8]).abs().amax(dim=(1, 2, 3)).min() > 10 * STEP
    assert (found[0] - found[1]).abs().max() > 10 * STEP
    across = ((found[..., 8] - found[..., 7]).abs() / 2).mean()
    assert record.numbers["step"]["border"]["value"] == pytest.approx(float(across), abs=0.01)
    known = (
        (truth[..., 9:] - truth[..., 8:-1]).abs().mean() + (truth[..., 1:, 8:] - truth[..., :-1, 8:]).abs().mean()
    ) / 4
    assert record.numbers["true_step"]["known"]["value"] == pytest.approx(float(known), abs=0.01)


def test_the_hole_is_marked_so_that_no_picture_looks_like_it(figure, tmp_path):
    figure("inpaint", "-n", "2", "--steps", "1", "--fills", "1", "--mask", "left", "--resamples", "1")
    page = np.asarray(Image.open(tmp_path / "inpaint" / "figure.png").convert("RGB")).astype(int)
    magenta = (page[..., 0] > 200) & (page[..., 1] < 60) & (page[..., 2] > 200)
    assert magenta.sum() > 2 * 112 * 112 / 2 / 2 * 0.6  # in two cells, half of the half that is open
    assert {tuple(pixel) for pixel in hatched(16).flatten(1).T.tolist()} == {(1, -1, 1), (1, 1, 1)}


def test_seams_are_told_from_rough_pictures():
    """A step of 0.5 at the border of two flat halves, in one picture of two; columns that differ by 0.1 elsewhere."""
    keep = torch.ones(2, 1, 6, 6)
    keep[..., 3:] = 0
    flat = torch.zeros(2, 3, 6, 6)
    drawn = flat.clone()
    drawn[:, :, :, 3:] = torch.tensor([0.0, 1.0])[:, None, None, None]
    drawn[:, :, :, 5] += 0.2
    table, numbers = seams(drawn, flat, keep)
    assert numbers["step"]["border"] == pytest.approx({"value": 0.25, "low": 0, "high": 0.5})  # 0 and 0.5
    assert numbers["step"]["known"] == numbers["true_step"]["border"] == dict.fromkeys(("value", "low", "high"), 0)
    within = 0.1 * 6 / 27  # 12 pairs to the right, 15 below
    assert numbers["step"]["drawn"] == pytest.approx(dict.fromkeys(("value", "low", "high"), within))
    everything = seams(drawn, flat, torch.zeros(2, 1, 6, 6))[1]
    assert everything["step"]["border"] is None and everything["step"]["known"] is None
    assert [row[0].text for row in table.rows] == ["across the border", "among known pixels", "among drawn pixels"]
    assert "n = 2 pictures of 1 fills" in table.notes[0]
    together, _ = seams(drawn, flat, keep, fills=2)
    assert together.rows[0][1].interval == "[0.2500, 0.2500]"  # one picture: two fills of it are no two pictures


def strange(folder: Path) -> dict[str, Path]:
    """A picture in every form that cameras and programs leave: the same 8 x 8 pixels."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = (200, 30, 90)
    plain, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = 6
    made = {
        "rgba.png": plain.convert("RGBA"),
        "grey.png": plain.convert("L"),
        "cmyk.jpg": plain.convert("CMYK"),
        "turned.png": plain,
        "deep.png": Image.fromarray(np.full((8, 8), 40_000, np.uint16)),
        "wide.png": plain.resize((20, 8)),
    }
    for name, image in made.items():
        image.save(folder / name, **({"exif": exif} if name == "turned.png" else {}))
    return {name: folder / name for name in made}


def test_pictures_of_every_kind_are_taken(whole_run, tmp_path, capsys):
    files = [str(path) for path in strange(tmp_path).values()]
    words = ["--steps", "1", "--run", str(whole_run), "--out", str(tmp_path / "latents.safetensors")]
    assert cli.main(["invert", *files, *words]) == 0
    out = capsys.readouterr().out
    assert f"latents of {len(files)} pictures" in out
    assert all(f"{Path(file).stem}: reconstructed at " in out for file in files)


@pytest.mark.parametrize("name", ["truncated.png", "text.png"])
def test_damaged_pictures_are_named_in_one_line(whole_run, tmp_path, capsys, name):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    noise.save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2] if name == "truncated.png" else b"hello")
    code = cli.main(["variations", str(tmp_path / name), "--run", str(whole_run), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1)
    assert name in error
    assert not (tmp_path / "out").exists()


def test_latents_of_another_run_are_refused_by_the_command(whole_run, trained_elsewhere, tmp_path, capsys):
    file = tmp_path / "latents.safetensors"
    picture = str(whole_run / "samples" / "real" / "00000.png")
    assert cli.main(["invert", picture, "--steps", "1", "--run", str(trained_elsewhere), "--out", str(file)]) == 0
    capsys.readouterr()
    words = ["--latents", str(file), "--run", str(whole_run), "--out", str(tmp_path / "out")]
    assert cli.main(["reconstruct", picture, *words]) == 2
    error = capsys.readouterr().err
    assert "was inverted under another decoder" in error
    assert error.count("\n") == 1


@pytest.fixture
def trained_elsewhere(whole_run, tmp_path, tiny):
    """A run with the same CLIP and another decoder."""
    run = tmp_path / "other"
    (run / "clip").mkdir(parents=True)
    (run / "clip" / "export").symlink_to(whole_run / "clip" / "export")
    tiny.write_stage(run / "decoder", "decoder", tiny.randomise(tiny.make_network("decoder"), seed=99))
    return run
