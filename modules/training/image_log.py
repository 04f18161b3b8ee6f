"""Pictures of validation: the one place that knows which of Lightning's loggers can show them, and how."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from lightning.pytorch.loggers import CometLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

from modules.images.tensors import to_uint8

Show = Callable[[Logger, str, list[np.ndarray], int], None]
"""Hands pictures (H, W, C) uint8 to a logger, by a name and the optimiser's step."""


def _tensorboard(logger: Logger, name: str, pictures: list[np.ndarray], step: int) -> None:
    assert isinstance(logger, TensorBoardLogger)
    logger.experiment.add_images(name, np.stack(pictures), step, dataformats="NHWC")


def _wandb(logger: Logger, name: str, pictures: list[np.ndarray], step: int) -> None:
    assert isinstance(logger, WandbLogger)
    logger.log_image(key=name, images=pictures, step=step)


def _mlflow(logger: Logger, name: str, pictures: list[np.ndarray], step: int) -> None:
    assert isinstance(logger, MLFlowLogger)
    for place, picture in enumerate(pictures):
        key = f"{name.replace('/', '_')}_{place}"  # MLflow makes file names of it.
        logger.experiment.log_image(logger.run_id, picture, key=key, step=step)


def _comet(logger: Logger, name: str, pictures: list[np.ndarray], step: int) -> None:
    assert isinstance(logger, CometLogger)
    for place, picture in enumerate(pictures):
        logger.experiment.log_image(picture, name=f"{name}_{place}", step=step)


LOGGERS: tuple[tuple[type[Logger], Show], ...] = (
    (TensorBoardLogger, _tensorboard),
    (WandbLogger, _wandb),
    (MLFlowLogger, _mlflow),
    (CometLogger, _comet),
)
"""Those of Lightning's loggers that can show pictures. Others, such as CSVLogger, are given the numbers alone."""


def shows_images(loggers: Sequence[Logger]) -> bool:
    """Whether one of the loggers can show pictures: the same on all ranks, which have loggers of the same classes."""
    return any(isinstance(logger, kind) for logger in loggers for kind, _ in LOGGERS)


def log_images(loggers: Sequence[Logger], name: str, images: Tensor, step: int) -> None:
    """Show pictures in every logger that can.

    Args:
        loggers: the Trainer's; to be called on the first rank only.
        name: such as "val/samples".
        images: (N, C, H, W) in [-1, 1]; values beyond are clipped.
        step: of the optimiser.
    """
    pictures = list(to_uint8(images.detach().float()).permute(0, 2, 3, 1).cpu().numpy())
    for logger in loggers:
        for kind, show in LOGGERS:
            if isinstance(logger, kind):
                show(logger, name, pictures, step)


def log_text(loggers: Sequence[Logger], name: str, text: str, step: int) -> None:
    """Show a text, which may be Markdown, in TensorBoard and W&B.

    Args:
        loggers: the Trainer's; to be called on the first rank only.
        name: such as "val/captions".
        text: of any length.
        step: of the optimiser.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(name, text, step)
        elif isinstance(logger, WandbLogger):
            logger.log_text(key=name, columns=["text"], data=[[text]], step=step)
