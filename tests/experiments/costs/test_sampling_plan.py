"""`unclip plan --sample RUN`: counted from shapes, against what real tensors take."""

from __future__ import annotations

import pytest
import torch

from experiments.cli import main
from experiments.costs.memory import LiveBytes
from experiments.costs.sampling import Need, needs, total
from modules.models.exports import load_model
from modules.placement.settings import Placement


@pytest.fixture(scope="module")
def found(stored_run):
    return {need.name: need for need in needs(str(stored_run), "diffusion_prior", 3)}


def test_weights_are_those_that_are_held(stored_run, found):
    assert list(found) == ["clip", "diffusion_prior", "decoder", "upsampler"]
    for name in ("diffusion_prior", "decoder", "upsampler"):
        for half in (False, True):
            model = load_model(stored_run / name, half=half).model
            held = [*model.network.state_dict().values(), *model.tensors().values()]
            counted = found[name].weights_half if half else found[name].weights
            # Statistics of the score are counted as float32; they are a few numbers.
            assert abs(sum(t.numel() * t.element_size() for t in held) - counted) < 600


def test_what_is_alive_is_what_real_tensors_take(stored_run, found):
    for name, copies in (("decoder", 2), ("upsampler", 1), ("diffusion_prior", 2)):
        model = load_model(stored_run / name).model
        batch = model.example_batch(3 * copies)
        model.network.requires_grad_(True)
        with LiveBytes(model.network) as live:
            model.network.requires_grad_(False)
            model.output(batch)
            model.network.requires_grad_(True)
        assert found[name].active == pytest.approx(live.peak, rel=0.2), name


def test_the_ways_to_hold_a_run():
    parts = [Need("clip", 10, 40, 40, 8, 8), Need("decoder", 100, 400, 210, 60, 30)]
    assert [total(parts, way) for way in (Placement(), Placement("bf16"))] == [500, 280]
    assert [total(parts, way) for way in (Placement(offload=True), Placement("bf16", True))] == [460, 240]


def test_the_command_names_the_simplest_way_that_fits(stored_run, capsys):
    assert main(["plan", "--sample", str(stored_run), "--batch-size", "2", "--memory", "16"]) == 0
    text = capsys.readouterr().out
    assert f"unclip sample --run {stored_run} --precision 32 --batch-size 2" in text
    assert all(
        name in text for name in ("clip", "diffusion_prior", "decoder", "upsampler", "--precision bf16 --offload")
    )
    assert main(["plan", "--sample", str(stored_run), "--memory", "0.0000001"]) == 0
    assert "None fits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "name the YAML of the stage to train, or with --sample the run"),
        (["x.yaml", "--sample", "RUN"], "leave out YAMLs"),
        (["--sample", "RUN", "--condition", "distilled"], "holds no trained distilled_decoder"),
        (["--sample", "RUN", "--condition", "one_step"], "holds no trained one_step_decoder"),
        (["--sample", "RUN", "--condition", "nothing"], "unknown condition 'nothing'"),
    ],
)
def test_what_cannot_be_planned(stored_run, words, line, capsys):
    assert main(["plan", *[str(stored_run) if word == "RUN" else word for word in words]]) == 2
    assert line in capsys.readouterr().err


def test_plans_hold_no_memory(stored_run, found):
    assert all(need.active > 0 and need.active_half > 0 for need in found.values())
    assert found["decoder"].active_half < found["decoder"].active and torch.get_default_dtype() == torch.float32
