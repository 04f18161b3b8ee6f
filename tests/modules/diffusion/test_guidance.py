from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from modules.diffusion.clip_guidance import clip_guide
from modules.diffusion.denoiser import Denoiser, Model, Prediction, as_denoiser, at_timestep
from modules.diffusion.gaussian import epsilon_from_x0, q_sample
from modules.diffusion.guidance import guide, guide_logits, guide_two
from modules.diffusion.samplers import ddim
from modules.diffusion.schedules import cosine, rescale_zero_terminal_snr, respace

SCHEDULE = cosine(1000)
X = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
T = torch.tensor([10, 300, 600, 990])


class Network:
    """A network over stacked conditionings: what it returns for copy k is made of x, t and k; it counts its calls."""

    def __init__(self, copies: int, learned_sigma: bool = False, single: bool = False) -> None:
        self.copies, self.learned_sigma, self.single, self.calls = copies, learned_sigma, single, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        condition = torch.arange(self.copies).repeat_interleave(len(x) // self.copies)
        return self.of(x, t, condition)

    def of(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        shape = (-1, *([1] * (x.ndim - 1)))
        out = torch.sin(x * (1 + condition.reshape(shape)) * 1.7 + t.reshape(shape) * 0.01) / (
            1 + condition.reshape(shape)
        )
        return torch.cat([out, torch.cos(out * 3)], dim=1) if self.learned_sigma else out

    def copy(self, k: int, x: Tensor = X) -> Tensor:
        """The output for conditioning k alone."""
        return self.of(x, T[: len(x)], torch.full((len(x),), k))


@pytest.mark.parametrize("learned_sigma", [False, True])
@pytest.mark.parametrize("x", [X, X.flatten(1)], ids=["images", "embeddings"])
def test_scale_one_is_conditional_and_zero_unconditional_bit_for_bit(learned_sigma: bool, x: Tensor) -> None:
    network = Network(2, learned_sigma)
    for rescale in (0.0, 0.7):
        assert torch.equal(guide(network, 1.0, rescale=rescale)(x, T), network.copy(0, x))
        assert torch.equal(guide(network, 0.0, rescale=rescale)(x, T), network.copy(1, x))


def test_guidance_extrapolates_in_one_call() -> None:
    network = Network(2)
    found = guide(network, 3.0)(X, T)
    torch.testing.assert_close(found, network.copy(1) + 3 * (network.copy(0) - network.copy(1)))
    assert network.calls == 1


def test_learned_variance_is_not_guided() -> None:
    network = Network(2, learned_sigma=True)
    found = guide(network, 3.0)(X, T)
    mean = network.copy(1) + 3 * (network.copy(0) - network.copy(1))
    torch.testing.assert_close(found[:, :3], mean[:, :3])
    assert torch.equal(found[:, 3:], network.copy(0)[:, 3:])


def test_guidance_within_an_interval_of_timesteps() -> None:
    network = Network(2)
    found = guide(network, 3.0, interval=(300, 600))(X, T)
    always = guide(network, 3.0)(X, T)
    assert torch.equal(found[1:3], always[1:3])
    assert torch.equal(found[0], network.copy(0)[0]) and torch.equal(found[3], network.copy(0)[3])


def test_rescaling_brings_the_deviation_back() -> None:
    network = Network(2, learned_sigma=True)
    plain, conditional = guide(network, 4.0)(X, T), network.copy(0)

    def deviation(x: Tensor) -> Tensor:
        return x[:, :3].std(dim=(1, 2, 3))

    torch.testing.assert_close(deviation(guide(network, 4.0, rescale=1.0)(X, T)), deviation(conditional))
    half = guide(network, 4.0, rescale=0.5)(X, T)
    torch.testing.assert_close(deviation(half), (deviation(plain) + deviation(conditional)) / 2)
    # A multiple of the guided output, sample by sample; the variance channels stay.
    scale = (deviation(half) / deviation(plain)).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(half[:, :3], plain[:, :3] * scale)
    assert torch.equal(half[:, 3:], conditional[:, 3:])
    with pytest.raises(ValueError, match=r"rescale must lie in \[0, 1\], got 1.5"):
        guide(network, 2.0, rescale=1.5)
    with pytest.raises(ValueError, match="rescale must lie"):
        guide_two(network, 2.0, 2.0, rescale=-1.0)


@pytest.mark.parametrize("learned_sigma", [False, True])
def test_two_scales_at_their_corners_bit_for_bit(learned_sigma: bool) -> None:
    """Copies are [both, CLIP embedding, neither]."""
    network = Network(3, learned_sigma)
    corners = {(1.0, 1.0): 0, (0.0, 1.0): 1, (0.0, 0.0): 2}
    for (text, image), copy in corners.items():
        assert torch.equal(guide_two(network, text, image)(X, T), network.copy(copy))


def test_two_scales_in_between() -> None:
    network = Network(3, learned_sigma=True)
    both, image, neither = (network.copy(k) for k in range(3))
    for text_scale, image_scale in [(2.0, 3.0), (4.0, 1.0), (1.0, 0.0), (0.0, 2.5), (3.0, 3.0)]:
        found = guide_two(network, text_scale, image_scale)(X, T)
        mean = neither + image_scale * (image - neither) + text_scale * (both - image)
        torch.testing.assert_close(found[:, :3], mean[:, :3], rtol=1e-5, atol=1e-5)
        variance = image if text_scale == 0 else both
        assert torch.equal(found[:, 3:], variance[:, 3:])


def test_equal_scales_are_the_joint_form() -> None:
    network = Network(3)

    def joint(x: Tensor, t: Tensor) -> Tensor:
        b = len(x) // 2
        return network.of(x, t, torch.tensor([0] * b + [2] * b))

    assert torch.equal(guide_two(network, 3.0, 3.0, rescale=0.4)(X, T), guide(joint, 3.0, rescale=0.4)(X, T))


def test_two_scales_within_an_interval() -> None:
    network = Network(3)
    found = guide_two(network, 3.0, 2.0, interval=(0, 300))(X, T)
    assert torch.equal(found[:2], guide_two(network, 3.0, 2.0)(X, T)[:2])
    assert torch.equal(found[2:], network.copy(0)[2:])


class Sizes:
    """A model that remembers how many samples each call was for."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.sizes: list[int] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return self.model(x, t)


def conditional_of(network: Network) -> Model:
    return lambda x, t: network.of(x, t, torch.zeros(len(x)))


@pytest.mark.parametrize("copies", [2, 3])
@pytest.mark.parametrize("given", [False, True], ids=["", "conditional given"])
def test_a_sampler_leaves_the_other_copies_out_outside_of_the_interval(copies: int, given: bool) -> None:
    """And draws what it would draw with all copies evaluated, or by a model that is put together by hand."""
    network = Network(copies, learned_sigma=True)
    stacked, alone = Sizes(network), Sizes(conditional_of(network))
    schedule = respace(SCHEDULE, 5)
    levels = [int(t) for t in schedule.timesteps]
    interval, conditional = (levels[1], levels[2]), alone if given else None
    make = partial(guide, scale=3.0) if copies == 2 else partial(guide_two, text_scale=3.0, image_scale=2.0)
    model = make(stacked, interval=interval, rescale=0.4, conditional=conditional)

    def drawn(chosen: Model) -> Tensor:
        return ddim(as_denoiser(chosen, SCHEDULE, "v", learned_sigma=True), schedule, X)

    found = drawn(model)
    assert stacked.sizes == [copies * 4] * (2 if given else 5)
    assert alone.sizes == [4] * (3 if given else 0)
    everywhere = make(network, rescale=0.4)

    def by_hand(x: Tensor, t: Tensor) -> Tensor:
        inside = interval[0] <= t[0] <= interval[1]
        return everywhere(x, t) if inside else conditional_of(network)(x, t)

    assert torch.equal(found, drawn(by_hand))
    # As a plain callable, without a sampler that says the timestep, the model gives the same.
    assert torch.equal(found, drawn(lambda x, t: model(x, t)))


@pytest.mark.parametrize("ends", [(0, 300), (300, 300), (300, 999)])
def test_both_ends_belong_to_the_interval(ends: tuple[int, int]) -> None:
    network = Network(2)
    model, t = guide(network, 3.0, interval=ends), torch.full((4,), 300)
    assert torch.equal(at_timestep(model, 300)(X, t), guide(network, 3.0)(X, t))
    for outside in {ends[0] - 1, ends[1] + 1} & set(range(1000)):
        t = torch.full((4,), outside)
        assert torch.equal(at_timestep(model, outside)(X, t), conditional_of(network)(X, t))


def test_scale_one_is_the_conditional_model_itself() -> None:
    network = Network(2)
    conditional = conditional_of(network)
    assert guide(network, 1.0, conditional=conditional) is conditional
    assert guide_two(network, 1.0, 1.0, conditional=conditional) is conditional
    assert guide_two(network, 1.0, 2.0, conditional=conditional) is not conditional


def test_an_interval_that_ends_before_it_starts_is_refused() -> None:
    for make in (partial(guide, scale=2.0), partial(guide_two, text_scale=2.0, image_scale=2.0)):
        with pytest.raises(ValueError, match=r"must not end before it starts, got \(5, 4\)"):
            make(Network(2), interval=(5, 4))


def test_logits() -> None:
    logits = torch.randn(6, 7, 11, generator=torch.Generator().manual_seed(0))
    conditional, unconditional = logits[:3], logits[3:]
    assert torch.equal(guide_logits(logits, 1.0), conditional)
    assert torch.equal(guide_logits(logits, 0.0), unconditional)
    torch.testing.assert_close(guide_logits(logits, 2.5), unconditional + 2.5 * (conditional - unconditional))


def test_forbidden_codes_stay_forbidden() -> None:
    inf = float("inf")
    logits = torch.tensor([[1.0, -inf, -inf, 2.0], [0.5, -inf, 1.0, -inf]])
    assert guide_logits(logits, 3.0).tolist() == [[2.0, -inf, -inf, 2.0]]
    assert guide_logits(logits, 1.0).tolist() == [[1.0, -inf, -inf, 2.0]]
    assert guide_logits(logits, 0.0).tolist() == [[0.5, -inf, 1.0, -inf]]


def toward(direction: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x0: (x0 * direction).flatten(1).sum(dim=1)


def halving(x_t: Tensor, t: Tensor) -> Prediction:
    x0 = torch.tanh(x_t)
    return Prediction(x0, epsilon_from_x0(SCHEDULE, x0, x_t, t), torch.sigmoid(x_t))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_clip_guidance_follows_the_gradient_through_the_denoiser(mode: Callable[[], object]) -> None:
    direction = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(1))
    # d/dx_t <tanh(x_t), direction> = (1 - tanh^2) direction
    gradient = (1 - torch.tanh(X) ** 2) * direction
    with mode():  # type: ignore[attr-defined]
        plain = halving(X, T)
        found = clip_guide(halving, SCHEDULE, toward(direction), 2.0)(X.clone(), T.clone())
        noise = SCHEDULE.noise[T].float().reshape(-1, 1, 1, 1)
        torch.testing.assert_close(found.epsilon, plain.epsilon - 2 * noise * gradient)
        # x0 goes along with epsilon, and the variance stays.
        torch.testing.assert_close(q_sample(SCHEDULE, found.x0, T, found.epsilon), X, rtol=1e-4, atol=1e-4)
        assert found.variance_fraction is not None and plain.variance_fraction is not None
        assert torch.equal(found.variance_fraction, plain.variance_fraction)
    assert not found.x0.requires_grad and not found.epsilon.requires_grad


def test_clip_guidance_raises_the_similarity(gaussian_denoiser: Callable[..., Denoiser]) -> None:
    """N(0, 1) tilted by exp(scale * x) is N(scale, 1).

    The x0 estimate is sqrt(alpha_bar) x_t, so the guided score, -x_t + scale * sqrt(alpha_bar), is exactly that of
    noised N(scale, 1): what is left is the error of 100 steps.
    """
    denoiser = gaussian_denoiser(SCHEDULE, torch.zeros(1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64))
    x_T = torch.randn(256, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    schedule = respace(SCHEDULE, 100)
    similarity = toward(torch.ones(1, dtype=torch.float64))
    plain, guided = (ddim(clip_guide(denoiser, SCHEDULE, similarity, s), schedule, x_T) for s in (0.0, 0.7))
    assert (guided - plain).mean().item() == pytest.approx(0.7, abs=0.01)


def test_clip_guidance_of_scale_zero_is_the_denoiser_itself() -> None:
    assert clip_guide(halving, SCHEDULE, toward(torch.ones(3, 5, 5)), 0.0) is halving


@pytest.mark.parametrize("outside", [False, True])
def test_clip_guidance_of_a_guided_model(outside: bool) -> None:
    """clip_guide over guide: the gradient is that of the guided estimate, and the interval still saves evaluations."""
    network = Network(2)
    stacked, alone = Sizes(network), Sizes(conditional_of(network))
    model = guide(stacked, 3.0, interval=(500, 999), conditional=alone)
    direction = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(1))
    timestep = 300 if outside else 600
    t, plain = torch.full((4,), timestep), conditional_of(network) if outside else guide(network, 3.0)
    guided = clip_guide(as_denoiser(model, SCHEDULE, "epsilon"), SCHEDULE, toward(direction), 2.0)
    found = at_timestep(guided, timestep)(X, t)
    assert (stacked.sizes, alone.sizes) == (([], [4]) if outside else ([8], []))
    x = X.clone().requires_grad_()
    a, s = SCHEDULE.signal[timestep].float(), SCHEDULE.noise[timestep].float()
    epsilon = plain(x, t)
    (gradient,) = torch.autograd.grad((((x - s * epsilon) / a) * direction).sum(), x)
    torch.testing.assert_close(found.epsilon, epsilon.detach() - 2 * s * gradient)


def test_clip_guidance_is_refused_where_epsilon_says_nothing() -> None:
    with pytest.raises(ValueError, match="zero terminal SNR"):
        clip_guide(halving, rescale_zero_terminal_snr(SCHEDULE), toward(torch.ones(3, 5, 5)), 2.0)


def test_guided_models_compose_with_a_sampler() -> None:
    model: Model = guide(Network(2, learned_sigma=True), 2.0)
    denoiser = as_denoiser(model, SCHEDULE, "v", learned_sigma=True)
    assert ddim(denoiser, respace(SCHEDULE, 3), X).shape == X.shape
    zero = rescale_zero_terminal_snr(SCHEDULE)
    assert bool(torch.isfinite(as_denoiser(guide(Network(2), 2.0), zero, "v")(X, T).x0).all())
