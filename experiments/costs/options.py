"""The options of `unclip plan`, `dalle1-table` and `table3`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.console.arguments import CommandParser, Parsers, positive
from modules.conditions import DEFAULT


class PlanParser(CommandParser):
    """Leaves the options that it does not know to LightningCLI, as `settings`."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """The options, with the unknown words as `options.settings`."""
        options, settings = self.parse_known_args(args, namespace)
        options.settings = settings
        return options


def plan() -> argparse.ArgumentParser:
    """The options of `unclip plan`."""
    made = PlanParser(
        prog="unclip plan",
        description="Say what memory a device needs to train a stage, or to draw with a run, and the least that fits.",
        epilog="Further --KEY=VALUE settings are those of `unclip fit`, as in --data.init_args.batch_size=8.",
    )
    made.add_argument("config", nargs="*", help="the stage's YAML, and others that change it")
    made.add_argument("--sample", metavar="RUN", help="instead: what drawing pictures with this run takes")
    made.add_argument("--condition", default=DEFAULT, help="with --sample: by what pictures are drawn (%(default)s)")
    made.add_argument("--batch-size", type=positive, default=1, help="with --sample: pictures at once (default 1)")
    made.add_argument("--devices", default="1,8,64", help="numbers of devices, parted by commas")
    made.add_argument("--memory", type=float, default=80.0, help="a device's, in GB (10^9 bytes)")
    return made


def table3() -> argparse.ArgumentParser:
    """The options of `unclip table3`."""
    description = "Print the paper's Table 3 from the paper-scale YAMLs, with counted parameters and FLOPs."
    made = CommandParser(prog="unclip table3", description=description)
    made.add_argument("--folder", type=Path, default=Path("experiments/paper"), help="the YAMLs of the five stages")
    made.add_argument("--out", type=Path, help="also write the table as a text file")
    return made


def dalle1_table() -> argparse.ArgumentParser:
    """The options of `unclip dalle1-table`."""
    description = "Print the sizes and settings of DALL-E 1's two networks from the paper-scale YAMLs."
    made = CommandParser(prog="unclip dalle1-table", description=description)
    made.add_argument(
        "--folder", type=Path, default=Path("experiments/paper"), help="dvae.yaml, token_transformer.yaml"
    )
    made.add_argument("--out", type=Path, help="also write the table as a text file")
    return made


PARSERS: Parsers = {"plan": plan, "dalle1-table": dalle1_table, "table3": table3}
