"""z_i that gives back the picture: the loss is what it says, training lowers it, and no export holds the head."""

from __future__ import annotations

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from modules.clip import CLIPTrainer
from modules.clip.word_tokenizer import WordTokenizer
from modules.networks.reconstruction import ReconstructionConfig, ReconstructionHead
from modules.training.initial import compare, read_source, start_from
from modules.training.stage import TrainingConfig

CONFIG = ReconstructionConfig(weight=10.0, size=4, width=32)


def make(tiny, **changes) -> CLIPTrainer:
    torch.manual_seed(0)
    training = TrainingConfig(warmup_steps=0, ema_decay=0.8)
    optimizer = lambda params: torch.optim.AdamW(params, lr=2e-3)  # noqa: E731
    return CLIPTrainer(**{**tiny.CLIP, "optimizer": optimizer, "training": training, **changes})


@pytest.fixture
def batch(shapes):
    """8 pairs of different captions."""
    dataset = shapes(embeddings=None).dataset("train")
    first = {caption: k for k, caption in reversed(list(enumerate(dataset.records.captions)))}
    return dataset.__getitems__(sorted(first.values())[:8])


class OneRank:
    world_size, global_rank = 1, 0


def loss_of(stage, batch, monkeypatch):
    stage.tokenize = WordTokenizer(sorted({word for caption in batch.captions for word in caption.split()}), 30, 20)
    monkeypatch.setattr(CLIPTrainer, "trainer", OneRank())
    monkeypatch.setattr(CLIPTrainer, "global_rank", 0)
    return stage._loss(stage.network, batch)


def test_the_error_is_the_mean_square_over_the_small_picture():
    torch.manual_seed(0)
    head, z_i = ReconstructionHead(6, CONFIG), F.normalize(torch.randn(3, 6), dim=1)
    images = torch.rand(3, 3, 8, 8) * 2 - 1
    small = images.unflatten(2, (4, 2)).unflatten(4, (4, 2))  # Twice as large: the antialiased filter reaches further.
    given = head.layers(6**0.5 * z_i).view(3, 3, 4, 4)
    flat = torch.full((3, 3, 8, 8), 0.25)
    assert_close(head.error(z_i, flat), (given - 0.25).square().flatten(1).mean(dim=1))
    wanted = F.interpolate(images, (4, 4), mode="bilinear", antialias=True)
    assert (wanted - small.mean(dim=(3, 5))).abs().mean() < 0.2 < (wanted - images[:, :, :4, :4]).abs().mean()
    assert_close(head.error(z_i, images), (given - wanted).square().flatten(1).mean(dim=1))


def test_it_joins_the_contrastive_loss_by_its_weight(tiny, batch, monkeypatch):
    plain, _ = loss_of(make(tiny), batch, monkeypatch)
    stage = make(tiny, reconstruction=CONFIG)
    loss, log = loss_of(stage, batch, monkeypatch)
    z_i = F.normalize(stage.network.encode_image(batch.images), dim=1)
    error = stage.network.reconstruction.error(z_i, batch.images)
    assert_close(loss - plain, 10 * error.mean())
    assert_close(log["reconstruction"], error.detach())
    loss.backward()
    assert stage.network.visual.conv1.weight.grad.abs().sum() > 0
    assert "reconstruction" not in loss_of(make(tiny), batch, monkeypatch)[1]


def test_training_makes_z_i_give_back_its_picture_and_exports_no_head(tiny, shapes, batch, tmp_path):
    (tmp_path / "config.yaml").write_text("{}")
    stage = make(tiny, reconstruction=CONFIG)
    trainer = tiny.fit(stage, tiny.repeat(shapes(embeddings=None), batch, 150), 150, tmp_path, gradient_clip_val=0)
    small = F.interpolate(batch.images, (4, 4), mode="bilinear", antialias=True)
    without_z_i = (small - small.mean(dim=0)).square().mean()
    assert trainer.callback_metrics["train/reconstruction"] < 0.1 * without_z_i
    assert trainer.callback_metrics["train/retrieval"] == 1
    model = open_clip.create_model(f"local-dir:{tmp_path / 'export'}", require_pretrained=True)
    assert not [name for name in model.state_dict() if name.startswith("reconstruction")]
    assert_close(model.encode_image(batch.images), stage.averaged.eval().encode_image(batch.images))


def test_it_starts_from_an_export_and_a_plain_clip_from_its_checkpoint(tiny, shapes, batch, tmp_path):
    """The head begins anew; nothing is reported as missing or unused."""
    (tmp_path / "config.yaml").write_text("{}")
    stage = make(tiny, reconstruction=CONFIG)
    trainer = tiny.fit(stage, tiny.repeat(shapes(embeddings=None), batch, 2), 2, tmp_path, gradient_clip_val=0)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    for source, target in (
        (read_source(str(tmp_path / "export")), make(tiny, reconstruction=CONFIG)),
        (read_source(str(tmp_path / "last.ckpt")), make(tiny)),
    ):
        fit = compare(source, target)
        assert fit.problems == ()
        start_from(target, source, fit)
        assert_close(target.network.visual.proj, stage.averaged.visual.proj)


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"size": 0}, {"width": 0}])
def test_a_wrong_setting_is_named(wrong):
    (key, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f"reconstruction has .*{key} {value:g}"):
        ReconstructionConfig(**wrong)
