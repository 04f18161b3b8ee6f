"""Whatever ends training as the config says, its stage is exported, and a line says what ended it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file

from experiments.cli import main

EARLY = (
    "--trainer.val_check_interval=2",
    "--trainer.callbacks+=EarlyStopping",
    "--trainer.callbacks.monitor=val/loss",
    "--trainer.callbacks.stopping_threshold=1e9",
)


def test_early_stopping_exports_and_stays_ended(fit):
    ran = fit(*EARLY)
    assert (ran.code, ran.step, ran.exported) == (0, 2, 2)
    assert "linear_prior: EarlyStopping has ended training after step 2 of 6; the export is of this step\n" in ran.out
    again = fit(*EARLY, "--ckpt_path", "last")
    assert (again.code, again.step, again.exported) == (0, 2, 2)
    beyond = fit(EARLY[0], "--ckpt_path", "last")  # callbacks may change; without it the run goes on
    assert (beyond.code, beyond.step, beyond.exported) == (0, 6, 6)


def test_the_line_names_the_step_that_validation_chose(fit):
    ran = fit(*EARLY, "--model.init_args.training.keep_best=val/loss")
    assert (
        "EarlyStopping has ended training after step 2 of 6; the export is of step 2, the best validation\n" in ran.out
    )


class Gone(Callback):
    """Removes the run folder, renames it, or empties it of its config, in the middle of training."""

    how = ""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        folder = Path(trainer.default_root_dir)
        if trainer.global_step == 3:
            if self.how == "removed":
                shutil.rmtree(folder)
            elif self.how == "renamed":
                folder.rename(f"{folder}-moved")
            else:
                (folder / "config.yaml").unlink()


@pytest.mark.parametrize("how", ["removed", "renamed", "without its config"])
def test_a_run_folder_that_goes_while_it_is_trained_into_is_one_line(fit, monkeypatch, how):
    monkeypatch.setattr(Gone, "how", how)
    # TensorBoard's thread finds out by itself that its file has gone, at once or at the end.
    for words in ((), ("--trainer.log_every_n_steps=1", "--trainer.val_check_interval=5")):
        ran = fit(f"--trainer.callbacks+={__name__}.Gone", *words, "--overwrite")
        assert ran.code == 2 and ran.exported is None
        assert ran.err.startswith("unclip: run folder 'runs/linear_prior' was removed or renamed during the training")
        assert ran.err.count("\n") == 1
        shutil.rmtree("runs")


def test_what_is_exported_is_the_average_of_the_last_step(fit):
    ran = fit(*EARLY)
    state = torch.load(ran.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, tensor in load_file(ran.folder / "export" / "model.safetensors").items():
        assert torch.equal(tensor, state[f"average.module.{name}"])


def test_the_time_limit_exports_and_stays_ended(fit):
    words = ("--trainer.max_steps=1000000", "--trainer.max_time=00:00:00:01")
    ran = fit(*words)
    assert ran.code == 0 and 0 < ran.step == ran.exported < 1_000_000
    assert f"max_time has ended training after step {ran.step:,} of 1,000,000" in ran.out
    assert fit(*words, "--ckpt_path", "last").step == ran.step


@pytest.mark.parametrize("words", [("--trainer.max_epochs=1",), EARLY])
def test_the_scores_statistics_are_estimated_whatever_ends_training(fit, words):
    ran = fit(*words, stage="diffusion_prior")
    assert ran.code == 0
    assert "statistics.timesteps" in load_file(ran.folder / "export" / "model.safetensors")
    assert "score_statistics" in torch.load(ran.folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_the_bound_by_a_trained_stages_own_statistics_is_a_number(fit):
    """After 6 steps epsilon is larger than the noise at the first step, where Analytic-DPM's variance is then 0."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    assert fit(stage="diffusion_prior").code == 0
    words = ["--config", "runs/diffusion_prior/config.yaml", "--ckpt_path", "last", "--bound.samples", "2"]
    assert main(["validate", *words]) == 0
    found = json.loads(Path("runs/diffusion_prior/bound.json").read_text(), parse_constant=refuse)
    statistics = load_file("runs/diffusion_prior/export/model.safetensors")["statistics.mean_squared_epsilon"]
    assert found["variance"] == "analytic" and statistics[0] > 1
    assert found["total"] == pytest.approx(found["prior"] + sum(found["terms"]), rel=1e-6)


def test_the_full_number_of_steps_needs_no_word(fit):
    assert "has ended" not in fit().out


def test_a_metric_that_is_never_logged_is_one_line(fit):
    ran = fit(
        "--trainer.val_check_interval=2", "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/losss"
    )
    assert ran.code == 2 and ran.err.count("\n") == 1 and ran.exported is None
    assert "conditioned on metric `val/losss` which is not available" in ran.err and "`val/loss`" in ran.err
