"""The options of `unclip sweep`."""

from __future__ import annotations

import argparse

from experiments.console.arguments import CommandParser, Parsers, positive
from experiments.evaluation.options import add_judges

REFERENCE_HELP = (
    "real images of the samples' size, to measure against (default: RUN/samples/reference_small, or reference)"
)


def sweep() -> argparse.ArgumentParser:
    """The options of `unclip sweep`."""
    made = CommandParser(prog="unclip sweep", description="Sample and measure under many settings.")
    made.add_argument("sweep", metavar="SWEEP.yaml", help="the sweep, such as experiments/protocols/guidance.yaml")
    made.add_argument("--run", required=True, help="run folder of the trained stages")
    made.add_argument("--real", help="sample folder whose captions are used (default: RUN/samples/real)")
    made.add_argument("--captions", type=positive, metavar="N", help="number of captions (default: the sweep's own)")
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STAGE.SETTING=VALUE,...",
        help="values instead of the sweep's own, as in decoder.steps=1,2,4,6,12,25; may be repeated",
    )
    made.add_argument(
        "--rank-clip",
        metavar="FOLDER",
        help="CLIP that chooses among candidates, for ranking.best_of (default: RUN/rank_clip/export)",
    )
    made.add_argument("--device", help="such as cpu or cuda:1 (default: the accelerator, if there is one)")
    made.add_argument("--devices", type=positive, default=1, help="number of devices, a process for each (default 1)")
    made.add_argument(
        "--strategy", default="auto", help="strategy of Lightning's Trainer for several devices (default auto: ddp)"
    )
    add_judges(made, required=False, reference=REFERENCE_HELP)
    return made


PARSERS: Parsers = {"sweep": sweep}
