"""A prior and a decoder conditioned as Karlo's, trained from scratch: the scale of z_i and the empty caption."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from datamodules.embeddings import EmbeddingsDataModule
from datamodules.embeddings.folder import EMPTY, open_embeddings
from datamodules.shapes import ShapesDataModule
from experiments.embeddings.embed import embed
from modules.clip.frozen import FrozenCLIP, caption_features
from modules.errors import InputError
from modules.networks.frozen_text import FrozenTextConfig, real_tokens
from modules.networks.priors.prior_conditioning import PriorConditioning
from modules.training.conditioning import fit_conditioning

KARLO = PriorConditioning(padding_mask=True, null="empty_caption", standardise=True)


@pytest.fixture(scope="module")
def with_features(clip_folder, tiny, tmp_path_factory):
    """Embeddings with features of every token."""
    folder = tmp_path_factory.mktemp("features")
    data = ShapesDataModule(16, **tiny.SIZES, cache_dir=None)
    embed(data, FrozenCLIP(str(clip_folder)), folder, token_features=True)
    return folder


def begun(stage, data, initial=()):
    """The stage as it is when a training begins on these data."""
    from types import SimpleNamespace

    stage._trainer = SimpleNamespace(datamodule=data, global_step=0)
    stage.initial = initial
    fit_conditioning(stage)
    return stage


@pytest.fixture
def empty(clip_folder):
    clip = FrozenCLIP(str(clip_folder))
    tokens = clip.tokenize([""])
    return tokens, clip.encode_text(tokens), caption_features(clip, tokens)


def test_a_prior_takes_the_scale_of_its_data_and_the_empty_caption(embeddings, tiny, empty):
    data = EmbeddingsDataModule(str(embeddings), batch_size=8)
    network = tiny.make_network("diffusion_prior", conditioning=KARLO)
    stage = begun(tiny.make_stage("diffusion_prior", network), data)
    z_i = data.dataset("train")[range(tiny.SIZES["train_size"])].z_i
    for own in (stage.network, stage.averaged):
        assert_close(own.standardisation(z_i).mean(dim=0), torch.zeros(tiny.DIM), atol=1e-5, rtol=0)
        assert_close(own.standardisation(z_i).std(dim=0), torch.ones(tiny.DIM), atol=1e-5, rtol=0)
        assert torch.equal(own.empty.text, empty[0][0]) and torch.equal(own.empty.z_t, empty[1][0])
        assert torch.equal(own.empty.mask, real_tokens(empty[0])[0])
    assert stage.training_loss(data.dataset("train")[range(8)], torch.Generator().manual_seed(0)).isfinite()


def test_a_decoder_takes_the_features_of_the_empty_caption(with_features, tiny, empty):
    data = ShapesDataModule(16, **tiny.SIZES, cache_dir=None, embeddings=str(with_features))
    text = FrozenTextConfig(feature_dim=16, z_t_dim=tiny.DIM)
    stage = begun(tiny.make_stage("decoder", tiny.make_network("decoder", frozen_text=text)), data)
    assert_close(stage.network.text.empty.text, empty[2][0])
    assert_close(stage.averaged.text.empty.z_t, empty[1][0])
    assert float(stage.network.text.empty.text.abs().max()) > 0


def test_what_came_with_the_weights_is_kept(embeddings, tiny):
    data = EmbeddingsDataModule(str(embeddings))
    network = tiny.make_network("diffusion_prior", conditioning=KARLO)
    stage = begun(tiny.make_stage("diffusion_prior", network), data, ("empty.z_t", "standardisation.mean"))
    assert not stage.network.empty.z_t.any() and torch.equal(stage.network.standardisation.std, torch.ones(tiny.DIM))


def test_embeddings_without_what_is_needed_are_named(embeddings, with_features, tiny, tmp_path):
    import shutil

    prior = tiny.make_network("diffusion_prior", conditioning=KARLO)
    old = tmp_path / "old"
    shutil.copytree(embeddings, old)
    (old / EMPTY).unlink()
    with pytest.raises(InputError, match=rf"{EMPTY} is missing.*run `unclip embed` as before"):
        begun(tiny.make_stage("diffusion_prior", prior), EmbeddingsDataModule(str(old)))
    (old / EMPTY).write_bytes(b"no tensors")
    with pytest.raises(InputError, match=rf"{EMPTY}: its header says"):
        open_embeddings(old).empty_caption()
    save_file({"tokens": torch.zeros(1, tiny.CONTEXT, dtype=torch.int64)}, old / EMPTY)
    with pytest.raises(InputError, match=rf"{EMPTY} is damaged .*z_t.*: remove it, and run"):
        open_embeddings(old).empty_caption()
    other = tmp_path / "other"
    shutil.copytree(with_features, other)
    shutil.copyfile(embeddings / EMPTY, other / EMPTY)
    with pytest.raises(InputError, match="is of other embeddings"):
        open_embeddings(other).empty_caption()
    reads = tiny.make_network("diffusion_prior", feature_dim=16, conditioning=KARLO)
    with pytest.raises(InputError, match="embeddings hold none: make them with `unclip embed --token-features`"):
        begun(tiny.make_stage("diffusion_prior", reads), EmbeddingsDataModule(str(embeddings)))
