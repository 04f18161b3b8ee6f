"""Table 3 from the YAMLs: every row as the paper has it, and counts that are those of real networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from experiments import table3
from experiments.table3 import ROWS, STAGES, Count, build, count, flops_of, read, setting, table
from modules.errors import InputError

PAPER = Path("experiments/paper")
KNOWN = {("ar_prior", "latent decoder context")}  # the table says why


@pytest.mark.parametrize("stage", STAGES)
def test_every_row_is_the_papers(stage):
    config = read(PAPER / f"{stage}.yaml")
    for row, (_, papers) in ROWS.items():
        ours, papers_value = setting(stage, row, config), papers[STAGES.index(stage)]
        assert ours == papers_value or (stage, row) in KNOWN, row


@pytest.mark.parametrize(("stage", "low", "high"), [("upsampler_1024", 0.9, 1.0), ("upsampler_256", 1.0, 1.1)])
def test_the_sizes_are_near_the_papers(stage, low, high):
    network = build(read(PAPER / f"{stage}.yaml"))
    parameters = list(network.parameters())
    assert {p.device.type for p in parameters} == {"meta"}
    assert low < sum(p.numel() for p in parameters) / table3.SIZES[stage] < high


SMALL = {
    "diffusion_prior": """
network:
  class_path: modules.networks.diffusion_prior.DiffusionPriorNetwork
  init_args: {embedding_dim: 8, vocab_size: 10, context_length: 5, width: 16, depth: 1, heads: 2}
sampler: {steps: 4, guidance_scale: 2.0}
""",
    "ar_prior": """
network:
  class_path: modules.networks.ar_prior.ARPriorNetwork
  init_args: {embedding_dim: 8, num_codes: 3, num_buckets: 6, num_dot_buckets: 4, vocab_size: 10, context_length: 5,
    width: 16, depth: 1, heads: 2}
guidance_scale: 1.0
""",
}


def small(stage):
    return {"model": {"init_args": yaml.safe_load(SMALL[stage])}}


def test_the_count_of_a_small_diffusion_prior():
    """By hand: width 16, so a token costs 24 w^2 in the block's matrices; attention 4 L w a query."""
    counted = count("diffusion_prior", small("diffusion_prior"))
    network = build(small("diffusion_prior"))
    assert counted.parameters == sum(p.numel() for p in network.parameters())
    w, d, prefix = 16, 8, 6
    qkv, rest = 6 * w * w, 2 * w * w + 16 * w * w  # per token; the last layer's rest is one query's
    inputs = 2 * d * w + 4 * w * w  # x_t, and the timestep's two layers
    step = inputs + 3 * qkv + 4 * (prefix + 3) * w + rest + 2 * w * d
    start = prefix * (qkv + rest) + 4 * prefix * prefix * w
    assert counted.image == 2 * (start + 2 * 4 * step)
    whole = inputs + 2 * d * w + (prefix + 3) * qkv + 4 * (prefix + 3) * w + rest + 2 * w * d
    assert counted.forward == whole


def test_the_count_of_a_small_ar_prior_is_that_of_its_steps():
    counted = count("ar_prior", small("ar_prior"))
    w, prefix, k = 16, 6, 3
    block = 6 * w * w + 2 * w * w + 16 * w * w
    steps = sum(block + 4 * (prefix + 1 + j) * w + 2 * w * 6 for j in range(k))
    assert counted.image == prefix * block + 4 * prefix * prefix * w + steps


def test_flops_are_counted_twice_a_product():
    with torch.device("meta"):
        assert flops_of(lambda: torch.empty(3, 4) @ torch.empty(4, 5)) == 2 * 3 * 4 * 5


def test_the_table_names_what_differs():
    configs = {stage: read(PAPER / f"{stage}.yaml") for stage in STAGES}
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
        table3.main(["--folder", str(tmp_path)])
