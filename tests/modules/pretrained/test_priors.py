"""Kandinsky's and ECLIPSE's priors against diffusers' class, and what the other networks' maps leave over."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parent))

import glide_network
import glide_sampling
import original
import released

from experiments.cli import main
from modules.batches import Captions
from modules.errors import InputError
from modules.models.exports import load_model
from modules.networks.frozen_text import real_tokens
from modules.networks.priors.eclipse_prior import EclipsePriorNetwork
from modules.pretrained import priors
from modules.pretrained.key_map import to_ours, to_theirs
from modules.pretrained.reading import tensors_of
from modules.pretrained.transformer_keys import prior_entries
from modules.trained_run import TrainedRun


def close(ours, theirs, bound=1e-5):
    assert ours.shape == theirs.shape
    assert float((ours - theirs).detach().abs().max() / theirs.detach().abs().max()) < bound


def caption(seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.where(torch.arange(77) < torch.tensor([[5], [9]]), 7, 0)
    z_t, features = torch.randn(2, 32, generator=generator), torch.randn(2, 77, 32, generator=generator)
    return tokens, z_t, features, torch.randn(2, 32, generator=generator)


@pytest.fixture(scope="module")
def kandinsky(tmp_path_factory):
    """A folder of Kandinsky's prior with its CLIP, whose activation is the exact GELU as ViT-bigG's is; the run."""
    folder = tmp_path_factory.mktemp("kandinsky")
    prior = released.prior()
    text, image = released.text_encoder("gelu"), released.image_encoder("gelu")
    for name, part in (("prior", prior), ("text_encoder", text), ("image_encoder", image)):
        part.save_pretrained(folder / "files" / name)
    scheduler = released.UnCLIPScheduler(prediction_type="sample", clip_sample_range=10.0)
    scheduler.save_pretrained(folder / "files" / "scheduler")
    assert main(["import", "kandinsky-prior", str(folder / "files"), "--out", str(folder / "run")]) == 0
    return folder, prior, text


@torch.no_grad()
def test_kandinskys_prior_is_karlos_with_its_own_clip_and_range(kandinsky):
    folder, theirs, text = kandinsky
    system = TrainedRun(folder / "run")
    model = system.prior("diffusion_prior")
    assert (model.sampler.threshold, model.sampler.threshold_limit) == ("static", 10.0)
    tokens, z_t, features, x_t = caption()
    mask, t = real_tokens(tokens), torch.tensor([3, 900])
    close(model.network(x_t, t, features, z_t, None, mask), theirs(x_t, t, z_t, features, mask)[0])
    ids = system.clip.tokenize(["a red ball"])
    close(system.clip.encode_text(ids), text(ids).text_embeds)


def test_kandinskys_own_files_give_the_same_tensors(kandinsky, tmp_path):
    """prior_fp16.ckpt has no level "state_dict"; its numbers are rounded, and stay so."""
    folder, theirs, _ = kandinsky
    files = tmp_path / "files"
    files.mkdir()
    state = original.prior(theirs)
    torch.save({f"model.{name}": tensor.half() for name, tensor in state.items()}, files / "prior_fp16.ckpt")
    statistics = theirs.clip_mean.detach()[0], theirs.clip_std.detach()[0]
    torch.save(statistics, files / "ViT-L-14_stats.th")
    words = ["import", "kandinsky-prior", str(files), "--clip", str(folder / "files"), "--out", str(tmp_path / "run")]
    assert main(words) == 0
    found = load_model(tmp_path / "run" / "diffusion_prior").model
    assert found.sampler.threshold_limit == 10.0
    ours = found.network.state_dict()
    wanted = load_model(folder / "run" / "diffusion_prior").model.network.state_dict()
    assert ours.keys() == wanted.keys()
    for name, tensor in wanted.items():
        kept = name.startswith(("standardisation.", "empty."))
        assert torch.equal(ours[name], tensor if kept else tensor.half().to(tensor.dtype)), name


def without_timestep(theirs, noise, z_t, features, mask):
    """ECLIPSE's forward, from the parts of diffusers' class: the sequence without its timestep, under both masks."""
    parts = [
        theirs.encoder_hidden_states_proj(features),
        theirs.embedding_proj(z_t)[:, None],
        theirs.proj_in(noise)[:, None],
        theirs.prd_embedding.expand(len(noise), -1, -1),
    ]
    hidden = torch.cat(parts, dim=1) + theirs.positional_embedding
    length = hidden.shape[1]
    bias = torch.full((length, length), -10000.0).triu(1)[None]
    bias = bias + torch.nn.functional.pad((1 - mask.float()) * -10000.0, (0, 3))[:, None, :]
    for block in theirs.transformer_blocks:
        hidden = block(hidden, attention_mask=bias.repeat_interleave(2, dim=0))
    return theirs.proj_to_clip_embeddings(theirs.norm_out(hidden)[:, -1])


@torch.no_grad()
def test_eclipses_prior_is_theirs_and_joins_a_run(kandinsky, tmp_path):
    folder = kandinsky[0]
    theirs = released.prior(additional_embeddings=3)
    place = tmp_path / "eclipse"
    place.mkdir()
    config = {k: v for k, v in theirs.config.items() if not k.startswith("_")}
    (place / "config.json").write_text(json.dumps(config))
    own = {k: v for k, v in theirs.state_dict().items() if not k.startswith("time_embedding")}
    save_file(own, place / "diffusion_pytorch_model.safetensors")
    assert main(["import", "eclipse", str(place), "--out", str(folder / "run")]) == 0
    model = TrainedRun(folder / "run").prior("eclipse_prior")
    assert isinstance(model.network, EclipsePriorNetwork)
    tokens, z_t, features, _ = caption()
    generators = [torch.Generator().manual_seed(k) for k in (4, 5)]
    noise = torch.stack([torch.randn(32, generator=torch.Generator().manual_seed(k)) for k in (4, 5)])
    drawn = model.sample(Captions(tokens, z_t, features), generators)
    close(drawn, without_timestep(theirs, noise, z_t, features, real_tokens(tokens)))


def test_the_map_of_a_prior_is_its_own_inverse_and_names_what_is_wrong(tmp_path):
    theirs = released.prior()
    theirs.save_pretrained(tmp_path / "prior")
    stage = priors.kandinsky(tmp_path)["diffusion_prior"]()
    network = released_network(stage)
    for layout in (False, True):
        entries = prior_entries(network, layout)
        names = {name: x.shape for name, x in stage.tensors.items()}
        back = to_theirs(entries, stage.tensors)
        again = to_ours(entries, back, names, "a file")
        assert all(torch.equal(again[name], stage.tensors[name]) for name in names)
    entries, known = prior_entries(network, False), theirs.state_dict()
    lost = {name: x for name, x in known.items() if name != "prd_embedding"}
    with pytest.raises(InputError, match="a file has no tensor prd_embedding"):
        to_ours(entries, lost, names, "a file")
    with pytest.raises(InputError, match=r"a file holds a tensor extra\.weight that the model has no place for"):
        to_ours(entries, {**known, "extra.weight": torch.zeros(1)}, names, "a file")
    with pytest.raises(InputError, match=r"as time\.first\.weight"):
        to_ours(entries, {**known, "time_embedding.linear_1.weight": torch.zeros(3, 3)}, names, "a file")


def released_network(stage):
    from modules.networks.priors.diffusion_prior import DiffusionPriorNetwork
    from modules.pretrained.shapes import network_of

    return network_of(DiffusionPriorNetwork, stage.settings["network"]["init_args"], len(stage.tensors))


class Runs:
    """What a pickle would call."""

    def __reduce__(self):
        return print, ("run",)


def test_a_pickle_that_would_run_code_is_named_with_the_way_to_convert_it(tmp_path, capsys):
    path = tmp_path / "prior-ckpt-step=1.ckpt"
    torch.save({"state_dict": {}, "config": Runs()}, path)
    with pytest.raises(InputError, match=r"holds more than tensors, and nothing of it is run\. On a machine where you"):
        tensors_of(path)
    assert "run" not in capsys.readouterr().out
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    with pytest.raises(InputError, match="is a TorchScript program, and is not run"):
        tensors_of(path)


@pytest.mark.parametrize("kind", ["karlo", "kandinsky-prior", "eclipse", "glide", "clip"])
def test_a_folder_without_files_is_told_what_to_get(kind, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["import", kind, str(tmp_path / "empty"), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert str(tmp_path / "empty") in said and "https://" in said and said.count("\n") == 1


def test_glides_files_load_without_a_tensor_left_over(tmp_path):
    """The names and shapes of OpenAI's files, written from the notes of their layout, at a small size."""
    folder = tmp_path / "glide"
    folder.mkdir()
    for name, file in (("glide", "base.pt"), ("upsampler", "upsample.pt")):
        torch.save(original.glide(upsampler=name == "upsampler"), folder / file)
    assert main(["import", "glide", str(folder), "--out", str(tmp_path / "run")]) == 0
    base = load_model(tmp_path / "run" / "glide").model
    state = original.glide(upsampler=False)
    text = base.network.text.embedding
    tokens = torch.tensor([[5, 9, 0, 0, 0, 0, 0, 0]])
    embedded = text(tokens)[0]
    table, places, padding = (state[k] for k in ("token_embedding.weight", "positional_embedding", "padding_embedding"))
    assert torch.equal(embedded[:2], table[[4, 8]] + places[:2])
    assert torch.equal(embedded[2:], padding[2:])
    upsampler = load_model(tmp_path / "run" / "upsampler").model
    assert (upsampler.objective.schedule, upsampler.network.learned_sigma) == ("linear", True)
    low, generators = torch.zeros(1, 3, 8, 8), [torch.Generator().manual_seed(0)]
    with_caption, without = (
        upsampler.overridden("upsampler", {"steps": 2, "spacing": "adm"}).sample(low, generators, tokens=x)
        for x in (tokens, None)
    )
    assert float((with_caption - without).abs().max()) > 0


@pytest.fixture(scope="module")
def glide(tmp_path_factory):
    """GLIDE's two state dicts of random numbers, and the run that they become."""
    folder, generator = tmp_path_factory.mktemp("glide"), torch.Generator().manual_seed(1)
    (folder / "files").mkdir()
    states = {name: original.glide(upsampler=name == "upsampler") for name in ("glide", "upsampler")}
    for state in states.values():
        for name, tensor in state.items():
            fan = tensor[0].numel() if tensor.ndim > 1 else 4
            state[name] = torch.randn(tensor.shape, generator=generator) * fan**-0.5
    torch.save(states["glide"], folder / "files" / "base.pt")
    torch.save(states["upsampler"], folder / "files" / "upsample.pt")
    assert main(["import", "glide", str(folder / "files"), "--out", str(folder / "run")]) == 0
    return states, folder / "run"


@pytest.fixture
def words():
    """(2, 8) of GLIDE's tokens, where they are words, and the same as ours are."""
    tokens = torch.randint(20, (2, 8), generator=torch.Generator().manual_seed(2))
    mask = torch.arange(8) < torch.tensor([[3], [8]])
    return tokens, mask, torch.where(mask, tokens + 1, 0)


@torch.no_grad()
def test_glides_networks_are_the_function_of_their_files(glide, words):
    """Against functions of the state dicts that use nothing of this project (`glide_network`)."""
    (states, run), (tokens, mask, ours) = glide, words
    generator, t = torch.Generator().manual_seed(1), torch.tensor([3, 870])
    x_t, low = (torch.randn(2, 3, side, side, generator=generator) for side in (16, 4))
    base = load_model(run / "glide").model.network
    close(base(x_t, t, base.condition(ours, None)), glide_network.network(states["glide"], x_t, t, tokens, mask, 2))
    low = low.clamp(-1, 1)
    enlarged = torch.nn.functional.interpolate(low, (16, 16), mode="bilinear")
    wanted = glide_network.network(states["upsampler"], torch.cat([x_t, enlarged], dim=1), t, tokens, mask, 1)
    upsampler = load_model(run / "upsampler").model
    assert torch.equal(upsampler.enlarged(low), enlarged)
    close(upsampler.network(x_t, t, enlarged, None, upsampler.network.read(ours)), wanted)


@torch.no_grad()
def test_glides_base_draws_as_its_notebook_does(glide, words):
    """Guided ancestral steps with learned variance, in float64 (`glide_sampling`)."""
    (states, run), (tokens, mask, ours) = glide, words
    model, generators, again = load_model(run / "glide").model, generated(0), generated(0)
    model = model.overridden("glide", {"steps": 3})
    model.network.double()
    drawn = model.draw(model.predictor(ours, None), noise(generators, 4), generators)
    state, steps = in_double(states["glide"]), [0, 500, 999]
    close(drawn, glide_sampling.base(state, noise(again, 4), steps, (tokens, mask), lambda: noise(again, 4), 3.0))


@torch.no_grad()
def test_glides_upsampler_draws_as_its_notebook_does(glide, words, monkeypatch):
    """A picture of 8 bits, 0.997 of the noise, and 27 steps of DDIM, in float64 (`glide_sampling`)."""
    (states, run), (tokens, mask, ours) = glide, words
    model = load_model(run / "upsampler").model
    model.network.double()
    monkeypatch.setattr("modules.models.upsampler.randn_per_image", lambda own, shape, _: noise(own, shape[-1]))
    low = noise(generated(3), 4).clamp(-1, 1)
    theirs = glide_sampling.upsampled(in_double(states["upsampler"]), noise(generated(7), 16), low, (tokens, mask))
    close(model.sample(low, generated(7), tokens=ours), theirs)
    for other in ({"init_noise_sigma": 1.0}, {"eight_bit_input": False}):
        changed = model.overridden("upsampler", other).sample(low, generated(7), tokens=ours)
        assert float((changed - theirs).abs().max()) > 1e-3


def generated(seed):
    return [torch.Generator().manual_seed(seed + k) for k in range(2)]


def noise(generators, side):
    return torch.stack([torch.randn(3, side, side, generator=g, dtype=torch.float64) for g in generators])


def in_double(state):
    return {name: tensor.double() for name, tensor in state.items()}
