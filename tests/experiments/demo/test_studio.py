"""What the demo draws: the same pictures as the methods that it stands on, and one line for what is wrong."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from eval.pages.html import png
from experiments.demo.mask import mask_of
from experiments.demo.studio import Drawing, Studio, archive
from modules.conditions import CONDITIONS
from modules.errors import InputError
from modules.manipulations.components import components_of


@pytest.fixture(scope="module")
def studio(stored_run):
    return Studio.open(str(stored_run))


def pixels(shown):
    return [np.asarray(picture) for picture, _ in shown]


def same(one, other):
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_conditions_have_their_stages(studio):
    assert "image_embedding" not in studio.conditions
    assert set(studio.conditions) == {
        name
        for name, condition in CONDITIONS.items()
        if condition.in_main_table and condition.z_i != "image" and all(map(studio.system.has, condition.stages))
    }


def test_a_row_for_each_condition_by_the_settings_given(studio):
    drawing = Drawing(["text_embedding", "diffusion_prior"], seed=3, count=2, decoder={"steps": 2})
    told: list[str] = []
    shown = studio.text_to_pictures("a red circle", drawing, lambda done, what: told.append(what))
    assert [title for _, title in shown][:2] == ["text embedding as z_i, seed 3", "text embedding as z_i, seed 4"]
    assert told == ["text embedding as z_i", "diffusion prior"]
    assert studio.system.overrides == {}  # As before.
    studio.system.overrides = {"decoder": {"steps": 2}}
    try:
        drawn = studio.system.text_to_image("a red circle", seed=[3, 4], condition="diffusion_prior")
    finally:
        studio.system.overrides = {}
    assert same(pixels(shown)[2:], [np.asarray(picture) for picture in drawn])


def test_edits_are_the_methods_own(studio):
    image, other = studio.examples[:2]
    shown = studio.variations(image, (0.0, 1.0), [0, 1])
    assert [title for _, title in shown] == ["eta 0", "eta 1", "fresh noise, seed 0", "fresh noise, seed 1"]
    fresh = studio.system.image_variations(image, seed=[0, 1])
    assert same(pixels(shown)[2:], [np.asarray(picture) for picture in fresh])
    way = studio.between_pictures(image, other, 3, None)
    assert [title for _, title in way] == ["0.00", "0.50", "1.00"]
    assert len(studio.between_captions([*studio.captions[:1], "a blue square"], 3, 0)) == 3
    turned = studio.text_diff(image, "a red circle", "a blue circle", 0.4)
    assert [title for _, title in turned] == [f"theta {k / 10:.2f}" for k in range(5)]


def test_what_is_not_painted_stays(studio):
    image = studio.examples[0]
    mask = Image.new("L", image.size)
    mask.paste(255, (0, 0, image.width // 2, image.height))
    (filled, _), *_ = studio.inpaint(image, mask, "", [0], 1)
    kept = np.asarray(filled)[:, image.width // 2 :].astype(int) - np.asarray(image)[:, image.width // 2 :]
    assert np.abs(kept).max() <= 1
    assert not np.array_equal(np.asarray(filled), np.asarray(image))


def test_components_move_the_picture(studio, monkeypatch):
    with pytest.raises(InputError, match="its components are not known"):
        studio.moved(studio.examples[0], [0.0], 0)
    z_i = torch.nn.functional.normalize(
        torch.randn(50, studio.system.clip.embedding_dim, generator=torch.Generator().manual_seed(0)), dim=1
    )
    monkeypatch.setitem(vars(studio), "components", components_of(z_i))
    still = studio.moved(studio.examples[0], [0.0] * 3, 0)
    assert np.abs(pixels(still)[0].astype(int) - pixels(still)[1]).max() <= 1
    moved = studio.moved(studio.examples[0], [4.0, 0.0, 0.0], 0)
    assert np.array_equal(pixels(moved)[0], pixels(still)[0])
    assert not np.array_equal(pixels(moved)[1], pixels(moved)[0])


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda s: s.text_to_pictures(" ", Drawing(["text_embedding"])), "the caption is empty"),
        (lambda s: s.text_to_pictures("a", Drawing([])), "no condition is chosen"),
        (lambda s: s.variations(None, (0.0,), [0]), "the picture is missing"),
        (lambda s: s.between_pictures(s.examples[0], None, 3, None), "the second picture is missing"),
        (lambda s: s.between_captions(["a", " "], 3, 0), "a caption is empty"),
        (lambda s: s.text_diff(s.examples[0], "a", " ", 0.4), "the target is empty"),
        (lambda s: s.inpaint(s.examples[0], None, "", [0], 1), "nothing is painted"),
        (lambda s: s.inpaint(s.examples[0], Image.new("L", (8, 8)), "", [0], 1), "nothing is painted"),
    ],
)
def test_what_is_missing_is_said(studio, draw, said):
    with pytest.raises(InputError, match=said):
        draw(studio)


def test_the_archive_holds_pictures_and_how(studio):
    path = archive([(studio.examples[0], "one")], {"caption": "a"})
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == ["00.png", "how.json"]
        assert json.loads(file.read("how.json")) == {"caption": "a", "pictures": {"00.png": "one"}}
        with file.open("00.png") as entry:
            assert np.array_equal(np.asarray(Image.open(entry)), np.asarray(studio.examples[0]))
        assert file.read("00.png") == png(studio.examples[0])


def test_the_mask_is_what_was_painted():
    background = Image.new("RGBA", (4, 4), "red")
    layer = Image.new("RGBA", (4, 4))
    layer.paste((255, 0, 255, 255), (0, 0, 2, 4))
    image, mask = mask_of({"background": background, "layers": [layer], "composite": background})
    assert image.mode == "RGB" and np.asarray(mask)[:, :2].min() == 255 and np.asarray(mask)[:, 2:].max() == 0
    assert mask_of(None) == (None, None)


@pytest.mark.parametrize(
    ("name", "first"), [("shapes", "a large red circle"), ("drawings", "red heart in the Noto style")]
)
def test_each_of_the_shipped_weights_begins_with_captions_that_it_knows(name, first):
    known = Studio.open(f"shipped:{name}")
    assert known.captions[0] == first and len(known.captions) >= 4
    assert not [caption for caption in known.captions if known.unknown(caption)]
