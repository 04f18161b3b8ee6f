"""Image towers for small CLIPs: timm's smallest ResNet, pooled by parts of the picture; registered for open_clip."""

from __future__ import annotations

from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import register_model
from torch import Tensor, nn


class QuadrantResNet(nn.Module):
    """timm's test_resnet: stride-16 features are averaged over quadrants or a finer grid, the last ones over all.

    An average over the whole picture forgets which object lies above or left of which: with it, a linear probe reads a
    slot's colour from z_i at 0.75 to 0.85; with the quadrants at 0.99 and more (4,000 pairs of the shapes data).

    Args:
        num_classes: width of the output.
        cells: the stride-16 features are averaged over cells x cells parts of the picture; 2 are quadrants.
        cell_width: a 1 x 1 convolution first takes the stride-16 features to so many; null leaves them at 192.
    """

    def __init__(self, num_classes: int, cells: int = 2, cell_width: int | None = None) -> None:
        super().__init__()
        features: Any = timm.create_model("test_resnet", features_only=True, out_indices=(3, 4))
        middle, last = features.feature_info.channels()
        self.features, self.cells = features, cells
        self.narrow = nn.Identity() if cell_width is None else nn.Conv2d(middle, cell_width, 1)
        self.num_classes, self.num_features = num_classes, cells**2 * (cell_width or middle) + last
        self.head = nn.Linear(self.num_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised; H and W at least 16 times `cells` -> (B, num_classes)."""
        middle, last = self.features(images)
        parts = F.adaptive_avg_pool2d(self.narrow(middle), self.cells).flatten(1)
        return self.head(torch.cat([parts, last.mean(dim=(2, 3))], dim=1))


@register_model
def quadrant_resnet(pretrained: bool = False, num_classes: int = 64, **settings: Any) -> QuadrantResNet:
    """For open_clip: vision_cfg {timm_model_name: quadrant_resnet, timm_pool: '', timm_proj: '', image_size: 32}."""
    if pretrained:
        raise ValueError("there are no pretrained weights of quadrant_resnet")
    return QuadrantResNet(num_classes)


@register_model
def grid_resnet(pretrained: bool = False, num_classes: int = 64, **settings: Any) -> QuadrantResNet:
    """For open_clip, images of 64 px and more: sixteen parts of the picture, of 64 features each.

    z_i then says more of where things are than with quadrant_resnet's four parts.
    """
    if pretrained:
        raise ValueError("there are no pretrained weights of grid_resnet")
    return QuadrantResNet(num_classes, cells=4, cell_width=64)
