"""`schedule.at` and the tables behind it: right values, made once for each device and dtype, fit for training."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from modules.diffusion.gaussian import q_sample
from modules.diffusion.losses import loss_weight
from modules.diffusion.schedules import Levels, NoiseSchedule, cosine, respace
from modules.diffusion.tables import Tables

F64 = torch.float64


class Operations(TorchDispatchMode):
    """Names of the operations that run inside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (3, 7)])
def test_levels_are_the_schedule_s_values_rounded_once(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    schedule = respace(cosine(1000), 10)
    at = schedule.at(torch.tensor([999, 0, 111]), like=torch.zeros(shape, dtype=dtype))
    expected = F64 if dtype == F64 else torch.float32
    for name, found in at._asdict().items():
        assert found.dtype == expected and found.shape == (3, *[1] * (len(shape) - 1))
        assert torch.equal(found.flatten(), getattr(schedule, name)[[9, 0, 1]].to(expected)), name


def test_levels_of_ddpm_in_closed_form() -> None:
    """At t = 500 of a schedule with known alpha_bar, from DDPM eq. 4 and 7 in plain floats."""
    schedule = cosine(1000)
    previous, now = schedule.alpha_bar[499].item(), schedule.alpha_bar[500].item()
    at = schedule.at(torch.tensor([500]), like=torch.zeros(1, dtype=F64))
    beta = 1 - now / previous
    expected = {
        "signal": now**0.5,
        "noise": (1 - now) ** 0.5,
        "posterior_variance": (1 - previous) / (1 - now) * beta,
        "posterior_x0_coefficient": previous**0.5 * beta / (1 - now),
        "posterior_xt_coefficient": (1 - beta) ** 0.5 * (1 - previous) / (1 - now),
    }
    for name, value in expected.items():
        assert getattr(at, name).item() == pytest.approx(value, rel=1e-12), name
    assert at.log_betas.exp().item() == pytest.approx(beta, rel=1e-12)
    assert at.fixed_large_log_variance.item() == at.log_betas.item()
    assert at.posterior_log_variance.exp().item() == pytest.approx(expected["posterior_variance"], rel=1e-12)


def test_a_table_is_made_once_for_each_device_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, torch.dtype]] = []
    make = Tables.made

    def counted(self: Tables, values: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        made.append((device.type, dtype))
        return make(self, values, device, dtype)

    monkeypatch.setattr(Tables, "made", counted)
    schedule, t = cosine(10), torch.tensor([1, 5])
    for _ in range(3):
        for dtype in (torch.float32, torch.bfloat16, F64):
            q_sample(schedule, torch.ones(2, 3, dtype=dtype), t, torch.ones(2, 3, dtype=dtype))
        q_sample(schedule, torch.ones(2, 3, device="meta"), t.to("meta"), torch.ones(2, 3, device="meta"))
        for gamma in (4.0, 5.0):
            loss_weight(schedule, t, "v", "min_snr", gamma)
    weights = [("cpu", torch.float32)] * 2  # one for each gamma
    assert made == [("cpu", torch.float32), ("cpu", F64), ("meta", torch.float32), *weights]


def test_a_later_lookup_copies_nothing() -> None:
    schedule, t = cosine(10), torch.tensor([1, 5])
    schedule.at(t, like=torch.ones(2, 3))
    loss_weight(schedule, t, "v", "min_snr")
    with Operations() as operations:
        schedule.at(t, like=torch.ones(2, 3))
        loss_weight(schedule, t, "v", "min_snr")
    assert {"aten._to_copy", "aten.copy_", "aten.cat", "aten.div"} & set(operations.names) == set()
    assert operations.names.count("aten.index_select") == 2


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_leave_the_tables_behind_and_say_the_same(duplicate: Callable[[NoiseSchedule], NoiseSchedule]) -> None:
    schedule, t = respace(cosine(1000), 10), torch.tensor([0, 999])
    before = schedule.at(t, like=torch.ones(2, 3))
    made = duplicate(schedule)
    assert set(vars(made)) == {"alpha_bar", "timesteps"}
    for a, b in zip(before, made.at(t, like=torch.ones(2, 3)), strict=True):
        assert torch.equal(a, b)
    assert "tables" not in repr(schedule).lower()


def test_a_schedule_first_used_in_inference_mode_trains_afterwards() -> None:
    """Validation before the first training step is in inference mode, whose tensors autograd refuses."""
    schedule, t = cosine(10), torch.tensor([1, 5])
    with torch.inference_mode():
        q_sample(schedule, torch.ones(2, 3), t, torch.ones(2, 3))
        loss_weight(schedule, t, "v", "min_snr")
    x0 = torch.ones(2, 3, requires_grad=True)
    loss = q_sample(schedule, x0, t, torch.ones(2, 3)).mean(dim=1) * loss_weight(schedule, t, "v", "min_snr")
    (gradient,) = torch.autograd.grad(loss.sum(), x0)
    expected = schedule.signal[t].float() * loss_weight(schedule, t, "v", "min_snr") / 3
    torch.testing.assert_close(gradient, expected[:, None].expand(2, 3))


def test_a_stand_in_tensor_is_not_kept() -> None:
    schedule, t = cosine(10), torch.tensor([1, 5])
    _ = [getattr(schedule, name) for name in Levels._fields]
    with FakeTensorMode(allow_non_fake_inputs=True):
        like = torch.ones(2, 3, device="meta")
        assert type(schedule.at(torch.ones(2, dtype=torch.int64, device="meta"), like=like).signal) is not Tensor
    assert schedule._tables._kept == {}
    assert type(schedule.at(t, like=torch.ones(2, 3)).signal) is Tensor


def test_threads_get_the_same_table() -> None:
    for _ in range(20):
        schedule = cosine(50)

        def table(_: int, schedule: NoiseSchedule = schedule) -> int:
            return schedule.at(torch.tensor([3]), like=torch.ones(1, 1)).signal.untyped_storage().size()

        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(table, range(8)))) == 1
        assert len(schedule._tables._kept) == 1


def test_a_weighting_that_is_refused_is_refused_again() -> None:
    schedule = cosine(10)
    for _ in range(2):
        with pytest.raises(ValueError, match="unknown weighting"):
            loss_weight(schedule, torch.tensor([1]), "x0", "p2")  # type: ignore[arg-type]
