"""The small image towers: which parts of a picture their features are of."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from modules.networks.quadrant_resnet import QuadrantResNet


@pytest.mark.parametrize(("name", "cells"), [("quadrant_resnet", 2), ("grid_resnet", 4)])
def test_features_are_averages_over_the_cells(name, cells):
    torch.manual_seed(0)
    tower = timm.create_model(name, num_classes=8).eval()
    assert isinstance(tower, QuadrantResNet)
    images = torch.randn(2, 3, 64, 64)
    middle, last = tower.features(images)
    narrow = middle if cells == 2 else F.conv2d(middle, tower.narrow.weight, tower.narrow.bias)
    side = middle.shape[-1] // cells
    means = [
        narrow[:, channel, row * side : (row + 1) * side, column * side : (column + 1) * side].mean(dim=(1, 2))
        for channel in range(narrow.shape[1])
        for row in range(cells)
        for column in range(cells)
    ]
    features = torch.cat([torch.stack(means, dim=1), last.mean(dim=(2, 3))], dim=1)
    assert features.shape[1] == tower.num_features
    assert_close(tower(images), features @ tower.head.weight.T + tower.head.bias)


@pytest.mark.parametrize("name", ["quadrant_resnet", "grid_resnet"])
def test_there_are_no_pretrained_weights(name):
    with pytest.raises(ValueError, match=f"no pretrained weights of {name}"):
        timm.create_model(name, pretrained=True)
