"""A loss or a gradient that is not finite stops the run with what, where and which samples; nothing is spoilt."""

from __future__ import annotations

import pytest
import torch

from modules.decoder import Decoder
from modules.errors import InputError
from modules.objective import Objective, SamplerConfig
from modules.stage import TrainingConfig


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
