"""timm's own forward pass on the same weights; what is wrong is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from eval.errors import InputError
from eval.judges.timm_features import make_network

NAME = "test_vit"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("timm") / "tiny.safetensors"
    save_file(timm.create_model(NAME, num_classes=0).state_dict(), file)
    return file


def test_features_are_timms(weights: Path):
    images = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    model = timm.create_model(NAME, num_classes=0).eval()
    timm.models.load_checkpoint(model, str(weights))
    mean, std = (torch.tensor(model.default_cfg[key])[:, None, None] for key in ("mean", "std"))
    extractor = make_network(f"{NAME}={weights}")
    with torch.no_grad():
        torch.testing.assert_close(extractor(images), model((images.float() / 255 - mean) / std))
    assert extractor(images[:, :, :32, :32]).shape == (2, 64) and extractor.name.startswith(NAME)


def test_what_is_not_there(weights: Path, tmp_path: Path):
    with pytest.raises(InputError, match="timm knows no model 'nothing'"):
        make_network("nothing")
    (tmp_path / "junk").write_bytes(b"junk")
    for file in (tmp_path / "nowhere.pt", tmp_path / "junk"):
        with pytest.raises(InputError, match=f"cannot load the weights of {NAME}") as caught:
            make_network(f"{NAME}={file}")
        assert "\n" not in str(caught.value)
