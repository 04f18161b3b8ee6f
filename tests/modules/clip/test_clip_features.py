"""FrozenCLIP's token features, and SAM in the training of a CLIP."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from datamodules.rendered.scenes import VOCABULARY
from modules.batches import ImageTextBatch
from modules.clip import CLIPTrainer
from modules.clip.frozen import FrozenCLIP
from modules.clip.word_tokenizer import WordTokenizer
from modules.errors import InputError


@pytest.fixture(scope="module")
def clip(tiny, tmp_path_factory):
    return FrozenCLIP(str(tiny.write_clip(tmp_path_factory.mktemp("clip"))))


CAPTIONS = ["a small red circle", "two blue squares"]


def test_z_t_is_the_projection_of_the_last_words_feature(clip):
    tokens = clip.tokenize(CAPTIONS)
    features = clip.encode_tokens(tokens)
    assert features.shape == (2, tokens.shape[1], 16)
    end = features[torch.arange(2), tokens.argmax(dim=1)]
    assert_close(F.normalize(end @ clip.model.text_projection, dim=1), clip.encode_text(tokens), atol=1e-5, rtol=0)


def test_features_are_causal(clip):
    tokens = clip.tokenize(CAPTIONS)
    changed = tokens.clone()
    changed[:, 3] = tokens[:, 2]
    ours, other = clip.encode_tokens(tokens), clip.encode_tokens(changed)
    assert_close(ours[:, :3], other[:, :3])
    assert (ours[:, 3] - other[:, 3]).abs().amax(dim=1).min() > 1e-4


def trainer(tiny, **options):
    torch.manual_seed(0)
    made = CLIPTrainer(**tiny.CLIP, **options)
    made.tokenize = WordTokenizer(sorted(VOCABULARY), tiny.VOCABULARY_SIZE, tiny.CONTEXT)
    made.log_dict = lambda *a, **k: None
    made._trainer = type("OneDevice", (), {"world_size": 1, "global_rank": 0})()
    return made


def batch():
    g = torch.Generator().manual_seed(0)
    return ImageTextBatch(torch.rand(4, 3, 16, 16, generator=g) * 2 - 1, [*CAPTIONS, "a dot", "red"], torch.arange(4))


def test_sam_takes_the_gradient_at_the_perturbed_weights(tiny):
    stage, plain = trainer(tiny, sam_rho=0.1), trainer(tiny)
    before = [p.detach().clone() for p in stage.network.parameters()]
    stage.training_loss(batch(), torch.Generator()).backward()
    moved = [p - old for p, old in zip(stage.network.parameters(), before, strict=True)]
    assert torch.cat([m.flatten() for m in moved]).norm().item() == pytest.approx(0.1, rel=1e-3)
    stage.on_after_backward()
    assert all(torch.equal(p, old) for p, old in zip(stage.network.parameters(), before, strict=True))
    with torch.no_grad():
        for parameter, step in zip(plain.network.parameters(), moved, strict=True):
            parameter.add_(step)
    plain.training_loss(batch(), torch.Generator()).backward()
    for ours, theirs in zip(stage.network.parameters(), plain.network.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4)


def test_without_sam_nothing_is_perturbed(tiny):
    stage = trainer(tiny)
    before = [p.detach().clone() for p in stage.network.parameters()]
    stage.training_loss(batch(), torch.Generator()).backward()
    assert all(torch.equal(p, old) for p, old in zip(stage.network.parameters(), before, strict=True))


BPE = {"context_length": 24, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}


def test_a_clip_of_the_papers_tokens_trains_and_loads(tiny, tmp_path):
    torch.manual_seed(0)
    stage = CLIPTrainer(**{**tiny.CLIP, "text_cfg": BPE}, tokenizer="bpe")
    stage.setup("fit")  # asks no data module for words
    stage.export(tmp_path)
    clip = FrozenCLIP(str(tmp_path / "export"))
    tokens = clip.tokenize(["a photograph of an astronaut"])
    assert tokens.shape == (1, 24)
    assert torch.equal(tokens, stage.tokenize(["a photograph of an astronaut"]))
    expected = F.normalize(stage.averaged.encode_text(tokens), dim=1)
    assert_close(clip.encode_text(tokens), expected, atol=1e-6, rtol=0)


def test_the_papers_tokens_need_the_papers_vocabulary(tiny):
    with pytest.raises(InputError, match="vocab_size is 30; tokenizer: bpe has 49408"):
        CLIPTrainer(**tiny.CLIP, tokenizer="bpe")
    with pytest.raises(InputError, match="swap_words needs tokenizer: words"):
        CLIPTrainer(**{**tiny.CLIP, "text_cfg": BPE}, tokenizer="bpe", swap_words=[("left", "right")])


def test_a_clip_is_loaded_without_a_warning(tiny, tmp_path, caplog):
    """open_clip would say twice that the network is random, before its weights come."""
    FrozenCLIP(str(tiny.write_clip(tmp_path)))
    assert not caplog.records
    logging.getLogger().warning("another")
    assert [record.message for record in caplog.records] == ["another"]
