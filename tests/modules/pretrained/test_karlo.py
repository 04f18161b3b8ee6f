"""Karlo against diffusers' own classes: each stage, the whole, and the original checkpoints' layout."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent))

import original
import released
from diffusers.models import embeddings

from experiments.cli import main
from modules import trained_run
from modules.batches import Captions
from modules.clip.frozen import caption_of
from modules.diffusion.schedules import SCHEDULES
from modules.models.exports import load_model
from modules.networks.blocks import timestep_embedding
from modules.networks.frozen_text import CaptionFeatures, real_tokens
from modules.pipeline import UnCLIP

CAPTIONS = ["a corgi wearing a red bow tie, at night", "blue"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("karlo") / "karlo-v1-alpha"


@pytest.fixture(scope="module")
def parts(folder):
    return released.karlo(folder)


@pytest.fixture(scope="module")
def run(folder, parts):
    out = folder.parent / "run"
    assert main(["import", "karlo", str(folder), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def system(run):
    return UnCLIP(run)


@pytest.fixture(scope="module")
def encoded(parts):
    """transformers' ids, mask, text embeddings and features of the captions and, behind them, of none."""
    found = parts["tokenizer"]([*CAPTIONS, "", ""], padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        output = parts["text_encoder"](found.input_ids)
    return found.input_ids, found.attention_mask.bool(), output.text_embeds, output.last_hidden_state


def close(ours, theirs, bound=1e-5):
    """The largest difference, as a share of the largest number."""
    assert ours.shape == theirs.shape
    assert float((ours - theirs).detach().abs().max() / theirs.detach().abs().max()) < bound


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_tokens_text_and_images_are_embedded_as_transformers_does(system, parts, encoded):
    ids, mask, z_t, features = encoded
    tokens, own = system.embed_text([*CAPTIONS, "", ""])
    assert torch.equal(tokens, ids)
    close(own, z_t)
    caption = caption_of(system.clip, tokens)
    close(caption.features, features)
    assert torch.equal(caption.mask, mask)
    assert float((own.norm(dim=1) - 1).abs().min()) > 0.1  # raw, not of unit norm
    images = noise(2, 3, 32, 32).clamp(-1, 1)
    with torch.no_grad():
        theirs = parts["image_encoder"](system.clip.preprocess(images)).image_embeds
    close(system.embed_image(images), theirs)


def test_the_prior_is_theirs_with_padding_masked(system, parts, encoded):
    _, mask, z_t, features = encoded
    model = system.prior("diffusion_prior")
    x_t, t = noise(4, 32), torch.tensor([0, 10, 500, 999])
    with torch.no_grad():
        theirs = parts["prior"](x_t, t, z_t, features, mask).predicted_image_embedding
        ours = model.network(x_t, t, features, z_t, None, mask)
        cached = model.network.step(x_t, t, model.network.encode(features, z_t, None, mask))
        dropped = model.network(x_t, t, features, z_t, torch.tensor([True, True, False, False]), mask)
        unmasked = model.network(x_t, t, features, z_t, None, torch.ones_like(mask))
    close(ours, theirs)
    close(cached, theirs)
    close(dropped, theirs)  # The empty caption stands for a dropped one.
    assert float((unmasked - theirs).abs().max() / theirs.abs().max()) > 1e-3
    close(model.unscaled(x_t), parts["prior"].post_process_latents(x_t))
    close(model.scaled(model.unscaled(x_t)), x_t)


def conditions(parts, encoded, z_i, drop):
    _, mask, z_t, features = encoded
    with torch.no_grad():
        context, vector = parts["text_proj"](
            image_embeddings=z_i,
            prompt_embeds=z_t,
            text_encoder_hidden_states=features,
            do_classifier_free_guidance=drop,
        )
    return context, vector, torch.nn.functional.pad(mask, (4, 0), value=True)


def test_the_text_projection_and_the_decoder_are_theirs(system, parts, encoded):
    ids, z_i = encoded[0], noise(4, 32, seed=3)
    context, vector, mask = conditions(parts, encoded, z_i, False)
    model = system.decoder()
    own = model.network.condition(model.read(ids), z_i)
    close(own.emb, vector)
    close(torch.cat([own.context[:, -4:], own.context[:, :-4]], dim=1), context)  # Theirs has the four tokens first.
    assert torch.equal(torch.cat([own.mask[:, -4:], own.mask[:, :-4]], dim=1), mask)
    x_t, t = noise(4, 3, 16, 16), torch.tensor([0, 10, 500, 999])
    with torch.no_grad():
        theirs = parts["decoder"](x_t, t, context, class_labels=vector, attention_mask=mask).sample
        close(model.network(x_t, t, own), theirs)


def test_no_caption_and_no_embedding_are_theirs(system, parts, encoded):
    """Without guidance's second half, theirs are the empty caption and the learned embedding."""
    none = tuple(x[2:] for x in encoded)
    context, vector, _ = conditions(parts, tuple(torch.cat([x, x]) for x in none), noise(2, 32, seed=3), True)
    model = system.decoder()
    own = model.network.condition(model.read(torch.zeros(2, 77, dtype=torch.int64)), None)
    close(own.emb, vector[:2])
    close(torch.cat([own.context[:, -4:], own.context[:, :-4]], dim=1), context[:2])


def test_both_super_resolution_networks_are_theirs(system, parts):
    model, low = system.upsampler("upsampler"), noise(3, 3, 16, 16).clamp(-1, 1)
    enlarged = torch.nn.functional.interpolate(low, size=[64, 64], mode="bicubic", antialias=True, align_corners=False)
    close(model.enlarged(low), enlarged)
    x_t, t = noise(3, 3, 64, 64, seed=1), torch.tensor([999, 0, 166])
    with torch.no_grad():
        first, last = (
            parts[f"super_res_{name}"](torch.cat([x_t, enlarged], 1), t).sample for name in ("first", "last")
        )
        ours = model.network(x_t, t, enlarged)
    close(ours, torch.stack([first[0], last[1], first[2]]))


@pytest.fixture(scope="module")
def exact(parts):
    """Theirs in float64, with alpha_bar and sinusoids as ours.

    At t = 999 alpha_bar is 2.4e-9, so that rounding in float32 is multiplied by 20,000 before x0 is clipped, and again
    by guidance; then float32 says nothing of whether two samplers are the same.
    """
    found = {name: copy.deepcopy(part) for name, part in parts.items()}
    for part in found.values():
        if isinstance(part, torch.nn.Module):
            part.double()
    for name in ("prior_scheduler", "decoder_scheduler", "super_res_scheduler"):
        found[name].alphas_cumprod = SCHEDULES["cosine"](1000).alpha_bar.clone()
    return found


@pytest.fixture
def same_sinusoids(monkeypatch):
    monkeypatch.setattr(embeddings, "get_timestep_embedding", lambda t, width, **_: timestep_embedding(t, width))


@pytest.fixture(scope="module")
def double(run):
    """The run in float64, with few steps."""
    system = UnCLIP(
        run, overrides={"diffusion_prior": {"steps": 5}, "decoder": {"steps": 4}, "upsampler": {"steps": 3}}
    )
    for name in ("diffusion_prior", "decoder", "upsampler"):
        system.stage(name).model.network.double()
    system.clip.double()
    _, caption = given(system, [""])
    empty = [x[0].detach() for x in caption]
    system.stage("diffusion_prior").model.network.empty.set(*empty)  # In float32 as they are stored, they are 3e-7 off.
    system.stage("decoder").model.network.text.empty.set(*empty)
    return system


def drawn_by_theirs(pipeline, **arguments):
    steps = {"decoder_num_inference_steps": 4, "super_res_num_inference_steps": 3}
    generator = torch.Generator().manual_seed(5)
    images = pipeline(generator=generator, output_type="np", **steps, **arguments).images
    return torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1


def drawn_by_ours(system, captions, z_i, generator):
    """As `UnCLIP.decode` and the upsampler draw, but that x_T is float64 from the start, as theirs is."""
    model, upsampler = system.decoder(), system.upsampler("upsampler")
    x_T = torch.randn(1, 3, 16, 16, generator=generator, dtype=torch.float64)
    low = model.draw(model.predictor(captions, z_i), x_T, [generator]).clamp(-1, 1)
    x_T = torch.randn(1, 3, 64, 64, generator=generator, dtype=torch.float64)
    return upsampler.draw(upsampler.predictor(low), x_T, [generator]).clamp(-1, 1)


def given(system, captions):
    """What the CLIP gives of captions, in float64."""
    tokens, clip = system.clip.tokenize(captions), system.clip
    tower = clip.model
    x = tower.token_embedding(tokens) + tower.positional_embedding
    features = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask.double()))
    return tokens, CaptionFeatures(features, tower.encode_text(tokens), real_tokens(tokens))


@torch.no_grad()
def test_text_to_image_is_theirs_with_the_same_noise(double, exact, same_sinusoids):
    theirs = drawn_by_theirs(released.text_to_image(exact), prompt=CAPTIONS[:1], prior_num_inference_steps=5)
    generator = torch.Generator().manual_seed(5)
    tokens, caption = given(double, CAPTIONS[:1])
    captions = Captions(tokens, caption.z_t, caption.features)
    z_i = double.prior("diffusion_prior").sample(captions, [generator])
    close(drawn_by_ours(double, caption, z_i, generator), theirs.double())


@torch.no_grad()
def test_a_variation_is_theirs_with_the_same_noise(double, exact, same_sinusoids):
    image = noise(1, 3, 32, 32, seed=9).clamp(-1, 1).double()
    theirs = drawn_by_theirs(released.variation(exact), image=double.clip.preprocess(image))
    z_i = double.clip.model.encode_image(double.clip.preprocess(image))
    _, empty = given(double, [""])
    nothing = empty._replace(mask=torch.zeros_like(empty.mask))
    close(drawn_by_ours(double, nothing, z_i, torch.Generator().manual_seed(5)), theirs.double())


def test_original_checkpoints_give_the_same_tensors(folder, parts, run, tmp_path):
    original.karlo(parts, tmp_path / "files")
    words = ["import", "karlo", str(tmp_path / "files"), "--clip", str(folder), "--out", str(tmp_path / "run")]
    assert main(words) == 0
    for name in ("diffusion_prior", "decoder", "upsampler"):
        ours, theirs = (load_model(place / name).model for place in (run, tmp_path / "run"))
        first, second = ours.network.state_dict(), theirs.network.state_dict()
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_prior_draws_the_same_alone_and_in_a_batch(system):
    tokens, z_t = system.embed_text(CAPTIONS)
    model = system.prior("diffusion_prior")
    captions = Captions(tokens, z_t, system.clip.encode_tokens(tokens))
    both = model.sample(captions, [torch.Generator().manual_seed(k) for k in range(2)])
    alone = model.sample(Captions(*(x[1:] for x in captions[:3])), [torch.Generator().manual_seed(1)])
    close(both[1:], alone)


def test_offloaded_stages_are_read_once_and_draw_the_same(run, monkeypatch):
    """The CLIP comes twice: for the prior's captions, and for the decoder's."""
    few = {name: {"steps": 1} for name in ("diffusion_prior", "decoder", "upsampler")}
    wanted = UnCLIP.from_run(run, **few).generate(CAPTIONS[:1], negative="ugly")
    system, read = UnCLIP.from_run(run, offload=True, **few), []
    load, make = trained_run.load_model, trained_run.FrozenCLIP
    monkeypatch.setattr(trained_run, "load_model", lambda f, **own: (read.append(f.name), load(f, **own))[1])
    monkeypatch.setattr(trained_run, "FrozenCLIP", lambda folder: (read.append("clip"), make(folder))[1])
    assert torch.equal(system.generate(CAPTIONS[:1]), UnCLIP.from_run(run, **few).generate(CAPTIONS[:1]))
    assert read[:5] == ["clip", "diffusion_prior", "clip", "decoder", "upsampler"]
    assert torch.equal(system.generate(CAPTIONS[:1], negative="ugly"), wanted)


def test_the_pipelines_read_an_export_as_the_document_says(run, parts, tmp_path, monkeypatch):
    import diffusers
    from diffusers.pipelines.deprecated import unclip

    out = tmp_path / "exported"
    assert main(["export", str(run), "--format", "diffusers", "--out", str(out)]) == 0
    monkeypatch.setattr(diffusers.pipelines, "unclip", unclip, raising=False)
    for kind in (unclip.UnCLIPPipeline, unclip.UnCLIPImageVariationPipeline):
        pipeline = kind.from_pretrained(out)
        for name in ("text_proj", "decoder", "super_res_last", "text_encoder"):
            own, theirs = getattr(pipeline, name).state_dict(), parts[name].state_dict()
            assert all(torch.equal(own[key], theirs[key]) for key in theirs)


def test_what_is_exported_to_diffusers_is_what_diffusers_draws_with(folder, parts, run, tmp_path):
    """Every tensor and every setting that its classes read back is that of the models that were imported."""
    out = tmp_path / "exported"
    assert main(["export", str(run), "--format", "diffusers", "--out", str(out)]) == 0
    for name, part in parts.items():
        if isinstance(part, torch.nn.Module):
            back = type(part).from_pretrained(out / name)
            own, theirs = back.state_dict(), part.state_dict()
            assert own.keys() == theirs.keys()
            assert all(float((own[key] - theirs[key]).abs().max()) <= 1e-6 for key in own)
    for name in ("prior", "decoder", "text_proj", "super_res_first", "super_res_last"):
        mine, theirs = (dict(type(parts[name]).load_config(place / name)) for place in (out, folder))
        made = type(parts[name]).from_config(mine).config
        wanted = type(parts[name]).from_config(theirs).config
        assert {k: list(v) if isinstance(v, tuple) else v for k, v in made.items() if k[0] != "_"} == {
            k: list(v) if isinstance(v, tuple) else v for k, v in wanted.items() if k[0] != "_"
        }
    for name, scheduler in released.schedulers().items():
        back = type(scheduler).from_pretrained(out / name).config
        assert {k: v for k, v in back.items() if k[0] != "_"} == {
            k: v for k, v in scheduler.config.items() if k[0] != "_"
        }
    words = released.CLIPTokenizer.from_pretrained(out / "tokenizer")
    assert (
        words(CAPTIONS, padding="max_length").input_ids == parts["tokenizer"](CAPTIONS, padding="max_length").input_ids
    )
