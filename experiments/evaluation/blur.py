"""`unclip blur`: the Frechet distance against the radius of a Gaussian blur on both sides (DALL-E 1, section 3.1)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from modules.errors import InputError


def run(options: argparse.Namespace) -> int:
    """Run `unclip blur`; returns the exit code."""
    from eval.blurring import BLUR, blur_curve, blur_table
    from eval.files import write_file
    from eval.measure import check_comparable
    from eval.samples.folder import SampleFolder
    from experiments.console.show import show
    from experiments.evaluation.judges import judges_of, make_judges

    radii = sorted(set(options.radii))
    if radii[0] < 0:
        raise InputError(f"--radii {radii[0]:g}: a blur's radius is 0 or more")
    run = Path(options.run)
    judges_of(run, options)
    folders = [SampleFolder.open(path) for path in options.samples]
    reference = SampleFolder.open(options.reference or run / "samples" / "reference")
    check_comparable(folders, reference)
    judges = make_judges(options, folders)
    found = blur_curve(folders, reference, judges.inception or judges.extractor, radii, options.bootstrap)
    write_file(run / BLUR, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    show(blur_table(found))
    print(f"blur: {run / BLUR}")
    return 0
