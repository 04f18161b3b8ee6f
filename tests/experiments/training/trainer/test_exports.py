"""A stage is exported after each part of its training; the last part is the stage's own export."""

from __future__ import annotations

import pytest
import torch
import yaml
from safetensors.torch import load_file

from experiments.training.trainer.exports import ExportParts, part_end
from modules.errors import InputError


def test_each_part_is_what_the_average_was_then(tiny, shapes, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": {"class_path": "modules.linear_prior.LinearPrior"}}))
    stage, averages = tiny.make_stage("linear_prior"), {}

    class Note(ExportParts):
        def on_train_batch_end(self, trainer, pl_module, *rest):
            super().on_train_batch_end(trainer, pl_module, *rest)
            averages[trainer.global_step] = {k: v.clone() for k, v in pl_module.averaged.state_dict().items()}

    tiny.fit(stage, shapes(), 7, tmp_path, callbacks=[Note(parts=3)])
    found = {part: load_file(tmp_path / "parts" / str(part) / "export" / "model.safetensors") for part in (1, 2, 3)}
    for part, step in ((1, 2), (2, 4), (3, 7)):
        assert part_end(7, part, 3) == step
        assert all(torch.equal(found[part][name], value) for name, value in averages[step].items())
    last = load_file(tmp_path / "export" / "model.safetensors")
    assert all(torch.equal(found[3][name], value) for name, value in last.items())
    assert not torch.equal(*(next(iter(found[part].values())) for part in (1, 3)))


def test_parts_that_there_are_not_are_refused(tiny, shapes, tmp_path):
    with pytest.raises(InputError, match="parts is 0: give 1 or more"):
        ExportParts(0)
    with pytest.raises(InputError, match="a training of 2 steps has no 3 parts"):
        tiny.fit(tiny.make_stage("linear_prior"), shapes(), 2, tmp_path, callbacks=[ExportParts(3)])
