"""`unclip validate --bound.samples N`: the variational bound of a trained diffusion stage, term by term.

    unclip validate --config runs/x/decoder/config.yaml --ckpt_path last --bound.samples 256 [--bound.steps 100]

Logs val/bound (bits per dimension), its prior term and likelihood term, and the mean squared errors of the estimates of
x0 and of the noise, and writes all of it, timestep by timestep, to bound.json in the run folder.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from experiments.console.progress import Progress
from experiments.storage.folders import write_json
from modules.diffusion.analytic import analytic_variance
from modules.diffusion.bound import ModelVariance, VariationalBound
from modules.diffusion.schedules import NoiseSchedule, respace
from modules.errors import InputError
from modules.training.diffusion_stage import DiffusionStage

FILE = "bound.json"
COLUMNS = ("terms", "x0_mse", "epsilon_mse")


class BoundReport(Callback):
    """Evaluates the variational bound in validation, on the averaged network, without guidance.

    What it finds does not depend on batch size or number of devices: the samples are the first of the validation
    split, and each has noise of its own.

    Args:
        samples: how many validation samples; 0 leaves the bound out.
        steps: number of steps of the process that is bounded, evenly respaced. null takes all steps of the training
            schedule (with the analytic variance: the sampler's). Each costs one network evaluation a sample.
        variance: variance of the reverse steps. "auto" is the learned one if the stage has one; else the analytic
            one if the stage has its statistics; else fixed_small.
        seed: of the noise.
    """

    def __init__(
        self,
        samples: int = 0,
        steps: int | None = None,
        variance: Literal["auto", "learned", "analytic", "fixed_small", "fixed_large"] = "auto",
        seed: int = 0,
    ) -> None:
        if samples < 0:
            raise InputError(f"bound.samples must be 0 or more, not {samples}")
        if steps is not None and variance == "analytic":
            raise InputError("bound.steps is the sampler's own with bound.variance=analytic; leave it out")
        self.samples, self.steps, self.variance, self.seed = samples, steps, variance, seed
        self._progress: Progress[None] | None = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.samples:
            return
        if not isinstance(pl_module, DiffusionStage):
            raise InputError(
                f"bound.samples is for diffusion stages; {type(pl_module).__name__} has no variational bound"
            )
        self._name = self._variance_of(pl_module)
        self._schedule = self._schedule_of(pl_module)
        self._begin(trainer)
        # Sums over samples, and of the squares of the bound itself: rows terms, x0_mse, epsilon_mse.
        self._curves = torch.zeros(len(COLUMNS), self._schedule.num_steps, dtype=torch.float64)
        self._sums = torch.zeros(4, dtype=torch.float64)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not self.samples:
            return
        chosen = batch.index < self.samples
        if not chosen.any():
            return
        assert isinstance(pl_module, DiffusionStage)
        rows = batch.rows(chosen)
        generators = [noise_of(self.seed, index) for index in rows.index.tolist()]
        variance: ModelVariance = self._name  # type: ignore[assignment]
        if self._name == "analytic":
            assert pl_module.statistics is not None
            variance = analytic_variance(self._schedule, pl_module.statistics).variance
        self._add(
            pl_module.averaged_model.bound(
                rows, self._schedule, generators, variance, on_step=lambda: self._step(len(generators))
            )
        )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end()

    def _begin(self, trainer: Trainer) -> None:
        """Shows how many evaluations of the network are done, of the first rank's."""
        if trainer.is_global_zero:
            total = -(-self.samples // trainer.world_size) * self._schedule.num_steps
            self._progress = Progress("bound, network evaluations", total)
            self._progress.__enter__()

    def _step(self, samples: int) -> None:
        if self._progress is not None:
            self._progress.advance(samples)

    def _end(self) -> None:
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.samples:
            return
        self._end()
        curves, sums = (self._over_ranks(trainer, pl_module, x) for x in (self._curves, self._sums))
        count = int(sums[0])
        if count == 0:
            raise InputError("bound.samples: validation had no samples to evaluate the bound on")
        found = self._report(curves / count, sums / count, count)
        if not math.isfinite(found["total"]):
            first = next(
                (t for t, x in zip(found["timesteps"], found["terms"], strict=True) if not math.isfinite(x)), None
            )
            raise InputError(
                f"the bound is {found['total']}: the term of timestep {first} is not finite with bound.variance="
                f"{self._name}; take another, such as fixed_small. Nothing is written"
            )
        if trainer.is_global_zero:
            write_json(Path(trainer.default_root_dir) / FILE, {"checkpoint": str(trainer.ckpt_path or ""), **found})
        shown = {"bound": "total", "bound_prior": "prior", "bound_likelihood": "likelihood"}
        for name, key in shown.items():
            pl_module.log(f"val/{name}", found[key], rank_zero_only=True)
        for row, name in enumerate(COLUMNS[1:], start=1):
            pl_module.log(f"val/{name}", float(curves[row].mean() / count), rank_zero_only=True)

    def _add(self, found: VariationalBound) -> None:
        columns = torch.stack([getattr(found, name).to("cpu", torch.float64).sum(dim=0) for name in COLUMNS])
        total, prior = (x.to("cpu", torch.float64) for x in (found.total, found.prior))
        self._curves += columns
        self._sums += torch.stack([torch.ones_like(total), total, total.square(), prior]).sum(dim=1)

    def _report(self, curves: Tensor, means: Tensor, count: int) -> dict[str, Any]:
        _, total, square, prior = means.tolist()
        return {
            "unit": "bits per dimension; mean squared errors in the data's own unit",
            "samples": count,
            "seed": self.seed,
            "variance": self._name,
            "total": total,
            "standard_error": (max(square - total**2, 0.0) / max(count - 1, 1)) ** 0.5,
            "prior": prior,
            "likelihood": curves[0, 0].item(),
            "timesteps": self._schedule.timesteps.tolist(),
            "log_snr": [x if x > -float("inf") else None for x in self._schedule.log_snr.tolist()],
            **{name: curves[row].tolist() for row, name in enumerate(COLUMNS)},
        }

    def _variance_of(self, stage: DiffusionStage) -> str:
        if self.variance == "learned" and not stage.objective.learned_sigma:
            raise InputError("bound.variance=learned: this stage has been trained without learned_sigma")
        if self.variance == "analytic" and stage.statistics is None:
            raise InputError(
                "bound.variance=analytic: this checkpoint has no statistics of the score; they are estimated when a "
                "stage with the sampler analytic_dpm or analytic_ddim reaches the end of its training"
            )
        if self.variance != "auto":
            return self.variance
        if stage.objective.learned_sigma:
            return "learned"
        return "analytic" if stage.statistics is not None and self.steps is None else "fixed_small"

    def _schedule_of(self, stage: DiffusionStage) -> NoiseSchedule:
        full = stage.objective.noise_schedule
        if self._name == "analytic":
            return stage.trajectory
        if self.steps is None:
            return full
        if not 1 <= self.steps <= full.num_steps:
            raise InputError(f"bound.steps must be 1 to {full.num_steps} for this stage, not {self.steps}")
        return respace(full, self.steps)

    @staticmethod
    def _over_ranks(trainer: Trainer, module: LightningModule, value: Tensor) -> Tensor:
        if trainer.world_size == 1:
            return value
        gathered: Any = module.all_gather(value.to(module.device, torch.float32))
        return gathered.sum(dim=0).to("cpu", torch.float64)


def noise_of(seed: int, index: int) -> torch.Generator:
    """The generator of a sample's noise, from its position in the split."""
    text = json.dumps(["bound", seed, index])
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1)
