"""GenEval's detector in the place of mmdet's: torchvision's Mask R-CNN from a file, and a CLIP for colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eval.errors import InputError
from eval.judges.features import CLIPExtractor, fingerprint
from eval.judges.published.geneval import COLOURS, Found, correct, kept
from eval.judges.published.weights import fill, read_state
from eval.samples.geneval import KEY

GREY = 0x99 / 255
"""Behind an object whose colour is asked, as GenEval has it: #999."""
TEMPLATES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")
CALLED = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
"""torchvision's names of COCO's classes -> GenEval's."""


class GenEval:
    """Scores (N, 1), 1 where a picture shows what its prompt's metadata ask for (`eval.judges.published.geneval`).

    Args:
        path: maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth.
        clip: ViT-L-14 openai with its tokeniser, for colours.
        device: where it computes.
        model: another torchvision detector with masks, its weights in it, in the place of `path`'s.

    Raises:
        InputError: another file.
    """

    resizing = "the detector's own (short side 800 px)"

    def __init__(
        self,
        path: Path,
        clip: CLIPExtractor,
        device: str | torch.device = "cpu",
        model: torch.nn.Module | None = None,
    ) -> None:
        self.clip, self.device = clip, torch.device(device)
        self.model = (load_detector(path) if model is None else model).eval().to(device)
        self.names = [CALLED.get(name, name) for name in coco_names()]
        self.name = f"GenEval {fingerprint(self.model)} {clip.name.split()[-1]}"
        self._colours: dict[str, Tensor] = {}

    @torch.inference_mode()
    def score(self, images: Tensor, records: Sequence[Mapping[str, Any]]) -> Tensor:
        """(N, 1) of uint8 (N, 3, H, W) and manifest lines with GenEval's metadata; nan without."""
        scores = []
        for image, record in zip(images, records, strict=True):
            wanted = record.get(KEY)
            scores.append(float("nan") if wanted is None else float(self._judged(image, wanted)))
        return torch.tensor(scores)[:, None]

    def _judged(self, image: Tensor, wanted: Mapping[str, Any]) -> bool:
        seen = self.model([image.to(self.device).float() / 255])[0]
        labels, found = seen["labels"].cpu().numpy(), {}
        for number in np.unique(labels):
            chosen = np.flatnonzero(labels == number)
            boxes, certain = seen["boxes"].cpu().numpy()[chosen], seen["scores"].cpu().numpy()[chosen]
            masks = seen["masks"][torch.from_numpy(chosen).to(seen["masks"].device), 0].cpu().numpy() > 0.5
            best = kept(certain, counting=wanted["tag"] == "counting")
            if len(best):
                found[self.names[int(number)]] = [Found(boxes[k], masks[k]) for k in best]
        return correct(found, wanted, lambda things, name: self.colours(image, things, name))

    def colours(self, image: Tensor, things: Sequence[Found], name: str) -> list[str]:
        """The colour of each object of one class: its crop, on grey outside its mask, zero-shot among ten."""
        crops = [self._crop(image, thing) for thing in things]
        seen = torch.cat([self.clip(crop[None]) for crop in crops])
        seen = torch.nn.functional.normalize(seen, dim=1)
        return [COLOURS[k] for k in (seen @ self._classifier(name).T).argmax(1).tolist()]

    @staticmethod
    def _crop(image: Tensor, thing: Found) -> Tensor:
        pixels = image.permute(1, 2, 0).numpy()
        grey = np.full_like(pixels, round(255 * GREY))
        shown = Image.fromarray(np.where(thing.mask[..., None], pixels, grey) if thing.mask is not None else pixels)
        left, top, right, bottom = (round(float(v)) for v in thing.box)
        crop = shown.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        return torch.from_numpy(np.asarray(crop).copy()).permute(2, 0, 1)

    def _classifier(self, name: str) -> Tensor:
        """(10, D) unit: the mean of the unit embeddings of each colour's three texts."""
        if name not in self._colours:
            texts = [t.format(colour=colour, name=name) for colour in COLOURS for t in TEMPLATES]
            z = torch.nn.functional.normalize(self.clip.encode_text(texts), dim=1)
            means = z.reshape(len(COLOURS), len(TEMPLATES), -1).mean(1)
            self._colours[name] = torch.nn.functional.normalize(means, dim=1)
        return self._colours[name]


def load_detector(path: Path) -> torch.nn.Module:
    """torchvision's Mask R-CNN (v2, or the first) with the weights of a file.

    Raises:
        InputError: another file.
    """
    from torchvision.models import detection

    state = read_state(path)
    second = any(name.startswith("backbone.fpn.inner_blocks.0.1") for name in state)
    make = detection.maskrcnn_resnet50_fpn_v2 if second else detection.maskrcnn_resnet50_fpn
    if not any(name.startswith("roi_heads.mask_predictor") for name in state):
        raise InputError(f"{path} holds no Mask R-CNN of torchvision")
    return fill(make(weights=None, weights_backbone=None), state, path)


def coco_names() -> list[str]:
    """COCO's class names by torchvision's labels; 0 is the background."""
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    return list(MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
