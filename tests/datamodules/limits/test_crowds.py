"""Scenes of one to six objects: always the same, all numbers alike, and the truth is what the picture shows."""

from __future__ import annotations

import numpy as np

from datamodules.limits import crowd_scenes
from datamodules.limits.crowds import CrowdsDataModule
from datamodules.rendered import scenes

CLASSES = crowd_scenes.ATTRIBUTES


def test_captions_and_attributes_say_what_the_scene_holds():
    for index in range(24):
        scene, caption, mentioned = crowd_scenes.make_crowd("train", index)
        row = dict(zip(CLASSES, crowd_scenes.attributes(scene).tolist(), strict=True))
        count = index % 6 + 1
        assert len(scene.objects) == count == mentioned["count"] and row["count"] == count - 1
        said = [
            f"a {CLASSES[f'colour_{k}'][row[f'colour_{k}']]} {CLASSES[f'shape_{k}'][row[f'shape_{k}']]}"
            for k in range(1, count + 1)
        ]
        assert " and ".join(said) == caption
        assert all(row[f"shape_{k}"] == row[f"colour_{k}"] == -1 for k in range(count + 1, 7))
        order = [(thing.y > 0.25, thing.x) for thing in scene.objects]
        assert order == sorted(order)  # reading order


def test_objects_stay_apart_and_inside():
    for index in range(60):
        things = crowd_scenes.make_crowd("test", index).scene.objects
        for k, one in enumerate(things):
            assert max(abs(one.x), abs(one.y)) + one.radius < 1.0
            assert all(max(abs(one.x - o.x), abs(one.y - o.y)) > one.radius + o.radius for o in things[k + 1 :])


def test_pictures_show_the_colours(tmp_path):
    data = CrowdsDataModule(train_size=12, val_size=6, test_size=6, cache_dir=None)
    batch = data.dataset("train").__getitems__(range(12))
    assert batch.attributes.shape == (12, 13) and len(data.vocabulary()) == 12  # a, and, six colours, four shapes
    for index in range(12):
        scene = crowd_scenes.make_crowd("train", index).scene
        pixels = data.renderer("train", 96)(index).astype(float)
        for thing in scene.objects:
            x, y = (int((v + 1) * 48) for v in (thing.x, thing.y))
            rgb = np.array(scenes._COLOUR_RGB[thing.colour]) * thing.shade
            assert np.abs(pixels[y, x] - rgb).max() < 2


def test_another_picture_of_the_same_caption():
    data = CrowdsDataModule(train_size=1, val_size=1, test_size=6, cache_dir=None)
    own, truth = data.real("test", 5, 0, 32, 0)
    other, same = data.real("test", 5, 1, 32, 7)
    assert truth == same and truth["mentioned"]["count"] == 6 and not np.array_equal(own, other)
    again, _ = data.real("test", 5, 1, 32, 7)
    assert np.array_equal(other, again)
