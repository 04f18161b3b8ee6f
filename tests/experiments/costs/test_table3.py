"""Table 3 from the YAMLs: every row as the paper has it, and counts that are those of real networks."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from eval.tables.hyperparameters import ROWS, STAGES, setting
from experiments.cli import main
from experiments.console.arguments import parsed
from experiments.costs import table3
from experiments.costs.flops import Count, flops_of
from experiments.costs.options import PARSERS
from experiments.costs.stage_config import stage_config
from experiments.costs.table3 import count, model_of, note, table, why
from modules.errors import InputError
from modules.networks.convolutions.layer import Conv3x3

PAPER = Path("experiments/paper")
papers = cache(lambda stage: stage_config(PAPER / f"{stage}.yaml", STAGES))
"""Not to be changed."""

KNOWN = {("ar_prior", "latent decoder context")}  # the table says why


@pytest.mark.parametrize("stage", STAGES)
def test_every_row_is_the_papers(stage):
    config = papers(stage)
    for row, (_, theirs) in ROWS.items():
        ours, papers_value = setting(stage, row, config), theirs[STAGES.index(stage)]
        assert ours == papers_value or (stage, row) in KNOWN, row


@pytest.mark.parametrize(("stage", "low", "high"), [("upsampler_1024", 0.9, 1.0), ("upsampler_256", 1.0, 1.1)])
def test_the_sizes_are_near_the_papers(stage, low, high):
    network = model_of(stage, papers(stage)).network
    parameters = list(network.parameters())
    assert {p.device.type for p in parameters} == {"meta"}
    assert low < sum(p.numel() for p in parameters) / table3.SIZES[stage] < high


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        ("ar_prior", {"text": 1.21e9, "transformer": 7.98e8, "vocabulary": 1.01e8}),
        ("decoder", {"unet": 2.24e9, "text": 1.21e9, "vocabulary": 1.01e8, "projections of z_i": 1.05e7}),
    ],
)
def test_the_parts_of_a_network(stage, parts):
    counted = count(stage, papers(stage)).parts
    assert {name: float(f"{counted[name]:.2e}") for name in parts} == parts
    assert counted.keys() - parts.keys() == {"other"}


SMALL = {
    "diffusion_prior": """
network:
  class_path: modules.networks.priors.diffusion_prior.DiffusionPriorNetwork
  init_args: {embedding_dim: 8, vocab_size: 10, context_length: 5, width: 16, depth: 1, heads: 2}
sampler: {steps: 4, guidance_scale: 2.0}
""",
    "ar_prior": """
network:
  class_path: modules.networks.priors.ar_prior.ARPriorNetwork
  init_args: {embedding_dim: 8, num_codes: 3, num_buckets: 6, num_dot_buckets: 4, vocab_size: 10, context_length: 5,
    width: 16, depth: 1, heads: 2}
codec:
  class_path: modules.models.priors.embedding_codec.EmbeddingCodec
  init_args: {embedding_dim: 8, num_codes: 3, num_buckets: 6, num_dot_buckets: 4}
guidance_scale: 1.0
""",
}


def small(stage):
    return {"model": {"init_args": yaml.safe_load(SMALL[stage])}}


def test_the_count_of_a_small_diffusion_prior():
    """By hand: width 16, so a token costs 24 w^2 in the block's matrices; attention 4 L w a query."""
    counted = count("diffusion_prior", small("diffusion_prior"))
    network = model_of("diffusion_prior", small("diffusion_prior")).network
    assert counted.parameters == sum(p.numel() for p in network.parameters())
    w, d, prefix = 16, 8, 6
    qkv, rest = 6 * w * w, 2 * w * w + 16 * w * w  # per token; the last layer's rest is one query's
    inputs = 2 * d * w + 4 * w * w  # x_t, and the timestep's two layers
    step = inputs + 3 * qkv + 4 * (prefix + 3) * w + rest + 2 * w * d
    start = 2 * d * w + prefix * (qkv + rest) + 4 * prefix * prefix * w  # z_t's projection first
    assert counted.image == 2 * (start + 2 * 4 * step)
    whole = inputs + 2 * d * w + (prefix + 3) * qkv + 4 * (prefix + 3) * w + rest + 2 * w * d
    assert counted.forward == whole


@pytest.mark.parametrize("text", [None, 4])
def test_the_count_of_a_small_ar_prior_is_that_of_its_steps(text):
    """With a text encoder of its own too, whose output is projected to the decoder's width."""
    config = small("ar_prior")
    config["model"]["init_args"]["network"]["init_args"].update(text_width=text, text_depth=1, text_heads=2)
    counted = count("ar_prior", config)
    w, d, context, k = 16, 8, 5, 3
    prefix, block = context + 1, 24 * w * w
    steps = sum(block + 4 * (prefix + 1 + j) * w + 2 * w * 6 for j in range(k))
    start = 2 * d * w + prefix * block + 4 * prefix * prefix * w
    if text:
        start += context * 24 * text * text + 4 * context * context * text + 2 * context * text * w
    assert counted.image == start + steps


def test_flops_are_counted_twice_a_product():
    with torch.device("meta"):
        assert flops_of(lambda: torch.empty(3, 4) @ torch.empty(4, 5)) == 2 * 3 * 4 * 5


def test_flops_of_a_convolution_are_the_direct_ones_on_a_cpu_too():
    """Winograd's way, which the layer takes there, multiplies less."""
    layer, x = Conv3x3(64, 64), torch.randn(16, 64, 8, 8)
    assert flops_of(lambda: layer(x)) == 2 * 9 * 64 * 64 * 16 * 8 * 8


def test_the_table_names_what_differs():
    configs = {stage: changed(stage) for stage in STAGES}
    configs["decoder"]["model"]["init_args"]["sampler"]["steps"] = 27
    text = table(configs, dict.fromkeys(STAGES, Count({"unet": 350_000_000}, 2e9, 3e12)))
    lines = {line[:24].strip(): line for line in text.splitlines()}
    assert "27 (paper: 250)" in lines["sampling steps"]
    assert lines["sampling steps"].count("paper") == 1
    assert "577 (paper: 384)" in lines["latent decoder context"]
    assert "paper" not in lines["batch size"]
    assert "0.10x" in lines["of the paper's"]
    assert "3 T" in lines["FLOPs, one image"]


def test_a_folder_without_yamls(tmp_path):
    with pytest.raises(InputError, match=r"no .*ar_prior\.yaml: --folder"):
        table3.run(parsed(PARSERS["table3"](), ["--folder", str(tmp_path)]))


def changed(stage, **others):
    """A stage's YAML of the paper with other settings of the network."""
    config = copy.deepcopy(papers(stage))
    network = config["model"]["init_args"]["network"]["init_args"]
    network.get("unet", network).update(others)
    return config


def test_a_count_that_is_the_papers_needs_no_reason():
    for stage, number in (("ar_prior", 1.04e9), ("decoder", 3.4e9), ("upsampler_256", 7e8)):
        assert why(stage, changed(stage), Count({"unet": int(number)}, 1, 1)) == ""


def test_reasons_are_those_of_the_networks_that_there_are():
    large = Count({"text": 1_300_000_000, "transformer": 900_000_000, "projections of z_i": 10_000_000}, 1, 1)
    small_one = Count({"unet": 20_000_000}, 1, 1)
    assert why("ar_prior", changed("ar_prior"), large).startswith(
        "Table 3's text encoder and latent decoder have 1.3 B an"
    )
    narrow = why("ar_prior", changed("ar_prior", width=64), large)
    assert narrow == "not the paper's network: latent decoder width 64 (paper: 1,664)"
    assert why("diffusion_prior", changed("diffusion_prior"), Count({"transformer": 1_310_000_000}, 1, 1)) == (
        "to one digit, as the paper gives it, this is its 1 B"
    )
    ours = why("upsampler_256", changed("upsampler_256", channels=96, depth=2), small_one)
    assert ours == "not the paper's network: channels 96 (paper: 320), depth 2 (paper: 3)"
    decoder = changed("decoder")
    assert why("decoder", decoder, Count({"unet": 3_700_000_000}, 1, 1)).endswith("whose caption vocabulary is its own")
    assert why("decoder", decoder, Count({"unet": 3_700_000_000, "projections of z_i": 1}, 1, 1)).endswith("are new")
    assert "no room for the 256 caption tokens" in note("ar_prior", changed("ar_prior"), large)
    assert "no room" not in note("ar_prior", changed("ar_prior", num_codes=64), large)


SPARSE = {
    "ar_prior": "modules.ar_prior.ARPrior",
    "diffusion_prior": "modules.diffusion_prior.DiffusionPrior",
    "decoder": "modules.decoder.Decoder",
    "upsampler_256": "modules.upsampler.Upsampler",
    "upsampler_1024": "modules.upsampler.Upsampler",
}


@pytest.fixture
def sparse(tiny, tmp_path):
    """A folder of five stages that leave to defaults whatever can be; the decoder is GLIDE."""
    places = {"decoder": "glide", "upsampler_256": "upsampler", "upsampler_1024": "upsampler"}
    for stage in SPARSE:
        _, network, arguments, others = tiny.STAGES[places.get(stage, stage)]
        made = {"class_path": network, "init_args": arguments}
        optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}}
        model = {"network": made, "optimizer": optimizer}
        if stage == "ar_prior":
            model["codec"] = others["codec"]
        if stage == "decoder":
            model["objective"] = {"parameterization": "x0", "learned_sigma": False}
        data = {"class_path": "datamodules.shapes.ShapesDataModule"}
        config = {
            "trainer": {"devices": "auto"},
            "model": {"class_path": SPARSE[stage], "init_args": model},
            "data": data,
        }
        (tmp_path / f"{stage}.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def test_a_folder_that_leaves_things_to_defaults(sparse, capsys):
    assert main(["table3", "--folder", str(sparse)]) == 0
    text = capsys.readouterr().out
    lines = {line[:24].strip(): line for line in text.splitlines()}
    assert lines["batch size"].count("64 x auto devices (paper: ") == 5
    assert lines["Adam beta2"].count("0.999") == 5
    assert [lines[row].split()[2:3] for row in ("crop fraction", "sampling steps")] == [["-"], ["-"]]
    assert lines["crop fraction"].count("0.25") == 2 and "paper" not in lines["crop fraction"]
    assert lines["sampling steps"].count("64") == 1 and "250" in lines["sampling steps"]
    assert text.count("not the paper's network: ") == 5
    assert "1.2 B" not in text and "GLIDE" not in text and "projections of z_i" not in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "decoder.yaml' holds no settings: expected 'key: value' lines"),
        ("- a\n", "decoder.yaml' holds no settings"),
        ("trainer: {devices: 1}\n", "decoder.yaml: "),
        ("upsampler", "decoder.yaml: model.init_args.network is a UpsamplerNetwork, and not a DecoderNetwork"),
    ],
)
def test_a_folder_of_other_things(sparse, capsys, monkeypatch, content, message):
    monkeypatch.delenv("UNCLIP_DEBUG", raising=False)
    other = (sparse / "upsampler_256.yaml").read_text()
    (sparse / "decoder.yaml").write_text(other if content == "upsampler" else content)
    assert main(["table3", "--folder", str(sparse)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
