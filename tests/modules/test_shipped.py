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
from modules.models.decoder import DecoderModel
from modules.models.exports import load_model
from modules.models.licences import attribution_of_run
from modules.pipeline import UnCLIP
from modules.shipped import newest
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
    whom = attribution_of_run(shipped.HERE / "drawings")
    for licence in ("Apache 2.0", "MIT", "CC BY 4.0", "CC BY-SA 4.0"):
        assert licence in whom and licence in notice
        assert f"- {licence}: " in (shipped.HERE / "drawings" / "README.md").read_text()
