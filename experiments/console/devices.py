"""Which device a command computes on."""

from __future__ import annotations

from typing import Any

import torch

from modules.errors import InputError


def find_device(name: str | None) -> torch.device:
    """The device of that name; for None the accelerator if there is one, else the CPU.

    Raises:
        InputError: there is no such device here.
    """
    if name is not None:
        try:
            return torch.empty(0, device=name).device
        except RuntimeError as error:
            raise InputError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from error
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def trainer_device(device: torch.device | str) -> dict[str, Any]:
    """The Trainer's settings for one device, such as "cpu" or "cuda:1"."""
    one = torch.device(device)
    return {"accelerator": one.type, "devices": 1 if one.type == "cpu" else [one.index or 0]}
