"""The whole system on a run of random weights: what each condition gives to the decoder, and whose noise it is."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from modules.batches import Captions
from modules.conditions import priors
from modules.errors import InputError
from modules.manipulations import Walk
from modules.models.diffusion_prior import DiffusionPriorModel
from modules.pipeline import UnCLIP
from modules.seeds import ImageSeeds, image_generators

CAPTIONS = ["a small red circle", "a large blue square above a green triangle", "two shapes"]
PLACES = [(0, 0), (1, 0), (2, 0)]
PRIORS = ("linear_prior", "ar_prior", "diffusion_prior")
THERE = ("caption_only", "glide", "text_embedding", *PRIORS, "image_embedding")
"""Conditions whose stages the run has."""


@pytest.fixture(scope="module")
def system(stored_run):
    return UnCLIP(stored_run)


@pytest.fixture
def given(system, monkeypatch):
    """What the decoder is given as z_i, call by call."""
    seen, decode = [], system.decode

    def spy(tokens, z_i, generators, decoder="decoder", captions=None, negative=None):
        seen.append((decoder, z_i))
        return decode(tokens, z_i, generators, decoder, captions, negative)

    monkeypatch.setattr(system, "decode", spy)
    return seen


def images(seed=0):
    return torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def generate(system, condition, captions=CAPTIONS, **changes):
    true = images() if condition == "image_embedding" else None
    return system.generate(captions, condition, **{"images": true, **changes})


def test_the_places_noise_is_its_seeds_its_own_and_its_stages():
    def draw(*key):
        return torch.randn(1, generator=image_generators(*key)[0]).item()

    assert draw(0, [(3, 1)], "decoder") == draw(0, [(3, 1)], "decoder")
    keys = [(0, [(3, 1)], "decoder"), (1, [(3, 1)], "decoder"), (0, [(1, 3)], "decoder"), (0, [(3, 1)], "prior")]
    keys += [(0, [(3, 2)], "decoder"), (0, [(4, 1)], "decoder"), (31, [(0, 1)], "decoder")]
    assert len({draw(*key) for key in keys}) == len(keys)
    second = image_generators(0, [(0, 0), (3, 1)], "decoder")[1]
    assert torch.randn(1, generator=second).item() == draw(*keys[0])


def test_text_and_image_embeddings_are_the_clips_of_unit_norm(system):
    tokens, z_t = system.embed_text(CAPTIONS)
    assert_close(z_t, F.normalize(system.clip.model.encode_text(tokens), dim=1))
    z_i = system.embed_image(images())
    assert_close(z_i.norm(dim=1), torch.ones(3))
    assert_close(z_i, system.clip.encode_image(images()))


@pytest.mark.parametrize("condition", THERE)
def test_what_a_condition_gives_to_the_decoder(system, given, condition):
    generate(system, condition)
    ((decoder, z_i),) = given
    tokens, z_t = system.embed_text(CAPTIONS)
    assert decoder == ("glide" if condition == "glide" else "decoder")
    expected = {
        "caption_only": lambda: None,
        "glide": lambda: None,
        "text_embedding": lambda: z_t,
        "image_embedding": lambda: system.embed_image(images()),
        "linear_prior": lambda: F.normalize(system.stage("linear_prior").model.network(z_t), dim=1),
    }.get(condition, lambda: system.sample_prior(condition, tokens, z_t, image_generators(0, PLACES, "prior")))()
    if expected is None:
        assert z_i is None
    else:
        assert_close(z_i, expected)
        assert_close(z_i.norm(dim=1), torch.ones(3))


def test_the_diffusion_prior_is_sampled_with_its_own_settings_and_statistics(system):
    tokens, z_t = system.embed_text(CAPTIONS)
    stored = system.stage("diffusion_prior").model
    assert (stored.sampler.name, stored.sampler.guidance_scale) == ("analytic_dpm", 1.5)
    drawn = system.sample_prior("diffusion_prior", tokens, z_t, image_generators(0, PLACES, "prior"))
    model = DiffusionPriorModel(stored.network, stored.objective, stored.sampler, stored.statistics)
    expected = model.sample(Captions(tokens, z_t), image_generators(0, PLACES, "prior"))
    assert torch.equal(drawn, expected)


@pytest.mark.parametrize("condition", THERE)
def test_the_same_place_gives_the_same_picture_at_any_batch_size_and_order(system, condition):
    together = generate(system, condition)
    for rows in ([1], [2, 0]):
        chosen = [CAPTIONS[k] for k in rows]
        true = images()[rows] if condition == "image_embedding" else None
        apart = system.generate(chosen, condition, places=[PLACES[k] for k in rows], images=true)
        assert_close(apart, together[rows], atol=1e-4, rtol=0)


@pytest.mark.parametrize("condition", THERE)
def test_seed_sample_and_caption_change_the_picture(system, condition):
    base = generate(system, condition, upsample=False)
    changes = {
        "seed": generate(system, condition, seed=1, upsample=False),
        "sample": generate(system, condition, places=[(k, 1) for k in range(3)], upsample=False),
        "caption": generate(system, condition, captions=CAPTIONS[1:] + CAPTIONS[:1], upsample=False),
    }
    for name, other in changes.items():
        assert ((base - other).abs().amax(dim=(1, 2, 3)) > 1e-3).all(), name


def test_caption_only_is_the_same_decoder_without_an_embedding(system, monkeypatch):
    """It depends on nothing that a CLIP or a prior says, and is no picture of GLIDE's."""
    base = generate(system, "caption_only")
    encode, embed = system.clip.encode_text, system.embed_text
    monkeypatch.setattr(system, "embed_text", lambda captions: (embed(captions)[0], encode(embed(captions)[0]).flip(1)))
    assert torch.equal(generate(system, "caption_only"), base)
    assert not torch.allclose(generate(system, "text_embedding"), base, atol=1e-2)
    assert not torch.allclose(generate(system, "glide"), base, atol=1e-2)


def test_conditions_share_the_decoders_noise(system, monkeypatch):
    """With equal z_i, two conditions make one picture: what differs in the table is the embedding alone."""
    _, z_t = system.embed_text(CAPTIONS)
    monkeypatch.setattr(system, "embed_image", lambda given: z_t)
    assert torch.equal(generate(system, "image_embedding"), generate(system, "text_embedding"))


def test_without_the_upsampler_the_picture_is_the_decoders(system):
    low, high = (generate(system, "text_embedding", upsample=flag) for flag in (False, True))
    assert (low.shape, high.shape) == ((3, 3, 16, 16), (3, 3, 32, 32))
    assert_close(system.upsample(low, ImageSeeds.at(0, PLACES)), high)
    assert high.abs().max() <= 1


def test_overrides_replace_single_settings_of_one_stage(stored_run):
    changed = UnCLIP.from_run(stored_run, decoder={"steps": 7, "guidance_scale": 3.0})
    sampler = changed.decoder().sampler
    assert (sampler.steps, sampler.guidance_scale, sampler.name) == (7, 3.0, "dpm_solver_pp")
    assert changed.decoder("glide").sampler == UnCLIP(stored_run).decoder("glide").sampler
    base, other = (generate(s, "caption_only", upsample=False) for s in (UnCLIP(stored_run), changed))
    assert not torch.allclose(base, other, atol=1e-3)


def test_ddpm_on_a_stage_that_has_learned_no_variance_takes_a_fixed_one(stored_run):
    def drawn(**fields):
        return generate(UnCLIP.from_run(stored_run, decoder={"name": "ddpm", **fields}), "caption_only", upsample=False)

    system = UnCLIP(stored_run)
    model = system.decoder()
    system.replace_model("decoder", replace(model, sampler=replace(model.sampler, variance="learned")))
    system.overrides = {"decoder": {"name": "ddpm"}}
    assert system.decoder().sampler.variance == "fixed_small"
    assert torch.equal(generate(system, "caption_only", upsample=False), drawn(variance="fixed_small"))
    system.overrides = {"decoder": {"name": "ddpm", "variance": "fixed_large"}}
    assert torch.equal(generate(system, "caption_only", upsample=False), drawn(variance="fixed_large"))
    with pytest.raises(InputError, match=r"decoder: variance learned needs a stage that was trained with learned"):
        drawn(variance="learned")


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        ("ar_prior", {"guidance_scale": 4.0}),
        ("ar_prior", {"temperature": 0.0}),
        ("diffusion_prior", {"guidance_scale": 4.0}),
        ("diffusion_prior", {"candidates": 5}),
        ("diffusion_prior", {"name": "ddim", "steps": 6}),
    ],
)
def test_overrides_reach_the_priors(stored_run, stage, change):
    plain, changed = UnCLIP(stored_run), UnCLIP(stored_run, overrides={stage: change})
    tokens, z_t = plain.embed_text(CAPTIONS)
    places = [(k, n) for k in range(3) for n in range(4)]
    rows = [k for k, _ in places]
    a, b = (
        s.sample_prior(stage, tokens[rows], z_t[rows], image_generators(0, places, "prior")) for s in (plain, changed)
    )
    assert not torch.allclose(a, b, atol=1e-3)


def test_a_run_may_lack_what_is_not_asked_for(stored_run, tmp_path):
    run = tmp_path / "run"
    for name in ("clip", "decoder"):
        shutil.copytree(stored_run / name, run / name)
    partial = UnCLIP(run)
    assert [name for name in (*priors(), "decoder", "glide", "upsampler") if partial.has(name)] == ["decoder"]
    picture = generate(partial, "text_embedding", upsample=False)
    assert torch.equal(picture, generate(UnCLIP(stored_run), "text_embedding", upsample=False))
    with pytest.raises(InputError, match=r"no trained stage at .*upsampler: train it, or keep"):
        generate(partial, "text_embedding")


def test_what_is_wrong_is_named(system, tmp_path):
    with pytest.raises(InputError, match=r"unknown condition 'magic'; there are caption_only, glide"):
        generate(system, "magic")
    with pytest.raises(InputError, match="image_embedding needs images"):
        system.generate(CAPTIONS, "image_embedding")
    with pytest.raises(InputError, match=r"no run folder .*nowhere.*--run"):
        UnCLIP(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"the caption has 30 words, the model's context holds 19"):
        generate(system, "caption_only", captions=["red " * 30])


def test_a_notebook_reads_what_a_run_and_latents_are(stored_run, capsys):
    system = UnCLIP.from_run(stored_run, decoder={"steps": 2})
    shown = repr(system)
    assert shown.startswith(f"UnCLIP({str(stored_run)!r}, stages: ar_prior, clip, decoder, ")
    assert shown.endswith("on cpu, overrides {'decoder': {'steps': 2}})")
    pictures = system.text_to_image("a crimson circle", seed=[0, 1])
    assert capsys.readouterr().err == "the model does not know 'crimson': read as unknown words\n"
    latents = system.invert(pictures, walk=Walk(steps=2))
    size = latents.x_T.shape[-1]
    assert repr(latents) == (
        f"Latents of 2: z_i (2, {latents.z_i.shape[1]}), x_T (2, 3, {size}, {size}), tokens "
        f"{tuple(latents.tokens.shape)}; inverted in 2 steps"
    )


def test_z_i_alone_is_the_decoder_without_a_caption(system):
    drawn = system.generate(CAPTIONS, "image_embedding_alone", places=PLACES, images=images(), upsample=False)
    tokens, z_i = system.embed_text(CAPTIONS)[0], system.embed_image(images())
    alone = system.decode(torch.zeros_like(tokens), z_i, image_generators(0, PLACES, "decoder"))
    assert torch.equal(drawn, alone)
    assert (alone - system.decode(tokens, z_i, image_generators(0, PLACES, "decoder"))).abs().max() > 1e-3
