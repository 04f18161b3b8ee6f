"""A stage as it is imported: its classes, its settings and its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from modules.networks.decoder import DecoderNetwork
from modules.networks.priors.diffusion_prior import DiffusionPriorNetwork
from modules.networks.priors.eclipse_prior import EclipsePriorNetwork
from modules.networks.upsampler import UpsamplerNetwork
from modules.pretrained.key_map import Entry, to_ours
from modules.pretrained.shapes import Settings

TRAINERS = {
    DecoderNetwork: ("modules.decoder.Decoder", "modules.models.decoder.DecoderModel"),
    DiffusionPriorNetwork: (
        "modules.diffusion_prior.DiffusionPrior",
        "modules.models.priors.diffusion_prior.DiffusionPriorModel",
    ),
    EclipsePriorNetwork: (
        "modules.projection_prior.EclipsePrior",
        "modules.models.priors.eclipse_prior.EclipsePriorModel",
    ),
    UpsamplerNetwork: ("modules.upsampler.Upsampler", "modules.models.upsampler.UpsamplerModel"),
}
"""The LightningModule and the model of each network."""


@dataclass(frozen=True)
class ImportedStage:
    """The content of a stage's folder.

    Attributes:
        class_path: the LightningModule that trains it further.
        model: the model's class path.
        settings: init_args of both.
        tensors: the network's weights. Those for the empty caption are set when the CLIP is there.
    """

    class_path: str
    model: str
    settings: Settings
    tensors: dict[str, Tensor]


Stages = Mapping[str, Callable[[], ImportedStage]]
"""The stages that a source holds, by name; each is read when its function is called."""


def stage(
    network: nn.Module,
    settings: Settings,
    beside: Settings,
    entries: list[Entry],
    tensors: Mapping[str, Tensor],
    source: str,
) -> ImportedStage:
    """A stage of a network on the meta device and of their tensors.

    Args:
        network: what `entries` are of.
        settings: its own.
        beside: the model's, without the network.
        entries, tensors, source: see `to_ours`.

    Raises:
        InputError: a tensor is missing, has no place, or has another shape.
    """
    kind = type(network)
    shapes = {name: x.shape for name, x in network.state_dict().items() if "empty." not in name}
    found = to_ours(entries, tensors, shapes, source)
    named: dict[str, Any] = {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": settings}
    class_path, model = TRAINERS[kind]  # type: ignore[index]
    return ImportedStage(class_path, model, {"network": named, **beside}, found)
