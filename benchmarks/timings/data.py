"""Reading data: pictures a second and core from every format, beside the plain PIL and torchvision pipeline."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.made_up_data.formats import FORMATS, Format, Sample, encoded
from benchmarks.timings.setting import Bench
from benchmarks.timings.timing import Result, paired
from datamodules.pictures.decoding import PictureConfig
from datamodules.pictures.module import SplitConfig

SIDE, TARGET, BATCH = 256, 64, 32


def photographs(count: int, side: int = SIDE) -> list[Sample]:
    """JPEGs of quality 90: random squares of scikit-learn's two photographs, brought to side x side."""
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(array) for array in load_sample_images().images]
    rng = np.random.default_rng(0)
    found = []
    for index in range(count):
        photo = photos[index % len(photos)]
        edge = int(rng.integers(200, 420))
        left, top = (int(rng.integers(room - edge + 1)) for room in photo.size)
        square = photo.resize((side, side), Image.Resampling.BICUBIC, (left, top, left + edge, top + edge))
        captions = ("a temple or a flower", f"photograph {index}")
        found.append(Sample(f"photograph_{index:05d}.jpg", encoded(square, quality=90), captions))
    return found


class Plain(Dataset[tuple[Tensor, str]]):
    """Picture files with torchvision's usual transforms, a picture at a time."""

    def __init__(self, files: list[Path]) -> None:
        from torchvision import transforms

        self.files = files
        self.captions = [file.with_suffix(".txt").read_text().splitlines()[0] for file in files]
        self.transform = transforms.Compose(
            [
                transforms.Resize(TARGET, transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(TARGET),
                transforms.ToTensor(),
                transforms.Normalize([0.5] * 3, [0.5] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB")), self.captions[index]


def reading(format: Format, folder: Path, batch: int, **picture: Any) -> Callable[[], int]:
    """A pass of the training loader of our DataModule, in this process."""
    data = format.open(
        folder,
        image_size=TARGET,
        batch_size=batch,
        splits=SplitConfig(val_share=0.0, test_share=0.0),
        picture=PictureConfig(**picture),
    )
    return lambda: sum(len(batch.images) for batch in data.train_dataloader())


def data_reading(bench: Bench) -> Iterator[Result]:
    """A pass over JPEGs of 256 px at 64 px, from each format, against the plain pipeline on the same files."""
    with tempfile.TemporaryDirectory() as name:
        folder, photos = Path(name), photographs(bench.batch(256))
        batch = min(BATCH, len(photos))
        for label, format in FORMATS.items():
            format.write(folder / label, photos)
        files = sorted((folder / "text files").glob("*.jpg"))
        plain = DataLoader(Plain(files), batch_size=batch, shuffle=True)

        def peer() -> int:
            return sum(len(images) for images, _ in plain)

        ours = {f"data, {label}": reading(format, folder / label, batch) for label, format in FORMATS.items()}
        ours["data, draft_margin 1"] = reading(FORMATS["text files"], folder / "text files", batch, draft_margin=1.0)
        ours["data, without draft"] = reading(FORMATS["text files"], folder / "text files", batch, draft=False)
        for label, run in ours.items():
            assert run() == peer() == len(files)
            yield paired(label, run, "PIL + torchvision", peer, torch.device("cpu"), bench.pairs)
