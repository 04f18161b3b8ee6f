"""The benchmark of reading data: both sides make the same pictures of the same files."""

from __future__ import annotations

import torch

from benchmarks.made_up_data.formats import FORMATS
from benchmarks.timings.cases import CASES, rows
from benchmarks.timings.data import BATCH, TARGET, Plain, photographs
from benchmarks.timings.setting import Bench
from datamodules.image_folder import ImageFolderDataModule
from datamodules.pictures.module import SplitConfig


def test_every_format_is_timed_beside_the_plain_pipeline():
    assert "data" in CASES
    found = list(rows(Bench(torch.device("cpu"), pairs=1, shrink=32), only="data"))
    assert [result.name for result in found] == [
        *(f"data, {name}" for name in FORMATS),
        "data, draft_margin 1",
        "data, without draft",
    ]
    assert {result.peer for result in found} == {"PIL + torchvision"}
    assert all(result.ratio > 0 for result in found)


def test_the_plain_pipeline_gives_the_same_pictures(tmp_path):
    FORMATS["text files"].write(tmp_path, photographs(4))
    splits = SplitConfig(val_share=0.0, test_share=0.0)
    data = ImageFolderDataModule(str(tmp_path), image_size=TARGET, batch_size=BATCH, splits=splits)
    ours = data.dataset("train").__getitems__(range(4))
    plain = Plain(sorted(tmp_path.glob("*.jpg")))
    assert [plain[k][1] for k in range(4)] == ours.captions
    theirs = torch.stack([plain[k][0] for k in range(4)])
    assert theirs.std() > 0.2
    assert (theirs - ours.images).square().mean().sqrt() * 127.5 < 255 * 10 ** (-43 / 20)  # 43 dB
