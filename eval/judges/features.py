"""The networks that turn images into features: attribute classifier, a CLIP by open_clip, clean-fid's Inception.

All of them take uint8 images of any size, and resize antialiased: the resizing is a part of the metric.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from eval.errors import InputError
from eval.judges.attributes import AttributeClassifier, Attributes
from eval.judges.built_in import INCEPTION_FILE, INCEPTION_VARIABLE
from eval.samples.folder import SampleFolder
from eval.untrusted import check_clip, check_finite, read_bytes, read_json
from modules.clip.lean_import import import_open_clip

if TYPE_CHECKING:
    from modules.clip.preprocessing import Preprocessing

FEWEST_THREADS, MOST_THREADS, PART = 4, 16, 16
"""Threads that decode and resize pictures, by the machine's cores; pictures that one of them takes at a time."""
Tokenizer = Callable[[list[str]], Tensor]

NO_INCEPTION = (
    f"FID with Inception features is left out: put {INCEPTION_FILE} (the weights that clean-fid downloads) anywhere and"
    f" name the file by --inception or {INCEPTION_VARIABLE}"
)


class Extractor(Protocol):
    """A network that turns images into features.

    Attributes:
        name: for tables; with a hash of the weights where their origin does not tell them.
        resizing: how images come to the network's input size.
    """

    name: str
    resizing: str

    def __call__(self, images: Tensor) -> Tensor:
        """Maps uint8 (N, 3, H, W) to features (N, D) float32, on the CPU."""
        ...


def fingerprint(network: nn.Module) -> str:
    """8 hexadecimal digits that tell one set of weights from another."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:8]


def identity(weights: str, config: Mapping[str, Any]) -> str:
    """8 hexadecimal digits that tell one judge from another: its weights, and all that its features depend on besides.

    Args:
        weights: their `fingerprint`.
        config: architecture, preprocessing, vocabulary, classes, as JSON can hold them.
    """
    content = json.dumps([weights, dict(config)], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:8]


class AttributeExtractor:
    """The attribute classifier's penultimate features, and the classes that it sees.

    Args:
        classifier: see `load_classifier`.
        device: where it computes.
    """

    resizing = "bilinear, antialiased"

    def __init__(self, classifier: AttributeClassifier, device: str | torch.device = "cpu") -> None:
        self.classifier = classifier.to(device).eval()
        config = {"attributes": list(classifier.attributes.items()), **classifier.settings}  # Their order counts.
        self.name = f"attribute classifier {identity(fingerprint(classifier.network), config)}"

    def look(self, images: Tensor) -> Attributes:
        """Classes and features of uint8 (N, 3, H, W)."""
        seen = self.classifier.look(images.to(self.classifier.device).float() / 127.5 - 1)
        return Attributes(seen.classes.cpu(), seen.features.cpu())

    def __call__(self, images: Tensor) -> Tensor:
        return self.look(images).features


class CLIPExtractor:
    """An open_clip model that took no part in making the images: image features, and those of captions.

    Args:
        model: from `load_clip`.
        name: for tables.
        tokenizer: captions -> tokens (B, L) int64; for `encode_text` only.
        device: where it computes.
        config: of the model and its vocabulary; images' size, mean and deviation are the model's own.

    Attributes:
        name: ends with the `identity` of weights, config and preprocessing.
        fingerprint: of the weights alone.
    """

    resizing: str

    def __init__(
        self,
        model: nn.Module,
        name: str,
        tokenizer: Tokenizer | None,
        device: str | torch.device,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.fingerprint = fingerprint(model)
        self.tokenizer = tokenizer
        self.device = torch.device(device)
        self._texts: tuple[list[str], Tensor] = ([], torch.empty(0))
        from modules.clip.preprocessing import Preprocessing

        preprocess = import_open_clip().get_model_preprocess_cfg(model)
        self.name = f"{name} {identity(self.fingerprint, {**(config or {}), 'preprocess': preprocess})}"
        self.preprocessing = Preprocessing.of(model)
        self.size = self.preprocessing.size
        self.resizing = resizing_of(self.preprocessing)
        self.mean, self.std = (
            torch.tensor(values, device=self.device)[:, None, None]
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        x = self.preprocessing.resized(images.to(self.device).float() / 255)
        return self.model.encode_image((x - self.mean) / self.std).float().cpu()  # type: ignore[operator]

    @torch.inference_mode()
    def encode_text(self, captions: Sequence[str], batch_size: int = 256) -> Tensor:
        """Features (N, D) of N captions; each different caption is computed once.

        Those of the last call are kept: several metrics ask for the same captions, and so does the next folder.
        """
        if self.tokenizer is None:
            raise ValueError("this CLIP was made without a tokenizer")
        place = {caption: k for k, caption in enumerate(dict.fromkeys(captions))}
        texts = list(place)
        if self._texts[0] != texts:
            features = [
                self.model.encode_text(self.tokenizer(texts[k : k + batch_size]).to(self.device)).float().cpu()  # type: ignore[operator]
                for k in range(0, len(texts), batch_size)
            ]
            self._texts = texts, torch.cat(features)
        return self._texts[1][[place[caption] for caption in captions]]


def resizing_of(preprocessing: Preprocessing) -> str:
    """How pictures are resized for a CLIP, in words."""
    kind = "bilinear" if preprocessing.interpolation == "bilinear" else "bicubic"
    mode = "" if preprocessing.resize_mode == "shortest" else f", {preprocessing.resize_mode}"
    return f"{kind}, antialiased{mode}"


def load_clip(
    name: str, pretrained: str | None = None, tokenizer: Tokenizer | None = None, device: str | torch.device = "cpu"
) -> CLIPExtractor:
    """Loads an open_clip model.

    Args:
        name: an architecture ("ViT-B-32"), or a folder with open_clip_config.json and its weights.
        pretrained: tag or file of the weights; a folder has its own.
        tokenizer: as for `CLIPExtractor`.
        device: where it computes.

    Raises:
        InputError: the folder or the weights are not there.
    """
    open_clip = import_open_clip()
    is_folder = Path(name).is_dir()
    if not is_folder and (pretrained is None or "/" in name):
        raise InputError(f"no CLIP at {name}: name a folder that holds one, or an open_clip model as NAME:PRETRAINED")
    try:
        if is_folder:
            check_clip(Path(name))
        model = open_clip.create_model(
            f"local-dir:{name}" if is_folder else name, pretrained=pretrained, require_pretrained=True
        )
        check_finite(model.state_dict(), Path(name))
    except Exception as error:  # open_clip, safetensors and the hub each raise their own kinds
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"cannot load the CLIP {name} ({reason}); name a folder that holds one") from error
    label = _folder_label(Path(name)) if is_folder else f"{name} {pretrained}"
    config = _folder_config(Path(name)) if is_folder else {"model": open_clip.get_model_config(name)}
    return CLIPExtractor(model, label, tokenizer, device, config)


def _folder_config(folder: Path) -> dict[str, Any]:
    """What a CLIP's folder holds besides weights: the model's config, and the vocabulary or tokeniser."""
    model = read_json(folder / "open_clip_config.json")["model_cfg"]
    files = {path.name: hashlib.sha256(read_bytes(path)).hexdigest() for path in sorted(folder.glob("*.json"))}
    return {"model": model, "files": {name: h for name, h in files.items() if name != "open_clip_config.json"}}


def _folder_label(folder: Path) -> str:
    """What a CLIP in a folder is called: STAGE for STAGE/export, which all stages have."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == "export" else folder.name


class InceptionExtractor:
    """clean-fid's Inception-v3, with its resizing, which papers use for FID.

    Its name ends with a hash of the weights file, as those of the other judges: features of other weights are others.

    Args:
        weights: the torchscript file inception-2015-12-05.pt, under whatever name.
        device: where it computes.

    Raises:
        InputError: it is not such a file.
    """

    resizing = "clean-fid: PIL bicubic to 299, not quantised"

    def __init__(self, weights: Path, device: str | torch.device = "cpu") -> None:
        from cleanfid.inception_torchscript import InceptionV3W
        from cleanfid.resize import build_resizer

        try:
            # clean-fid takes a folder, and knows the file by its name; torch warns of what clean-fid loads it with.
            with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                (Path(folder) / INCEPTION_FILE).symlink_to(weights.resolve(strict=True))
                self.model = InceptionV3W(folder, download=False).to(device)
        except Exception as error:  # torch.jit raises RuntimeErrors of many lines
            raise InputError(
                f"{weights} is not {INCEPTION_FILE}, a torchscript file ({type(error).__name__}); download it again"
            ) from error
        self.name = f"Inception-v3 (clean-fid) {hashlib.sha256(weights.read_bytes()).hexdigest()[:8]}"
        self.resize = build_resizer("clean")
        self.device = device

    def logits(self, features: np.ndarray) -> np.ndarray | None:
        """(N, 1008) class logits without bias, for the Inception Score; None if the file holds no last layer."""
        weight = getattr(getattr(self.model.base, "output", None), "weight", None)
        return None if weight is None else np.asarray(features) @ weight.detach().cpu().numpy().T

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        with ThreadPoolExecutor(threads()) as pool:
            resized = np.stack(list(pool.map(self.resize, images.permute(0, 2, 3, 1).numpy())))
        return self.model(torch.from_numpy(resized).permute(0, 3, 1, 2).to(self.device)).float().cpu()


def find_inception(named: str | None = None) -> Path | None:
    """The file of Inception weights that the argument names, or else the environment variable; None without either.

    Raises:
        InputError: a file is named that is not there.
    """
    name = named or os.environ.get(INCEPTION_VARIABLE)
    if not name:
        return None
    if not Path(name).is_file():
        raise InputError(f"no Inception weights at {name}; put {INCEPTION_FILE} there, or leave --inception out")
    return Path(name)


def batches(folder: SampleFolder, batch_size: int) -> Iterable[Tensor]:
    """The images of a folder in order, as uint8 (up to batch_size, 3, H, W); the next ones are decoded meanwhile."""
    yield from (images for _, images in part_batches(folder, batch_size))


def threads() -> int:
    """How many threads decode and resize pictures here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(FEWEST_THREADS, min(MOST_THREADS, cores))


def part_batches(folder: SampleFolder, batch_size: int, rank: int = 0, world: int = 1) -> Iterator[tuple[int, Tensor]]:
    """Every `world`-th batch of a folder from the `rank`-th on: position of its first image, and the images.

    Batches do not depend on the process, so several processes give the features of one to the bit. Threads
    decode the next images while the networks look: as many batches ahead as keep all of them busy.
    """
    parts_a_batch = -(-batch_size // PART)
    ahead = 1 + -(-threads() // parts_a_batch)
    with ThreadPoolExecutor(threads()) as pool:
        waiting = deque[tuple[int, list[Future[Tensor]]]]()
        try:
            for start in range(rank * batch_size, len(folder), world * batch_size):
                stop = min(start + batch_size, len(folder))
                parts = [(k, min(k + PART, stop)) for k in range(start, stop, PART)]
                waiting.append((start, [pool.submit(folder.images, *part) for part in parts]))
                if len(waiting) > ahead:
                    yield _joined(*waiting.popleft())
            while waiting:
                yield _joined(*waiting.popleft())
        finally:
            for _, futures in waiting:
                for images in futures:
                    images.cancel()


def _joined(start: int, futures: list[Future[Tensor]]) -> tuple[int, Tensor]:
    return start, torch.cat([images.result() for images in futures])
