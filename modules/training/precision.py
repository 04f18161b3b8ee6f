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
        raise _refusal(str(plugin.precision))


def check_precision_name(name: object) -> None:
    """As `check_precision`, of the setting itself, before a Trainer asks for packages that it would need.

    Raises:
        InputError: the weights would have fewer bits than float32. The Trainer refuses unknown names.
    """
    if str(name) in ("16-true", "bf16-true") or str(name).startswith("transformer-engine"):
        raise _refusal(str(name))


def _refusal(name: str) -> InputError:
    instead = "16-mixed" if name.endswith(("16-true", "float16")) and not name.startswith("bf") else "bf16-mixed"
    return InputError(
        f"trainer.precision is {name}: the weights, their average and the optimiser's state would not be float32, and "
        f"small steps would be rounded away; take {instead}, which computes in the short format and keeps these in "
        f"float32 (there are {', '.join(PRECISIONS)})"
    )
