"""What a manipulation needs of the trained stages; `modules.pipeline.UnCLIP` is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from modules.clip.frozen import FrozenCLIP
from modules.models.configs import SamplerConfig
from modules.models.exports import StoredStage


class System(Protocol):
    """A run's stages, as `UnCLIP` documents them."""

    run: Path
    device: torch.device

    @property
    def clip(self) -> FrozenCLIP: ...

    def has(self, name: str) -> bool: ...

    def stage(self, name: str) -> StoredStage: ...

    def sampler(self, name: str) -> SamplerConfig: ...

    def embed_text(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]: ...

    def embed_image(self, images: Tensor) -> Tensor: ...

    def embedding(
        self,
        condition: str,
        tokens: Tensor,
        z_t: Tensor,
        generators: list[torch.Generator],
        images: Tensor | None = None,
    ) -> Tensor | None: ...

    def decode(
        self, tokens: Tensor, z_i: Tensor | None, generators: list[torch.Generator], decoder: str = "decoder"
    ) -> Tensor: ...
