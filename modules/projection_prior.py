"""Trains the priors without diffusion: projection, ECLIPSE on the same network, and ECLIPSE's released network.

Their models are `modules.models.priors.projection_prior` and `modules.models.priors.eclipse_prior`.
"""

from __future__ import annotations

from lightning.pytorch.cli import OptimizerCallable

from modules.models.priors.eclipse_prior import EclipsePriorModel
from modules.models.priors.projection_prior import ProjectionPriorModel
from modules.networks.priors.eclipse_prior import EclipsePriorNetwork
from modules.networks.priors.projection_prior import ProjectionPriorNetwork
from modules.training.model_stage import PriorStage
from modules.training.stage import TrainingConfig, adamw


class ProjectionPrior(PriorStage[ProjectionPriorModel]):
    """Trains a ProjectionPriorNetwork by squared error, and by ECLIPSE's contrastive loss where that has a weight.

    Args:
        network: what is trained.
        contrastive_weight: 0 is the projection baseline, 0.2 ECLIPSE.
        temperature: of the contrastive loss.
        drop_text: how often caption and z_t are dropped together; with 1, the mean of z_i is learned.
        optimizer, training: see Stage.
    """

    judged = None

    def __init__(
        self,
        network: ProjectionPriorNetwork,
        contrastive_weight: float = 0.0,
        temperature: float = 0.07,
        drop_text: float = 0.0,
        optimizer: OptimizerCallable = adamw,
        training: TrainingConfig = TrainingConfig(),
    ) -> None:
        model = ProjectionPriorModel(network, contrastive_weight, temperature, drop_text)
        super().__init__(model, optimizer, training)


class EclipsePrior(PriorStage[EclipsePriorModel]):
    """Trains an EclipsePriorNetwork: one evaluation draws z_i.

    Args:
        network: what is trained.
        contrastive_weight, temperature: of the contrastive part of the loss, see EclipsePriorModel.
        optimizer, training: see Stage.
    """

    def __init__(
        self,
        network: EclipsePriorNetwork,
        contrastive_weight: float = 0.2,
        temperature: float = 0.01,
        optimizer: OptimizerCallable = adamw,
        training: TrainingConfig = TrainingConfig(),
    ) -> None:
        super().__init__(EclipsePriorModel(network, contrastive_weight, temperature), optimizer, training)
