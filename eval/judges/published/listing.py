"""The published metrics, the files that each needs, and their sources."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.errors import InputError

WEIGHTS_VARIABLE = "UNCLIP_WEIGHTS"
"""Names the folder of published weights, where --weights does not."""


@dataclass(frozen=True)
class Published:
    """A metric as its authors publish it.

    Attributes:
        name: for --metric.
        files: names of the files (or folder) that it needs, as they are published, in the order of --metric NAME=A,B.
        source: where people get them: hub repository or project.
        protocol: what is computed, in words, with the paper.
        captions: whether the pictures need captions.
        real: whether the real images are looked at too, to be compared with.
    """

    name: str
    files: tuple[str, ...]
    source: str
    protocol: str
    captions: bool = True
    real: bool = False


CLIP_L = "CLIP-ViT-L-14-openai.safetensors"

PUBLISHED = {
    each.name: each
    for each in (
        Published(
            "dinov2",
            ("dinov2_vitl14_pretrain.pth",),
            "facebookresearch/dinov2",
            "DINOv2 ViT-L/14, 224 px: FD-DINOv2, FD-infinity, KD, Vendi score, AuthPct (2023, Stein et al., dgm-eval)",
            captions=False,
            real=True,
        ),
        Published(
            "cmmd",
            ("CLIP-ViT-L-14-336-openai.safetensors",),
            "open_clip_model.safetensors of timm/vit_large_patch14_clip_336.openai",
            "CMMD by ViT-L-14-336 openai: 1,000 x biased MMD^2, Gaussian kernel, sigma 10 (2024, Jayasumana et al.)",
            captions=False,
            real=True,
        ),
        Published(
            "hpsv2",
            ("HPS_v2_compressed.pt",),
            "xswu/HPSv2",
            "HPSv2: 100 x cosine by a ViT-H-14 tuned on human choices (2023, Wu et al.)",
        ),
        Published("hpsv2.1", ("HPS_v2.1_compressed.pt",), "xswu/HPSv2", "HPSv2.1: the same with newer weights"),
        Published(
            "pickscore",
            ("PickScore_v1.safetensors",),
            "model.safetensors of yuvalkirstain/PickScore_v1",
            "PickScore: logit scale x cosine by a ViT-H-14 tuned on Pick-a-Pic (2023, Kirstain et al.)",
        ),
        Published(
            "laion_aesthetic",
            ("sac+logos+ava1-l14-linearMSE.pth", CLIP_L),
            "christophschuhmann/improved-aesthetic-predictor; open_clip_model.safetensors of"
            " timm/vit_large_patch14_clip_224.openai",
            "LAION aesthetic predictor V2: an MLP on unit ViT-L-14 openai embeddings; about 1 to 10 (2022, Schuhmann)",
            captions=False,
        ),
        Published(
            "imagereward",
            ("ImageReward.pt", "bert-base-uncased-vocab.txt"),
            "THUDM/ImageReward; vocab.txt of google-bert/bert-base-uncased",
            "ImageReward 1.0: BLIP and an MLP, standardised (2023, Xu et al.)",
        ),
        Published(
            "vqascore",
            ("vqascore",),
            "any vision-language model in a folder of transformers, such as Qwen/Qwen2-VL-2B-Instruct",
            'VQAScore: P("Yes") for: Does this figure show "CAPTION"? Please answer yes or no. (2024, Lin et al.)',
        ),
        Published(
            "geneval",
            ("maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth", CLIP_L),
            "torchvision's Mask R-CNN v2; open_clip_model.safetensors of timm/vit_large_patch14_clip_224.openai",
            "GenEval's six tasks and rules, with torchvision's Mask R-CNN v2 in the place of Mask2Former: compare with"
            " numbers of the same detector only (2023, Ghosh et al.)",
        ),
    )
}


def find_files(text: str, weights: str | None) -> tuple[Published, list[Path]]:
    """The metric and its files, from a word NAME or NAME=FILE[,FILE] of --metric.

    Args:
        text: the word.
        weights: folder of published files; None for the one that $UNCLIP_WEIGHTS names.

    Raises:
        InputError: an unknown metric, a file that is missing, or too many files.
    """
    name, _, given = text.partition("=")
    if name not in PUBLISHED:
        raise InputError(f"--metric {name}: there are {', '.join(PUBLISHED)}; `unclip evaluate --list` says more")
    metric, folder = PUBLISHED[name], weights_folder(weights)
    named = [Path(part) for part in given.split(",") if part]
    if len(named) > len(metric.files):
        raise InputError(f"--metric {name} takes {len(metric.files)} files: {', '.join(metric.files)}")
    files = named + [folder / file if folder else Path(file) for file in metric.files[len(named) :]]
    for file in files:
        if not file.exists():
            raise InputError(
                f"--metric {name} needs {file.name}, which is not at {file}: get it from {metric.source}, and put it"
                f" into the folder of --weights (or ${WEIGHTS_VARIABLE}), or name it: --metric {name}=FILE"
            )
    return metric, files


def weights_folder(weights: str | None) -> Path | None:
    """The folder of published files; None where none is named."""
    named = weights or os.environ.get(WEIGHTS_VARIABLE)
    return Path(named) if named else None


def here(metric: Published, weights: str | None) -> bool:
    """Whether all files of a metric lie in the folder of published files."""
    folder = weights_folder(weights)
    return folder is not None and all((folder / file).exists() for file in metric.files)


def lines(weights: str | None) -> Sequence[str]:
    """The lines of `unclip evaluate --list`: each metric, its files, their sources, and whether they are here."""
    from eval.judges import built_in

    folder = weights_folder(weights)
    said = [*built_in.lines(folder), "", "By --metric NAME or NAME=FILE[,FILE]:", ""]
    for metric in PUBLISHED.values():
        there = "here" if here(metric, weights) else "not here"
        said += [
            f"{metric.name} ({there})",
            f"  {metric.protocol}",
            f"  files: {', '.join(metric.files)}",
            f"  from:  {metric.source}",
            f"  needs: {'captions' if metric.captions else 'pictures only'}",
        ]
    return [*said, f"folder of files: {folder or f'none (--weights DIR or ${WEIGHTS_VARIABLE})'}"]
