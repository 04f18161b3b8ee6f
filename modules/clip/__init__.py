"""CLIP: trained here (`CLIPTrainer`), or frozen (`FrozenCLIP`): one of ours, or any of open_clip.

Both names are handed on from here: YAMLs and older exports know them as `modules.clip.CLIPTrainer` and
`modules.clip.FrozenCLIP`. They are imported when they are first asked for, since the trainer needs Lightning and
code that only reads a fingerprint or a tokenizer does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modules.clip.frozen import FrozenCLIP as FrozenCLIP
    from modules.clip.trainer import CLIPTrainer as CLIPTrainer

__all__ = ["CLIPTrainer", "FrozenCLIP"]


def __getattr__(name: str) -> object:
    if name == "CLIPTrainer":
        from modules.clip.trainer import CLIPTrainer

        return CLIPTrainer
    if name == "FrozenCLIP":
        from modules.clip.frozen import FrozenCLIP

        return FrozenCLIP
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
