"""A decoder whose captions are drawn anew reads the tokens of the captions that its batch shows."""

from __future__ import annotations

import pytest
import torch

from modules.clip.frozen import FrozenCLIP, load_tokenizer
from modules.dalle3.caption_decoder import CaptionDecoder
from modules.errors import InputError
from modules.models.data_sizes import DataSizes


@pytest.fixture
def stage(tiny, clip_folder):
    return CaptionDecoder(tiny.make_network("glide"), str(clip_folder))


def test_the_tokens_are_those_of_the_captions_in_the_batch(stage, shapes, clip_folder):
    batch = shapes(embeddings=None).dataset("val").__getitems__(range(4))
    given = stage.on_before_batch_transfer(batch, 0)
    tokens, z_i = stage.model.conditions(given)
    assert torch.equal(tokens, load_tokenizer(clip_folder)(batch.captions))
    assert z_i is None
    # The loss is that of the same captions with cached tokens.
    cached = shapes().dataset("val").__getitems__(range(4))
    losses = [stage.training_loss(b, torch.Generator().manual_seed(0)) for b in (given, cached)]
    assert torch.equal(*losses)


def test_it_says_which_clip_reads_its_captions(stage, clip_folder):
    assert stage.clip_fingerprint == FrozenCLIP(str(clip_folder)).fingerprint


def test_another_vocabulary_and_a_network_of_embeddings_are_refused(tiny, clip_folder):
    small = CaptionDecoder(tiny.make_network("glide", vocab_size=10), str(clip_folder))
    with pytest.raises(InputError, match="vocab_size is 10, the tokeniser's tokens go up to 29: set it to 30"):
        small.check_data(DataSizes())
    short = CaptionDecoder(tiny.make_network("glide", context_length=5), str(clip_folder))
    with pytest.raises(InputError, match="context_length is 5, the tokeniser's is 20"):
        short.check_data(DataSizes())
    with pytest.raises(InputError, match=r"model.network.embedding_dim must be null"):
        CaptionDecoder(tiny.make_network("decoder"), str(clip_folder))
