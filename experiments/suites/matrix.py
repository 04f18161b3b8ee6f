"""One stage template as many stages: the key `matrix` lists values, and `{variable}` in the template stands for them.

    - name: sample_{condition}
      matrix: {condition: [glide, caption_only], size: [32, 64]}   # every combination, the last variable fastest
      run: unclip sample --run {run} --condition {condition} --size {size} --out {run}/samples/{condition}_{size}

Where values belong together, `matrix` is a list of rows:

      matrix:
        - {condition: glide, models: [glide], minutes: 0.5}
        - {condition: ar_prior, models: [ar_prior, decoder], minutes: 0.6}
      needs: [clip, "{models}", upsampler]    # a list is spliced into a list: [clip, ar_prior, decoder, upsampler]
      cost: "{minutes}"                       # a value alone keeps its type: 0.6
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Mapping
from typing import Any

from modules.errors import InputError

MATRIX = "matrix"
KEPT = "run"
"""`{run}` is the run folder, which the runner fills in."""
VARIABLE = re.compile(r"\{([A-Za-z_]\w*)\}")

Row = Mapping[str, Any]


def expanded(entry: Any, where: str) -> list[Any]:
    """The stages that an entry of `stages` stands for: itself, or one for each row of its `matrix`.

    Args:
        entry: as it stands in the YAML.
        where: the file and the stage's number, for complaints.

    Raises:
        InputError: the matrix is not one, or the template names a variable that a row has not.
    """
    if not isinstance(entry, dict) or MATRIX not in entry:
        return [entry]
    where = f"{where} ({entry.get('name', 'without a name')})"
    template = {key: value for key, value in entry.items() if key != MATRIX}
    return [filled(template, row, where) for row in rows(entry[MATRIX], where)]


def rows(matrix: Any, where: str) -> list[Row]:
    """The values of all variables, for each stage.

    Raises:
        InputError: it is neither a mapping of lists nor a list of mappings, is empty, or sets `run`.
    """
    if isinstance(matrix, dict) and all(isinstance(values, list) for values in matrix.values()):
        found: list[Row] = [
            dict(zip(matrix, values, strict=True)) for values in (itertools.product(*matrix.values()) if matrix else ())
        ]
    elif isinstance(matrix, list) and all(isinstance(row, dict) for row in matrix):
        found = list(matrix)
    else:
        raise InputError(
            f"{where}: 'matrix' is a mapping of lists, as in {{condition: [glide, ar_prior]}}, or a list of rows, "
            f"as in [{{condition: glide, cost: 1}}], not {matrix!r}"
        )
    if not found:
        raise InputError(f"{where}: 'matrix' has no values, so there would be no stage")
    for name in itertools.chain.from_iterable(found):
        if name == KEPT or not VARIABLE.fullmatch(f"{{{name}}}"):
            why = "is the run folder" if name == KEPT else "is no name of a variable"
            raise InputError(f"{where}: 'matrix' sets {name!r}, which {why}; choose another name")
    return found


def filled(value: Any, row: Row, where: str) -> Any:
    """The template, or a part of it, with the row's values.

    Raises:
        InputError: it names a variable that the row has not, or has a list inside of a text.
    """
    if isinstance(value, dict):
        return {key: filled(item, row, where) for key, item in value.items()}
    if isinstance(value, list):
        parts = [filled(item, row, where) for item in value]
        return list(itertools.chain.from_iterable(part if isinstance(part, list) else [part] for part in parts))
    if not isinstance(value, str):
        return value
    alone = VARIABLE.fullmatch(value)
    if alone and alone[1] != KEPT:
        return looked_up(alone[1], row, where)
    return VARIABLE.sub(lambda found: text(found[1], row, where), value)


def text(name: str, row: Row, where: str) -> str:
    """A variable's value as a part of a text."""
    if name == KEPT:
        return f"{{{KEPT}}}"
    value = looked_up(name, row, where)
    if not isinstance(value, (str, int, float)):
        raise InputError(f"{where}: '{{{name}}}' inside of a text is {value!r}; a list can only stand in a list")
    return str(value)


def looked_up(name: str, row: Row, where: str) -> Any:
    """A variable's value."""
    if name not in row:
        close = difflib.get_close_matches(name, list(row), n=1)
        guess = f"; did you mean {{{close[0]}}}?" if close else ""
        raise InputError(f"{where}: no variable {{{name}}} in this row of its matrix, {dict(row)!r}{guess}")
    return row[name]
