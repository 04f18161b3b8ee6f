"""The parts of a run folder by name, and what a run holds for tables and reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval import untrusted
from eval.errors import InputError
from eval.protocol import PROTOCOL_KEYS, ROW_KEYS, require_keys
from eval.records import check_row
from eval.samples.conditions import Row, in_order, rows_in


def run_of(samples: Path) -> Path | None:
    """The run folder RUN of RUN/samples/NAME; None for a folder elsewhere."""
    samples = samples.absolute()
    return samples.parent.parent if samples.parent.name == "samples" else None


METRICS = "metrics.json"


@dataclass(frozen=True)
class Run:
    """The parts of a run folder that a report needs.

    Attributes:
        path: the folder.
        rows: what was measured, in the order of the table.
        stages: the record of each stage that is done, in the order of starting.
        probe: the CLIP stage's linear probe, attribute -> accuracy.
    """

    path: Path
    rows: list[Row]
    stages: dict[str, dict[str, Any]]
    probe: dict[str, float]

    @property
    def seconds(self) -> dict[str, float]:
        """Stage -> how long it took."""
        return {name: float(record.get("seconds", 0)) for name, record in self.stages.items()}

    @property
    def samples(self) -> Path:
        """The folder of the sample folders."""
        return self.path / "samples"


OF_A_RUN = ("samples", "sweeps", "votes", "[!.]*/stage.json", "[!.]*/started.json", "[!.]*/config.yaml")
"""What a folder is known by as a run's."""


def read_run(path: str | Path) -> Run:
    """Reads metrics, stage records and the probe.

    Raises:
        InputError: there is no such folder, it is no run's, or a file in it is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"run folder {path} does not exist; make one with `unclip reproduce`")
    if not any(found for pattern in OF_A_RUN for found in path.glob(pattern)):
        raise InputError(f"{path} holds no stage, samples or sweeps: name a run folder, as in runs/quickstart")
    folders = [untrusted.require_below(path, f"samples/{name}") for name in rows_in(path / "samples")]
    rows = [read_row(folder / METRICS) for folder in folders]
    files = sorted(path.glob("[!.]*/stage.json"))
    read = {file.parent.name: read_json(file) for file in files}
    records = {name: record for name, record in read.items() if record is not None}  # None: it has just begun anew.
    for name, record in records.items():
        if not isinstance(record.get("seconds", 0), (int, float)):
            raise InputError(f"{path / name / 'stage.json'}: seconds must be a number; run the stage again")
    done = {name: record for name, record in records.items() if record.get("status", "done") == "done"}
    stages = dict(sorted(done.items(), key=lambda item: str(item[1].get("started", ""))))
    probe = read_json(path / "probe.json") or {}
    return Run(path, in_order([row for row in rows if row]), stages, probe)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is no such file.

    Raises:
        InputError: the file cannot be read or holds something else.
    """
    try:
        content = untrusted.read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}); delete it and run what writes it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object; delete it and run what writes it again")
    return content


def read_row(path: Path) -> Row | None:
    """A row of the main table, from the metrics.json of a sample folder; None if there is none.

    Raises:
        InputError: it is damaged, or lacks what tables are made of.
    """
    row = read_json(path)
    if row is not None:
        require_keys(path, row, ROW_KEYS, PROTOCOL_KEYS, "run `unclip evaluate` again")
        check_row(path, row)
    return row


PAGE = "manipulations.html"


FOLDER = "manipulations"
