"""open_clip, imported without torch._dynamo, torch.compile's package, which takes longer to import than open_clip.

torchvision takes one function from it, which its RoIAlign calls. timm marks a function of one network by it as not to
be compiled. Nothing else of open_clip's imports asks for it.
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


def import_open_clip() -> ModuleType:
    """open_clip, imported without torch._dynamo if neither is there yet.

    It comes before the first `import open_clip` of a process.
    """
    if "open_clip" in sys.modules:
        return importlib.import_module("open_clip")  # Waits, where another thread is importing it.
    before = set(sys.modules)
    try:
        with stand_in_for_compiler():
            return importlib.import_module("open_clip")
    except (ImportError, AttributeError):  # Of a version that asks for more: import it as it is.
        for name in set(sys.modules) - before:
            if name.split(".")[0] in ("open_clip", "timm"):
                del sys.modules[name]
        return importlib.import_module("open_clip")


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
