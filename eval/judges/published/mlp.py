"""The MLP on embeddings that the LAION aesthetic predictor and ImageReward share; it has no nonlinearities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from eval.errors import InputError
from eval.judges.aesthetics import unit
from eval.judges.features import fingerprint
from eval.judges.published.weights import fill, read_state

LAYERS = ("layers.0", "layers.2", "layers.4", "layers.6", "layers.7")
"""The linear layers; dropouts stand between them in training."""


def make_mlp(state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """The MLP of the file's sizes; keys "layers.0.weight" and so on.

    Raises:
        InputError: another file.
    """
    missing = [name for name in LAYERS if f"{name}.weight" not in state]
    if missing:
        raise InputError(f"{path} lacks {missing[0]}.weight: it is no MLP of the LAION aesthetic predictor")
    layers: list[nn.Module] = [nn.Identity() for _ in range(8)]
    for name in LAYERS:
        outputs, inputs = state[f"{name}.weight"].shape
        layers[int(name.partition(".")[2])] = nn.Linear(inputs, outputs, device="meta")
    return fill(nn.ModuleDict({"layers": nn.Sequential(*layers)}), state, path)


class AestheticMLP:
    """The LAION aesthetic predictor V2: (N, 768) embeddings of ViT-L-14 openai -> (N,) ratings.

    Args:
        path: sac+logos+ava1-l14-linearMSE.pth.

    Raises:
        InputError: another file.
    """

    def __init__(self, path: Path) -> None:
        self.mlp = make_mlp(read_state(path), path)
        self.name = f"LAION aesthetic MLP {fingerprint(self.mlp)}"

    @torch.inference_mode()
    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(N,) ratings of features (N, D) of any norm: they are brought to unit norm."""
        x = torch.from_numpy(unit(features)).float()
        rated: Tensor = self.mlp["layers"](x)  # type: ignore[index]
        return rated[:, 0].double().numpy()
