"""`unclip sample`: pictures for one caption or a file of captions, as a sample folder.

After an interruption or a kill the same command goes on. With `--overwrite` it starts afresh, unless `--resume` is
given too. Until all pictures are drawn they lie beside the folder, in .NAME.sampling.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from eval.samples.folder import MANIFEST, SampleFolder
from eval.samples.geneval import KEY, require_free, write_layout
from eval.words import counted
from experiments.sampling.captions import Request, read_requests
from experiments.sampling.jobs import Job
from experiments.sampling.ranking import check_ranking
from experiments.sampling.request import check_counts, drawn, provenance, started
from modules.clip.frozen import warn_unknown_words
from modules.conditions import CONDITIONS
from modules.errors import InputError


def run(options: argparse.Namespace) -> int:
    """Run `unclip sample`; returns the exit code. The processes that a strategy starts come through here, too."""
    check_counts(options)
    check_ranking(options)
    requests, source = read_requests(options.caption, options.captions)
    if options.geneval:
        check_geneval(requests, options)
    session = started(options)
    system = session.system
    captions = [request.caption for request in requests]
    if options.negative is not None:
        system.check_negative(options.condition)
        captions.append(options.negative)
    reads = system.needs_clip(options.condition, options.decoder)
    if reads:
        system.clip.tokenize(captions)  # A caption that does not fit is refused before any work.
    else:
        system.decoder(options.decoder or CONDITIONS[options.condition].decoder).tokens_of(
            captions, system.unread(len(captions))[0]
        )
    images = _true_images(options, source)
    how = (options.n, options.condition, options.seed, options.upsample, provenance(system, options), images)
    job = Job(requests, *how, options.size, options.negative, options.decoder, options.best_of)
    if session.first:
        if reads:
            warn_unknown_words(system.clip.tokenize, captions)
        if images is not None:
            _warn_few_images(requests, options.n)
    folder = drawn(session, options, job)
    if folder is not None:
        made = f"{counted(len(job), 'picture')} of {counted(len(requests), 'caption')}"
        print(f"{folder.path}: {made}, condition {job.shared['condition']}")
        if options.geneval:
            prompts = write_layout(folder, Path(options.geneval))
            print(f"{options.geneval}: {counted(prompts, 'prompt')} in GenEval's layout")
    return 0


def check_geneval(requests: Sequence[Request], options: argparse.Namespace) -> None:
    """Refuse --geneval before anything is drawn.

    Raises:
        InputError: the folder is there, or a caption is no prompt of GenEval's.
    """
    require_free(Path(options.geneval))
    foreign = next((request for request in requests if KEY not in request.known), None)
    if foreign is not None:
        raise InputError(
            f"--geneval: {foreign.caption!r} has no metadata of GenEval; draw --captions evaluation_metadata.jsonl"
        )


def _true_images(options: argparse.Namespace, source: SampleFolder | None) -> SampleFolder | None:
    """The folder of the true images whose z_i the decoder is given; None for other conditions."""
    if not CONDITIONS[options.condition].needs_images:
        return None
    if source is None:
        raise InputError(
            f"the condition {options.condition} needs true images: pass --captions DIR/{MANIFEST} of a folder that "
            "`unclip data export` wrote"
        )
    return source


def _warn_few_images(requests: list[Request], n: int) -> None:
    few = sum(len(request.images) < n for request in requests)
    if few:
        print(f"{few} of {len(requests)} captions have fewer than {n} true images: these are taken in turn", flush=True)
