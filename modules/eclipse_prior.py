"""Trains ECLIPSE's prior (`modules.models.eclipse_prior`)."""

from __future__ import annotations

from lightning.pytorch.cli import OptimizerCallable

from modules.models.eclipse_prior import EclipsePriorModel
from modules.networks.eclipse_prior import EclipsePriorNetwork
from modules.training.model_stage import PriorStage
from modules.training.stage import TrainingConfig, adamw


class EclipsePrior(PriorStage[EclipsePriorModel]):
    """Trains an EclipsePriorNetwork: one evaluation draws z_i.

    Args:
        network: what is trained.
        contrast_weight, logit_scale: of the contrastive part of the loss, see EclipsePriorModel.
        optimizer, training: see Stage.
    """

    def __init__(
        self,
        network: EclipsePriorNetwork,
        contrast_weight: float = 0.2,
        logit_scale: float = 100.0,
        optimizer: OptimizerCallable = adamw,
        training: TrainingConfig = TrainingConfig(),
    ) -> None:
        super().__init__(EclipsePriorModel(network, contrast_weight, logit_scale), optimizer, training)
