"""Guidance beyond the joint one: a scale for each condition, within an interval, by a CLIP; and typed overrides."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from modules.diffusion.noise import randn_per_image
from modules.errors import InputError
from modules.models.configs import Objective, SamplerConfig
from modules.models.decoder import DecoderModel
from modules.models.diffusion_model import DiffusionModel
from modules.models.upsampler import UpsamplerModel
from modules.pipeline import UnCLIP

B = 3
X0 = Objective(parameterization="x0")
PLAIN = SamplerConfig("ddim", 3, threshold=None)
ROUNDED = 3e-5
"""Outputs of such a narrow network in another batch differ by 1e-6 or so.

Guidance at 2.5 has them six times, in each of three steps.
"""


def generators():
    return [torch.Generator().manual_seed(k) for k in range(B)]


@pytest.fixture
def given(tiny):
    """A decoder's network, tokens and z_i."""
    g = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, tiny.VOCABULARY_SIZE, (B, tiny.CONTEXT), generator=g)
    return tiny.randomise(tiny.make_network("decoder")), tokens, F.normalize(torch.randn(B, tiny.DIM, generator=g))


def drawn(given, **settings):
    network, tokens, z_i = given
    return DecoderModel(network, X0, replace(PLAIN, **settings)).sample(tokens, z_i, generators())


def by_hand(given, combine):
    """Drawn with `combine`(both, z_i alone, neither) of three calls of the network."""
    network, tokens, z_i = given
    none = torch.zeros_like(tokens)
    conditions = [network.condition(tokens, z_i), network.condition(none, z_i), network.condition(none, None)]

    def predict(x_t, t):
        return combine(*(network(x_t, t, condition) for condition in conditions))

    with torch.no_grad():
        x_T = randn_per_image(generators(), (B, 3, 16, 16), "cpu")
        return DiffusionModel(network, X0, PLAIN).draw(predict, x_T, generators()).clamp(-1, 1)


@pytest.mark.parametrize(("text", "image"), [(3.0, 2.0), (0.0, 2.0), (2.0, 1.0), (2.5, 2.5)])
def test_a_scale_for_the_caption_and_one_for_z_i(given, text, image):
    """Brooks et al. 2023, eq. 3, with z_i in the place of their image."""
    expected = by_hand(given, lambda both, z_i, none: none + image * (z_i - none) + text * (both - z_i))
    assert_close(drawn(given, text_guidance_scale=text, guidance_scale=image), expected, atol=ROUNDED, rtol=0)


def test_equal_scales_are_the_papers_joint_guidance(given):
    joint = drawn(given, guidance_scale=2.0)
    assert_close(drawn(given, guidance_scale=2.0, text_guidance_scale=2.0), joint, atol=ROUNDED, rtol=0)
    assert not torch.allclose(drawn(given, guidance_scale=2.0, text_guidance_scale=4.0), joint, atol=1e-3)


@pytest.mark.parametrize(("settings", "copies"), [({}, 2), ({"text_guidance_scale": 3.0}, 3)])
def test_outside_the_interval_the_network_sees_each_image_once(given, monkeypatch, settings, copies):
    network, rows = given[0], []
    whole = network.unet.forward
    monkeypatch.setattr(network.unet, "forward", lambda x, *others: rows.append(len(x)) or whole(x, *others))
    model = DecoderModel(network, X0, replace(PLAIN, guidance_scale=2.0, guidance_interval=(0.1, 2.0), **settings))
    first, last = model.guidance_timesteps
    model.sample(*given[1:], generators())
    steps = model.trajectory.timesteps.tolist()[::-1]
    assert rows == [B * copies if first <= step <= last else B for step in steps]
    assert len(set(rows)) == 2  # Or this test would say nothing.


def test_evaluations_are_counted_by_the_interval_also_of_a_model_of_shapes(tiny):
    """A step whose sigma lies between 0.1 and 2 is evaluated twice, the others once."""
    sampler = SamplerConfig("ddim", 4, "adm", guidance_scale=2.0, guidance_interval=(0.1, 2.0))
    with torch.device("meta"):
        model = DecoderModel(tiny.make_network("decoder"), X0, sampler)
        sigma = [(1 / float(a) - 1) ** 0.5 for a in model.trajectory.alpha_bar]
        inside = sum(0.1 <= value <= 2 for value in sigma)
        assert 0 < inside < 4
        assert model.evaluations == 4 + inside
        assert replace(model, sampler=replace(sampler, guidance_interval=None)).evaluations == 8


def test_the_interval_changes_nothing_inside_of_it(given):
    everywhere = drawn(given, guidance_scale=2.0)
    assert_close(drawn(given, guidance_scale=2.0, guidance_interval=(0.0, 1e9)), everywhere, atol=ROUNDED, rtol=0)


@pytest.fixture
def weak(tiny):
    """A network of other weights."""
    network, g = tiny.randomise(tiny.make_network("decoder")), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=g), alpha=0.05)
    return network


def autoguided(given, weak, **settings):
    network, tokens, z_i = given
    model = DecoderModel(network, X0, replace(PLAIN, guidance_scale=2.0, guided_from="weak", **settings))
    return replace(model, weak=DecoderModel(weak, X0, PLAIN)).sample(tokens, z_i, generators())


def test_autoguidance_leads_away_from_the_weak_decoder(given, weak):
    """Karras et al. 2406.02507, eq. 3: D = D_weak + w (D_strong - D_weak), both given caption and z_i."""
    network, tokens, z_i = given
    conditions = network.condition(tokens, z_i), weak.condition(tokens, z_i)

    def predict(x_t, t):
        away = weak(x_t, t, conditions[1])
        return away + 2.0 * (network(x_t, t, conditions[0]) - away)

    with torch.no_grad():
        x_T = randn_per_image(generators(), (B, 3, 16, 16), "cpu")
        expected = DiffusionModel(network, X0, PLAIN).draw(predict, x_T, generators()).clamp(-1, 1)
    found = autoguided(given, weak)
    assert_close(found, expected, atol=ROUNDED, rtol=0)
    assert not torch.allclose(found, drawn(given, guidance_scale=2.0), atol=1e-3)
    only_first = {"guidance_interval": (1e3, 1e9)}  # DDIM's first of three steps, at timestep 999.
    assert not torch.allclose(autoguided(given, weak, **only_first), found, atol=1e-4)


def test_a_weak_decoder_that_is_missing_or_of_another_kind_is_refused(given, weak, stored_run):
    network, tokens, z_i = given
    model = DecoderModel(network, X0, replace(PLAIN, guidance_scale=2.0, guided_from="weak"))
    with pytest.raises(InputError, match="needs a weak version of the decoder, and there is none"):
        model.sample(tokens, z_i, generators())
    other = DecoderModel(weak, Objective(parameterization="epsilon"), PLAIN)
    with pytest.raises(InputError, match=r"weak decoder's objective.parameterization is epsilon, the decoder's is x0"):
        replace(model, weak=other).sample(tokens, z_i, generators())
    with pytest.raises(InputError, match=r"guided_from: weak has one scale"):
        replace(model, sampler=replace(model.sampler, text_guidance_scale=2.0)).check()
    run = UnCLIP.from_run(stored_run, decoder={"guided_from": "weak", "guidance_scale": 2.0})
    with pytest.raises(InputError, match=r"has no stage weak_decoder: train one as decoder, with fewer steps"):
        run.generate(["a red circle"], "text_embedding", upsample=False)


def test_a_run_with_a_weak_decoder_draws_with_it(stored_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(stored_run, run)
    shutil.copytree(run / "decoder", run / "weak_decoder")
    plain, guided = (
        UnCLIP.from_run(run, decoder={"steps": 2, **settings}).generate(["a red circle"], "text_embedding")
        for settings in ({"guidance_scale": 1.0}, {"guidance_scale": 3.0, "guided_from": "weak"})
    )
    assert_close(guided, plain, atol=2e-5, rtol=0)  # Away from itself is nowhere.


def test_a_clips_gradient_moves_the_estimate(given):
    """One step of DDIM returns x0: sqrt(alpha_bar) (x0' - x0) = (1 - alpha_bar) scale gradient (ADM eq. 14)."""
    network, tokens, z_i = given
    sampler, weight = replace(PLAIN, steps=1), torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))

    def similarity(images):
        return (images * weight).sum(dim=(1, 2, 3)) / 100

    def estimate(scale):
        model = DecoderModel(network, X0, replace(sampler, clip_guidance_scale=scale))
        x_T = randn_per_image(generators(), (B, 3, 16, 16), "cpu")
        with torch.no_grad():
            return model.draw(model.predictor(tokens, z_i), x_T, generators(), similarity=similarity), x_T

    plain, x_T = estimate(0.0)
    guided, _ = estimate(0.5)
    x = x_T.clone().requires_grad_()
    t = torch.full((B,), 999)
    (gradient,) = torch.autograd.grad(similarity(network(x, t, network.condition(tokens, z_i))).sum(), x)
    alpha_bar = X0.noise_schedule.alpha_bar[999].float()
    assert gradient.abs().max() > 0
    assert_close((guided - plain) * alpha_bar.sqrt(), (1 - alpha_bar) * 0.5 * gradient, atol=1e-4, rtol=1e-3)


def test_clip_guidance_raises_the_runs_own_similarity(stored_run):
    captions = ["a red circle", "a blue square", "a green triangle"]

    def cosine(**settings):
        run = UnCLIP.from_run(stored_run, decoder={"steps": 8, "guidance_scale": 1.0, "threshold": None, **settings})
        pictures = run.generate(captions, "text_embedding", upsample=False)
        return run.similarity(captions)(pictures).mean().item()

    assert cosine(clip_guidance_scale=30.0) > cosine() + 1e-3


def test_what_is_not_a_decoders_is_refused(tiny):
    upsampler = UpsamplerModel(tiny.make_network("upsampler"), X0, replace(PLAIN, clip_guidance_scale=1.0))
    with pytest.raises(InputError, match=r"clip_guidance_scale is for decoders only"):
        upsampler.check()
    with pytest.raises(InputError, match=r"upsampler has no setting 'text_guidance_scale'"):
        UpsamplerModel(tiny.make_network("upsampler"), X0, PLAIN).overridden("upsampler", {"text_guidance_scale": 2.0})
    glide = DecoderModel(tiny.make_network("glide"), X0, replace(PLAIN, text_guidance_scale=2.0))
    with pytest.raises(InputError, match=r"this one has the caption alone"):
        glide.check()
    with pytest.raises(InputError, match="needs a CLIP to be guided by"):
        DiffusionModel(None, X0, replace(PLAIN, clip_guidance_scale=1.0)).draw(lambda x, t: x, torch.zeros(1, 2), [])


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            {"decoder": {"guidance": 4}},
            r"decoder has no setting 'guidance'; did you mean 'guidance_scale'",
        ),
        ({"decodr": {"steps": 4}}, r"has no stage 'decodr' to override; there are ar_prior, clip, decoder"),
        ({"ar_prior": {"steps": 4}}, r"ar_prior has no setting 'steps' .*there are guidance_scale, percentile, temp"),
        ({"linear_prior": {"steps": 4}}, r"linear_prior has no settings of sampling, so 'steps' cannot be overridden"),
        ({"upsampler": {"eta": -1}}, r"upsampler: eta must be a number from 0 to 1, found -1"),
        ({"upsampler": {"guidance_scale": 2.0}}, r"upsampler has no setting 'guidance_scale'"),
        ({"diffusion_prior": {"candidates": 0}}, r"diffusion_prior: candidates must be a whole number from 1 to 1,024"),
    ],
)
def test_an_override_that_has_no_effect_is_refused_by_name(stored_run, overrides, line):
    with pytest.raises(InputError, match=line):
        run = UnCLIP.from_run(stored_run, **overrides)
        for name in overrides:
            run.stage(name).model.overridden(name, run.overrides[name])
