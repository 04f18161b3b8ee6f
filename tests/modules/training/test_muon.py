"""Muon against torch's, singular values, and AdamW for what is no hidden matrix."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from modules.training.muon import Muon, NamedParameters, orthogonalised


def named(**shapes):
    torch.manual_seed(0)
    return [(name, nn.Parameter(torch.randn(shape))) for name, shape in shapes.items()]


def with_gradients(pairs, seed):
    g = torch.Generator().manual_seed(seed)
    for _, parameter in pairs:
        parameter.grad = torch.randn(parameter.shape, generator=g)


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 64, 16), (1, 32, 32)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    rotated = u.mT @ orthogonalised(x) @ vh.mT
    values = rotated.diagonal(dim1=1, dim2=2)
    assert values.min() > 0.6
    assert values.max() < 1.25
    assert_close(rotated, torch.diag_embed(values), atol=1e-9, rtol=0)


def test_each_singular_value_goes_through_the_quintic_five_times():
    values = torch.tensor([1.0, 0.5, 0.1, 0.01], dtype=torch.float64)
    x = torch.diag(values)[None]
    expected = values / values.norm()
    for _ in range(5):
        expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
    assert_close(orthogonalised(x)[0].diagonal(), expected)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_three_steps_are_torchs(shape):
    """torch's computes in bfloat16, with 8 bits."""
    ours, theirs = named(w=shape), named(w=shape)
    first = Muon(ours, lr=0.01, momentum=0.9, weight_decay=0.1)
    second = torch.optim.Muon(
        [p for _, p in theirs], lr=0.01, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    start = ours[0][1].detach().clone()
    for seed in range(3):
        with_gradients(ours, seed)
        with_gradients(theirs, seed)
        first.step()
        second.step()
    change, expected = ours[0][1] - start, theirs[0][1] - start
    assert ((change - expected).norm() / expected.norm()).item() < 0.02


def test_a_convolution_is_a_matrix_of_its_outputs():
    flat, kernel = named(w=(32, 18 * 9)), named(w=(32, 18, 3, 3))
    kernel[0][1].data.copy_(flat[0][1].data.reshape(32, 18, 3, 3))
    for pairs in (flat, kernel):
        optimizer = Muon(pairs)
        for seed in range(2):
            with_gradients(flat, seed)
            kernel[0][1].grad = flat[0][1].grad.reshape(32, 18, 3, 3)
            optimizer.step()
    assert_close(kernel[0][1].flatten(1), flat[0][1])


def test_the_rest_is_adamw():
    shapes = {
        "unet.middle.conv.weight": (32, 32, 3, 3),
        "unet.middle.conv.bias": (32,),
        "unet.first.weight": (32, 27),
        "unet.last.weight": (32, 32),
        "unet.time.second.weight": (32, 32),
        "text.embedding.tokens.weight": (64, 32),
        "clip_to_tokens.weight": (64, 32),
        "unet.narrow.weight": (12, 64),
    }
    pairs = named(**shapes)
    others = [(name, nn.Parameter(p.detach().clone())) for name, p in pairs[1:]]
    ours = Muon(pairs, lr=0.01, betas=(0.9, 0.95))
    assert ours.param_groups[0]["param_names"] == ["unet.middle.conv.weight"]
    adamw = torch.optim.AdamW([p for _, p in others], lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)
    for seed in range(3):
        with_gradients(pairs, seed)
        for (_, other), (_, parameter) in zip(others, pairs[1:], strict=True):
            other.grad = parameter.grad
        ours.step()
        adamw.step()
    for (name, parameter), (_, other) in zip(pairs[1:], others, strict=True):
        assert_close(parameter, other, msg=name)


def test_an_update_has_the_size_of_adamws():
    """Root mean square 0.2 x the learning rate x the singular values' (2502.16982, section 2.2)."""
    pairs = named(w=(64, 256))
    before = pairs[0][1].detach().clone()
    with_gradients(pairs, 0)
    Muon(pairs, lr=0.5).step()
    rms = (pairs[0][1] - before).square().mean().sqrt().item()
    assert 0.5 * 0.2 * 0.7 < rms < 0.5 * 0.2 * 1.2


def test_it_goes_on_from_its_state():
    whole, halved = named(w=(32, 48), b=(32,)), named(w=(32, 48), b=(32,))
    optimizer = Muon(whole)
    for seed in range(4):
        with_gradients(whole, seed)
        optimizer.step()
    first = Muon(halved)
    for seed in range(2):
        with_gradients(halved, seed)
        first.step()
    second = Muon(halved)
    second.load_state_dict(first.state_dict())
    for seed in range(2, 4):
        with_gradients(halved, seed)
        second.step()
    for (_, a), (_, b) in zip(whole, halved, strict=True):
        assert torch.equal(a, b)


def test_a_closure_computes_the_gradients_and_its_loss_comes_back():
    """As Lightning calls every optimiser: the loss, backward and all, in the closure."""
    pairs, target = named(w=(32, 48), b=(32,)), torch.ones(32, 48)
    optimizer = Muon(pairs, lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (pairs[0][1] - target).square().mean() + pairs[1][1].square().mean()
        loss.backward()
        return loss

    losses = [float(optimizer.step(closure)) for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]


def test_a_stage_hands_over_names_and_other_optimisers_take_the_list():
    pairs = named(w=(32, 48), b=(32,))
    both = NamedParameters(pairs)
    assert list(both) == [p for _, p in pairs]
    assert Muon(both).param_groups[0]["param_names"] == ["w"]
    assert torch.optim.AdamW(both).param_groups[0]["params"] == [p for _, p in pairs]


def test_what_it_cannot_train_is_refused():
    with pytest.raises(ValueError, match="named_parameters"):
        Muon([nn.Parameter(torch.zeros(32, 32))])
    with pytest.raises(ValueError, match="no hidden matrix; take AdamW"):
        Muon(named(b=(32,)))
    with pytest.raises(ValueError, match=r"momentum 1\.0"):
        Muon(named(w=(32, 32)), momentum=1.0)
