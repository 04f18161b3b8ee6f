"""Trains the diffusion prior (`modules.models.priors.diffusion_prior`)."""

from __future__ import annotations

from lightning.pytorch.cli import OptimizerCallable

from modules.models.base import Batch
from modules.models.configs import Objective, SamplerConfig
from modules.models.priors.diffusion_prior import DiffusionPriorModel
from modules.networks.priors.prior import DenoisingPriorNetwork
from modules.training.conditioning import fit_conditioning
from modules.training.diffusion_stage import DiffusionStage
from modules.training.model_stage import PriorStage
from modules.training.stage import TrainingConfig, adamw


class DiffusionPrior(PriorStage[DiffusionPriorModel], DiffusionStage[DiffusionPriorModel, Batch]):
    """Trains a DiffusionPriorNetwork, or an MLPPriorNetwork.

    Args:
        network: the trained network.
        objective: by default the paper's: x0 prediction, cosine schedule, 1,000 steps.
        sampler: how validation and `unclip sample` draw from it.
        drop_text: how often caption and z_t are dropped together; with 1, p(z_i) is learned.
        statistics_samples: see DiffusionStage.
        candidates: draws of z_i for each caption, of which the one with the largest z_i . z_t is kept; the paper has 2.
        optimizer, training: see Stage.
    """

    def __init__(
        self,
        network: DenoisingPriorNetwork,
        objective: Objective = Objective(parameterization="x0"),
        sampler: SamplerConfig = SamplerConfig(name="analytic_dpm", steps=64, spacing="adm", threshold=None),
        drop_text: float = 0.1,
        statistics_samples: int = 2048,
        candidates: int = 2,
        optimizer: OptimizerCallable = adamw,
        training: TrainingConfig = TrainingConfig(),
    ) -> None:
        model = DiffusionPriorModel(network, objective, sampler, drop_text=drop_text, candidates=candidates)
        super().__init__(model, optimizer, training, statistics_samples)

    def on_fit_start(self) -> None:
        """Take the scale of z_i and the empty caption of the data, where the network has them."""
        fit_conditioning(self)
