"""The classes and values that an export's config.yaml may name: the allow-list for everything that is built from it.

A config names classes and gives them values. Both come from a stranger. A class is taken if it is this project's own,
by its exact name, or the user's (`class_named`); a value, if it is plain and of the parameter's type (`made`). Nothing
here imports a module that the config alone chooses, and no argument becomes an object because a config says so.
"""

from __future__ import annotations

import inspect
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from torch import nn

from modules.errors import InputError
from modules.untrusted.reading import printable

TRUST = "UNCLIP_TRUST"
"""Environment variable: packages of the user's own, parted by commas, from which configs may name classes."""

OWN = ("modules.models.", "modules.networks.")
"""The folders of this project whose classes a config may name."""

Resolve = Callable[[str, type], type]
"""(class path, class that it must derive from) -> the class."""

T = TypeVar("T")


def trusted_packages() -> tuple[str, ...]:
    """The packages that the user names in UNCLIP_TRUST."""
    return tuple(name.strip() for name in os.environ.get(TRUST, "").split(",") if name.strip())


def class_named(path: str, base: type[T], package: str = "") -> type[T]:
    """The class of a class path in a config, if it may be built.

    It may be a class of `OWN`, `base` itself, or one of a package in UNCLIP_TRUST. Of `package` it may be a class of a
    module that the user's program has imported already. The module must be the one that defines the class.

    Args:
        path: as the config has it.
        base: class that it must derive from.
        package: the user's own, by its first name.

    Raises:
        InputError: none of these.
    """
    module, _, name = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        raise InputError(f"{printable(path[:100])!r} is no class path")
    root = module.partition(".")[0]
    own, trusted = module.startswith(OWN), root in trusted_packages()
    found = _imported(module, path) if own or trusted else sys.modules.get(module)
    kind = None if found is None else vars(found).get(name)  # A module's __getattr__ is not asked.
    if not (own or trusted or root == package or (kind is base and kind is not nn.Module)) or found is None:
        raise InputError(
            f"{path} is none of this project's classes, and an export may name no others; nothing is built from it"
            + ("" if root in sys.modules and root != package else f". {_hint(module, root)}")
        )
    if kind is None:
        raise InputError(f"no class {path}")
    if not (isinstance(kind, type) and issubclass(kind, base)) or inspect.isabstract(kind):
        raise InputError(f"{path} is no {base.__name__}")
    if kind is not base and kind.__module__ != module:
        raise InputError(f"{path} is defined in {kind.__module__}: name it there")
    return kind


def _hint(module: str, root: str) -> str:
    """The way for models of the user's own; not said of packages that everybody has, as torch."""
    if root in sys.stdlib_module_names:
        return f"The module {module} is Python's own"
    return f"If the package {root!r} is yours, import {module} first, or set {TRUST}={root}"


def _imported(module: str, path: str) -> types.ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(f"no class {path} ({printable(str(error))})") from error


def made(hint: Any, value: Any, name: str, resolve: Resolve) -> Any:
    """A value of a config as a parameter takes it.

    Args:
        hint: the parameter's type.
        value: what YAML gave: None, bool, int, float, str, lists and mappings.
        name: of the parameter, for messages.
        resolve: finds classes.

    Returns:
        The value, with tuples for lists where the type says so; dataclasses and modules are built.

    Raises:
        InputError: it is not of the type.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any or hint is object or hint is inspect.Parameter.empty:
        return plain(value, name)
    if origin in (Union, types.UnionType):
        return _first(inner, value, name, resolve)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in inner):
            return value
        raise InputError(f"{name} must be one of {', '.join(map(str, inner))}, found {_shown(value)}")
    if origin in (tuple, list, Sequence):
        return _sequence(origin, inner, value, name, resolve)
    if origin in (dict, Mapping):
        return _mapping(inner, value, name, resolve)
    if isinstance(hint, type) and issubclass(hint, nn.Module):
        return _module(hint, value, name, resolve)
    if isinstance(hint, type) and is_dataclass(hint):
        return _called(hint, value, name, resolve)
    return _scalar(hint, value, name)


def _scalar(hint: Any, value: Any, name: str) -> Any:
    if hint in (None, type(None)) and value is None:
        return None
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint is float and isinstance(value, str):  # PyYAML reads 1e-3 as text.
        try:
            return float(value)
        except ValueError:
            pass
    if hint in (bool, int, str, list, dict, tuple) and type(value) is hint:
        return plain(value, name)
    wanted = "null" if hint in (None, type(None)) else getattr(hint, "__name__", str(hint))
    raise InputError(f"{name} must be {wanted}, found {_shown(value)}")


def _first(hints: tuple[Any, ...], value: Any, name: str, resolve: Resolve) -> Any:
    exact = [hint for hint in hints if type(value) is hint] or list(hints)
    faults: list[str] = []
    for hint in exact:
        try:
            return made(hint, value, name, resolve)
        except InputError as error:
            faults.append(str(error))
    raise InputError(faults[0] if len(set(faults)) == 1 else f"{name}: {'; or '.join(dict.fromkeys(faults))}")


def _sequence(origin: Any, inner: tuple[Any, ...], value: Any, name: str, resolve: Resolve) -> Any:
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{name} must be a list, found {_shown(value)}")
    fixed = origin is tuple and inner[-1:] != (Ellipsis,)
    if fixed and len(value) != len(inner):
        raise InputError(f"{name} must be {len(inner)} values, found {len(value)}")
    hints = inner if fixed else (inner[0],) * len(value)
    parts = [made(hint, part, f"{name}[{k}]", resolve) for k, (hint, part) in enumerate(zip(hints, value, strict=True))]
    return tuple(parts) if origin is tuple else parts


def _mapping(inner: tuple[Any, ...], value: Any, name: str, resolve: Resolve) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{name} must be a mapping, found {_shown(value)}")
    return {
        made(inner[0], key, name, resolve): made(inner[1], part, f"{name}.{key}", resolve)
        for key, part in value.items()
    }


def _module(base: type[nn.Module], value: Any, name: str, resolve: Resolve) -> nn.Module:
    if not isinstance(value, dict):
        raise InputError(f"{name} must be a class_path with init_args, found {_shown(value)}")
    if "class_path" not in value:
        value = {"class_path": f"{base.__module__}.{base.__qualname__}", "init_args": value}
    extra = sorted(str(key) for key in value.keys() - {"class_path", "init_args"})
    if extra:
        raise InputError(f"{name} has {printable(extra[0])!r} beside class_path and init_args")
    if not isinstance(value["class_path"], str):
        raise InputError(f"{name}.class_path must be text, found {_shown(value['class_path'])}")
    try:
        kind = resolve(value["class_path"], base)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    found: nn.Module = _called(kind, value.get("init_args") or {}, name, resolve)
    return found


def _called(kind: type, value: Any, name: str, resolve: Resolve) -> Any:
    """An object of a class from the mapping of its arguments."""
    if not isinstance(value, Mapping):
        raise InputError(f"{name} must be a mapping of settings, found {_shown(value)}")
    hints = parameters(kind)
    for key in value:
        if key not in hints:
            raise InputError(f"{name}: Option '{printable(str(key))}' is not accepted by {kind.__name__}")
    return kind(**{key: made(hints[key], part, f"{name}.{key}", resolve) for key, part in value.items()})


def parameters(kind: type) -> dict[str, Any]:
    """The names and types of the arguments of a class, without *args and **kwargs."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return {field.name: hints[field.name] for field in fields(kind) if field.init}
    hints = get_type_hints(kind.__init__)  # type: ignore[misc]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = inspect.signature(kind).parameters.values()
    return {each.name: hints.get(each.name, each.annotation) for each in found if each.kind in named}


def plain(value: Any, name: str) -> Any:
    """A value for a parameter that takes any: it stays what YAML gave.

    Raises:
        InputError: it is, or holds, what some readers would build a class from.
    """
    if isinstance(value, dict):
        if "class_path" in value:
            raise InputError(f"{name} is a class_path, but no class is built here: give a plain value")
        return {key: plain(part, f"{name}.{key}") for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part, name) for part in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise InputError(f"{name} must be a plain value, found a {type(value).__name__}")


def _shown(value: Any) -> str:
    text = repr(value) if type(value) in (bool, int, float, str, type(None)) else f"a {type(value).__name__}"
    return printable(text[:60])
