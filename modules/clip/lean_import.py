"""open_clip, imported without two packages that few of its CLIPs need; together they take longer to import than torch.

- transformers: open_clip imports it where it is installed, for text towers of Hugging Face.
- torch._dynamo, torch.compile's package: torchvision takes one function from it, which its RoIAlign calls. timm marks a
  function of one network by it as not to be compiled.

`import_open_clip` comes before the first `import open_clip` of a process. Where open_clip is there already, it does
nothing. What needs transformers, whoever asks for it, gets it when it is called: text towers and CoCa's captions.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
NEEDING = {"open_clip.hf_model": ("HFTextEncoder", "__init__"), "open_clip.coca_model": ("CoCa", "generate")}
"""The modules of open_clip that look for transformers as they are imported: a class of each, and what needs it."""
FOUND = ("_has_transformers", "GENERATION_TYPES")
"""What they note down of it, beside the names that they import from it."""


def import_open_clip() -> ModuleType:
    """open_clip, imported without transformers and torch._dynamo if neither it nor they are there yet."""
    if "open_clip" in sys.modules:
        return importlib.import_module("open_clip")  # Waits, where another thread is importing it.
    before = set(sys.modules)
    without = "transformers" not in before
    try:
        with without_transformers(), stand_in_for_compiler():
            found = importlib.import_module("open_clip")
    except (ImportError, AttributeError):  # Of a version that asks for more: import it as it is.
        for name in set(sys.modules) - before:
            if name.split(".")[0] in ("open_clip", "timm"):
                del sys.modules[name]
        return importlib.import_module("open_clip")
    for name in NEEDING if without else ():
        _with_transformers_when_called(name)
    return found


def _with_transformers_when_called(name: str) -> None:
    """What needs transformers in a module of open_clip looks for it first."""
    owner, method = getattr(sys.modules.get(name), NEEDING[name][0], None), NEEDING[name][1]
    if owner is None or (own := getattr(owner, method, None)) is None:
        return

    @functools.wraps(own)
    def called(*args: Any, **kwargs: Any) -> Any:
        if getattr(owner, method) is called:
            _look_again(sys.modules[name])
            setattr(owner, method, own)
        return own(*args, **kwargs)

    setattr(owner, method, called)


def _look_again(module: ModuleType) -> None:
    """Give a module what it would have found of transformers; its own classes and functions stay as they are.

    They look names up in the module's namespace. A second copy of the module, which nothing else sees, has those names.
    """
    if module.__spec__ is None or module.__spec__.loader is None:
        return
    copy = module_from_spec(module.__spec__)
    module.__spec__.loader.exec_module(copy)
    for name, found in vars(copy).items():
        home = getattr(found, "__module__", None) or getattr(found, "__name__", "")
        if name in FOUND or str(home).split(".")[0] == "transformers":
            setattr(module, name, found)


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
