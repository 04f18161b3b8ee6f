"""What embeddings say of pictures: everything, or nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from benchmarks.pictures import embedding_content


def made(count, generator, told):
    """Pictures of one colour each, and embeddings that tell it, or tell nothing."""
    colours = torch.rand(count, 3, generator=generator) * 2 - 1
    noise = torch.randn(count, 5, generator=generator)
    z = F.normalize(torch.cat([colours if told else torch.randn(count, 3, generator=generator), noise], dim=1), dim=1)
    if told:  # On the sphere the length is lost, so that one entry stays the same.
        z = F.normalize(torch.cat([colours, torch.ones(count, 5)], dim=1), dim=1)
    return z, colours[:, :, None, None].expand(-1, -1, 4, 4)


def test_embeddings_that_tell_the_picture_give_it_back_and_others_do_not():
    generator = torch.Generator().manual_seed(0)
    seen, unseen = made(512, generator, True), made(64, generator, True)
    ours, others, mean = embedding_content.errors(seen, unseen, size=4, steps=600)
    assert ours < 0.01 and others < 0.01
    assert mean == pytest.approx(1 / 3, rel=0.1)  # The variance of uniform numbers in [-1, 1].
    seen, unseen = made(512, generator, False), made(64, generator, False)
    _, others, mean = embedding_content.errors(seen, unseen, size=4, steps=60)
    assert others > 0.9 * mean


def test_the_command_prints_three_numbers(tmp_path, monkeypatch, capsys, shapes, clip_folder):
    from experiments.cli import main

    config = tmp_path / "data.yaml"
    config.write_text(
        "data:\n  class_path: datamodules.shapes.ShapesDataModule\n"
        "  init_args: {image_size: 16, batch_size: 8, train_size: 32, val_size: 8, test_size: 8}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["embed", "--config", str(config), "--clip", str(clip_folder), "--out", "embeddings"]) == 0
    capsys.readouterr()
    monkeypatch.setattr(embedding_content, "STEPS", 2)
    monkeypatch.setattr("sys.argv", ["x", "--config", str(config), "--embeddings", "embeddings", "--size", "4"])
    assert embedding_content.main() == 0
    names = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["training pictures", "test pictures", "mean picture"]
