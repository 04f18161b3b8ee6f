"""A loss or a gradient that is not finite stops the run with what, where and which samples; nothing is spoilt."""

from __future__ import annotations

import pytest
import torch

from experiments.training.checkpoints import Checkpoints
from modules.decoder import Decoder
from modules.errors import InputError
from modules.models.configs import Objective, SamplerConfig
from modules.training.stage import TrainingConfig


@pytest.fixture
def stage(tiny):
    network = tiny.make_network("decoder", learned_sigma=True)
    return Decoder(
        network,
        Objective(learned_sigma=True),
        SamplerConfig("ddpm", 2, "adm", variance="learned"),
        training=TrainingConfig(ema_decay=0.5, warmup_steps=1),
    )


def run(tiny, stage, shapes, root):
    return tiny.fit(stage, shapes(), 3, root, limit_val_batches=0)


@pytest.mark.parametrize("channel", [0, 3])
def test_the_offending_term_is_named_with_its_samples(tiny, stage, shapes, tmp_path, channel):
    """An output that is not finite comes first; in the mean's channels or the variance's."""
    whole = stage.network.forward

    def spoilt(x_t, t, condition):
        out = whole(x_t, t, condition)
        row = torch.zeros_like(out)
        row[2, channel, 0, 0] = torch.nan
        return out + row

    stage.network.forward = spoilt
    before = [p.detach().clone() for p in stage.network.parameters()]
    with pytest.raises(InputError, match=r"the loss is nan at step 0 \(samples \[") as caught:
        run(tiny, stage, shapes, tmp_path)
    samples = eval(str(caught.value).split("samples ")[1].split(")")[0])
    assert f"the network's output is not finite for samples [{samples[2]}]; training stops here" in str(caught.value)
    assert all(torch.equal(p, old) for p, old in zip(stage.network.parameters(), before, strict=True))


@pytest.mark.parametrize("term", ["L_simple", "L_vlb"])
def test_a_term_is_told_from_the_other(stage, term):
    objective = stage.objective
    x0, noise, t = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), torch.tensor([3, 500])
    output = torch.zeros(2, 6, 4, 4)
    output[1, 0 if term == "L_simple" else 3] = torch.nan
    terms = objective.terms(output, x0, noise, t)
    assert terms.keys() == {"L_simple", "L_vlb"}
    assert terms[term].isfinite().tolist() == [True, False]
    if term == "L_vlb":
        assert terms["L_simple"].isfinite().all()
    output = torch.randn(2, 6, 4, 4)
    torch.testing.assert_close(
        sum(objective.terms(output, x0, noise, t).values()), objective.loss(output, x0, noise, t)
    )


def test_a_gradient_that_is_not_finite_takes_no_step(tiny, stage, shapes, tmp_path):
    weight = stage.network.unet.first.weight
    weight.register_hook(lambda gradient: gradient * torch.inf)
    stage.network.unet.last.weight.data.fill_(0.1)  # Zero at first, which would stop the gradient.
    before = [p.detach().clone() for p in stage.network.parameters()]
    with pytest.raises(InputError, match=r"gradient of unet.first.weight is not finite at step 0 \(samples \[\d"):
        run(tiny, stage, shapes, tmp_path)
    assert all(torch.equal(p, old) for p, old in zip(stage.network.parameters(), before, strict=True))


def test_spoilt_data_and_weights_are_named(stage, shapes):
    batch = shapes().dataset("train").__getitems__([5, 3])
    images = batch.images.clone()
    images[0, 0, 0, 0] = torch.nan
    assert stage._offender(batch._replace(images=images)) == "images of the batch is not finite"
    stage.network.unet.last.bias.data[1] = torch.inf
    assert stage._offender(batch) == "the weight unet.last.bias is not finite"


def test_a_term_that_is_not_finite_is_named_where_the_output_is(tiny, stage, shapes, tmp_path):
    whole, loss = Objective.terms, Objective.loss

    def spoilt(self, output, x0, noise, t):
        terms = whole(self, output, x0, noise, t)
        return {**terms, "L_vlb": terms["L_vlb"].index_fill(0, torch.tensor([1]), torch.nan)}

    with pytest.MonkeyPatch.context() as patched, pytest.raises(InputError) as caught:
        patched.setattr(Objective, "terms", spoilt)
        patched.setattr(Objective, "loss", lambda *given: loss(*given) * torch.nan)
        run(tiny, stage, shapes, tmp_path)
    samples = eval(str(caught.value).split("samples ")[1].split(")")[0])
    assert f"L_vlb is not finite for samples [{samples[1]}]" in str(caught.value)


PRIORS = ["linear_prior", "ar_prior", "diffusion_prior"]


@pytest.mark.parametrize("name", [*PRIORS, "clip", "upsampler"])
def test_every_stage_names_what_is_not_finite_first(tiny, shapes, tmp_path, name):
    stage, data = tiny.make_stage(name), shapes(image_size=32) if name == "upsampler" else shapes()
    whole = stage.network.forward

    def spoilt(*args, **kwargs):
        out = whole(*args, **kwargs)
        first = out["text_features"] if name == "clip" else out
        row = torch.zeros_like(first)
        row[3] = torch.nan
        return {**out, "text_features": first + row} if name == "clip" else first + row

    stage.network.forward = spoilt
    with pytest.raises(InputError, match=r"the loss is nan at step 0 \(samples \[") as caught:
        tiny.fit(stage, data, 3, tmp_path, limit_val_batches=0)
    samples = eval(str(caught.value).split("samples ")[1].split(")")[0])
    what = "text_features" if name == "clip" else "output"
    assert f"the network's {what} is not finite for samples [{samples[3]}]" in str(caught.value)


def test_the_last_good_checkpoint_stays(tiny, shapes, tmp_path):
    """What was written before the loss that is not finite is left, and training goes on from it."""
    stage = tiny.make_stage("decoder")
    whole, calls = stage.network.forward, []

    def spoilt(*args, **kwargs):
        calls.append(1)
        return whole(*args, **kwargs) * (torch.nan if len(calls) == 5 else 1)

    stage.network.forward = spoilt
    with pytest.raises(InputError, match="the loss is nan at step 4"):
        saving = {"enable_checkpointing": True, "callbacks": [Checkpoints(every_n_train_steps=2)]}
        tiny.fit(stage, shapes(), 6, tmp_path, limit_val_batches=0, **saving)
    found = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert found["global_step"] == 4
    assert all(tensor.isfinite().all() for tensor in found["state_dict"].values() if tensor.is_floating_point())
