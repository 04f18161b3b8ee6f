"""The modules that a config may import: this project's, Lightning's, and those that your own YAML or words name.

jsonargparse imports every class path that it parses. A person's own YAML, given to `unclip fit` and its like, may name
classes of any package (`trust`), as with LightningCLI. Other YAML, such as a run's config.yaml, reaches the parser too,
where a run is resumed: it can name the classes below, and those that the person's own YAML names.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import jsonargparse

from modules.untrusted.allowed import trusted_packages

OWN = ("modules", "datamodules", "eval")
OTHERS = ("torch.optim", "torch.nn", "lightning.pytorch", "lightning.fabric", "datetime")
"""Packages whose classes and functions any config may name, by the module that defines them."""

_PATH = re.compile(r"(?:[^\W\d]\w*\.)+[^\W\d]\w*")


def raise_wall() -> None:
    """Deny every import but those of `OWN`, `OTHERS` and UNCLIP_TRUST; a setting of type Any makes no object.

    jsonargparse looks at the path that a config names and at the path of the module that defines what is found there.
    """
    jsonargparse.set_parsing_settings(instantiate_subclass_spec_in_any=False)
    jsonargparse.set_parsing_settings(
        import_path_denylist=["*"], import_path_allowlist=[*OWN, *OTHERS, *trusted_packages()]
    )


def trust(content: Any) -> None:
    """Allow the packages that a person's own config, or a value on the command line, names.

    Python's own modules are never allowed by it: no stage is made of them, and some run commands.

    Args:
        content: parsed YAML; every text in it that looks like `package.module.Class` counts.
    """
    allowed = sorted({opened for text in _texts(content) if _PATH.fullmatch(text) for opened in _opened(text)})
    if allowed:
        jsonargparse.set_parsing_settings(import_path_allowlist=allowed)


def _opened(path: str) -> Iterator[str]:
    """What a named class path opens: its package; of packages that stand in `OTHERS` in part, its module only.

    A config that names torch.optim.AdamW, as most do, so opens nothing: torch.load and torch.hub stay shut.
    """
    root = path.partition(".")[0]
    if root == "jsonargparse" or root in sys.stdlib_module_names:
        return
    if any(path.startswith(f"{known}.") for known in (*OWN, *OTHERS)):
        return
    in_part = {known.partition(".")[0] for known in OTHERS}
    module = path.rpartition(".")[0]
    yield root if root not in in_part else (path if module == root else module)


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from _texts(value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from _texts(value)
