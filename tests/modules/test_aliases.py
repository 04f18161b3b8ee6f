"""What earlier versions wrote stays readable: class paths that have moved are read as today's."""

from __future__ import annotations

from importlib import import_module

import pytest

from modules.aliases import CLASS_PATHS, MODELS, as_first_recorded, today
from modules.models.base import Model


def named(path):
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("path", CLASS_PATHS.values())
def test_todays_names_are_classes(path):
    assert isinstance(named(path), type)


@pytest.mark.parametrize(("trainer", "model"), MODELS.items())
def test_every_lightning_module_of_version_0_1_has_its_model(trainer, model):
    assert issubclass(named(model), Model)
    assert type(named(trainer)).__name__ and named(trainer).__name__ + "Model" == named(model).__name__


def test_names_are_replaced_wherever_they_stand_and_nothing_else_is():
    old = {"model": {"codec": {"class_path": "modules.embedding_codec.EmbeddingCodec", "x": [1, None, "a"]}}}
    new = {
        "model": {"codec": {"class_path": "modules.models.priors.embedding_codec.EmbeddingCodec", "x": [1, None, "a"]}}
    }
    assert today(old) == new and today(new) == new
    assert as_first_recorded(new) == old
    assert today({"modules.embedding_codec.EmbeddingCodec": 1}) == {"modules.embedding_codec.EmbeddingCodec": 1}
