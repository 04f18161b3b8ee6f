"""A classifier of the attributes that captions name, so that a picture can be judged without a person.

It takes no part in generation, so its features also serve the Frechet distance and the diversity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from safetensors.torch import save
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from eval.errors import InputError
from eval.files import replacing_folder
from eval.untrusted import read_weights, read_yaml

WARM_UP = 0.1  # share of the steps over which the learning rate rises; it falls to zero along a cosine after that


class Attributes(NamedTuple):
    """The classifier's results for N images: `classes` (N, A) int64 and `features` (N, F) float32."""

    classes: Tensor
    features: Tensor


class AttributeNetwork(nn.Module):
    """Convolutions down to a 4 x 4 map, read with its positions kept (an object's slot is where it lies).

    Args:
        n_classes: classes of each attribute; one head each.
        image_size: side of the square input; a power of two times 4.
        width: channels at half the input's side; they grow by half a stage.
        features: size of the penultimate layer.
    """

    def __init__(self, n_classes: Sequence[int], image_size: int, width: int, features: int) -> None:
        super().__init__()
        stages = (image_size // 4).bit_length() - 1
        if image_size != 4 << stages or stages < 1:
            raise ValueError(f"image_size must be 8, 16, 32, 64, ..., found {image_size}")
        channels = [width * (k + 2) // 2 for k in range(stages)]
        layers: list[nn.Module] = [_convolution(3, channels[0], stride=2)]
        for before, after in pairwise(channels):
            layers += [_convolution(before, before), _convolution(before, after, stride=2)]
        layers += [_convolution(channels[-1], channels[-1])]
        self.body = nn.Sequential(*layers)
        # The normalisation gives every feature the same scale, so that none of them rules a distance.
        self.neck = nn.Sequential(
            nn.Flatten(), nn.Linear(16 * channels[-1], features, bias=False), nn.BatchNorm1d(features), nn.SiLU()
        )
        self.heads = nn.Linear(features, sum(n_classes))
        self.n_classes = list(n_classes)

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Maps (N, 3, S, S) in [-1, 1] to the logits of each attribute [(N, classes)] and the features (N, F)."""
        features = self.neck(self.body(images.contiguous(memory_format=torch.channels_last)))
        return list(self.heads(features).split(self.n_classes, dim=1)), features


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.SiLU())


def attribute_loss(logits: Sequence[Tensor], classes: Tensor) -> Tensor:
    """Cross-entropy summed over the attributes, each averaged over the images that it applies to.

    Args:
        logits: A tensors (N, classes of that attribute).
        classes: (N, A) int64; -1 where an attribute does not apply.
    """
    losses = [
        F.cross_entropy(head, c, ignore_index=-1, reduction="sum") for head, c in zip(logits, classes.T, strict=True)
    ]
    return torch.stack(losses).div((classes >= 0).sum(0).clamp(min=1)).sum()


class AttributeClassifier(lightning.LightningModule):
    """Learns the attributes of images from batches with `images` (B, 3, H, W) in [-1, 1] and `attributes` (B, A) int64.

    At the end of a fit it exports itself to <default_root_dir>/export, which `load_classifier` reads.

    Args:
        attributes: name of each attribute column, in order -> its class names.
        optimizer: makes the optimiser; the learning rate that it names is the peak.
        image_size: images are resized to this side, antialiased.
        width: channels of the first layer.
        features: size of the penultimate layer.
    """

    def __init__(
        self,
        attributes: dict[str, list[str]],
        optimizer: OptimizerCallable = torch.optim.AdamW,
        image_size: int = 32,
        width: int = 32,
        features: int = 64,
    ) -> None:
        super().__init__()
        self.attributes = {name: tuple(classes) for name, classes in attributes.items()}
        self.optimizer = optimizer
        self.image_size = image_size
        self.settings = {"image_size": image_size, "width": width, "features": features}
        sizes = [len(classes) for classes in self.attributes.values()]
        self.network = AttributeNetwork(sizes, image_size, width, features).to(memory_format=torch.channels_last)
        # Of the pictures that an attribute applies to, over all batches and ranks.
        self.accuracies = nn.ModuleDict(
            {
                name: MulticlassAccuracy(max(2, n), average="micro", ignore_index=-1)
                for name, n in zip(self.attributes, sizes, strict=True)
            }
        )

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Maps images (N, 3, H, W) in [-1, 1] of any side to the logits of each attribute and the features (N, F)."""
        if images.shape[-2:] != (self.image_size, self.image_size):
            size = [self.image_size, self.image_size]
            images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        return self.network(images)

    @torch.inference_mode()
    def look(self, images: Tensor) -> Attributes:
        """Run the classifier, in evaluation mode, on images (N, 3, H, W) in [-1, 1]."""
        training = self.training
        self.eval()
        logits, features = self(images)
        self.train(training)
        return Attributes(torch.stack([head.argmax(1) for head in logits], dim=1), features.float())

    def features(self, images: Tensor) -> Tensor:
        """(N, F) float32 penultimate features of images (N, 3, H, W) in [-1, 1]."""
        return self.look(images).features

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = attribute_loss(self(batch.images)[0], self._truth(batch))
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._judge(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._judge(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """The results for a batch: classes (B, A), features (B, F) and the samples' index (B,)."""
        seen = self.look(batch.images)
        return {"index": batch.index, "classes": seen.classes, "features": seen.features}

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.optimizer(self.parameters())
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up_then_cosine(self._total_steps()))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_end(self) -> None:
        if self.trainer.is_global_zero and not self.trainer.interrupted:
            export_classifier(self, Path(self.trainer.default_root_dir) / "export")

    def _total_steps(self) -> int:
        steps = self.trainer.estimated_stepping_batches
        return int(steps) if steps != float("inf") else max(1, self.trainer.max_steps)

    def _truth(self, batch: Any) -> Tensor:
        if batch.attributes is None or batch.attributes.shape[1] != len(self.attributes):
            found = "none" if batch.attributes is None else batch.attributes.shape[1]
            raise InputError(f"the classifier needs {len(self.attributes)} attribute columns, the data have {found}")
        return batch.attributes

    def _judge(self, batch: Any, split: str) -> None:
        logits, truth = self(batch.images)[0], self._truth(batch)
        self.log(f"{split}/loss", attribute_loss(logits, truth), batch_size=len(truth), sync_dist=True)
        for (name, accuracy), head, wanted in zip(self.accuracies.items(), logits, truth.T, strict=True):
            assert isinstance(accuracy, MulticlassAccuracy)
            accuracy.update(head.argmax(1), wanted)
            self.log(f"{split}/accuracy/{name}", accuracy, on_step=False, on_epoch=True)


def warm_up_then_cosine(steps: int) -> Callable[[int], float]:
    """Factor of the peak learning rate at each step: linear up over the first tenth, a cosine down to zero."""
    warm = max(1, round(WARM_UP * steps))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        progress = min(1.0, (step - warm) / max(1, steps - warm))
        return float(0.5 * (1 + torch.cos(torch.tensor(torch.pi * progress))))

    return factor


def export_classifier(classifier: AttributeClassifier, folder: Path) -> None:
    """Writes config.yaml and model.safetensors; the folder changes completely or not at all."""
    classes = {name: list(names) for name, names in classifier.attributes.items()}
    weights = {name: value.detach().cpu().contiguous() for name, value in classifier.network.state_dict().items()}
    with replacing_folder(folder) as partial:
        config = yaml.safe_dump({"attributes": classes, **classifier.settings}, sort_keys=False)
        (partial / "config.yaml").write_text(config, encoding="utf-8")
        # Not save_file, which turns a full disk into an error of its own kind.
        (partial / "model.safetensors").write_bytes(save(weights))


def check_settings(config: Any) -> None:
    """Refuse settings that no exported classifier's config.yaml has.

    Raises:
        InputError: names the setting.
    """
    known = ("attributes", "image_size", "width", "features")
    if not isinstance(config, dict) or set(config) - set(known) or "attributes" not in config:
        raise InputError(f"config.yaml holds {', '.join(known)} and nothing else")
    classes = config["attributes"]
    whole = isinstance(classes, dict) and all(isinstance(name, str) for name in classes)
    if not whole or not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in classes.values()
    ):
        raise InputError("attributes are lists of class names by name")
    for key in known[1:]:
        value = config.get(key, 1)
        if type(value) is not int or not 1 <= value <= 4096:
            raise InputError(f"{key} must be a whole number from 1 to 4096, found {value!r}")


def load_classifier(folder: str | Path) -> AttributeClassifier:
    """Reads an exported classifier, in evaluation mode. `folder` is the export, or the run folder that holds it.

    Raises:
        InputError: a file is missing or unreadable, or weights and config do not go together.
    """
    folder = Path(folder)
    folder = folder / "export" if (folder / "export").is_dir() else folder
    try:
        config = read_yaml(folder / "config.yaml")
        check_settings(config)
        with torch.device("meta"):
            expected = AttributeClassifier(**config).network.state_dict()
        weights = read_weights(folder / "model.safetensors", expected)
        classifier = AttributeClassifier(**config)
        classifier.network.load_state_dict(weights)
    except Exception as error:  # YAML, safetensors and torch each raise their own kinds
        absent = isinstance(error, FileNotFoundError) and error.filename
        lacking = f"no {Path(absent).name} in it" if absent else None
        reason = lacking or " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        raise InputError(f"cannot load the classifier in {folder} ({reason}); train it with `unclip fit`") from error
    return classifier.eval()
