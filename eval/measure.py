"""Measures a folder of samples against a folder of real images: all numbers of one row of the main table."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.errors import InputError
from eval.further import further
from eval.judged import candidates
from eval.judges.features import NO_INCEPTION
from eval.judges.judges import Judges, Seen, look
from eval.judges.published.listing import PUBLISHED
from eval.metrics.bootstrap import LEVEL, SHARES, Interval, Resampler, as_json
from eval.metrics.frechet import FeatureStatistics, singular_warning
from eval.metrics.kinds import HELD_OUT, accuracy_by_kind
from eval.metrics.objects.base import measured, share
from eval.metrics.objects.captions import CLIPScore, Diversity
from eval.metrics.objects.distances import Frechet
from eval.metrics.precision_recall import DENSITY_NEIGHBOURS, NEIGHBOURS, RECALL_INTERVAL
from eval.metrics.scoring import describe, score_all
from eval.protocol import captions_digest, exported_protocol
from eval.samples.drawn import drawn
from eval.samples.folder import SampleFolder
from eval.samples.geneval import KEY as GENEVAL

FEWEST = DENSITY_NEIGHBOURS + 1  # density and coverage need the most


@dataclass(frozen=True)
class Reference:
    """The real images that samples are compared with.

    Attributes:
        folder: the images.
        digest: hash of their content.
        statistics: mean and covariance of their features, by judge.
        features: the features themselves, (M, D) by judge.
        origins: hash and number of other images, by judge, where the statistics are of them.
    """

    folder: SampleFolder
    digest: str
    statistics: dict[str, FeatureStatistics] = field(repr=False)
    features: dict[str, np.ndarray] = field(repr=False)
    origins: dict[str, str] = field(default_factory=dict)


def read_reference(
    folder: SampleFolder,
    judges: Judges,
    batch_size: int | None = None,
    tick: Callable[[int], Any] | None = None,
    cache: Path | None = None,
) -> Reference:
    """Computes the statistics of the real images.

    Raises:
        InputError: fewer than two images, or no judge gives features.
    """
    judges.extractor  # noqa: B018 (refuses judges without features)
    if len(folder) < 2:
        raise InputError(f"the reference {folder.path} holds {len(folder)} image; export more")
    seen = look(folder, judges, batch_size, tick, cache, scores=False)
    statistics = {name: FeatureStatistics.of(x) for name, x in seen.features.items()}
    return Reference(folder, content_digest(folder), statistics, seen.features)


def content_digest(folder: SampleFolder) -> str:
    """12 hexadecimal digits that identify the images and captions of a folder, whatever their order."""
    lines = sorted(f"{r['caption']}\0{_image_hash(folder, r)}" for r in folder.records)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def _image_hash(folder: SampleFolder, record: dict[str, Any]) -> str:
    return record.get("sha256") or hashlib.sha256((folder.path / record["file"]).read_bytes()).hexdigest()


def check_comparable(folders: list[SampleFolder], reference: SampleFolder | None) -> None:
    """Refuses comparisons that would mislead, before minutes are spent on them.

    Args:
        folders: samples.
        reference: the real images; None where there are none.

    Raises:
        InputError: the folders differ in sample count or captions, or one has several conditions; there are too few
            samples or real images for the metrics; the images have another size than the reference's; or the samples
            are the reference.
    """
    first, other = folders[0], folders[0] if reference is None else reference
    named = [("samples", folder) for folder in folders] + [("real images", other)]
    for kind, folder in [] if reference is None else named:
        if len(folder) < FEWEST:
            raise InputError(f"the metrics need {FEWEST} {kind} or more, {folder.path} holds {len(folder)}")
    for folder in folders:
        folder.condition  # noqa: B018 (refuses folders of several)
        if len(folder) != len(first):
            raise InputError(
                f"{folder.path} holds {len(folder)} samples and {first.path} {len(first)}: Frechet distances of"
                " different counts cannot be compared; sample equally many, or evaluate them apart"
            )
        if folder.captioned != first.captioned:
            bare, told = (first, folder) if folder.captioned else (folder, first)
            raise InputError(
                f"{bare.path} has no captions and {told.path} has: name a table of them by --captions, or evaluate the"
                " folders apart"
            )
        if captions_digest(folder.records) != captions_digest(first.records):
            raise InputError(
                f"{folder.path} and {first.path} hold samples of different captions ({_difference(folder, first)}), so"
                " that their numbers cannot be compared: give both the same captions, as `unclip sample --captions FILE"
                " --per-caption N` does, or evaluate them apart"
            )
        if folder.size != other.size:
            (high, wide), (h, w) = folder.size, other.size
            which = f"{'' if reference is None else 'the reference '}{other.path}"
            raise InputError(
                f"{folder.path} holds images of {wide}x{high} pixels, {which} of {w}x{h}: bring"
                f" both to one size, by --size {min(high, wide, h, w)} here, or as with `unclip data export --size`"
            )
        shared = 0 if reference is None else content_shared(folder, reference)
        if 2 * shared > len(folder):
            raise InputError(
                f"{folder.path} shares {shared} of its {len(folder)} images with the reference {other.path},"
                " so its distance would be too small; export the reference from other pairs"
            )


def fitting(folder: SampleFolder, reference: SampleFolder) -> str | None:
    """How pictures of other sizes come to the common one, in words; None where none has another."""
    return folder.fitting or reference.fitting


def _difference(folder: SampleFolder, first: SampleFolder) -> str:
    """The first caption number that two folders hold other samples of, in words."""
    ours, theirs = (Counter((r["caption_index"], r["caption"]) for r in f.records) for f in (folder, first))
    index, _ = min((ours - theirs) + (theirs - ours))
    texts = [f"{n} of {caption!r}" for side in (ours, theirs) for (k, caption), n in side.items() if k == index]
    return f"caption_index {index}: {', '.join(texts)}"


def content_shared(folder: SampleFolder, reference: SampleFolder) -> int:
    """How many images of a folder are images of the reference too, byte for byte."""
    real = {_image_hash(reference, r) for r in reference.records}
    return sum(_image_hash(folder, r) in real for r in folder.records)


def measure(
    folder: SampleFolder, seen: Seen, judges: Judges, reference: Reference | None, draws: int, seed: int
) -> dict[str, Any]:
    """All metrics of one folder, JSON-ready; without a reference those that need no real images.

    Returns:
        {"condition", "n", "frechet", "fid", "clip_score", "accuracy", "accuracy_by_kind", "diversity", "drawn",
        "protocol", "warnings"}, and what `eval.further.further` adds: each metric is {"value", "low", "high"} (95 %
        interval over captions), or None where it cannot be measured. "drawn" is of `eval.samples.drawn.drawn`.
        "accuracy" holds one for each name of `eval.metrics.scoring.ATTRIBUTES`, with the number "n" of samples whose
        caption mentions it, "accuracy_by_kind" one for each of `eval.metrics.kinds.KINDS`; None without ground truth.
    """
    resampler = Resampler(folder.caption_index, draws, seed)
    captions, main = torch.from_numpy(folder.caption_index), judges.main
    statistics = {} if reference is None else reference.statistics
    warned = {
        name: singular_warning(len(folder), seen.features[name].shape[1])
        for name in (main, "inception")
        if name in seen.features and name in statistics
    }
    frechet = {
        name: as_json(measured(Frechet(statistics[name], draws, seed), seen.tensor(name), captions)) for name in warned
    }
    scores = _scores(folder, seen, judges)
    by_kind = None if scores is None else accuracy_by_kind(folder.records, scores["all"], resampler)
    diversity = measured(Diversity(draws, seed), seen.tensor(main), captions) if main else None
    return {
        "condition": folder.condition,
        "n": len(folder),
        "frechet": frechet.get(main),
        "fid": frechet.get("inception"),
        "clip_score": as_json(_clip_score(folder, seen, judges, draws, seed)),
        "accuracy": None if scores is None else {name: counted(x, resampler) for name, x in scores.items()},
        "accuracy_by_kind": by_kind,
        "diversity": as_json(diversity),
        **further(
            *(folder, seen, judges, {} if reference is None else reference.features, resampler),
            None if scores is None else scores["all"],
        ),
        "drawn": drawn(folder.records),
        "warnings": [f"{name}: {text}" for name, text in warned.items() if text]
        + caption_note(folder)
        + uncaptioned_note(folder, judges)
        + geneval_note(folder, judges)
        + copies_note(folder)
        + reference_notes(folder, reference),
        "protocol": _protocol(folder, seen.features[main].shape[1] if main else None, judges, reference, draws, seed),
    }


NO_REFERENCE = (
    "No real images were given by --reference: distances from them are left out (Frechet distance, FID, KID, CMMD,"
    " precision, recall, density, coverage, AuthPct)."
)


def reference_notes(folder: SampleFolder, reference: Reference | None) -> list[str]:
    """What is to be said of the real images."""
    if reference is None:
        return [NO_REFERENCE]
    return exported_protocol(folder.records, reference.folder.path)[1] + held_out_note(folder, reference.folder)


def caption_note(folder: SampleFolder) -> list[str]:
    """Says that there are no intervals over captions where there is only one."""
    if len(np.unique(folder.caption_index)) > 1:
        return []
    return [f"{folder.condition}: all samples are of one caption, over which there is no interval: do not read one."]


def uncaptioned_note(folder: SampleFolder, judges: Judges) -> list[str]:
    """The note that names the metrics which are left out because the pictures have no captions."""
    if folder.captioned:
        return []
    names = ["CLIP score", "R-precision"] if judges.clip is not None else []
    names += [name for name in judges.published.names() or {} if name in PUBLISHED and PUBLISHED[name].captions]
    left_out = f"{' and '.join(names)} are" if names else "what needs captions is"
    return [f"{folder.condition}: the pictures have no captions: {left_out} left out, and intervals are over pictures."]


def geneval_note(folder: SampleFolder, judges: Judges) -> list[str]:
    """A note that GenEval is left out: no picture has its metadata, which say what objects to look for."""
    if "geneval" not in judges.published.scorers or any(record.get(GENEVAL) for record in folder.records):
        return []
    return [
        f"{folder.condition}: no picture has GenEval's metadata, so geneval is left out: draw its prompts by `unclip"
        " sample --captions evaluation_metadata.jsonl`, or give folders in GenEval's layout."
    ]


def copies_note(folder: SampleFolder) -> list[str]:
    """Says how many images are copies of others in the folder, where they are more than one in a hundred."""
    copies = len(folder) - len({_image_hash(folder, record) for record in folder.records})
    if 100 * copies <= len(folder):
        return []
    return [f"{folder.condition}: {copies} of {len(folder)} images are copies of others of this folder, byte for byte."]


def held_out_note(folder: SampleFolder, reference: SampleFolder) -> list[str]:
    """Says that samples and real images differ in their share of held-out combinations, if both manifests tell."""
    shares = []
    for records in (folder.records, reference.records):
        known = [bool(record[HELD_OUT]) for record in records if HELD_OUT in record]
        if not known:
            return []
        shares.append(100 * sum(known) / len(known))
    if shares[0] == shares[1]:
        return []
    return [
        f"{shares[0]:.1f} % of the samples' captions name held-out combinations, {shares[1]:.1f} % of the reference's:"
        " this difference is a part of every Frechet distance, of that of the real images (the floor), too."
    ]


def _clip_score(folder: SampleFolder, seen: Seen, judges: Judges, draws: int, seed: int) -> Interval | None:
    if judges.clip is None or judges.clip.tokenizer is None or not folder.captioned:
        return None
    texts, captions = judges.clip.encode_text(folder.captions), torch.from_numpy(folder.caption_index)
    return measured(CLIPScore(draws, seed), seen.tensor("clip"), texts, captions)


def _scores(folder: SampleFolder, seen: Seen, judges: Judges) -> dict[str, np.ndarray] | None:
    """(N,) for each name of `ATTRIBUTES`; an image without ground truth has nan. None without any or a classifier."""
    if judges.classifier is None or seen.classes is None:
        return None
    known = [k for k, record in enumerate(folder.records) if record.get("mentioned")]
    if not known:
        return None
    words = describe(seen.classes[known], judges.classifier.classifier.attributes)
    scores = score_all(words, [folder.records[k]["mentioned"] for k in known])
    result = {}
    for name, values in scores.items():
        column = np.full(len(folder), np.nan)
        column[known] = values
        result[name] = column
    return result


def counted(column: np.ndarray, resampler: Resampler) -> dict[str, float] | None:
    """The share of a column of zeros, ones and nan, JSON-ready, with the number "n" of rows that were judged."""
    interval = as_json(share(column, resampler))
    return interval and {**interval, "n": int((~np.isnan(column)).sum())}


def _protocol(
    folder: SampleFolder, dim: int | None, judges: Judges, reference: Reference | None, draws: int, seed: int
) -> dict[str, Any]:
    """All that numbers have to agree in before they may stand in one table."""
    named = None if reference is None else exported_protocol(folder.records, reference.folder.path)[0]
    extractor = judges.extractor if judges.main else None
    sizes = np.unique(np.unique(folder.caption_index, return_counts=True)[1])
    return {
        "n": len(folder),
        "captions": len(np.unique(folder.caption_index)),
        "captions_digest": captions_digest(folder.records),
        "caption_protocol": named,
        "per_caption": int(sizes[0]) if len(sizes) == 1 else [int(sizes[0]), int(sizes[-1])],
        "extractor": extractor and extractor.name,
        "extractor_dim": dim,
        "resizing": extractor and extractor.resizing,
        "resizing_by_judge": {name: judge.resizing for name, judge in judges.extractors().items()},
        "classifier": judges.classifier.name if judges.classifier is not None else None,
        "clip": judges.clip.name if judges.clip is not None else None,
        "inception": judges.inception.name if judges.inception is not None else NO_INCEPTION,
        **_of_reference(reference, judges.main),
        "size": list(folder.size),
        "fit": fitting(folder, folder if reference is None else reference.folder),
        "neighbours": [NEIGHBOURS, DENSITY_NEIGHBOURS],
        "recall_interval": RECALL_INTERVAL,
        "share_interval": SHARES,
        **({} if folder.captioned else {"captioned": False}),
        "candidates": candidates(folder),
        "published": judges.published.names(),
        "aesthetic": judges.aesthetic and judges.aesthetic.name,
        "preference": judges.preference and judges.preference.name,
        "bootstrap": draws,
        "level": LEVEL,
        "seed": seed,
    }


def _of_reference(reference: Reference | None, main: str) -> dict[str, Any]:
    """What a protocol says of the real images; null where there are none."""
    if reference is None:
        keys = ("reference", "reference_n", "reference_digest", "fid_reference", "frechet_reference", "reference_size")
        return dict.fromkeys(keys)
    return {
        "reference": reference.folder.path.resolve().name,
        "reference_n": len(reference.folder),
        "reference_digest": reference.digest,
        "fid_reference": reference.origins.get("inception"),
        "frechet_reference": reference.origins.get(main),
        "reference_size": list(reference.folder.size),
    }
