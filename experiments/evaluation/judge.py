"""`unclip judge`: fits the aesthetic or the preference probe on CLIP embeddings of any rated images (appendix A)."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.console.progress import progress
from modules.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from eval.judges.features import CLIPExtractor


def run(options: argparse.Namespace) -> int:
    """Run `unclip judge`; returns the exit code."""
    from eval.judges.aesthetics import fit_aesthetic, read_ratings
    from eval.judges.preference import fit_preference, read_comparisons
    from experiments.console.devices import find_device
    from experiments.evaluation.judges import make_clip

    images = Path(options.images)
    if options.kind == "aesthetic":
        ratings = read_ratings(options.csv)
        names = list(ratings)
        check_images(images, names, options.csv)
        clip = make_clip(options.clip, find_device(options.device))
        probe = fit_aesthetic(embed(clip, images, names), _array(ratings.values()), clip.name)
    else:
        pairs = read_comparisons(options.csv)
        names = sorted({name for pair in pairs for name in pair})
        check_images(images, names, options.csv)
        clip = make_clip(options.clip, find_device(options.device))
        place = {name: k for k, name in enumerate(names)}
        z = embed(clip, images, names)
        better, worse = ([place[pair[side]] for pair in pairs] for side in (0, 1))
        probe = fit_preference(z[better], z[worse], clip.name)
    probe.save(options.out)
    said = ", ".join(f"{key} {'unknown' if value is None else f'{value:.4g}'}" for key, value in probe.fit.items())
    print(f"{options.out}: {probe.kind} probe, {said}")
    return 0


def check_images(folder: Path, names: Sequence[str], listed: str) -> None:
    """Raises InputError unless all images are there."""
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        more = f" and {len(absent) - 1} more" if absent[1:] else ""
        raise InputError(f"{folder} lacks {absent[0]}{more}, which {listed} lists")


def embed(clip: CLIPExtractor, folder: Path, names: Sequence[str]) -> np.ndarray:
    """(N, D) image features, each image brought to the CLIP's size: short side, then the centre."""
    import numpy as np
    import torch

    from eval.samples.coco import load_image

    def features() -> Iterator[np.ndarray]:
        for name in progress(list(names), "embedding"):
            picture = load_image(folder / name, min(clip.size))
            yield clip(torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())[None]).numpy()[0]

    return np.stack(list(features())) if names else np.zeros((0, 0))


def _array(values: object) -> np.ndarray:
    import numpy as np

    return np.array(list(values), dtype=np.float64)  # type: ignore[call-overload]
