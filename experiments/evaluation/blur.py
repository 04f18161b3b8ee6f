"""`unclip blur`: the Frechet distance against the radius of a Gaussian blur on both sides (DALL-E 1, section 3.1)."""

from __future__ import annotations

import argparse
import json
import math
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

    for radius in options.radii:
        if not 0 <= radius < math.inf:
            raise InputError(f"--radii {radius:g}: a blur's radius is 0 or more")
    radii = sorted(set(options.radii))
    run = Path(options.run)
    judges_of(run, options)
    folders = [SampleFolder.open(path) for path in options.samples]
    reference = SampleFolder.open(options.reference or run / "samples" / "reference")
    check_comparable(folders, reference)
    if radii[-1] > max(reference.size):
        raise InputError(f"--radii {radii[-1]:g}: the pictures have {reference.size[0]} pixels a side; give less")
    judges = make_judges(options, folders)
    found = blur_curve(folders, reference, judges.inception or judges.extractor, radii, options.bootstrap)
    write_file(run / BLUR, json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    show(blur_table(found))
    print(f"blur: {run / BLUR}")
    return 0
