"""Exported stages come back as they were, and damaged ones are named."""

from __future__ import annotations

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from modules.errors import InputError
from modules.models.configs import Objective, SamplerConfig
from modules.models.exports import load_model
from modules.models.priors.embedding_codec import EmbeddingCodec


@pytest.fixture
def decoder(tiny, tmp_path):
    return tiny.write_stage(tmp_path / "decoder", "decoder", tiny.randomise(tiny.make_network("decoder")))


def edit(folder, change):
    path = folder / "export" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    change(config["init_args"])
    path.write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("where", ["", "export"])
def test_a_stage_comes_back_ready_to_sample(decoder, tiny, where):
    stored = load_model(decoder / where).model
    network = tiny.randomise(tiny.make_network("decoder"))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, stored.network.state_dict()[name]), name
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([10, 900])
    tokens, z_i = torch.ones(2, tiny.CONTEXT, dtype=torch.int64), torch.randn(2, tiny.DIM)
    assert torch.equal(
        stored.network(x, t, stored.network.condition(tokens, z_i)), network(x, t, network.condition(tokens, z_i))
    )
    assert not stored.network.training
    assert not any(p.requires_grad for p in stored.network.parameters())
    assert stored.objective == Objective(parameterization="x0", weighting="min_snr_plus_one")
    assert stored.sampler == SamplerConfig(name="dpm_solver_pp", steps=3, guidance_scale=2.0)
    assert (stored.statistics, stored.importance) == (None, None)


def test_every_stage_of_a_run_loads(stored_run, tiny):
    stages = {name: load_model(stored_run / name) for name in tiny.STAGES}
    assert len({stored.fingerprint for stored in stages.values()}) == len(stages)
    codec = stages["ar_prior"].model.codec
    assert isinstance(codec, EmbeddingCodec)
    assert (codec.num_codes, codec.num_buckets) == (tiny.CODES["num_codes"], tiny.CODES["num_buckets"])
    assert codec.fitted
    statistics = stages["diffusion_prior"].model.statistics
    assert statistics.timesteps.tolist() == [0, 333, 666, 999]
    assert (statistics.mean_squared_epsilon == 0.9).all()
    assert (statistics.data_variance, statistics.count) == (0.3, 64)


def test_the_fingerprint_is_that_of_the_weights(decoder):
    before = load_model(decoder).fingerprint
    edit(decoder, lambda config: config["sampler"].update(steps=7))
    assert load_model(decoder).fingerprint == before
    path = decoder / "export" / "model.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name] + 1}, path)
    assert load_model(decoder).fingerprint != before


def test_the_memory_layout_of_training_is_kept(decoder):
    def layout():
        return load_model(decoder).model.network.unet.first.weight.is_contiguous(memory_format=torch.channels_last)

    assert not layout()
    edit(decoder, lambda config: config["training"].update(channels_last=True))
    assert layout()


def write(name, content):
    return lambda folder: (folder / "export" / name).write_bytes(content)


def lacking(folder):
    path = folder / "export" / "model.safetensors"
    tensors = load_file(path)
    save_file(dict(list(tensors.items())[2:]), path)


DAMAGED = {
    "is damaged.*train this stage again": [
        write("config.yaml", b"a: ["),
        write("config.yaml", b"a: 1"),
        write("config.yaml", b"- 1"),
        write("config.yaml", b"\xff\xfe\x00"),
        write("model.safetensors", b"damaged"),
        write("model.safetensors", b""),
        lambda folder: (folder / "export/model.safetensors").write_bytes(
            (folder / "export/model.safetensors").read_bytes()[:-100]
        ),
    ],
    "no trained stage at .*train it with `unclip fit`": [
        lambda folder: (folder / "export/model.safetensors").unlink(),
        lambda folder: (folder / "export/config.yaml").unlink(),
    ],
    "the weights are of another network": [
        lambda folder: edit(folder, lambda config: config["network"]["init_args"].update(text_width=16))
    ],
    "the weights lack .* and 1 more": [lacking],
    "config.yaml.*Option 'widht' is not accepted": [
        lambda folder: edit(folder, lambda config: config["network"]["init_args"].update(widht=16))
    ],
    "config.yaml.*no_such": [lambda folder: edit(folder, lambda config: config["sampler"].update(name="no_such"))],
}


@pytest.mark.parametrize(("line", "damage"), [(line, each) for line, many in DAMAGED.items() for each in many])
def test_what_is_damaged_is_named(decoder, line, damage):
    damage(decoder)
    with pytest.raises(InputError, match=line) as error:
        load_model(decoder)
    assert str(decoder) in str(error.value)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no trained stage at .*nowhere"):
        load_model(tmp_path / "nowhere")
