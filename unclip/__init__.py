"""Text to images by way of CLIP embeddings (unCLIP, DALL-E 2): the public names of this project.

    from unclip import UnCLIP, Walk
    pictures = UnCLIP.from_run("runs/quickstart").text_to_image("a large red circle", seed=[0, 1, 2])

`UnCLIP` is the whole system of a run (`modules.pipeline`), `Walk` the trajectory of its inversions
(`modules.manipulations`). Both are imported when they are first asked for, so `import unclip` takes no time. An
ImportError says so in one line if another `modules`, `datamodules`, `eval` or `experiments` stands in front of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unclip import packages

if TYPE_CHECKING:
    from modules.manipulations import Walk as Walk
    from modules.pipeline import UnCLIP as UnCLIP

    __version__: str

__all__ = ["UnCLIP", "Walk", "__version__"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return packages.version()
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    packages.require_own()
    if name == "Walk":
        from modules.manipulations import Walk

        return Walk
    from modules.pipeline import UnCLIP

    return UnCLIP


def __dir__() -> list[str]:
    return sorted(__all__)
