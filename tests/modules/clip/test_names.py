"""Names of architectures and weights that open_clip does not know."""

from __future__ import annotations

import pytest

from modules.clip.frozen import FrozenCLIP, check_architecture, nearest
from modules.errors import InputError


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
