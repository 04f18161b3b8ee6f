"""`unclip embed`: CLIP embeddings of a data set, computed once, for the priors and the decoder."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only

from datamodules.base import SPLITS, SplitDataModule
from datamodules.embeddings.folder import EMPTY, EmbeddingsInfo, open_embeddings
from datamodules.embeddings.shards import REPLACED
from datamodules.embeddings.writer import EmbeddingsWriter
from datamodules.faults import LOG_FILE
from experiments.console.devices import find_device, trainer_device
from experiments.console.quiet import quiet
from experiments.data.sources import is_yaml, open_data
from experiments.embeddings.clip_splits import warn_of_shared_pairs
from experiments.embeddings.embedding_run import Embedder, Encoder, Work, write_split
from experiments.embeddings.options import SHARD_ROWS
from modules.clip.folder import clip_folder
from modules.clip.frozen import caption_features
from modules.errors import InputError
from modules.models.exports import write_weights
from modules.shipped import PREFIX

SAME = 0.98
"""Cosine of an embedding and the same one made again: bfloat16 and other devices change it by less than 0.01."""


def run(options: argparse.Namespace) -> int:
    """Run `unclip embed`; returns the exit code."""
    for name in ("batch_size", "shard_rows", "devices", "num_nodes"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be 1 or more, got {getattr(options, name)}")
    device = find_device(options.device)
    trainer = trainer_device(device)
    if options.devices > 1:
        trainer["devices"] = options.devices
    trainer |= {"num_nodes": options.num_nodes, "strategy": options.strategy, "precision": options.precision}
    named, options.clip = options.clip, clip_folder(options.clip)
    data, section, clip = _data_and_clip(options)
    if options.save_clip is not None:
        _save(clip, options)
    warn_of_shared_pairs(data, section, options.clip)
    source = {"data": section, "clip": named if named.startswith(PREFIX) else options.clip}
    source["pretrained"] = options.pretrained
    source |= {"image_size": getattr(data, "image_size", None), "precision": options.precision}
    embed(
        data,
        clip,
        options.out,
        options.splits,
        options.batch_size,
        device,
        source,
        options.overwrite,
        token_features=options.token_features,
        shard_rows=options.shard_rows,
        trainer=trainer,
    )
    return 0


@rank_zero_only
def _save(clip: Any, options: argparse.Namespace) -> None:
    from modules.clip.saved import save_clip

    _say(f"{save_clip(clip, options.clip, options.save_clip)}: the CLIP {clip.fingerprint}")


def _data_and_clip(options: argparse.Namespace) -> tuple[SplitDataModule, dict[str, Any], Any]:
    """The data, their configuration, and the CLIP.

    The pictures have the size that the CLIP reads. A YAML may have another size: that of the pictures on which stages
    are trained. --image-size overrides both. A CLIP of our own is trained at the size of its YAML's pictures.
    """
    from modules.clip.frozen import FrozenCLIP

    override: dict[str, Any] = {"embeddings": None}
    if options.num_workers is not None:
        override["num_workers"] = options.num_workers
    if is_yaml(options) or options.data is None:  # Refused, if so, before the CLIP is read.
        data, section = open_data(options, SplitDataModule, **override)
        clip = FrozenCLIP(options.clip, options.pretrained)
        size = getattr(data, "image_size", None)
        if options.image_size is None and size not in (None, clip.image_size):
            _say(f"the CLIP is given pictures of its own {clip.image_size} pixels, not of the config's {size}")
            data, section = open_data(options, SplitDataModule, **override, image_size=clip.image_size)
        return data, section, clip
    clip = FrozenCLIP(options.clip, options.pretrained)
    options.image_size = options.image_size or clip.image_size
    data, section = open_data(options, SplitDataModule, **override)
    return data, section, clip


def embed(
    data: SplitDataModule,
    clip: Encoder,
    out: str | Path,
    splits: Sequence[str] = SPLITS,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    source: dict[str, Any] | None = None,
    overwrite: bool = False,
    *,
    token_features: bool = False,
    shard_rows: int = SHARD_ROWS,
    trainer: Mapping[str, Any] | None = None,
) -> None:
    """Writes z_i, z_t and tokens of every pair; splits and shards that are there already are kept.

    What cannot be read is named in OUT/skipped.jsonl (further processes: OUT/1-skipped.jsonl, ...), and which rows hold
    another pair for it in OUT/SPLIT/replaced.

    Args:
        data: the pairs, at the size at which the CLIP shall see them.
        clip: a frozen CLIP.
        out: the embeddings folder (see `datamodules.embeddings.module`).
        splits: which to embed.
        batch_size: pairs at once; the result does not depend on it.
        device: where to compute.
        source: what a person may want to know about the origin; JSON-able.
        overwrite: replace embeddings of another CLIP, of other data or made with other settings.
        token_features: also write the features of every token.
        shard_rows: rows of a shard, which is what an interruption costs each process at most.
        trainer: settings of Lightning's Trainer in place of `device`: accelerator, devices, strategy, ...

    Raises:
        InputError: the folder holds embeddings of another CLIP, of other data or made with other settings; too many
            pairs that cannot be used.
        OSError: it can't be written.
    """
    quiet()
    info = _info(clip, source or {}, token_features)
    settings = dict(trainer or trainer_device(device))
    writer = EmbeddingsWriter(out, info, overwrite, _settings(data, settings.get("precision", "32-true")))
    write_empty_caption(clip, writer.path, token_features)
    module = Embedder(clip, token_features)
    for split in splits:
        log = data.log(split) if hasattr(data, "log") else None
        if log is not None:
            log.write_into(writer.path, getattr(rank_zero_only, "rank", 0))
        size, data_hash = data.size(split), data.data_hash(split)
        if log is not None and log.found and not log.quiet:
            log.tell()  # What is wrong with the lists.
        if writer.holds(split, size, data_hash, overwrite):
            spot_check(data, clip, writer.path, split)
            _say(f"{split}: {size} rows are there")
            continue
        files = writer.split(split, size, data_hash, shard_rows)
        files.check()  # In every process, before any waits for another.
        if not files.captions:
            _say(f"{split}: captions are left out, for pyarrow is not installed")
        work = Work(data, writer, files, batch_size)
        write_split(module, work, settings)
        _say_replaced(writer.path, split)
        _say(f"{split}: {size} rows of {info.dim} written to {out}")


@rank_zero_only
def write_empty_caption(clip: Encoder, folder: Path, token_features: bool) -> None:
    """Write the caption "" as the CLIP gives it, for networks that have it stand for a dropped one."""
    with torch.inference_mode():
        tokens = clip.tokenize([""])
        here = next(clip.parameters()).device if isinstance(clip, torch.nn.Module) else torch.device("cpu")
        found = {"tokens": tokens, "z_t": clip.encode_text(tokens.to(here)).float().cpu()}
        if token_features:
            found["features"] = caption_features(clip, tokens.to(here)).float().cpu()
    write_weights({name: tensor.clone() for name, tensor in found.items()}, folder / EMPTY)


def spot_check(data: SplitDataModule, clip: Encoder, folder: Path, split: str) -> None:
    """Embed some pairs again and compare them with their rows: embeddings that are there may be a stranger's.

    Raises:
        InputError: a row is not the embedding of its pair; or the files are not those that were written.
    """
    rows = open_embeddings(folder).rows(split)
    kept = [k for k in range(len(rows)) if k not in rows.replaced]
    chosen = [kept[k] for k in sorted({round(k * (len(kept) - 1) / 7) for k in range(8)})] if kept else []
    if not chosen:
        return
    batch, there = data.dataset(split).__getitems__(chosen), rows[chosen]  # type: ignore[attr-defined]
    here = next(clip.parameters()).device if isinstance(clip, torch.nn.Module) else torch.device("cpu")
    with torch.inference_mode():
        tokens = getattr(clip.tokenize, "cutting", clip.tokenize)(batch.captions).to(here)
        again = {"z_i": clip.encode_image(batch.images.to(here)), "z_t": clip.encode_text(tokens)}
    for name, z in again.items():
        cosines = torch.nn.functional.cosine_similarity(z.float().cpu(), getattr(there, name))
        worst = int(cosines.argmin())
        if not float(cosines[worst]) > SAME:
            raise InputError(
                f"{folder}: row {chosen[worst]} of {split} is not the {name} of its pair: the CLIP gives another one, "
                f"with which its cosine is {float(cosines[worst]):.3f}; make the embeddings again with --overwrite"
            )


def _info(clip: Encoder, source: dict[str, Any], token_features: bool) -> EmbeddingsInfo:
    """What the folder says of its embeddings; their sizes are those of one caption's."""
    with torch.inference_mode():
        here = next(clip.parameters()).device if isinstance(clip, torch.nn.Module) else "cpu"
        tokens = clip.tokenize(["a"])
        dim = clip.encode_text(tokens.to(here)).shape[1]
        features = clip.encode_tokens(tokens.to(here)).shape[2] if token_features else None
    raw = bool(getattr(clip, "raw", False))
    return EmbeddingsInfo(clip.fingerprint, dim, tokens.shape[1], source=source, features=features, normalised=not raw)


def _settings(data: SplitDataModule, precision: Any) -> dict[str, Any]:
    """What decides the numbers beside the CLIP and the pairs; not the batches, the devices or the shards."""
    picture = getattr(data, "picture", None)
    draft = {} if picture is None else {"draft_margin": picture.draft_margin if picture.draft else None}
    return {"image_size": getattr(data, "image_size", None), "precision": str(precision), **draft}


@rank_zero_only
def _say_replaced(folder: Path, split: str) -> None:
    """Of all processes, and of the runs that this one went on with."""
    replaced = open_embeddings(folder).info.replaced.get(split, 0)
    if replaced:
        _say(
            f"{split}: {replaced:,} pairs cannot be read; other pairs stand in their rows, which "
            f"{folder / split / REPLACED} lists; {folder / LOG_FILE} says why"
        )


@rank_zero_only
def _say(line: str) -> None:
    print(line, flush=True)
