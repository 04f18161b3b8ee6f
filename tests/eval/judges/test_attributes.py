"""The attribute classifier: it learns, counts what applies, exports itself, and is the same for the same seed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import lightning
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader

from eval.errors import InputError
from eval.judges.attributes import (
    AttributeClassifier,
    AttributeNetwork,
    attribute_loss,
    export_classifier,
    load_classifier,
    warm_up_then_cosine,
)

ATTRIBUTES = {"tone": ["dark", "light"], "side": ["left", "right", "none"]}


class Batch(NamedTuple):
    images: Tensor
    attributes: Tensor | None


def batches(n: int, seed: int, size: int = 16, batch_size: int = 32) -> list[Batch]:
    """Dark or light pictures, some with a red half; the side applies to dark ones only."""
    g = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(n):
        tone = torch.randint(0, 2, (batch_size,), generator=g)
        side = torch.randint(0, 3, (batch_size,), generator=g)
        images = (tone - 0.5)[:, None, None, None] + 0.1 * torch.randn(batch_size, 3, size, size, generator=g)
        images[side == 0, 0, :, : size // 2] += 0.5
        images[side == 1, 0, :, size // 2 :] += 0.5
        made.append(Batch(images, torch.stack([tone, torch.where(tone == 0, side, -1)], dim=1)))
    return made


def adam(parameters):
    return torch.optim.Adam(parameters, lr=5e-3)


def fit(folder: Path, steps: int = 60, **kwargs) -> tuple[AttributeClassifier, lightning.Trainer]:
    lightning.seed_everything(0, verbose=False)
    classifier = AttributeClassifier(ATTRIBUTES, adam, image_size=16, width=8, features=8)
    trainer = lightning.Trainer(
        max_steps=steps, default_root_dir=folder, logger=CSVLogger(folder), enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu", log_every_n_steps=1,
        num_sanity_val_steps=0, **kwargs,
    )  # fmt: skip
    train = DataLoader(batches(steps, seed=0), batch_size=None)
    trainer.fit(classifier, train, DataLoader(batches(4, seed=1), batch_size=None))
    return classifier, trainer


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("fit")
    return folder, *fit(folder)


def test_it_learns_and_logs(fitted):
    folder, _, trainer = fitted
    logged = trainer.callback_metrics
    assert logged["val/accuracy/tone"] > 0.99 and logged["val/accuracy/side"] > 0.95
    assert logged["val/loss"] < 0.6 and "train/loss" in logged
    assert {p.name for p in (folder / "export").iterdir()} == {"config.yaml", "model.safetensors"}


def test_validation_counts_only_what_applies(fitted):
    _, classifier, trainer = fitted
    images, truth = (torch.cat(parts) for parts in zip(*batches(4, seed=1), strict=True))
    seen = classifier.look(images).classes
    dark = truth[:, 1] >= 0
    assert trainer.callback_metrics["val/accuracy/tone"].item() == pytest.approx(
        (seen[:, 0] == truth[:, 0]).float().mean().item()
    )
    assert trainer.callback_metrics["val/accuracy/side"].item() == pytest.approx(
        (seen[dark, 1] == truth[dark, 1]).float().mean().item()
    )


def test_the_export_is_the_classifier(fitted):
    folder, classifier, _ = fitted
    images = batches(1, seed=2)[0].images
    for place in (folder, folder / "export"):
        loaded = load_classifier(place)
        assert not loaded.training and loaded.attributes == classifier.attributes
        seen, expected = loaded.look(images), classifier.look(images)
        assert torch.equal(seen.classes, expected.classes) and torch.equal(seen.features, expected.features)
    assert seen.features.shape == (32, 8)


def test_same_seed_same_weights(fitted, tmp_path: Path):
    _, classifier, _ = fitted
    again, _ = fit(tmp_path)
    for one, other in zip(classifier.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_features_do_not_depend_on_the_batch(fitted):
    images = batches(1, seed=2)[0].images
    classifier = fitted[1].train()  # normalisation by batch must not come into it
    before = [buffer.clone() for buffer in classifier.buffers()]
    whole = classifier.features(images)
    parts = torch.cat([classifier.features(images[:5]), classifier.features(images[5:])])
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)
    assert classifier.training
    assert all(torch.equal(a, b) for a, b in zip(before, classifier.buffers(), strict=True))


def test_larger_images_are_resized_antialiased(fitted):
    images = batches(1, seed=2, size=64)[0].images
    small = F.interpolate(images, (16, 16), mode="bilinear", antialias=True, align_corners=False)
    aliased = F.interpolate(images, (16, 16), mode="bilinear", align_corners=False)
    classifier = fitted[1]
    torch.testing.assert_close(classifier.features(images), classifier.features(small))
    assert not torch.allclose(classifier.features(images), classifier.features(aliased))


def test_loss_by_hand():
    logits = [torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0, 1.0], [9.0, 9.0, 9.0]])]
    classes = torch.tensor([[0, 2], [1, -1]])
    first = (torch.log(1 + torch.exp(torch.tensor(-2.0))) + torch.log(torch.tensor(2.0))) / 2
    assert attribute_loss(logits, classes) == pytest.approx(first + torch.log(torch.tensor(3.0)))
    nowhere = attribute_loss(logits, torch.tensor([[0, -1], [1, -1]]))
    assert nowhere == pytest.approx(first)  # an attribute that applies to no image adds nothing, not nan


def test_learning_rate():
    factor = warm_up_then_cosine(100)
    assert [factor(k) for k in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1, 1])
    assert [factor(k) for k in (55, 100, 200)] == pytest.approx([0.5, 0, 0], abs=1e-6)


def test_sizes():
    network = AttributeNetwork([2, 3], image_size=64, width=4, features=8)
    logits, features = network(torch.zeros(2, 3, 64, 64))
    assert [head.shape for head in logits] == [(2, 2), (2, 3)] and features.shape == (2, 8)
    for size in (4, 24, 33):
        with pytest.raises(ValueError, match=f"found {size}"):
            AttributeNetwork([2], size, 4, 8)


def test_data_without_truth():
    classifier = AttributeClassifier(ATTRIBUTES, adam, image_size=16, width=4, features=8)
    images, attributes = batches(1, seed=0)[0]
    with pytest.raises(InputError, match="needs 2 attribute columns, the data have none"):
        classifier.training_step(Batch(images, None), 0)
    with pytest.raises(InputError, match="the data have 1"):
        classifier.training_step(Batch(images, attributes[:, :1]), 0)


def test_a_full_disk_leaves_the_export_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    export = tmp_path / "export"
    classifier = AttributeClassifier(ATTRIBUTES, adam, image_size=16, width=4, features=8)
    export_classifier(classifier, export)
    before = {path.name: path.read_bytes() for path in export.iterdir()}

    def full(path: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"cannot write .*export: No space left on device; free space"):
        export_classifier(classifier, export)
    assert {path.name: path.read_bytes() for path in export.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_damaged_exports(tmp_path: Path):
    export = tmp_path / "export"
    export_classifier(AttributeClassifier(ATTRIBUTES, adam, image_size=16, width=4, features=8), export)
    weights = (export / "model.safetensors").read_bytes()
    damages = {
        "model.safetensors": [None, b"junk", weights[: len(weights) // 2]],
        "config.yaml": [None, b"width: [", b"colour: red", b"just text"],
    }
    for name, contents in damages.items():
        whole = (export / name).read_bytes()
        for content in contents:
            (export / name).write_bytes(content) if content is not None else (export / name).unlink()
            with pytest.raises(InputError, match="cannot load the classifier in") as caught:
                load_classifier(tmp_path)
            assert "\n" not in str(caught.value)
            (export / name).write_bytes(whole)
    other = AttributeClassifier({"tone": ["a", "b"]}, adam, image_size=16, width=4, features=8)
    export_classifier(other, tmp_path / "other")
    (export / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="cannot load"):
        load_classifier(export)
