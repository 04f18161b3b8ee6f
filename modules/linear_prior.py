"""Trains the linear prior (`modules.models.priors.linear_prior`)."""

from __future__ import annotations

from lightning.pytorch.cli import OptimizerCallable

from modules.models.priors.linear_prior import LinearPriorModel
from modules.networks.priors.linear_prior import LinearPriorNetwork
from modules.training.model_stage import PriorStage
from modules.training.stage import TrainingConfig, adamw


class LinearPrior(PriorStage[LinearPriorModel]):
    """Trains a LinearPriorNetwork by least squares.

    Args:
        network: the trained network.
        optimizer, training: see Stage.
    """

    judged = None

    def __init__(
        self,
        network: LinearPriorNetwork,
        optimizer: OptimizerCallable = adamw,
        training: TrainingConfig = TrainingConfig(),
    ) -> None:
        super().__init__(LinearPriorModel(network), optimizer, training)
