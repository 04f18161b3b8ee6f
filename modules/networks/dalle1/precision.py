"""float32 where a Trainer's half precision would change the training (DALL-E 1, appendix D)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def in_float32(x: Tensor) -> AbstractContextManager[object]:
    """A block without autocast on x's device; the meta device, on which only shapes are counted, has none."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
