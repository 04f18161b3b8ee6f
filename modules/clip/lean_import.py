"""open_clip, imported without two packages that few of its CLIPs need; together they take longer to import than torch.

- transformers: open_clip imports it where it is installed, for text towers of Hugging Face.
- torch._dynamo, torch.compile's package: torchvision takes one function from it, which its RoIAlign calls. timm marks a
  function of one network by it as not to be compiled.

`import_open_clip` comes before the first `import open_clip` of a process. Where open_clip is there already, it does
nothing. `with_transformers` gives open_clip the text towers after all.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
TOWERS = "open_clip.hf_model"


def import_open_clip() -> ModuleType:
    """open_clip, imported without transformers and torch._dynamo if neither it nor they are there yet."""
    if "open_clip" in sys.modules:
        return sys.modules["open_clip"]
    before = set(sys.modules)
    try:
        with without_transformers(), stand_in_for_compiler():
            return importlib.import_module("open_clip")
    except (ImportError, AttributeError):  # Of a version that asks for more: import it as it is.
        for name in set(sys.modules) - before:
            if name.split(".")[0] in ("open_clip", "timm"):
                del sys.modules[name]
        return importlib.import_module("open_clip")


def with_transformers() -> None:
    """Let open_clip build text towers of transformers, which it was imported without.

    Its classes stay the same: the module is executed again in its own namespace, in which they look transformers up.
    """
    import_open_clip()
    towers = sys.modules[TOWERS]
    if towers.__dict__.get("transformers") is not None:
        return
    classes = {name: own for name, own in vars(towers).items() if getattr(own, "__module__", None) == TOWERS}
    importlib.reload(towers)
    towers.__dict__.update(classes)


@contextmanager
def without_transformers() -> Iterator[None]:
    """Importing transformers fails, as if it were not installed, unless it is imported already."""
    if "transformers" in sys.modules:
        yield
        return
    sys.modules["transformers"] = None  # type: ignore[assignment] # An ImportError to whoever asks.
    try:
        yield
    finally:
        if sys.modules.get("transformers", ...) is None:
            del sys.modules["transformers"]


@contextmanager
def stand_in_for_compiler() -> Iterator[None]:
    """torch._dynamo has two functions, which import the real one when they, or what they marked, are called."""
    if COMPILER in sys.modules:
        yield
        return

    def is_compile_supported(device_type: str) -> bool:
        from torch._dynamo import utils as real

        return bool(real.is_compile_supported(device_type))

    def disable(fn: Any = None, recursive: bool = True, **options: Any) -> Any:
        if fn is None:
            return functools.partial(disable, recursive=recursive, **options)

        @functools.wraps(fn)
        def uncompiled(*args: Any, **kwargs: Any) -> Any:
            import torch._dynamo as real

            return real.disable(fn, recursive, **options)(*args, **kwargs)

        return uncompiled

    package, utils = ModuleType(COMPILER), ModuleType(f"{COMPILER}.utils")
    package.__path__ = []
    package.disable = disable  # type: ignore[attr-defined]
    utils.is_compile_supported = is_compile_supported  # type: ignore[attr-defined]
    names = {package.__name__: package, utils.__name__: utils}
    sys.modules.update(names)
    try:
        yield
    finally:
        for name, module in names.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
