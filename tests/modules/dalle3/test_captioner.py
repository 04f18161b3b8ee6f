"""The captioner: the loss of a language model behind an image, captions of likeliest words, fine-tunes of a base."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from modules.batches import EmbeddingBatch
from modules.clip.contrast import contrastive_loss
from modules.clip.word_tokenizer import UNKNOWN, WholeCaptions, WordTokenizer
from modules.dalle3.captioner import Captioner
from modules.errors import InputError
from modules.models.dalle3.captioner import IGNORED, CaptionerModel
from modules.models.data_sizes import CaptionSizes, DataSizes
from modules.models.exports import load_model
from modules.networks.dalle3.captioner import PREFIX, CaptionerNetwork
from modules.networks.embedding_pathway import EmbeddingPathway
from modules.training.initial import compare, read_source, start_from
from modules.training.stage import TrainingConfig

DIM, CONTEXT, WORDS = 16, 20, 30


def make_network(**changes):
    torch.manual_seed(0)
    settings = {"width": 16, "depth": 2, "heads": 2, "pathway": EmbeddingPathway(whiten=True, hidden_width=8)}
    return CaptionerNetwork(DIM, WORDS, CONTEXT, **{**settings, **changes}).eval()


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(1)
    tokens = torch.zeros(6, CONTEXT, dtype=torch.int64)
    for row in range(6):
        tokens[row, : row + 2] = torch.randint(1, WORDS - 1, (row + 2,), generator=generator)
        tokens[row, row + 2] = WORDS - 1
    z = F.normalize(torch.randn(6, DIM, generator=generator), dim=1)
    return EmbeddingBatch(z, z, tokens, torch.arange(6))


def test_the_loss_is_the_mean_surprise_of_the_words_and_the_end(batch, tiny):
    network = tiny.randomise(make_network())
    logits = network(batch.z_i, batch.tokens)
    surprises = [
        -math.log(F.softmax(logits[row, k], dim=0)[batch.tokens[row, k]].item())
        for row in range(6)
        for k in range(row + 3)  # row + 2 words and the end
    ]
    model = CaptionerModel(network)
    assert_close(model.loss(batch, torch.Generator()).item(), sum(surprises) / len(surprises), rtol=1e-5, atol=0)
    assert (model.targets(batch.tokens)[2] == IGNORED).tolist() == [k > 4 for k in range(CONTEXT)]


def test_a_word_sees_the_image_and_the_words_before_it_alone(batch, tiny):
    network = tiny.randomise(make_network())
    before = network(batch.z_i, batch.tokens)
    changed = batch.tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % WORDS
    after = network(batch.z_i, changed)
    assert_close(after[:, :6], before[:, :6])
    assert not torch.allclose(after[:, 6], before[:, 6])
    other = network(batch.z_i.roll(1, 0), batch.tokens)
    assert (other - before).abs().amax(dim=(0, 2)).min() > 1e-4  # every word sees the image


def test_the_contrastive_part_is_clips_loss_of_captions_read_without_the_image(batch, tiny):
    network = tiny.randomise(make_network())
    plain, both = CaptionerModel(network), CaptionerModel(network, contrastive_weight=0.5)
    z_t, scale = network.encode_text(batch.tokens), network.logit_scale.exp()
    assert_close(z_t.norm(dim=1), torch.ones(6))
    expected = plain.loss(batch, torch.Generator()) + 0.5 * contrastive_loss(batch.z_i, z_t, scale, batch.index)
    assert_close(both.loss(batch, torch.Generator()), expected)
    assert_close(both.validation_loss(batch, torch.Generator()), plain.validation_loss(batch, torch.Generator()))
    beyond = batch.tokens.clone()
    beyond[:, 12:] = 7  # after the end of every caption
    assert_close(network.encode_text(beyond), z_t)


def test_at_temperature_0_each_word_is_the_likeliest_after_those_before_it(batch, tiny):
    network = tiny.randomise(make_network(), seed=3)
    with torch.no_grad():
        network.last.bias[-1] += 1.5  # so that some captions end early
    drawn = CaptionerModel(network).sample(batch.z_i, [])
    logits = network(batch.z_i, drawn)
    logits[..., 0] = -torch.inf
    ends = [row.index(WORDS - 1) if WORDS - 1 in row else CONTEXT - 1 for row in drawn.tolist()]
    assert min(ends) < CONTEXT - 1
    for row, end in enumerate(ends):
        assert drawn[row, : end + 1].tolist() == logits[row, : end + 1].argmax(dim=1).tolist()
        assert not drawn[row, end + 1 :].any()


def test_a_draw_depends_on_its_own_generator_alone(batch, tiny):
    model = CaptionerModel(tiny.randomise(make_network()), temperature=1.0)
    seeds = lambda *numbers: [torch.Generator().manual_seed(n) for n in numbers]  # noqa: E731
    together = model.sample(batch.z_i[:3], seeds(5, 6, 7))
    assert torch.equal(model.sample(batch.z_i[1:2], seeds(6))[0], together[1])
    assert not torch.equal(model.sample(batch.z_i[1:2], seeds(8))[0], together[1])


def test_it_learns_what_its_pictures_show_and_a_fine_tune_starts_from_it(
    shapes, embeddings, clip_folder, tiny, tmp_path
):
    from datamodules.embeddings import EmbeddingsDataModule

    data = EmbeddingsDataModule(str(embeddings), batch_size=32)
    rows = data.dataset("train")[range(64)]
    adam = lambda params: torch.optim.AdamW(params, lr=3e-3)  # noqa: E731
    config = TrainingConfig(warmup_steps=1, ema_decay=0.5)
    stage = Captioner(make_network(width=32), str(clip_folder), optimizer=adam, training=config)
    before = stage.validation_loss(rows, torch.Generator()).item()
    (tmp_path / "config.yaml").write_text(CONFIG)
    tiny.fit(stage, data, 40, tmp_path)
    assert stage.validation_loss(rows, torch.Generator()).item() < 0.4 * before
    whitening = stage.network.clip_features.whitening
    assert_close(whitening.mean, rows.z_i.mean(dim=0), rtol=0, atol=1e-5)
    stored = load_model(tmp_path, CaptionerModel)
    assert stored.clip_fingerprint == data.clip_fingerprint
    assert torch.equal(stored.model.sample(rows.z_i[:4], []), stage.averaged_model.sample(rows.z_i[:4], []))

    tuned = Captioner(make_network(width=32), str(clip_folder), optimizer=adam, training=config)
    source = read_source(str(tmp_path))
    start_from(tuned, source, compare(source, tuned))
    tiny.fit(tuned, EmbeddingsDataModule(str(embeddings), batch_size=4), 1, tmp_path / "tuned")
    whitening = stage.averaged.clip_features.whitening  # That of the base's data, not fitted anew.
    assert_close(tuned.network.clip_features.whitening.state_dict(), whitening.state_dict(), rtol=0, atol=0)


CONFIG = """
model:
  class_path: modules.dalle3.captioner.Captioner
  init_args:
    network:
      class_path: modules.networks.dalle3.captioner.CaptionerNetwork
      init_args: {embedding_dim: 16, vocab_size: 30, context_length: 20, width: 32, depth: 2, heads: 2,
                  pathway: {whiten: true, hidden_width: 8}}
"""


def test_a_map_is_refused():
    with pytest.raises(ValueError, match=r"set pathway.spatial_map to false"):
        make_network(pathway=EmbeddingPathway(spatial_map=True))
    with pytest.raises(InputError, match="contrastive_weight is -1: give 0 or more"):
        CaptionerModel(make_network(), contrastive_weight=-1).check()
    assert make_network().prefix(torch.ones(2, DIM)).shape == (2, PREFIX, 16)


def test_tokens_become_words_again():
    words = WordTokenizer(["a", "circle", "red"], 8, 6)
    assert words.decode(words(["a RED circle"])[0].tolist()) == "a red circle"
    assert words.decode([UNKNOWN, 2, 4, 7, 3]) == "a red"
    import open_clip

    whole = WholeCaptions(open_clip.SimpleTokenizer(context_length=12))
    assert whole.decode(whole(["a red circle, twice"])[0].tolist()) == "a red circle , twice"


def test_a_vocabulary_without_the_captions_end_at_its_end_is_refused():
    """The network would learn padding for words, and its captions would never end."""
    model = CaptionerModel(make_network())
    model.check_data(DataSizes(captions=lambda: CaptionSizes(CONTEXT, WORDS - 1, DIM, None)))
    with pytest.raises(InputError, match=r"the token 29 ends a caption, .* end with 28: set it to 29"):
        model.check_data(DataSizes(captions=lambda: CaptionSizes(CONTEXT, WORDS - 2, DIM, None)))
