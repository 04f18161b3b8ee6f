"""Tables on a terminal."""

from __future__ import annotations

from eval.tables.main import Table

LOG_WIDTH = 116


def show(table: Table) -> None:
    """Prints a table. In a log it is LOG_WIDTH wide, since the log will be read on some terminal later."""
    from rich.console import Console

    console = Console()
    table.print(console if console.is_terminal else Console(width=LOG_WIDTH))


def aligned(lines: list[list[str]]) -> str:
    """Columns side by side, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
