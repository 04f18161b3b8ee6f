"""A stranger's checkpoint is one line where a part of it is not what training writes."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from experiments.training.fitting import check_checkpoint, restoring
from modules.errors import InputError

ESCAPE = "\x1b]0;OWNED\x07"


def trainer(steps):
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
    return Trainer(max_steps=steps, accelerator="cpu", enable_model_summary=False, **options)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """What training writes."""
    path, fitting = tmp_path_factory.mktemp("sound") / "a.ckpt", trainer(1)
    fitting.fit(BoringModel())
    fitting.save_checkpoint(path)
    return torch.load(path, weights_only=True)


PARTS = {
    "optimizer_states": ["x", [{}], [{"state": 3, "param_groups": []}]],
    "lr_schedulers": [3],
    "loops": [{}, "x", {"fit_loop": 3}],
    "pytorch-lightning_version": [None, ESCAPE, [1], 10**30],
    "state_dict": [{"layer.weight": "x"}, {}],
}


@pytest.mark.parametrize(("part", "value"), [(part, value) for part, values in PARTS.items() for value in values])
def test_a_part_that_training_does_not_write_is_one_line(sound, tmp_path, part, value):
    path = tmp_path / "a.ckpt"
    torch.save({**sound, part: value}, path)
    model = BoringModel()
    lines = r"a\.ckpt' (cannot be resumed|holds no training state|is of another)"
    with pytest.raises(InputError, match=lines) as e:
        check_checkpoint(path, model)
        with restoring(path):
            trainer(2).fit(model, ckpt_path=str(path), weights_only=True)
    assert "\n" not in str(e.value) and "\x1b" not in str(e.value)


def test_a_sound_one_is_gone_on_from_and_other_errors_stay(sound, tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save(sound, path)
    with restoring(path):
        trainer(2).fit(BoringModel(), ckpt_path=str(path), weights_only=True)
    with pytest.raises(KeyError), restoring(path):
        raise KeyError("of the code")
