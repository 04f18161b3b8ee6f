"""Extractors: each against the library that it wraps, called directly."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from eval.errors import InputError
from eval.judges.built_in import INCEPTION_FILE, INCEPTION_VARIABLE
from eval.judges.features import (
    AttributeExtractor,
    InceptionExtractor,
    batches,
    find_inception,
    fingerprint,
    load_clip,
)
from eval.judges.judges import Judges, look

TEXT = {"context_length": 6, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}
CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8},
    "text_cfg": TEXT,
}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def images(n: int = 6, size: int = 16) -> Tensor:
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "small_clip"
    folder.mkdir()
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**CONFIG).state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": MEAN, "std": STD, "size": 16, "interpolation": "bicubic"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": preprocess}))
    return folder


def tokenize(captions: list[str]) -> Tensor:
    rows = [[len(word) for word in caption.split()][:5] for caption in captions]
    return torch.tensor([[*row, 19, *[0] * (5 - len(row))] for row in rows])


def test_clip_against_open_clip(clip_folder: Path):
    extractor = load_clip(str(clip_folder), tokenizer=tokenize)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    model.eval()
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    captions = ["a b ccc", "dd", "a b ccc"]
    with torch.inference_mode():
        expected = model.encode_image((images().float() / 255 - mean) / std)
        texts = model.encode_text(tokenize(captions))
    torch.testing.assert_close(extractor(images()), expected)
    torch.testing.assert_close(extractor.encode_text(captions), texts)
    torch.testing.assert_close(load_clip(str(clip_folder), tokenizer=tokenize).encode_text(captions, 1), texts)
    assert extractor.fingerprint == fingerprint(model) and re.fullmatch(r"small_clip [0-9a-f]{8}", extractor.name)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["preprocess_cfg"].update(mean=[0.5, 0.5, 0.6]),
        lambda config: config["preprocess_cfg"].update(std=[0.5, 0.3, 0.4]),
        lambda config: config["model_cfg"].update(quick_gelu=True),
    ],
)
def test_the_same_weights_otherwise_used_are_another_judge(clip_folder: Path, tmp_path: Path, change, make_folder):
    """Or a cache would give the features of one for the other's."""
    other = tmp_path / "small_clip"
    shutil.copytree(clip_folder, other)
    config = json.loads((other / "open_clip_config.json").read_text())
    change(config)
    (other / "open_clip_config.json").write_text(json.dumps(config))
    first, second = (load_clip(str(folder)) for folder in (clip_folder, other))
    assert first.fingerprint == second.fingerprint and first.name != second.name
    folder = make_folder("samples", captions=3)
    seen = [look(folder, Judges(clip=clip), cache=tmp_path / "cache").features["clip"] for clip in (first, second)]
    assert not np.allclose(*seen, atol=1e-3)
    np.testing.assert_allclose(seen[1], second(folder.images()), atol=1e-5)


def test_another_vocabulary_is_another_judge(clip_folder: Path, tmp_path: Path):
    names = []
    for word in ("red", "green", "red"):
        folder = tmp_path / str(len(names)) / "small_clip"
        shutil.copytree(clip_folder, folder)
        (folder / "vocabulary.json").write_text(json.dumps([word]))
        names.append(load_clip(str(folder)).name)
    assert names[0] == names[2] != names[1]


def test_clip_resizes_antialiased(clip_folder: Path):
    extractor = load_clip(str(clip_folder))
    large = images(2, size=64)
    small = F.interpolate(large.float() / 255, (16, 16), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    with torch.inference_mode():
        torch.testing.assert_close(extractor(large), extractor.model.encode_image((small - mean) / std))


def test_clip_computes_each_caption_once(clip_folder: Path):
    asked: list[str] = []

    def counting(captions: list[str]) -> Tensor:
        asked.extend(captions)
        return tokenize(captions)

    clip = load_clip(str(clip_folder), tokenizer=counting)
    first = clip.encode_text(["a", "bb", "a", "a"])
    assert asked == ["a", "bb"]
    again = clip.encode_text(["a", "bb", "bb"])  # another metric, or the next folder, asks for them
    assert asked == ["a", "bb"] and torch.equal(again, first[[0, 1, 1]])
    other = clip.encode_text(["ccc", "a"])
    assert asked == ["a", "bb", "ccc", "a"] and torch.equal(other[1], first[0])
    with pytest.raises(ValueError, match="without a tokenizer"):
        load_clip(str(clip_folder)).encode_text(["a"])


def test_no_clip(tmp_path: Path):
    for name in (str(tmp_path / "nowhere"), "ViT-B-32"):
        with pytest.raises(InputError, match=f"no CLIP at {name}"):
            load_clip(name)
    with pytest.raises(InputError, match="cannot load the CLIP") as caught:
        load_clip(str(tmp_path))  # an empty folder
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot load the CLIP ViT-B-32"):
        load_clip("ViT-B-32", "no_such_weights")


def test_a_folder_without_weights_is_refused(clip_folder: Path, tmp_path: Path):
    (tmp_path / "open_clip_config.json").write_bytes((clip_folder / "open_clip_config.json").read_bytes())
    with pytest.raises(InputError, match="cannot load the CLIP"):  # not random weights in silence
        load_clip(str(tmp_path))


def test_fingerprint_is_of_the_weights(classifier):
    before = fingerprint(classifier.network)
    assert len(before) == 8 and fingerprint(classifier.network) == before
    with torch.no_grad():
        next(classifier.parameters())[0, 0, 0, 0] += 1e-4
    assert fingerprint(classifier.network) != before


def test_attribute_extractor(classifier):
    extractor = AttributeExtractor(classifier)
    expected = classifier.look(images().float() / 127.5 - 1)
    torch.testing.assert_close(extractor(images()), expected.features)
    assert torch.equal(extractor.look(images()).classes, expected.classes)
    assert extractor(images()).shape == (6, 6)


def test_the_order_of_attributes_makes_another_judge(classifier):
    """Heads have no names: with other classes for the same weights all accuracies would be others."""
    turned = dict(reversed(classifier.attributes.items()))
    renamed = {name: tuple(reversed(classes)) for name, classes in classifier.attributes.items()}
    names = {AttributeExtractor(classifier).name}
    for attributes in (turned, renamed):
        other = copy.copy(classifier)
        other.attributes = attributes
        names.add(AttributeExtractor(other).name)
    assert len(names) == 3


def test_batches(make_folder):
    folder = make_folder("a", captions=5, per_caption=1)
    parts = list(batches(folder, 2))
    assert [len(part) for part in parts] == [2, 2, 1] and torch.equal(torch.cat(parts), folder.images())


class FakeInception(nn.Module):
    """Has the two ways in that clean-fid uses of its torchscript file."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AvgPool2d(66), nn.Flatten(), nn.Linear(48, 2048))

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        return self.layers(x)


@pytest.fixture
def inception_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.jit.script(FakeInception()).save(str(tmp_path / "renamed.pt"))
    return tmp_path / "renamed.pt"


def test_inception_against_clean_fid(inception_file: Path, tmp_path: Path):
    from cleanfid.features import build_feature_extractor  # noqa: F401  (its real import works)
    from cleanfid.fid import get_batch_features
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer

    (tmp_path / INCEPTION_FILE).symlink_to(inception_file)
    model, resize = InceptionV3W(str(tmp_path), download=False), build_resizer("clean")
    resized = torch.stack([torch.from_numpy(resize(np.asarray(x.permute(1, 2, 0)))).permute(2, 0, 1) for x in images()])
    expected = get_batch_features(resized, model, torch.device("cpu"))
    found = InceptionExtractor(inception_file)(images())
    assert found.shape == (6, 2048)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_inception_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inception_file: Path):
    monkeypatch.delenv(INCEPTION_VARIABLE, raising=False)
    assert find_inception() is None
    with pytest.raises(InputError, match="no Inception weights at nowhere"):
        find_inception("nowhere")
    monkeypatch.setenv(INCEPTION_VARIABLE, str(inception_file))
    assert find_inception() == inception_file
    assert find_inception(str(inception_file)) == inception_file
    names = [InceptionExtractor(inception_file).name]
    torch.manual_seed(1)
    torch.jit.script(FakeInception()).save(str(inception_file))
    names.append(InceptionExtractor(inception_file).name)
    assert all(re.fullmatch(r"Inception-v3 \(clean-fid\) [0-9a-f]{8}", name) for name in names) and names[0] != names[1]
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(InputError, match=f"junk.pt is not {INCEPTION_FILE}") as caught:
        InceptionExtractor(tmp_path / "junk.pt")
    assert "\n" not in str(caught.value)
