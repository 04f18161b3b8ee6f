"""Weights that come with the package, and which run is drawn with where none is named."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modules import shipped
from modules.clip.folder import clip_folder
from modules.clip.frozen import FrozenCLIP
from modules.errors import InputError
from modules.images.tensors import to_uint8
from modules.manipulations.latents import Walk
from modules.models.decoder import DecoderModel
from modules.models.exports import load_model
from modules.models.licences import attribution_of_run
from modules.pipeline import UnCLIP
from modules.shipped import newest
from modules.training.measures import psnr
from modules.untrusted.weights import file_hash


@pytest.fixture
def weights(stored_run, tmp_path, monkeypatch):
    """A package with the weights of `stored_run` as shipped:tiny."""
    monkeypatch.setattr(shipped, "HERE", tmp_path)
    for stage in ("clip", "decoder", "diffusion_prior"):
        shutil.copytree(stored_run / stage / "export", tmp_path / "tiny" / stage)
    return tmp_path / "tiny"


def test_a_name_is_a_run(weights):
    assert shipped.shipped_names() == ["tiny"]
    assert shipped.run_folder("shipped:tiny") == weights
    assert UnCLIP.from_run("shipped:tiny").run == weights
    assert str(shipped.run_folder("runs/mine")) == "runs/mine"
    with pytest.raises(InputError, match="'shipped:none' come with the package; there are shipped:tiny"):
        UnCLIP.from_run("shipped:none")


def test_a_stage_is_named_below_it(weights, stored_run):
    given = load_model("shipped:tiny/decoder", DecoderModel)
    assert given.fingerprint == load_model(stored_run / "decoder", DecoderModel).fingerprint
    assert clip_folder("shipped:tiny") == clip_folder("shipped:tiny/clip") == str(weights / "clip")
    ours, theirs = (FrozenCLIP(name).state_dict() for name in ("shipped:tiny", str(weights / "clip")))
    assert ours and all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)
    for name in ("shipped:none", "shipped:none/clip"):
        with pytest.raises(InputError, match="'shipped:none' come with the package; there are shipped:tiny"):
            clip_folder(name)
    with pytest.raises(InputError, match=r"decoder/open_clip_config\.json cannot be read"):
        FrozenCLIP("shipped:tiny/decoder")


def test_the_newest_trained_run_else_what_is_shipped(stored_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert newest.newest_run() == "shipped:shapes"
    for age, name in enumerate(("older", "newer", "unfinished")):
        shutil.copytree(stored_run, tmp_path / "runs" / name)
        file = tmp_path / "runs" / name / "decoder" / "export" / "model.safetensors"
        os.utime(file, (1000 + age, 1000 + age))
    shutil.rmtree(tmp_path / "runs" / "unfinished" / "diffusion_prior")
    assert newest.newest_run() == "runs/newer"
    assert newest.chosen_run(None) == "runs/newer"
    assert "run: runs/newer" in capsys.readouterr().err
    assert newest.chosen_run("runs/older") == "runs/older"
    assert not capsys.readouterr().err


CAPTIONS = {
    "drawings": (
        "red heart in the Noto style",
        "full moon in the OpenMoji style",
        "grinning face in the Twitter style",
    ),
    "shapes": ("a large red circle", "a small blue square on a white background", "a green cross", "a purple triangle"),
}


def drawn_by_the_package(name: str) -> torch.Tensor:
    """(128, B x 128, 3) uint8: one picture of each caption."""
    system = UnCLIP.from_run(f"shipped:{name}")
    pictures = to_uint8(system.generate(CAPTIONS[name], seed=0))
    return torch.cat(list(pictures), dim=2).permute(1, 2, 0)


@pytest.mark.parametrize("name", CAPTIONS)
def test_what_is_shipped_draws_what_it_drew(name):
    """The stored pictures are of one CPU; another rounds otherwise, and a pixel may move at an edge.

    Without AVX (ATEN_CPU_CAPABILITY=default, DNNL_MAX_CPU_ISA=SSE41) the mean difference is 0.0001 of 255. Another
    seed's pictures differ by 49.
    """
    with Image.open(Path(__file__).with_name(f"shipped_{name}.png")) as picture:
        stored = torch.from_numpy(np.array(picture.convert("RGB"))).float()
    assert (drawn_by_the_package(name).float() - stored).abs().mean() < 1.0


@pytest.mark.parametrize("name", CAPTIONS)
def test_every_manipulation_works_on_what_is_shipped(name):
    system = UnCLIP.from_run(f"shipped:{name}")
    pictures = system.text_to_image(CAPTIONS[name][:2], seed=0)
    drawn, walk = pictures.tensor, Walk(16)

    latents = system.invert(list(pictures), walk=walk)
    again = system.reconstruct(latents).tensor
    assert float(psnr(again, drawn).min()) > 20
    assert float(psnr(again, drawn.flip(0)).max()) < 15
    assert torch.equal(system.image_variations(latents, eta=0).tensor, again)

    z_i = system.embed_image(drawn)
    others = system.embed_image(system.image_variations(list(pictures), seed=3).tensor)
    assert bool(((others * z_i).sum(1) > (others * z_i.flip(0)).sum(1)).all())  # Like its own picture, not the other.

    row = system.interpolate(latents, 3).tensor
    assert float(psnr(row[[0]], again[[0]]).min()) > 35
    assert float(psnr(row[[1]], row[[0]]).min()) < 25 and float(psnr(row[[1]], row[[2]]).min()) < 25

    same, turned = system.text_diff(latents[[0]], CAPTIONS[name][1], CAPTIONS[name][0], theta=[0.0, 0.5]).tensor
    assert float(psnr(same[None], again[[0]]).min()) > 35 and float(psnr(turned[None], same[None]).min()) < 25

    first = system.embed_image(system.mix(list(pictures), weights=[1, 0], seed=3).tensor)
    assert (first @ z_i.T).argmax() == 0
    between = system.interpolate_captions(CAPTIONS[name][:2], 3, walk=walk).tensor
    assert ((system.embed_image(between[[0, 2]]) @ z_i.T).argmax(1) == torch.arange(2)).all()

    side = drawn.shape[-1]
    mask = torch.zeros(1, side, side, dtype=torch.bool)
    mask[..., side // 2 :] = True
    filled = system.inpaint(pictures[0], mask, CAPTIONS[name][1], walk=Walk(8, guidance_scale=1.5), resamples=1).tensor
    changed = (filled - drawn[[0]]).abs()
    assert changed[..., : side // 2].max() < 0.02 and changed[..., side // 2 :].mean() > 0.1


def test_the_name_is_shown_not_the_folder():
    assert repr(UnCLIP.from_run("shipped:shapes")).startswith("UnCLIP('shipped:shapes', stages: ")


def test_cards_are_of_the_weights_beside_them():
    assert shipped.shipped_names() == sorted(CAPTIONS)
    for name in shipped.shipped_names():
        folder = shipped.run_folder(f"shipped:{name}")
        for weights in folder.glob("*/*.safetensors"):
            card = (weights.parent / "README.md").read_text()
            assert "seed: 0" in card and "license:" in card
            assert f"{weights.stat().st_size / 1e6:.1f} MB, sha256 `{file_hash(weights)}`" in card
        assert {path.parent.name for path in folder.glob("*/*.safetensors")} >= set(newest.NEEDED)


def test_all_weights_together_are_small():
    """Whoever clones the repository gets them."""
    assert sum(path.stat().st_size for path in shipped.HERE.rglob("*.safetensors")) < 15e6


def test_drawings_name_whom_their_licences_ask_to_name():
    notice = (shipped.HERE / "drawings" / "NOTICE.txt").read_text()
    assert "APACHE-2.0.txt" in notice  # Its section 4 asks for a copy.
    terms = (shipped.HERE / "drawings" / "APACHE-2.0.txt").read_text()
    assert "Version 2.0" in terms and "9. Accepting Warranty" in terms and "END OF TERMS AND CONDITIONS" in terms
    assert "CC BY-SA 4.0" in notice.split("authors are to be named")[0]
    cards = list((shipped.HERE / "drawings").rglob("README.md"))
    assert len(cards) == 5
    for card in cards:
        text = card.read_text()
        assert "license: cc-by-sa-4.0" in text and "offered under CC BY-SA 4.0" in text and "NOTICE.txt)" in text
    whom = attribution_of_run(shipped.HERE / "drawings")
    for licence in ("Apache 2.0", "MIT", "CC BY 4.0", "CC BY-SA 4.0"):
        assert licence in whom and licence in notice
        assert f"- {licence}: " in (shipped.HERE / "drawings" / "README.md").read_text()
