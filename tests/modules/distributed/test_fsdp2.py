"""A decoder sharded over two processes (FSDP2), with activation checkpointing, is the decoder of one process."""

from __future__ import annotations

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.testing import assert_close

from experiments.training.checkpoints import load_checkpoint
from modules.errors import InputError
from modules.training.sharding import blocks

OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7)
pytestmark = [
    pytest.mark.timeout(600),  # the first test waits for the processes
    pytest.mark.skipif(OLD, reason="FSDP2 on the CPU needs torch 2.7"),
]


def test_gradients_weights_and_averages_are_those_of_one_process(one, two, worker, rounding):
    alone, _ = one("narrow")
    for rank in range(2):
        together = two("fsdp2_narrow", rank)
        assert worker.apart(together["gradients"][0], alone["gradients"][0]) <= rounding("narrow")
        assert_close(together["weights"], alone["weights"], atol=2e-5, rtol=1e-4)
        assert_close(together["averages"], alone["averages"], atol=2e-5, rtol=1e-4)


def test_the_average_is_the_one_by_hand(two):
    together = two("fsdp2_narrow")
    for name, last in together["averages"][-1].items():
        assert_close(last, (together["averages"][-2][name] + together["weights"][name]) / 2)


def test_its_checkpoint_has_the_shape_of_one_process_and_one_process_goes_on_from_it(one, two, alone, tmp_path):
    expected, root = one("narrow")
    path = two.folder / "fsdp2_narrow" / "saved.ckpt"
    ours, theirs = (load_checkpoint(p) for p in (path, root / "saved.ckpt"))
    shapes = [{name: tuple(t.shape) for name, t in c["state_dict"].items()} for c in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert_close(ours["state_dict"], theirs["state_dict"], atol=2e-5, rtol=1e-4)
    result = alone("narrow", tmp_path, resumed=path)
    assert len(result["gradients"]) == 2
    assert_close(result["weights"], expected["weights"], atol=2e-5, rtol=1e-4)
    assert_close(result["averages"][-1], expected["averages"][-1], atol=2e-5, rtol=1e-4)


def test_two_processes_go_on_from_the_checkpoint_of_one(one, two):
    expected, _ = one("narrow")
    resumed = two("fsdp2_resumed")
    assert len(resumed["gradients"]) == 2
    assert_close(resumed["weights"], expected["weights"], atol=2e-5, rtol=1e-4)
    assert_close(resumed["averages"][-1], expected["averages"][-1], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["ar_prior", "diffusion_prior", "decoder", "token_transformer"])
def test_every_stage_trains_validates_samples_and_exports_as_under_ddp(two, name):
    ddp, sharded = (two(f"{kind}_{name}_validated") for kind in ("ddp", "fsdp2"))
    assert_close(sharded["weights"], ddp["weights"], atol=2e-5, rtol=1e-4)
    assert sharded["metrics"].keys() == ddp["metrics"].keys() >= {"val/loss"}
    assert sharded["metrics"] == pytest.approx(ddp["metrics"], rel=1e-3, abs=1e-4)
    exported = [two.folder / f"{kind}_{name}_validated" / "export" for kind in ("ddp", "fsdp2")]
    weights = [load_file(folder / "model.safetensors") for folder in exported]
    assert_close(weights[1], weights[0], atol=1e-4, rtol=1e-3)
    assert [yaml.safe_load((folder / "config.yaml").read_text())["step"] for folder in exported] == [2, 2]


def test_muon_orthogonalises_whole_matrices(two):
    """Shares of a matrix that are orthogonalised by themselves would give another update."""
    ddp, sharded = two("ddp_muon"), two("fsdp2_muon")
    assert_close(sharded["weights"], ddp["weights"], atol=2e-5, rtol=1e-4)


def test_bf16_is_near_that_of_ddp(two):
    """Sums of gradients are float32; norms' weights are rounded too, which is all the difference."""
    ddp, sharded = (two(f"{kind}_bf16")["gradients"][0] for kind in ("ddp", "fsdp2"))
    assert {gradient.dtype for gradient in sharded.values()} == {torch.float32}
    errors = torch.stack([(sharded[n] - g).norm() / g.norm().clamp(min=1e-3) for n, g in ddp.items()])
    assert errors.max() < 0.1
    assert 0 < errors.median() < 0.02


def test_all_that_is_deep_is_in_a_block(tiny):
    """What is in no block stays gathered while the network computes."""
    network = tiny.make_network("decoder")
    inside = {id(p) for block in blocks(network) for p in block.parameters()}
    outside = {name.split(".")[0] for name, p in network.named_parameters() if id(p) not in inside}
    assert outside == {"unet", "text", "text_to_emb", "clip_to_emb", "clip_to_tokens"}
    left = {name for name, p in network.unet.named_parameters() if id(p) not in inside}
    assert {name.split(".")[0] for name in left} == {"first", "time", "last", "last_norm"}


def test_clip_is_not_sharded_and_says_so(tiny):
    from types import SimpleNamespace

    from modules.training.sharding import shard_stage

    stage = tiny.make_stage("clip")
    stage._device_mesh = object()
    stage._trainer = SimpleNamespace(strategy=None)
    with pytest.raises(InputError, match="CLIPTrainer is not sharded; train it with ddp"):
        shard_stage(stage)
