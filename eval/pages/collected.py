"""The paper's tables of a run, collected by file name."""

from __future__ import annotations

from pathlib import Path

from eval.samples.conditions import Row
from eval.tables.further import further_table
from eval.tables.kinds import count_table, kind_table, lettering_table
from eval.tables.paper import ablation_table, binding_table, table_1, table_2, table_3
from eval.tables.published_metrics import published_table
from eval.tables.spelling import spelling_table
from eval.tables.sweeps import read_sweeps, sweep_table
from eval.tables.tabular import Table
from eval.votes.votes import counted


def paper_tables(run: Path, rows: list[Row]) -> dict[str, Table]:
    """File name -> table, for all tables that the run has numbers for; Tables 1 to 3 always."""
    sweeps = read_sweeps(run)
    more = further_table(rows)
    made = {"further": more} if more.rows else {}
    if any(row.get("published") for row in rows):
        made["published"] = published_table(rows)
    made |= {
        "table_1_humans": table_1(counted(run)),
        "table_2_fid": table_2(rows),
        "table_3_hyperparameters": table_3(run),
    }
    if any(row.get("accuracy_by_kind") for row in rows):
        made["accuracy_by_kind"] = kind_table(rows)
    if any(row.get("accuracy_by_count") for row in rows):
        made["accuracy_by_count"] = count_table(rows)
    if any(row.get("lettering") for row in rows):
        made["lettering"] = lettering_table(rows)
    compared = spelling_table(rows)
    if compared.rows:
        made["spelling"] = compared
    if "guidance" in sweeps and sweeps["guidance"].points:
        made["ablation"] = ablation_table(sweeps["guidance"])
    made |= {f"sweep_{name}": sweep_table(sweep) for name, sweep in sweeps.items()}
    if any(row.get("binding") for row in rows):
        made["binding"] = binding_table(rows)
    return made
