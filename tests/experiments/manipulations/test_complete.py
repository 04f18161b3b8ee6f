"""`unclip complete`: the rows that are given stay, the rest is DALL-E's own draw."""

from __future__ import annotations

import shutil

import pytest
import torch
from PIL import Image

from datamodules.rendered.scenes import make_pair, render
from experiments.cli import main
from experiments.manipulations.tokens import complete as command
from modules.errors import InputError
from modules.manipulations.completion import complete
from modules.pipeline import UnCLIP
from modules.seeds import ImageSeeds

CAPTIONS = ["a small red circle", "a large blue square"]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    pictures = [torch.from_numpy(render(make_pair("test", k).scene, 16)) for k in range(2)]
    return torch.stack(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_no_rows_given_is_a_plain_picture_and_all_given_is_the_reconstruction(stored_run, images):
    system, seeds = UnCLIP(stored_run), ImageSeeds.of(0, 2)
    plain = system.generate(CAPTIONS, "dalle", upsample=False)
    torch.testing.assert_close(complete(system, images, CAPTIONS, 0, seeds), plain)
    dvae = system.dvae()
    again = dvae.decode(dvae.encode(images))
    torch.testing.assert_close(complete(system, images, CAPTIONS, dvae.grid, seeds), again)
    with pytest.raises(InputError, match="the grid of tokens has 4"):
        complete(system, images, CAPTIONS, 5, seeds)


def test_the_given_rows_are_the_pictures_own(stored_run, images, monkeypatch):
    system = UnCLIP(stored_run)
    dvae, seen = system.dvae(), []
    sample = UnCLIP.sample_tokens
    monkeypatch.setattr(UnCLIP, "sample_tokens", lambda *words: seen.append(sample(*words)) or seen[-1])
    complete(system, images, CAPTIONS, 2, ImageSeeds.of(3, 2))
    assert torch.equal(seen[0][:, :2], dvae.encode(images)[:, :2])


def test_the_command_draws_a_page(stored_run, images, tmp_path, capsys):
    for k, image in enumerate(images):
        Image.fromarray(((image + 1) * 127.5).byte().permute(1, 2, 0).numpy()).save(tmp_path / f"{k}.png")
    words = ["complete", *(str(tmp_path / f"{k}.png") for k in range(2)), "--run", str(stored_run), "--rows", "2"]
    words += ["--fills", "2", "--out", str(tmp_path / "figure"), "--size", "16"]
    assert main(words) == 2
    assert "give --caption" in capsys.readouterr().err
    assert main([*words, "--caption", CAPTIONS[0]]) == 0
    assert "first 2 of 4 rows of tokens" in capsys.readouterr().out
    assert len(list((tmp_path / "figure" / "images").iterdir())) == 4
    assert main([*words, "--caption", CAPTIONS[0], "--rows", "4", "--overwrite"]) == 2
    assert "--rows is 4" in capsys.readouterr().err


def test_a_run_without_a_stage_and_rows_that_there_are_not_are_refused(stored_run, tmp_path, capsys):
    Image.new("RGB", (16, 16)).save(tmp_path / "picture.png")
    words = ["complete", str(tmp_path / "picture.png"), "--caption", CAPTIONS[0], "--out", str(tmp_path / "figure")]
    for name in ("dvae", "token_transformer"):
        run = shutil.copytree(stored_run, tmp_path / name, ignore=lambda _, names, name=name: {name} & set(names))
        assert main([*words, "--run", str(run), "--size", "16", "--rows", "2"]) == 2
        said = capsys.readouterr().err
        assert str(run / name) in said and "Traceback" not in said
    for rows in ("-1", "4"):
        assert main([*words, "--run", str(stored_run), "--rows", rows]) == 2
        assert f"--rows is {rows}: of the 4 rows of tokens give 0 to 3" in capsys.readouterr().err
    assert not (tmp_path / "figure").exists()


def test_pictures_are_drawn_in_batches_and_do_not_depend_on_them(stored_run, images, tmp_path, monkeypatch, capsys):
    counts = []
    whole = command.complete
    monkeypatch.setattr(command, "complete", lambda system, x, *rest: counts.append(len(x)) or whole(system, x, *rest))
    for k, image in enumerate(images):
        Image.fromarray(((image + 1) * 127.5).byte().permute(1, 2, 0).numpy()).save(tmp_path / f"{k}.png")
    words = ["complete", *(str(tmp_path / f"{k}.png") for k in range(2)), "--run", str(stored_run), "--rows", "1"]
    words += ["--fills", "2", "--size", "16", "--caption", CAPTIONS[0]]
    for size in ("3", "100"):
        assert main([*words, "--batch-size", size, "--out", str(tmp_path / size)]) == 0
    capsys.readouterr()
    assert counts == [3, 1, 4]
    names = sorted(path.name for path in (tmp_path / "3" / "images").iterdir())
    drawn = [[Image.open(tmp_path / size / "images" / name).tobytes() for name in names] for size in ("3", "100")]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 1
