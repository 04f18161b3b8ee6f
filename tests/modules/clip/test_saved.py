"""CLIPs that open_clip knows by name, written as the CLIP of a run: the way from `unclip embed` to `unclip sample`."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch

from experiments.cli import main
from modules.clip.frozen import FrozenCLIP
from modules.clip.saved import save_clip
from modules.errors import InputError

NAME = "ViT-of-a-test"
VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


@pytest.fixture
def weights(tmp_path):
    """A file of weights for a tiny architecture, that open_clip knows while the test runs."""
    config = tmp_path / f"{NAME}.json"
    config.write_text(json.dumps({"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}))
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    model = open_clip.create_model(NAME, force_quick_gelu=True)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    return str(tmp_path / "weights.pt")


def embeddings(clip):
    images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    return clip.encode_image(images), clip.encode_text(clip.tokenize(["a red circle", "a square"]))


def test_it_reads_back_as_the_same_clip(weights, tmp_path):
    clip = FrozenCLIP(NAME, weights)
    place = save_clip(clip, NAME, tmp_path / "run" / "clip")
    again = FrozenCLIP(str(place))
    assert again.fingerprint == clip.fingerprint and again.image_size == 32
    assert all(torch.equal(a, b) for a, b in zip(embeddings(clip), embeddings(again), strict=True))
    assert save_clip(clip, NAME, tmp_path / "run" / "clip") == place


def test_the_activation_is_that_of_the_network(weights, tmp_path):
    clip = FrozenCLIP(NAME, weights)
    clip.model = open_clip.create_model(NAME, pretrained=weights, force_quick_gelu=True).eval().requires_grad_(False)
    again = FrozenCLIP(str(save_clip(clip, NAME, tmp_path / "clip")))
    assert all(torch.equal(a, b) for a, b in zip(embeddings(clip), embeddings(again), strict=True))
    other = FrozenCLIP(NAME, weights)  # By its name it has GELU, and embeds otherwise.
    assert not torch.allclose(embeddings(other)[0], embeddings(again)[0], atol=1e-4)


def test_another_clip_is_not_written_over(weights, clip_folder, tmp_path):
    place = save_clip(FrozenCLIP(str(clip_folder)), str(clip_folder), tmp_path / "clip")
    assert FrozenCLIP(str(place)).fingerprint == FrozenCLIP(str(clip_folder)).fingerprint
    with pytest.raises(InputError, match="holds another CLIP"):
        save_clip(FrozenCLIP(NAME, weights), NAME, tmp_path / "clip")


def test_embed_puts_the_clip_where_sampling_looks_for_it(weights, tmp_path, tiny, monkeypatch):
    from modules.pipeline import UnCLIP

    (tmp_path / "data.yaml").write_text(
        "data:\n  class_path: datamodules.shapes.ShapesDataModule\n"
        "  init_args: {image_size: 32, train_size: 4, val_size: 2, test_size: 2, cache_dir: null}\n"
    )
    run = tmp_path / "run"
    words = ["embed", str(tmp_path / "data.yaml"), "--clip", NAME, "--pretrained", weights, "--device", "cpu"]
    assert main([*words, "--out", str(run / "embeddings"), "--save-clip", str(run / "clip")]) == 0
    info = json.loads((run / "embeddings" / "embeddings.json").read_text())
    system = UnCLIP(run)
    assert system.clip.fingerprint == info["clip_fingerprint"] and system.clip.embedding_dim == info["dim"] == 16
