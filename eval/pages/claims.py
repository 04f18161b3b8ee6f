"""The page of claims: what the paper says, what was found here, with intervals, and by which command.

    python -m eval.pages.claims docs/results.md                   # fills the table of the page, from docs/results/
    python -m eval.pages.claims --store runs/quickstart docs/results/quickstart.json

docs/results/claims.yaml lists the claims. A number is named by file and path, as in quickstart:main/ar_prior/frechet;
the files hold those numbers of a run that claims name, and nothing else. Verdicts follow from intervals:

    claims:
      - paper: section 5.1, figure 8                # where the paper says it
        claim: A prior is worth having.
        here: Frechet distance, z_t as z_i against the diffusion prior
        numbers: [quickstart:main/text_embedding/frechet, quickstart:main/diffusion_prior/frechet]
        expect: above                               # the first is above the second; or below, near, inside
        margin: 0.02                                # how much may lie between them; below 0 for "at least nearly"
        command: unclip reproduce quickstart

"inside" asks whether the first number lies in the second's interval. Without `expect` the verdict is what `verdict`
says, for claims that were not tested or that no number decides. In `here`, {quickstart:main/real/accuracy/all} becomes
that number, without its interval.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from eval.errors import InputError
from eval.files import write_file
from eval.metrics.bootstrap import Interval
from eval.pages.stored import stored
from eval.tables.seeds import t_interval
from eval.tables.tabular import Cell, Table
from eval.untrusted import read_json, read_yaml

BEGIN, END = "<!-- claims: written by python -m eval.pages.claims -->", "<!-- end of claims -->"
HOLDS, FAILS, OPEN = "agrees", "does not agree", "not decided"
EXPECTED = ("above", "below", "near", "inside")
DIGITS = 3
_NAMED = re.compile(r"\{([^{}:]+:[^{}]+)\}")


@dataclass(frozen=True)
class Claim:
    """A line of the table, as the module's docstring describes it."""

    paper: str
    claim: str
    here: str
    command: str
    numbers: Sequence[str] = ()
    expect: str | None = None
    margin: float = 0.0
    verdict: str | None = None

    def __post_init__(self) -> None:
        if self.expect not in (None, *EXPECTED) or (self.expect is None) == (self.verdict is None):
            raise InputError(
                f"{self.claim!r}: give one of expect ({', '.join(EXPECTED)}) and verdict, found {self.expect!r} and "
                f"{self.verdict!r}"
            )
        if self.expect == "inside" and self.margin:
            raise InputError(f"{self.claim!r}: expect inside takes no margin, found {self.margin:g}")
        if self.expect is not None and len(self.numbers) != 2:
            raise InputError(f"{self.claim!r}: expect compares two numbers, found {len(self.numbers)}")

    @property
    def names(self) -> list[str]:
        """The numbers that the claim names, those in `here` too."""
        return [*self.numbers, *_NAMED.findall(self.here)]


def read_claims(path: Path) -> list[Claim]:
    """The claims of a YAML.

    Raises:
        InputError: a key is unknown or missing; the message names the claim.
    """
    content = read_yaml(path)
    known = {field.name for field in fields(Claim)}
    found = []
    for entry in content["claims"]:
        wrong = [*(set(entry) - known), *({"paper", "claim", "here", "command"} - set(entry))]
        if wrong:
            raise InputError(f"{path}: {entry.get('claim', entry)!r}: the key {wrong[0]!r} is unknown or missing")
        found.append(Claim(**entry))
    return found


class Numbers:
    """The numbers of stored runs.

    Args:
        folder: of the JSON files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, Any] = {}

    def __call__(self, name: str) -> Mapping[str, Any]:
        """The number that FILE:part/of/a/path names: {"value", "low", "high"}, over seeds with "values" too.

        Raises:
            InputError: there is no such file or number.
        """
        file, _, path = name.partition(":")
        if file not in self.files:
            place = self.folder / f"{file}.json"
            if not place.is_file():
                raise InputError(f"{name}: no file {place}; write it with --store RUN {place}")
            self.files[file] = read_json(place)
        found = self.files[file]
        for part in path.split("/"):
            if not isinstance(found, dict) or part not in found:
                raise InputError(f"{name}: {self.folder / file}.json has no {part!r} there")
            found = found[part]
        if not isinstance(found, dict) or "value" not in found:
            raise InputError(f"{name} is no number")
        return found


def named(whole: Mapping[str, Any], claims: Sequence[Claim], file: str) -> dict[str, Any]:
    """The numbers of a run that claims name.

    Raises:
        InputError: the run does not have one of them.
    """
    kept: dict[str, Any] = {}
    for name in dict.fromkeys(name for claim in claims for name in claim.names):
        own, _, path = name.partition(":")
        if own != file:
            continue
        found, place = whole, kept
        for part in path.split("/"):
            if not isinstance(found, Mapping) or part not in found:
                raise InputError(f"{name}: the run has no {part!r} there")
            found, before, place = found[part], place, place.setdefault(part, {})
        before[part] = found
    return kept


def digits_of(number: Mapping[str, Any]) -> int:
    """Digits behind the point, as many as the width of the number's interval justifies.

    The interval of a share has no width where all pictures are right, or all wrong: two digits, as in tables.
    """
    width = number["high"] - number["low"]
    return next((d for d in range(4) if width * 10**d >= 10), 4) if width else DIGITS - 1


def alone(number: Mapping[str, Any]) -> str:
    """ "0.85": the number without its interval; three significant digits where it has none."""
    if "low" not in number:
        return f"{number['value']:.{DIGITS}g}"
    return f"{number['value']:.{digits_of(number)}f}"


def shown(number: Mapping[str, Any]) -> str:
    """ "0.85 [0.80, 0.88]"; without an interval as `alone`."""
    if "low" not in number:
        return alone(number)
    low, high = (f"{number[key]:.{digits_of(number)}f}" for key in ("low", "high"))
    return f"{alone(number)} [{low}, {high}]"


def difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> Interval | None:
    """First minus second: within seeds where both have them; None without, since runs' intervals are not of it."""
    if "values" not in first or "values" not in second or len(first["values"]) != len(second["values"]):
        return None
    return t_interval([a - b for a, b in zip(first["values"], second["values"], strict=True)])


def verdict_of(expect: str, margin: float, first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """The verdict on two numbers: over seeds by the interval of their difference, else by whether intervals overlap.

    "inside" asks something else: whether the first number lies in the second's interval.

    "above" and "below" agree where all of the difference's interval is on that side of the margin (0 by default, below
    0 for "at least nearly"); "near" where all of it lies within the margin.
    """
    if expect == "inside":
        return HOLDS if second["low"] <= first["value"] <= second["high"] else FAILS
    apart = difference(first, second)
    low, high = first["low"] - second["high"], first["high"] - second["low"]
    if apart is not None:
        low, high = apart.low, apart.high
    if expect == "near":
        return HOLDS if -margin <= low and high <= margin else FAILS if low > margin or high < -margin else OPEN
    if expect == "below":
        low, high = -high, -low
    return HOLDS if low > margin else FAILS if high < margin else OPEN


def claims_table(claims: Sequence[Claim], numbers: Numbers) -> Table:
    """The table of the page."""
    body = []
    for claim in claims:
        found = [numbers(name) for name in claim.numbers]
        said = ", ".join(map(shown, found)) or "–"
        apart = difference(*found) if claim.expect not in (None, "inside") else None
        if apart is not None:
            said += f"; difference {shown(apart._asdict())}"
        verdict = claim.verdict or verdict_of(str(claim.expect), claim.margin, *found)
        here = _NAMED.sub(lambda name: alone(numbers(name[1])), claim.here)
        cells = (claim.paper, claim.claim, here, verdict, said, f"`{claim.command}`" if claim.command else "–")
        body.append([Cell(text) for text in cells])
    return Table("Claims", ["the paper", "claim", "here", "verdict", "numbers", "command"], body, [])


def filled(page: str, table: Table) -> str:
    """The page with the table between its marks.

    Raises:
        InputError: it has no marks.
    """
    lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
    pattern = re.compile(rf"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(page):
        raise InputError(f"the page has no place for the table: write {BEGIN} and {END} on lines of their own")
    return pattern.sub(lambda _: "\n".join([BEGIN, "", *lines, "", END]), page)


def main() -> int:
    """Fills a page, or stores a run's numbers; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m eval.pages.claims", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", type=Path, metavar="RUN", help="write the numbers of this run instead")
    parser.add_argument("path", type=Path, help="the page; with --store the JSON file")
    options = parser.parse_args()
    if options.store is not None:
        claims = read_claims(options.path.parent / "claims.yaml")
        kept = named(stored(options.store), claims, options.path.stem)
        write_file(options.path, json.dumps(kept, indent=1, sort_keys=True) + "\n")
        return 0
    folder = options.path.with_suffix("")
    table = claims_table(read_claims(folder / "claims.yaml"), Numbers(folder))
    write_file(options.path, filled(options.path.read_text(encoding="utf-8"), table))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
