"""A folder of drawings with captions, as a person's own pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.rendered.scenes import make_pair, render


@pytest.fixture(scope="module")
def own_pictures(tmp_path_factory) -> Path:
    """120 scenes of 128 px, each with a text file; one picture is damaged."""
    folder = tmp_path_factory.mktemp("own") / "my pictures"
    folder.mkdir()
    for k in range(120):
        pair = make_pair("train", k)
        Image.fromarray(np.asarray(render(pair.scene, 128))).save(folder / f"{k:03}.png")
        (folder / f"{k:03}.txt").write_text(pair.caption)
    (folder / "007.png").write_bytes(b"no picture")
    return folder
