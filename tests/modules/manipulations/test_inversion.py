"""Inversion, reconstruction and variations on a tiny trained decoder."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.testing import assert_close

from modules.errors import InputError
from modules.manipulations import (
    Latents,
    Walk,
    fresh_noise,
    invert,
    load_latents,
    redraw,
    save_latents,
    stack_latents,
    tokens_of,
)
from modules.seeds import ImageSeeds, image_generators


def psnr(images, truth):
    return -10 * ((images - truth).square().mean(dim=(1, 2, 3)) / 4).log10()


def rmse(images, truth):
    return float((images - truth).square().mean().sqrt())


def test_reconstruction_beats_fresh_noise_by_6_dB(system, inverted, test_pictures):
    seeds = ImageSeeds.of(0, len(inverted))
    fresh = redraw(system, replace(inverted, x_T=fresh_noise(system, seeds)))
    gain = psnr(redraw(system, inverted), test_pictures) - psnr(fresh, test_pictures)
    assert gain.mean() >= 6, gain


def test_latents_are_clips_embedding_and_the_captions_tokens(system, inverted, test_pictures):
    assert_close(inverted.z_i, system.embed_image(test_pictures))
    assert not inverted.tokens.any()
    captioned = invert(system, test_pictures[:1], ["a red circle"], Walk(steps=2))
    assert torch.equal(captioned.tokens, system.clip.tokenize(["a red circle"]))


def test_more_steps_and_fixed_point_iterations_reconstruct_better(system, test_pictures):
    def error(**changes):
        walk = Walk(**changes)
        return rmse(redraw(system, invert(system, test_pictures, None, walk), walk), test_pictures)

    assert error(steps=50) < error(steps=10) < error(steps=3)
    assert error(steps=10, fixed_point_iterations=3) < error(steps=10)


def test_distance_grows_with_eta(system, inverted, test_pictures):
    seeds = ImageSeeds.of(0, len(inverted))
    errors = [rmse(redraw(system, inverted, eta=eta, seeds=seeds), test_pictures) for eta in (0.0, 0.25, 0.5, 0.75, 1)]
    assert errors == sorted(errors)
    assert errors[-1] > 1.5 * errors[0]


def test_no_image_depends_on_its_batch(system, test_pictures):
    walk, seeds = Walk(steps=5), ImageSeeds.of([7, 8, 9], 3)
    together = invert(system, test_pictures[:3], None, walk)
    alone = invert(system, test_pictures[:3], None, replace(walk, batch_size=1))
    assert_close(together.x_T, alone.x_T, atol=1e-4, rtol=1e-4)
    drawn = redraw(system, together, walk, eta=0.7, seeds=seeds)
    again = redraw(system, together, replace(walk, batch_size=2), eta=0.7, seeds=seeds)
    assert_close(drawn, again, atol=1e-4, rtol=1e-4)
    last = redraw(system, together[2:], walk, eta=0.7, seeds=ImageSeeds.of([9], 1))
    assert_close(drawn[2:], last, atol=1e-4, rtol=1e-4)


def test_z_i_and_guidance_and_captions_matter(system, inverted):
    walk = Walk(steps=5)
    plain = redraw(system, inverted, walk)
    assert rmse(redraw(system, inverted.with_embedding(inverted.z_i.flip(0)), walk), plain) > 0.02
    assert rmse(redraw(system, inverted, replace(walk, guidance_scale=3.0)), plain) > 0.02
    captioned = replace(inverted, tokens=tokens_of(system, ["a large blue cross"], len(inverted)))
    assert rmse(redraw(system, captioned, walk), plain) > 1e-4


def test_fresh_noise_is_that_of_sampling(system):
    drawn = fresh_noise(system, ImageSeeds.of(3, 2))
    expected = [torch.randn(3, 16, 16, generator=g) for g in image_generators(3, [(0, 0), (1, 0)], "decoder")]
    assert torch.equal(drawn, torch.stack(expected))
    assert torch.equal(fresh_noise(system, ImageSeeds.of([3], 1)), drawn[:1])


def test_latents_survive_a_file(system, inverted, tmp_path):
    file = tmp_path / "deep" / "latents.safetensors"
    save_latents(file, inverted, system)
    found = load_latents(file, system)
    for name in ("z_i", "x_T", "tokens"):
        assert torch.equal(getattr(found, name), getattr(inverted, name))
    assert [p.name for p in file.parent.iterdir()] == ["latents.safetensors"]


def test_a_file_of_latents_knows_the_walk_that_they_were_found_on(system, test_pictures, tmp_path):
    """What reads it draws them as they were inverted, with nothing said; older files have no walk."""
    walk = Walk(steps=4, guidance_scale=1.5, spacing="leading", fixed_point_iterations=1, batch_size=3)
    made = invert(system, test_pictures, None, walk)
    assert made.walk == walk
    save_latents(tmp_path / "latents", made, system)
    found = load_latents(tmp_path / "latents", system)
    assert found.walk == replace(walk, batch_size=64)
    assert_close(redraw(system, found), redraw(system, made, walk), atol=1e-4, rtol=0)
    assert rmse(redraw(system, found), redraw(system, made, Walk())) > 1e-2
    assert_close(system.reconstruct(found, size=16).tensor, redraw(system, made, walk), atol=1e-4, rtol=0)
    for part in (found[:2], found.with_embedding(found.z_i), found.repeat(2), stack_latents([found, found])):
        assert part.walk == found.walk
    assert stack_latents([found, replace(found, walk=Walk())]).walk is None
    save_latents(tmp_path / "older", replace(made, walk=None), system)
    assert load_latents(tmp_path / "older", system).walk is None


def test_a_walk_that_is_unknown_here_is_refused(system, inverted, tmp_path):
    save_latents(tmp_path / "latents", inverted, system)
    content = (tmp_path / "latents").read_bytes()
    for other in (b'{\\"stops\\": 50, ', b'{\\"steps\\": -1, '):
        (tmp_path / "latents").write_bytes(content.replace(b'{\\"steps\\": 50, ', other))
        with pytest.raises(InputError, match="names no trajectory that is known here"):
            load_latents(tmp_path / "latents", system)


@pytest.mark.parametrize(
    ("change", "metadata"),
    [
        ({}, {"made_by": "[1]"}),
        ({}, {"made_by": "[" * 100_000}),
        ({}, {"made_by": None}),
        ({"x_T": torch.full((4, 3, 16, 16), float("nan"))}, {}),
        ({"z_i": torch.zeros(3, 8)}, {}),
        ({"tokens": torch.zeros(4, 8)}, {}),
    ],
)
def test_a_strangers_latents_are_one_line(system, inverted, tmp_path, change, metadata):
    save_latents(tmp_path / "latents", inverted, system)
    with safe_open(tmp_path / "latents", "pt") as file:
        said = {**file.metadata(), **metadata}
        tensors = {**{name: file.get_tensor(name) for name in file.keys()}, **change}  # noqa: SIM118
    save_file(tensors, tmp_path / "latents", {key: value for key, value in said.items() if value is not None})
    with pytest.raises(InputError, match="latents"):
        load_latents(tmp_path / "latents", system)


def test_a_full_disk_is_named_and_leaves_what_was_there(system, inverted, tmp_path, monkeypatch):
    file = tmp_path / "latents.safetensors"
    save_latents(file, inverted, system)
    before = file.read_bytes()

    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # As a write does, which names no file.

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as caught:
        save_latents(file, inverted[:1], system)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(file)
    assert file.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [file.name]


def test_latents_of_another_decoder_are_refused(system, inverted, tmp_path, stored_run):
    from modules.pipeline import UnCLIP

    file = tmp_path / "latents.safetensors"
    save_latents(file, inverted, system)
    with pytest.raises(InputError, match=r"inverted under another decoder .* invert the image again"):
        load_latents(file, UnCLIP.from_run(stored_run))


def test_files_that_hold_no_latents_are_refused(system, trained_run, tmp_path):
    (tmp_path / "text").write_text("no tensors")
    for file, message in (
        (tmp_path / "absent", "no latents at"),
        (tmp_path / "text", "cannot be read as latents"),
        (trained_run / "decoder" / "export" / "model.safetensors", "holds no inverted latents"),
    ):
        with pytest.raises(InputError, match=message):
            load_latents(file, system)


def test_wrong_numbers_are_refused(system, inverted):
    with pytest.raises(InputError, match="2 captions do not go with 6 pictures"):
        tokens_of(system, ["a", "b"], 6)
    with pytest.raises(InputError, match="steps and the batch size"):
        Walk(steps=0)
    with pytest.raises(InputError, match="trained with 1000 steps"):
        redraw(system, inverted, Walk(steps=1001))
    narrow = Latents(inverted.z_i[:, :8], inverted.x_T, inverted.tokens)
    with pytest.raises(InputError, match="takes z_i of 16 dimensions"):
        redraw(system, narrow)
