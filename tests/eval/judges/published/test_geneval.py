"""GenEval's rules by hand-made detections, its detector on a small network, and shapes under its task names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import detection

from eval.errors import InputError
from eval.judges.published import detector
from eval.judges.published.detector import GenEval, coco_names, load_detector
from eval.judges.published.geneval import COLOURS, Found, correct, kept, relative_position, shapes_task


def box(x: float, y: float, size: float = 10) -> np.ndarray:
    return np.array([x - size / 2, y - size / 2, x + size / 2, y + size / 2])


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ((-50, 0), {"left of"}),
        ((50, 3), {"right of"}),
        ((0, -50), {"above"}),
        ((1, 50), {"below"}),
        ((50, 50), {"right of", "below"}),
        ((1, 1), set()),  # within a tenth of both sizes
        ((2.5, 0), set()),  # 2.5 - 0.1 * 20 = 0.5, a fifth of the offset
        ((4.1, 0), {"right of"}),  # (4.1 - 2) / 4.1 > 0.5
        ((3.9, 0), set()),  # (3.9 - 2) / 3.9 < 0.5
    ],
)
def test_positions(first, expected):
    assert relative_position(box(*first), box(0, 0)) == expected


def test_certain_detections_count_and_sixteen_at_most():
    scores = np.array([0.95, 0.2, 0.5, 0.31])
    assert kept(scores, counting=False).tolist() == [0, 2, 3] and kept(scores, counting=True).tolist() == [0]
    assert len(kept(np.linspace(0.4, 0.8, 30), counting=False)) == 16


def reds(things, name):
    """The colours of objects, by where they are: red on the left, blue on the right."""
    return ["red" if thing.box[0] < 0 else "blue" for thing in things]


LEFT, RIGHT = Found(box(-50, 0)), Found(box(50, 0))
CASES = [
    ({"dog": [LEFT]}, {"include": [{"class": "dog", "count": 1}]}, True),
    ({"cat": [LEFT]}, {"include": [{"class": "dog", "count": 1}]}, False),
    (
        {"dog": [LEFT, RIGHT]},
        {"include": [{"class": "dog", "count": 1}], "exclude": [{"class": "dog", "count": 2}]},
        False,
    ),
    ({"dog": [LEFT]}, {"include": [{"class": "dog", "count": 1, "color": "red"}]}, True),
    ({"dog": [RIGHT, LEFT]}, {"include": [{"class": "dog", "count": 1, "color": "red"}]}, False),  # the surest counts
    (
        {"dog": [LEFT], "cat": [RIGHT]},
        {"include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["right of", 0]}]},
        True,
    ),
    (
        {"dog": [LEFT], "cat": [RIGHT]},
        {"include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["above", 0]}]},
        False,
    ),
    (
        {"cat": [RIGHT]},
        {"include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["right of", 0]}]},
        False,
    ),
]


@pytest.mark.parametrize(("detected", "wanted", "expected"), CASES)
def test_rules(detected, wanted, expected):
    assert correct(detected, wanted, reds) == expected


class Sees(nn.Module):
    """A detector of torchvision's form that finds what it was told to."""

    def __init__(self, label: int, score: float) -> None:
        super().__init__()
        self.label, self.certain = label, score

    def forward(self, images):
        masks = torch.zeros(1, 1, 8, 8)
        masks[..., 4:, 4:] = 1.0
        found = {"boxes": torch.tensor([[4.0, 4, 8, 8]]), "labels": torch.tensor([self.label])}
        return [{**found, "scores": torch.tensor([self.certain]), "masks": masks}]


class Colours:
    """A CLIP whose embeddings are mean colours; of texts, the colour that they name."""

    name = "colours 1234"
    KNOWN = {"red": (1.0, 0, 0), "green": (0, 1.0, 0), "blue": (0, 0, 1.0)}  # noqa: RUF012

    def __call__(self, images):
        x = images.float()
        return (x - x.mean((1, 2, 3), keepdim=True)).mean((2, 3))

    def encode_text(self, texts):
        dim = torch.tensor([0.1, 0.1, 0.1])
        return torch.stack(
            [torch.tensor(next((self.KNOWN[w] for w in self.KNOWN if w in t), (0.1,) * 3)) - dim for t in texts]
        )


@pytest.mark.parametrize(
    ("colour", "score", "tag", "expected"),
    [("red", 0.5, "colors", 1), ("green", 0.5, "colors", 0), ("red", 0.2, "colors", 0), ("red", 0.5, "counting", 0)],
)
def test_a_picture_is_judged_by_class_colour_and_certainty(colour, score, tag, expected):
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    image[0, 1] = 255  # green, but for the object
    image[0, :, 4:, 4:] = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    judge = GenEval(None, Colours(), model=Sees(coco_names().index("bench"), score))
    wanted = {"tag": tag, "include": [{"class": "bench", "count": 1, "color": colour}]}
    assert judge.score(image, [{"geneval": wanted}]).tolist() == [[expected]]
    assert judge.score(image, [{}]).isnan().all()
    assert len(COLOURS) == 10 and judge.names[coco_names().index("remote")] == "tv remote"


@pytest.mark.parametrize("kind", ["maskrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn"])
def test_the_detector_has_the_tensors_of_torchvisions_file(tmp_path, monkeypatch, kind):
    """A number for each tensor of the published layout, without the memory of 46 million weights."""
    make = getattr(detection, kind)

    def without_memory(**options):
        with torch.device("meta"):
            return make(**options)

    layout = without_memory(weights=None, weights_backbone=None).state_dict()
    state = {name: torch.tensor(float(k)).expand(t.shape) for k, (name, t) in enumerate(layout.items())}
    monkeypatch.setattr(detector, "read_state", lambda path: state)
    for name in ("maskrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn"):
        monkeypatch.setattr(detection, name, without_memory if name == kind else None)
    found = load_detector(tmp_path / "detector.pth").state_dict()
    assert len(found) == len(state) > 300
    assert all(found[name].shape == t.shape and found[name].flatten()[0] == t.flatten()[0] for name, t in state.items())
    monkeypatch.setattr(detector, "read_state", lambda path: {"backbone.weight": torch.zeros(1)})
    with pytest.raises(InputError, match="holds no Mask R-CNN"):
        load_detector(tmp_path / "detector.pth")


def shape(**told):
    return {"shape": "circle", "colour": None, "size": None, **told}


@pytest.mark.parametrize(
    ("objects", "more", "expected"),
    [
        ([shape()], {}, "single_object"),
        ([shape(colour="red")], {}, "colors"),
        ([shape(), shape()], {}, "two_object"),
        ([shape(colour="red"), shape(colour="blue")], {}, "color_attr"),
        ([shape(colour="red"), shape()], {"relation": "above"}, "position"),
        ([shape(colour="red")], {"count": 2}, "counting"),
        ([], {}, None),
    ],
)
def test_captions_of_shapes_fall_under_genevals_tasks(objects, more, expected):
    mentioned = {"objects": objects, "background": None, "relation": None, "count": None, **more}
    assert shapes_task(mentioned) == expected
    assert shapes_task(None) is None
