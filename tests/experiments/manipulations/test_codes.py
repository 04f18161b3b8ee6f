"""`unclip codes`: a code's patch is what it decodes to among its like, and a mosaic puts patches in their places."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from experiments.cli import main
from experiments.manipulations.tokens.codes import codebook
from modules.images.tensors import to_uint8
from modules.manipulations.codebook import mosaic, patches
from modules.models.dalle1.dvae import DVAEModel
from modules.pipeline import UnCLIP


@pytest.fixture(scope="module")
def dvae(stored_run):
    return UnCLIP(stored_run).dvae()


def test_a_patch_is_the_middle_of_a_picture_of_one_code(dvae):
    found = patches(dvae, torch.tensor([3, 0, 5]), batch_size=2)
    whole = dvae.decode(torch.full((1, dvae.grid, dvae.grid), 5))
    factor, first = dvae.network.factor, dvae.grid // 2 * dvae.network.factor
    torch.testing.assert_close(found[2], whole[0, :, first : first + factor, first : first + factor])
    assert found.shape == (3, 3, factor, factor) and not torch.equal(found[0], found[2])


def test_a_mosaic_has_each_codes_patch_in_its_place():
    codes, tokens = torch.tensor([2, 5, 9]), torch.tensor([[[5, 2, 9], [9, 9, 2]]])
    drawn = torch.arange(3 * 3 * 4.0).reshape(3, 3, 2, 2)
    found = mosaic(tokens, codes, drawn)
    assert found.shape == (1, 3, 4, 6)
    for row in range(2):
        for column in range(3):
            own = drawn[codes.tolist().index(tokens[0, row, column])]
            assert torch.equal(found[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2], own)


def test_the_command_shows_pictures_and_the_codes_that_they_use(stored_run, tmp_path, monkeypatch, capsys):
    """Two pictures, the first of code 0 alone and the second of code 1."""
    monkeypatch.setattr(DVAEModel, "encode", lambda self, x: torch.arange(len(x))[:, None, None].expand(-1, 4, 4))
    for k in range(2):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{k}.png")
    words = ["codes", *(str(tmp_path / f"{k}.png") for k in range(2)), "--run", str(stored_run), "--shown", "2"]
    assert main([*words, "--out", str(tmp_path / "codes")]) == 0
    said = capsys.readouterr().out
    assert "2 pictures of 4 x 4 tokens use 2 of " in said and "a perplexity of 2.0" in said
    record = json.loads((tmp_path / "codes" / "figure.json").read_text())
    assert record["pictures"] == ["figure.png", "codebook.png"]
    assert record["numbers"] == {"codes used": 2, "perplexity": pytest.approx(2)}


def test_a_codebook_has_rows_of_sixteen_in_the_order_given():
    drawn = torch.linspace(-1, 1, 18)[:, None, None, None].expand(18, 3, 2, 2)
    page = codebook(drawn, torch.full((18,), 1 / 18))
    seen = {page.getpixel((x, y)) for x in range(page.width) for y in range(page.height)}
    assert {tuple(to_uint8(patch)[:, 0, 0].tolist()) for patch in drawn} <= seen
    assert page.width > 16 * 40 and page.height > 2 * 40
