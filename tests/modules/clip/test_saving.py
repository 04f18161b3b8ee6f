"""A pretrained CLIP by name, written as a folder that a run draws with; and names that open_clip does not know."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch

from modules.clip.frozen import FrozenCLIP, check_architecture, nearest
from modules.clip.saving import save_clip
from modules.errors import InputError

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of "tiny-clip", an architecture that open_clip now knows by name."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-clip.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / "tiny-clip.json")
    torch.manual_seed(0)
    torch.save(open_clip.create_model("tiny-clip").state_dict(), folder / "weights.pt")
    return folder / "weights.pt"


def test_the_folder_is_the_same_clip(weights, tmp_path):
    clip = FrozenCLIP("tiny-clip", str(weights))
    save_clip(clip, "tiny-clip", tmp_path / "export")
    again = FrozenCLIP(str(tmp_path / "export"))
    assert again.fingerprint == clip.fingerprint and again.vocab_size == 49408 and again.image_size == 32
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert torch.equal(again.encode_image(images), clip.encode_image(images))
    tokens = clip.tokenize(["a red circle"])
    assert torch.equal(again.tokenize(["a red circle"]), tokens)
    assert torch.equal(again.encode_text(tokens), clip.encode_text(tokens))


def test_another_activation_is_found_out(weights, tmp_path, monkeypatch):
    clip = FrozenCLIP("tiny-clip", str(weights))
    config = {**TINY, "quick_gelu": True}
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: config)
    with pytest.raises(InputError, match="gives other embeddings than the CLIP that was written"):
        save_clip(clip, "tiny-clip", tmp_path / "export")


@pytest.mark.parametrize(
    ("name", "pretrained", "said"),
    [
        ("ViT-B-23", None, r"no CLIP at ViT-B-23.*; did you mean ViT-B-32"),
        ("vit-b-32", None, r"did you mean ViT-B-32\?"),
        ("ViT-B-32", "opneai", r"open_clip has no weights 'opneai' of ViT-B-32; did you mean openai\?"),
        ("ViT-B-32", "/no/such.pt", "no file of weights at /no/such.pt; for ViT-B-32 open_clip knows openai"),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest(name, pretrained, said):
    with pytest.raises(InputError, match=said):
        check_architecture(name, pretrained)
    if pretrained:
        with pytest.raises(InputError, match=said):
            FrozenCLIP(name, pretrained)


def test_right_names_pass():
    check_architecture("ViT-B-32", "openai")
    check_architecture("hf-hub:someone/a-clip")
    assert nearest("zzz", ["ViT-B-32"]) == ""
