"""Features of any network of timm, such as DINOv2, from its own weights or a local file."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from eval.errors import InputError
from eval.judges.features import fingerprint


class TimmExtractor:
    """The pooled features of a timm model.

    Args:
        name: as timm calls it, for example "vit_small_patch14_dinov2.lvd142m".
        weights: a file of its weights; by default those that timm downloads.
        device: where it computes.

    Raises:
        InputError: timm knows no such model, or the weights are not there or those of another.
    """

    resizing = "bicubic, antialiased"

    def __init__(self, name: str, weights: Path | None = None, device: str | torch.device = "cpu") -> None:
        import timm

        if not timm.is_model(name):
            raise InputError(f"timm knows no model {name!r}; name one of timm.list_models()")
        try:
            self.model = timm.create_model(name, pretrained=weights is None, num_classes=0)
            if weights is not None:
                timm.models.load_checkpoint(self.model, str(weights), strict=True)
        except Exception as error:  # the hub, torch and safetensors each raise their own kinds
            reason = " ".join(str(error).split())[:160]
            raise InputError(
                f"cannot load the weights of {name} ({reason}); download them elsewhere and name the file:"
                f" --network {name}=FILE"
            ) from error
        self.model.to(device).eval().requires_grad_(False)
        data = timm.data.resolve_data_config({}, model=self.model)
        self.size = tuple(data["input_size"][1:])
        self.mean, self.std = (torch.tensor(data[key], device=device)[:, None, None] for key in ("mean", "std"))
        self.device = torch.device(device)
        self.name = f"{name} {fingerprint(self.model)}"

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        x = images.to(self.device).float() / 255
        if tuple(x.shape[-2:]) != self.size:
            x = F.interpolate(x, self.size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        return self.model((x - self.mean) / self.std).float().cpu()


def make_network(text: str, device: str | torch.device = "cpu") -> TimmExtractor:
    """From NAME or NAME=FILE."""
    name, _, file = text.partition("=")
    return TimmExtractor(name, Path(file) if file else None, device)
