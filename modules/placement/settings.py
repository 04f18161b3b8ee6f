"""How a run's stages are held in memory while pictures are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from modules.errors import InputError

Precision = Literal["32", "bf16"]


@dataclass(frozen=True)
class Placement:
    """How stages are held.

    Attributes:
        precision: "32" computes in float32. "bf16" holds the matrices of priors, decoders and upsamplers in bfloat16,
            which is half of the memory. On an accelerator products are in bfloat16 too, on a CPU in float32; norms,
            biases, the noise schedule and what a sampler adds up stay float32. The CLIP and a dVAE stay float32.
        offload: hold one stage at a time. A stage is read onto the device when it is needed, and dropped when another
            one is; its file, which the system keeps in memory as long as there is room, is then read again.
    """

    precision: Precision = "32"
    offload: bool = False

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise InputError(f"precision must be {' or '.join(get_args(Precision))}, found {self.precision!r}")

    @property
    def half(self) -> bool:
        """Whether matrices are held in bfloat16."""
        return self.precision == "bf16"
