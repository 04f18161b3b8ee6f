"""Negative captions: what stands in the unconditional half of guidance, in both priors, the decoder and a whole run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from modules.batches import Captions
from modules.errors import InputError
from modules.models.decoder import Negative
from modules.models.exports import load_model
from modules.pipeline import UnCLIP

B = 2


def captions(seed: int, length: int = 20, dim: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 29, (B, length), generator=generator)
    return tokens, F.normalize(torch.randn(B, dim, generator=generator), dim=1)


@pytest.fixture(scope="module")
def given():
    return Captions(*captions(0), None, Captions(*captions(1)))


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(k) for k in range(B)]


@torch.no_grad()
def test_the_diffusion_prior_is_guided_away_from_the_negative_caption(stored_run, given):
    model = load_model(stored_run / "diffusion_prior").model
    model = replace(model, sampler=replace(model.sampler, guidance_scale=2.5))
    x, t = torch.randn(B, 16), torch.tensor([10, 900])
    found = model._predictor(given)(x, t)
    yes = model.network(x, t, given.tokens, given.z_t)
    no = model.network(x, t, given.negative.tokens, given.negative.z_t)
    torch.testing.assert_close(found, no + 2.5 * (yes - no), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_ar_prior_is_guided_away_from_the_negative_caption(stored_run, given):
    model = replace(load_model(stored_run / "ar_prior").model, guidance_scale=2.5, temperature=0.0)
    dot = model.codec.draw_dot(generators(), model.percentile)
    codes = torch.zeros(B, model.codec.kept, dtype=torch.int64)
    for k in range(model.codec.kept):  # Greedy, without a cache: one code after another from whole evaluations.
        yes = model.network(given.tokens, given.z_t, dot, codes)[:, k]
        no = model.network(given.negative.tokens, given.negative.z_t, dot, codes)[:, k]
        codes[:, k] = (no + 2.5 * (yes - no)).argmax(dim=1)
    torch.testing.assert_close(model.sample(given, generators()), model.codec.decode(codes))
    unlike = model.sample(given._replace(negative=None), generators())
    assert not torch.allclose(unlike, model.codec.decode(codes))


@torch.no_grad()
@pytest.mark.parametrize("text_scale", [None, 4.0])
def test_the_decoder_is_guided_away_from_the_negative_caption_and_its_z_i(stored_run, given, text_scale):
    model = load_model(stored_run / "decoder").model
    model = replace(model, sampler=replace(model.sampler, guidance_scale=1.5, text_guidance_scale=text_scale))
    z_i, away = given.z_t.flip(0), Negative(given.negative.tokens, given.negative.z_t)
    x, t = torch.randn(B, 3, 16, 16), torch.tensor([10, 900])

    def alone(tokens, z):
        return model.network(x, t, model.network.condition(tokens, z))

    both, neither = alone(given.tokens, z_i), alone(away.tokens, away.z_i)
    wanted = neither + 1.5 * (both - neither)
    if text_scale is not None:  # Brooks et al. 2023, eq. 3, with the negative caption in the place of none.
        image = alone(away.tokens, z_i)
        wanted = neither + 1.5 * (image - neither) + text_scale * (both - image)
    found = model.predictor(given.tokens, z_i, away)(x, t)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("condition", ["diffusion_prior", "ar_prior", "text_embedding", "linear_prior"])
def test_away_from_the_caption_itself_is_no_guidance(stored_run, condition):
    # u + s (c - u) with u = c, in the prior and in the decoder.
    none = {"decoder": {"guidance_scale": 1.0}}
    if condition in ("diffusion_prior", "ar_prior"):
        none[condition] = {"guidance_scale": 1.0}
    unguided = UnCLIP.from_run(stored_run, **none).text_to_image("a red circle", condition=condition, size=16).tensor
    system = UnCLIP.from_run(stored_run, decoder={"guidance_scale": 2.0})
    itself = system.text_to_image("a red circle", condition=condition, negative="a red circle", size=16).tensor
    torch.testing.assert_close(itself, unguided, rtol=1e-3, atol=1e-3)
    other = system.text_to_image("a red circle", condition=condition, negative="a blue square", size=16).tensor
    assert (other - unguided).abs().max() > 0.01


def test_no_negative_caption_is_none(stored_run):
    system = UnCLIP.from_run(stored_run)
    wanted = system.generate(["a red circle"], upsample=False)
    for nothing in (None, "", [], [" "]):
        assert torch.equal(system.generate(["a red circle"], upsample=False, negative=nothing), wanted)


def test_true_pictures_have_no_negative_z_i(stored_run):
    system = UnCLIP.from_run(stored_run)
    away = system.negative_captions("a red circle", 1)
    assert system.negative_of("image_embedding", away, generators()).z_i is None
    assert system.negative_of("glide", away, generators()).z_i is None
    assert system.negative_of("diffusion_prior", None, generators()) is None


def test_what_would_have_no_effect_is_refused(stored_run):
    system = UnCLIP.from_run(stored_run, decoder={"guidance_scale": 1.0}, diffusion_prior={"guidance_scale": 1.0})
    with pytest.raises(InputError, match="nothing is guided here"):
        system.text_to_image("a red circle", negative="a blue square")
    with pytest.raises(InputError, match="give one for all"):
        system.negative_captions(["a red circle", ""], 2)
