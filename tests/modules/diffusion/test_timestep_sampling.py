from __future__ import annotations

import pytest
import torch

from modules.diffusion.schedules import cosine, respace
from modules.diffusion.timestep_sampling import LossSecondMoment, antithetic, logit_normal, uniform

SCHEDULE = respace(cosine(1000), 20)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sample", [uniform, antithetic, LossSecondMoment(20)])
def test_every_timestep_is_equally_likely(sample) -> None:  # type: ignore[no-untyped-def]
    t, weight = sample(SCHEDULE, 20_000, seeded())
    assert t.dtype == torch.int64
    counts = [int((t == k).sum()) for k in SCHEDULE.timesteps]
    assert sum(counts) == 20_000
    # Five standard deviations of a binomial count.
    assert all(abs(c - 1000) < 5 * 31 for c in counts)
    torch.testing.assert_close(weight, torch.ones(20_000))


@pytest.mark.parametrize("sample", [uniform, antithetic, logit_normal, LossSecondMoment(20)])
def test_the_generator_decides(sample) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    first = sample(SCHEDULE, 50, seeded(1)).t
    assert torch.equal(first, sample(SCHEDULE, 50, seeded(1)).t)
    assert not torch.equal(first, sample(SCHEDULE, 50, seeded(2)).t)


@pytest.mark.parametrize("batch", [1, 6, 7])
def test_antithetic_pairs_mirror_each_other(batch: int) -> None:
    t, _ = antithetic(SCHEDULE, batch, seeded())
    assert len(t) == batch
    position = torch.searchsorted(SCHEDULE.timesteps, t)
    half = (batch + 1) // 2
    assert torch.equal(position[half:], 19 - position[: batch - half])


def test_logit_normal_has_its_quantiles_at_the_sigmoid_of_a_normal_s() -> None:
    """Of 40,000 draws, the shares below three timesteps are the normal distribution's, within 0.01."""
    schedule = cosine(1000)
    t, weight = logit_normal(schedule, 40_000, seeded(), mean=0.5, std=0.8)
    assert torch.equal(weight, torch.ones(40_000))
    normal = torch.distributions.Normal(0.5, 0.8)
    for below in (300, 500, 800):
        expected = normal.cdf(torch.logit(torch.tensor(below / 1000))).item()
        assert (t < below).float().mean().item() == pytest.approx(expected, abs=0.01)
    # However wide the draw, it stays in the schedule.
    extreme = logit_normal(SCHEDULE, 1000, seeded(), std=100.0).t
    assert set(extreme.tolist()) >= {0, 999} and set(extreme.tolist()) <= set(SCHEDULE.timesteps.tolist())


def filled(losses: torch.Tensor, history: int = 4, uniform_probability: float = 0.0) -> LossSecondMoment:
    sampler = LossSecondMoment(len(losses), history, uniform_probability)
    schedule = respace(SCHEDULE, len(losses))
    for _ in range(history):
        sampler.update(schedule, schedule.timesteps, losses)
    return sampler


def test_importance_follows_the_root_of_the_second_moment() -> None:
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0])
    torch.testing.assert_close(filled(losses).probabilities(), losses / 10)
    mixed = filled(losses, uniform_probability=0.2).probabilities()
    torch.testing.assert_close(mixed, 0.8 * losses / 10 + 0.2 / 4)
    # Not the mean: losses of 0 and 2 count as sqrt(2), not as 1.
    sampler, schedule = filled(torch.ones(2)), respace(SCHEDULE, 2)
    for value in (0.0, 2.0, 0.0, 2.0):
        sampler.update(schedule, schedule.timesteps[:1], torch.tensor([value]))
    torch.testing.assert_close(sampler.probabilities()[0] / sampler.probabilities()[1], torch.tensor(2.0).sqrt())


def test_weights_make_the_importance_sampled_loss_unbiased() -> None:
    losses = torch.tensor([0.5, 1.0, 3.0, 9.0])
    schedule = respace(SCHEDULE, 4)
    t, weight = filled(losses)(schedule, 40_000, seeded())
    seen = losses[torch.searchsorted(schedule.timesteps, t)]
    assert (seen * weight).mean().item() == pytest.approx(losses.mean().item(), rel=1e-4)
    assert (seen > 5).float().mean().item() == pytest.approx(9 / 13.5, abs=0.01)


def test_uniform_until_every_history_is_full() -> None:
    sampler, schedule = LossSecondMoment(4, history=2), respace(SCHEDULE, 4)
    sampler.update(schedule, schedule.timesteps, torch.arange(4.0))
    sampler.update(schedule, schedule.timesteps[:3], torch.arange(3.0))
    assert sampler.probabilities().tolist() == [0.25] * 4
    sampler.update(schedule, schedule.timesteps[3:], torch.tensor([3.0]))
    assert sampler.probabilities()[3] > 0.49


def test_history_keeps_the_latest_losses_also_when_a_timestep_repeats_in_a_batch() -> None:
    sampler, schedule = LossSecondMoment(2, history=3), respace(SCHEDULE, 2)
    first, second = schedule.timesteps.tolist()
    sampler.update(schedule, torch.tensor([first, second, first]), torch.tensor([1.0, 9.0, 2.0]))
    assert sorted(sampler.losses[0].tolist()) == [0, 1, 2] and sorted(sampler.losses[1].tolist()) == [0, 0, 9]
    sampler.update(schedule, torch.tensor([first] * 2), torch.tensor([3.0, 4.0]))
    assert sorted(sampler.losses[0].tolist()) == [2, 3, 4]
    sampler.update(schedule, torch.tensor([first] * 5), torch.arange(10.0, 15.0))
    assert sorted(sampler.losses[0].tolist()) == [12, 13, 14]
    assert sampler.seen.tolist() == [9, 1]


def test_losses_of_zero_leave_it_uniform() -> None:
    assert filled(torch.zeros(5)).probabilities().tolist() == pytest.approx([0.2] * 5)


def test_a_checkpoint_holds_the_history() -> None:
    sampler, other = filled(torch.tensor([1.0, 2.0])), LossSecondMoment(2, 4, 0.0)
    other.load_state_dict(sampler.state_dict())
    assert torch.equal(other.probabilities(), sampler.probabilities())
