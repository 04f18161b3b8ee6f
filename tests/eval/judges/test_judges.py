"""Features are computed once, by whatever batches; a changed image is looked at again, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from eval.errors import InputError
from eval.judges.aesthetics import LinearProbe
from eval.judges.features import AttributeExtractor
from eval.judges.judges import Judges, look
from experiments.console.errors import guarded


class Counting:
    def __init__(self, name: str = "counting", resizing: str = "none") -> None:
        self.name, self.resizing, self.images = name, resizing, 0

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.images += len(images)
        return images.float().mean((2, 3))


def test_batches_and_cache_change_nothing(make_folder, classifier, tmp_path: Path):
    folder = make_folder("a")
    judges = Judges(AttributeExtractor(classifier), network=Counting())
    plain = look(folder, judges, batch_size=16)
    for batch_size in (3, 16):
        for cache in (None, tmp_path / f"cache{batch_size}", tmp_path / f"cache{batch_size}"):
            seen = look(folder, judges, batch_size, cache=cache)
            for name in ("network", "classifier"):
                np.testing.assert_allclose(seen.features[name], plain.features[name], rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(seen.classes, plain.classes)
    assert judges.main == "network" and judges.extractor is judges.network


def test_each_image_is_looked_at_once(make_folder, tmp_path: Path):
    folder, done = make_folder("a"), []
    network = Counting()
    for _ in range(3):
        look(folder, Judges(network=network), batch_size=5, tick=done.append, cache=tmp_path / "cache")
    assert network.images == 16 and done == [5, 5, 5, 1, 16, 16]
    look(folder, Judges(network=Counting("another")), cache=tmp_path / "cache")
    copy = make_folder("copy")  # the same images elsewhere: the content counts
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2
    look(copy, Judges(network=network), cache=tmp_path / "cache")
    assert network.images == 16
    resized = Counting(resizing="bilinear")  # the same network, to which images come in another way
    look(folder, Judges(network=resized), cache=tmp_path / "cache")
    assert resized.images == 16
    look(make_folder("other", seed=1), Judges(network=network), cache=tmp_path / "cache")
    assert network.images == 32


def test_features_from_the_cache_are_memory_maps(make_folder, tmp_path: Path):
    seen = look(make_folder("a"), Judges(network=Counting()), cache=tmp_path / "cache")
    assert isinstance(seen.features["network"], np.memmap)


def test_an_image_that_changed_is_refused(make_folder, tmp_path: Path):
    folder = make_folder("a")
    look(folder, Judges(network=Counting()), cache=tmp_path / "cache")
    (folder.path / "00003.png").write_bytes((folder.path / "00004.png").read_bytes())
    with pytest.raises(InputError, match=r"00003\.png is not the image that the manifest describes"):
        look(folder, Judges(network=Counting()), cache=tmp_path / "cache")


def test_nothing_is_left_of_an_interrupted_look(make_folder, tmp_path: Path):
    class Failing(Counting):
        def __call__(self, images):
            if self.images:
                raise KeyboardInterrupt
            return super().__call__(images)

    with pytest.raises(KeyboardInterrupt):
        look(make_folder("a"), Judges(network=Failing()), batch_size=4, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write features"):
        look(make_folder("b"), Judges(network=Counting()), cache=tmp_path / "file")


def test_probes_need_a_clip():
    probe = LinearProbe("aesthetic", "clip", np.ones(3), 0, {})
    with pytest.raises(InputError, match="give --clip as well"):
        Judges(network=Counting(), aesthetic=probe)


class Wide(Counting):
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return super().__call__(images).mean(1, keepdim=True).repeat(1, 4096)


def test_a_full_disk_is_one_line_and_leaves_nothing(make_folder, small_disk):
    """16 images x 4,096 features of 4 bytes are 256 KiB: mapped, they would end the process with SIGBUS."""
    folder, cache = make_folder("a"), small_disk.path / "cache"

    def work() -> int:
        return guarded(lambda: len(look(folder, Judges(network=Wide()), 4, cache=cache).features) - 1)

    done = small_disk("128k", work)
    assert done.error == f"unclip: cannot write features to {cache}: No space left on device\n"
    assert (done.code, done.files) == (2, [])
    done = small_disk("1m", work)
    assert (done.code, len(done.files)) == (0, 1)
