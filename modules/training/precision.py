"""Which of Lightning's precisions a stage is trained in."""

from __future__ import annotations

from lightning.pytorch.plugins.precision import Precision

from modules.errors import InputError

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "64-true")
"""In these the weights, their average and the optimiser's state are float32, or float64."""


def check_precision(plugin: Precision) -> None:
    """Refuse a precision whose weights have fewer bits than float32.

    The average of the weights would be such a copy: in bfloat16 the decay 0.9999 is 1, so that the average never moves,
    and a step of the optimiser that is smaller than 1/256 of a weight is lost.

    Args:
        plugin: the Trainer's `precision_plugin`.

    Raises:
        InputError: it is none of PRECISIONS.
    """
    if plugin.precision not in PRECISIONS:
        instead = "16-mixed" if str(plugin.precision).startswith(("16", "fp16")) else "bf16-mixed"
        raise InputError(
            f"trainer.precision is {plugin.precision}: the weights, their average and the optimiser's state would not "
            f"be float32, and small steps would be rounded away; take {instead}, which computes in the short format and "
            f"keeps these in float32 (there are {', '.join(PRECISIONS)})"
        )
