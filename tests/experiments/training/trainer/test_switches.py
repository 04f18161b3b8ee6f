"""The Trainer's arguments do what Lightning documents, or are refused by name (the table in docs/training.md)."""

from __future__ import annotations

import inspect
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins import HalfPrecision
from lightning.pytorch.utilities.seed import isolate_rng

from datamodules.embeddings import EmbeddingsDataModule
from experiments.training.trainer.switches import SEEDS, check_settings_of_trainer, check_trainer, seed_in_range
from modules.errors import InputError
from modules.training.stage import TrainingConfig

STREAM = [16, 36, 27]  # how the seeded order begins
DOCUMENT = Path(__file__).parents[4] / "docs" / "training.md"


def set_to(*words: str) -> list[str]:
    return [f"--trainer.{word}" for word in words]


def test_every_argument_of_the_trainer_stands_in_the_table():
    section = DOCUMENT.read_text().partition("## Lightning's own switches")[2].partition("\n## ")[0]
    told = {
        name for row in re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert told == set(inspect.signature(Trainer.__init__).parameters) - {"self"}


@pytest.mark.parametrize("batches", [1, 2])
def test_overfit_batches_are_the_same_ones_in_every_pass(fit, spy, batches):
    ran = fit(*spy, *set_to(f"overfit_batches={batches}", "val_check_interval=3"))
    assert ran.code == 0 and ran.step == 6
    assert ran.batches[0][:3] == STREAM and len(ran.batches) == 6
    assert all(batch == ran.batches[k % batches] for k, batch in enumerate(ran.batches))
    assert len({tuple(batch) for batch in ran.batches}) == batches


def test_a_run_on_overfit_batches_goes_on_with_the_next_of_them(fit, spy):
    words = set_to("overfit_batches=3", "val_check_interval=100")
    whole = fit(*spy, *words).batches
    fit(*words, *set_to("max_steps=4"), "--overwrite")
    rest = fit(*spy, *words, "--ckpt_path", "last", "--overwrite")
    assert rest.batches == whole[4:] and whole[4] == whole[1] != whole[0]


def test_a_callback_with_an_enumeration_among_its_defaults_is_recorded(fit):
    """Lightning's Timer has one, which YAML does not know."""
    words = ["--trainer.callbacks+=Timer", "--trainer.callbacks.duration=00:01:00:00"]
    assert fit(*words).code == 0
    (callback,) = yaml.safe_load(Path("runs/linear_prior/config.yaml").read_text())["trainer"]["callbacks"]
    assert callback["init_args"]["interval"] == "step"
    assert fit(*words, *set_to("max_steps=7"), "--ckpt_path=last", "--overwrite").step == 7


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"val_check_interval": 1.0}, "val_check_interval is 1.0, a share of an epoch: set trainer.check_val_every_n"),
        ({"val_check_interval": 0.5}, "val_check_interval is 0.5, a share"),
        ({"plugins": [Namespace(class_path="x.BitsandbytesPrecision")]}, "BitsandbytesPrecision holds weights of 8 or"),
        ({"plugins": Namespace(class_path="x.TransformerEnginePrecision")}, "TransformerEnginePrecision holds weights"),
    ],
)
def test_what_lightning_would_say_in_many_words_is_one_line(settings, line):
    with pytest.raises(InputError, match=re.escape(line)):
        check_settings_of_trainer("fit", {"check_val_every_n_epoch": None, **settings})
    check_settings_of_trainer("fit", {"check_val_every_n_epoch": 1, "val_check_interval": 1.0, "plugins": None})


def test_a_share_of_an_epoch_needs_epochs_that_are_counted(fit):
    ran = fit(*set_to("val_check_interval=1.0"))
    assert ran.code == 2 and ran.err.count("\n") == 1 and "set trainer.check_val_every_n_epoch to 1" in ran.err


def test_max_epochs_beside_max_steps_is_whichever_comes_first(fit, spy):
    plain = fit(*spy).batches
    ran = fit(*spy, *set_to("max_epochs=1"), "--overwrite")
    assert (ran.code, ran.step, ran.exported) == (0, 3, 3)  # 64 pairs in batches of 24
    assert ran.batches == plain[:3]
    assert "steps 0 to 3" in ran.out
    assert fit(*set_to("max_epochs=5"), "--overwrite").step == 6


def test_a_pass_that_was_interrupted_is_finished(fit, spy):
    """As an uninterrupted run of two passes."""
    words = set_to("max_steps=-1", "max_epochs=2")
    whole = fit(*spy, *words, "--checkpoint.every_n_train_steps=4").batches
    rest = fit(*spy, *words, "--ckpt_path=runs/linear_prior/checkpoints/last-1.ckpt", "--overwrite")
    assert (rest.step, rest.exported) == (6, 6) and rest.batches == whole[4:] and len(whole) == 6


@pytest.mark.parametrize("words", [(), ("max_steps=-1", "max_epochs=2"), ("max_steps=100", "max_epochs=2")])
def test_the_learning_rate_falls_over_the_steps_that_there_are(fit, spy, words):
    ran = fit(*spy, *set_to(*words), "--model.init_args.training.decay_share=0.9")
    assert ran.rates == pytest.approx([1e-4, 9.9e-5, 8.5e-5, 6.0e-5, 3.2e-5, 1.0e-5], rel=0.02)


def test_validation_every_epoch_is_after_every_pass(fit, spy):
    ran = fit(*spy, *set_to("check_val_every_n_epoch=1", "val_check_interval=1.0"))
    assert ran.code == 0 and ran.validations == [(3, 0), (6, 0)]


def test_a_dry_run_validates_and_leaves_nothing(fit, spy):
    for stage in ("linear_prior", "diffusion_prior", "decoder"):
        ran = fit(*spy, *set_to("fast_dev_run=true"), stage=stage)
        assert ran.code == 0 and len(ran.batches) == 1 and ran.validations == [(1, 0)]
        assert not Path("runs").exists()


def test_a_dry_run_of_a_config_that_has_been_trained_is_no_mixture(fit):
    assert fit().code == 0
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    assert fit(*set_to("fast_dev_run=2", "max_steps=9")).code == 0
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")} == before


def test_a_sanity_check_changes_nothing_in_training(fit, spy):
    plain = fit(*spy, stage="decoder")
    ran = fit(*spy, *set_to("num_sanity_val_steps=1"), "--overwrite", stage="decoder")
    assert ran.validations == [(0, 0)] and ran.batches == plain.batches
    events = [path.read_bytes() for path in ran.folder.glob("events.out*")]
    assert events and not any(b"val/samples" in content for content in events)  # none of the untrained network


def callback(name: str) -> Namespace:
    """One of Lightning's callbacks as a parsed YAML has it."""
    return Namespace(class_path=f"lightning.pytorch.callbacks.{name}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"callbacks": [callback("LearningRateFinder")]},
            "LearningRateFinder cannot set the learning rate, which is model.init_args.",
        ),
        ({"callbacks": [callback("BatchSizeFinder")]}, "BatchSizeFinder would train with another batch size"),
        ({"callbacks": [callback("BackboneFinetuning")]}, "BackboneFinetuning freezes a part named backbone"),
        ({"callbacks": callback("StochasticWeightAveraging")}, "model.init_args.training.ema_decay"),
        ({"callbacks": [callback("Timer"), callback("EMAWeightAveraging")]}, "model.init_args.training.ema_decay"),
        ({"precision": "bf16-true"}, "trainer.precision is bf16-true: the weights, their average"),
        ({"precision": "16-true"}, "take 16-mixed"),
        ({"precision": "transformer-engine"}, "take bf16-mixed"),
        ({"barebones": True}, "trainer.barebones"),
        ({"enable_checkpointing": False}, "trainer.enable_checkpointing is false"),
        ({"reload_dataloaders_every_n_epochs": 1}, "trainer.reload_dataloaders_every_n_epochs"),
        ({"model_registry": "a/b"}, "trainer.model_registry"),
        ({"max_steps": 0}, "trainer.max_steps is 0: nothing would be trained"),
        ({"max_epochs": 0}, "trainer.max_epochs is 0"),
        ({"accumulate_grad_batches": 0}, "trainer.accumulate_grad_batches is 0: a step has 1 batch or more"),
        (
            {"val_check_interval": 0},
            "trainer.val_check_interval is 0: give a number above 0; limit_val_batches: 0 leaves",
        ),
        ({"check_val_every_n_epoch": 0}, "trainer.check_val_every_n_epoch is 0: give a number above 0"),
        ({"limit_train_batches": 0}, "trainer.limit_train_batches is 0"),
    ],
)
def test_settings_are_refused_by_name(settings, message):
    with pytest.raises(InputError, match=re.escape(message)):
        check_settings_of_trainer("fit", settings)


def test_settings_that_are_only_of_training_may_be_anything_in_validation():
    check_settings_of_trainer("validate", {"max_steps": 0, "enable_checkpointing": False})
    check_settings_of_trainer("fit", {"max_steps": 1, "precision": "bf16-mixed", "callbacks": [callback("Timer")]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"callbacks": [EarlyStopping("val_loss")]}, "EarlyStopping monitors 'val_loss', which is never logged"),
        ({"callbacks": [EarlyStopping("val_loss")]}, "did you mean 'val/loss'?"),
        ({"callbacks": [ModelCheckpoint(monitor="valid/loss")]}, "ModelCheckpoint monitors 'valid/loss'"),
        ({"plugins": [HalfPrecision("bf16-true")]}, "trainer.precision is bf16-true"),
        ({"use_distributed_sampler": True}, "trainer.use_distributed_sampler is true"),
        ({"max_steps": -1, "max_time": "00:01:00:00"}, "nothing says how many steps there will be"),
        ({}, None),
        ({"callbacks": [EarlyStopping("val/losss")], "max_steps": -1, "max_epochs": 2}, None),
    ],
)
def test_a_trainer_is_refused_by_name(tiny, embeddings, tmp_path, arguments, message):
    settings = {"max_steps": 6, "use_distributed_sampler": False, **arguments}
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, default_root_dir=tmp_path, **settings)
    stage = tiny.make_stage("linear_prior", training=TrainingConfig(decay_share=0.5))
    data = EmbeddingsDataModule(str(embeddings), batch_size=24)
    refused = nullcontext() if message is None else pytest.raises(InputError, match=re.escape(message))
    with refused:
        check_trainer(trainer, stage, data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, None),
        ({"limit_val_batches": 0}, "and no validation would run (trainer.limit_val_batches is 0)"),
        ({"val_check_interval": 7}, "(trainer.val_check_interval is 7, and training has 6 batches)"),
        ({"val_check_interval": 7, "accumulate_grad_batches": 2}, None),
    ],
)
def test_a_best_validation_wants_one(tiny, embeddings, tmp_path, arguments, message):
    settings = {
        "max_steps": 6,
        "use_distributed_sampler": False,
        "check_val_every_n_epoch": None,
        "val_check_interval": 2,
    }
    trainer = Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, **{**settings, **arguments})
    stage = tiny.make_stage("linear_prior", training=TrainingConfig(keep_best="val/loss"))
    with nullcontext() if message is None else pytest.raises(InputError, match=re.escape(message)):
        check_trainer(trainer, stage, EmbeddingsDataModule(str(embeddings), batch_size=24))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["callbacks+=LearningRateFinder"], "trainer.callbacks: LearningRateFinder cannot set the learning rate"),
        (["callbacks+=EarlyStopping", "callbacks.monitor=val_loss"], "did you mean 'val/loss'?"),
        (["callbacks+=StochasticWeightAveraging", "callbacks.swa_lrs=0.01"], "model.init_args.training.ema_decay"),
        (["precision=transformer-engine"], "take bf16-mixed"),
        (["callbacks+=RichProgressBar"], "configured with `enable_progress_bar=False`"),
    ],
)
def test_a_refusal_is_one_line_and_nothing_is_written(fit, recwarn, words, message):
    """By the settings, by the Trainer that is built, before it asks for packages, and by Lightning itself."""
    ran = fit(*set_to(*words))
    assert not [str(warning.message) for warning in recwarn if "serialize" in str(warning.message)]
    assert ran.code == 2 and message in ran.err
    assert ran.err.startswith("unclip: ") and ran.err.count("\n") == 1
    assert not Path("runs").exists()


def test_steps_as_interval_of_validation_in_passes_that_are_shorter_is_one_line(fit):
    ran = fit(*set_to("check_val_every_n_epoch=1"))
    assert ran.code == 2 and ran.err.count("\n") == 1
    assert "trainer.val_check_interval=1.0 validates at the end of every epoch" in ran.err


def test_a_seed_out_of_range_is_one_line(fit):
    ran = fit("--seed_everything=-1")
    assert ran.code == 2
    assert ran.err == "unclip: seed_everything is -1: give a whole number from 0 to 4294967295\n"


@pytest.mark.parametrize("seed", [-1, 2**32, 10**20, 0.5, "a"])
def test_what_is_no_seed(seed):
    assert not seed_in_range(seed)


@pytest.mark.parametrize("seed", [0, 2**32 - 1, True, False, None])
def test_what_is_a_seed(seed):
    assert seed_in_range(seed)


def test_the_largest_seed_is_taken_by_lightning():
    with isolate_rng():
        assert seed_everything(SEEDS[-1], workers=False, verbose=False) == 2**32 - 1


def test_double_precision_trains_and_averages_in_it(fit):
    ran = fit(*set_to("precision=64-true"), stage="decoder")
    assert ran.code == 0
    state = torch.load(ran.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} == {torch.float64}
