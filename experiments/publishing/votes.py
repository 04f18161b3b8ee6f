"""`unclip votes RUN`: a page on which people compare a run's models with GLIDE, for the paper's Table 1.

    unclip votes RUN                         # writes RUN/votes/ballot.html: give it to people
    mv votes-*.jsonl RUN/votes/              # what the page saves
    unclip tables RUN                        # Table 1 counts all files of votes there

The question of diversity shows 4 x 4 grids, so it needs 16 samples a caption, in RUN/votes/grids/CONDITION:
`unclip sample --run RUN --captions FILE -n 16 --condition glide --out RUN/votes/grids/glide`, and so on. Which picture
is on which side stands in RUN/votes/ballot.json, and not on the page.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from modules.errors import InputError


def run(options: argparse.Namespace) -> int:
    """Run `unclip votes`; returns the exit code."""
    from eval.files import write_file
    from eval.samples.folder import SampleFolder
    from eval.votes.ballot import BALLOT, FOLDER, PAGE, comparisons, draw_ballot, page
    from eval.votes.votes import vote_files

    run, out = Path(options.run), Path(options.run) / FOLDER
    if options.pairs < 1 or options.grids < 0:
        raise InputError(f"--pairs must be 1 or more and --grids 0 or more, got {options.pairs} and {options.grids}")
    if options.against in options.conditions:
        raise InputError(f"{options.against} cannot be compared with itself: name others as --conditions")
    voted = vote_files(run)
    if voted:
        raise InputError(f"{out} holds votes on an earlier ballot ({voted[0].name}): move them away, with ballot.json")
    if (out / BALLOT).exists() and not options.overwrite:
        raise InputError(f"{out / BALLOT} is there: hand out {PAGE}, or pass --overwrite to draw another ballot")
    names = [*options.conditions, options.against]
    folders = {name: SampleFolder.open(run / "samples" / name) for name in names}
    grids = Path(options.grid_samples) if options.grid_samples else out / "grids"
    with_grids = {name: SampleFolder.open(grids / name) for name in names if (grids / name).is_dir()}
    ballot = draw_ballot(folders, with_grids, options.against, options.pairs, options.grids, options.seed)
    text = page(ballot)
    ballot.save(out / BALLOT)
    write_file(out / PAGE, text)
    for condition, counts in comparisons(ballot).items():
        print(f"{condition} against {options.against}: " + ", ".join(f"{n} for {q}" for q, n in counts.items()))
    if options.grids and len(with_grids) < len(names):
        absent = next(name for name in names if name not in with_grids)
        print(f"diversity is left out where there are no grids: `unclip sample -n 16 --out {grids / absent}` and so on")
    print(
        f"ballot {ballot.digest}: {out / PAGE}, {len(text) / 1e6:.1f} MB; what it saves, votes-*.jsonl, goes to {out}"
    )
    return 0
