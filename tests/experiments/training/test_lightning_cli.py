"""`unclip fit`: configs, run folders and what is refused, on a tiny model."""

from __future__ import annotations

import pytest
import torch
import yaml

from experiments.cli import main


def fit(*words: str) -> int:
    return main(["fit", "--config", "toy.yaml", *words])


def weights(folder: str = "runs/toy"):
    return torch.load(f"{folder}/checkpoints/last.ckpt", weights_only=True)["state_dict"]


def test_print_config_shows_everything_with_overrides_and_interpolation(toy, capsys):
    words = ["--model.optimizer.init_args.lr=1e-3", "--model.init_args.network.init_args.width=8", "--print_config"]
    with pytest.raises(SystemExit) as left:
        fit(*words)
    config = yaml.safe_load(capsys.readouterr().out)
    assert left.value.code == 0
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 1e-3
    assert config["model"]["init_args"]["network"]["init_args"] == {"width": 8, "dropout": 0.5}
    # The interpolation sees what the command line has changed.
    assert config["data"]["init_args"] == {"size": 64, "width": 8}
    assert config["trainer"]["use_distributed_sampler"] is False
    assert (config["seed_everything"], config["checkpoint"]["every_minutes"]) == (0, 1.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.optimizr=1"], "Option 'optimizr' is not accepted; did you mean 'optimizer'?"),
        (
            ["--model.init_args.network.init_args.widht=3"],
            "network (toy.Net): Option 'widht' is not accepted; did you mean",
        ),
        (["--trainer.max_stepz=3"], "--trainer.max_stepz=3; did you mean 'trainer.max_steps'?"),
        (["--trainer.max_steps=abc"], "trainer.max_steps: Expected a <class 'int'>. Got value: abc"),
        (["--data.init_args.size=many"], "data (toy.Data): size: Expected a <class 'int'>. Got value: many"),
        (["--data.init_args.size=0"], "unclip: size must be 1 or more, not 0"),  # said by the constructor
        (["--model.class_path=toy.Toyy"], "(toy.Toyy): module 'toy' has no attribute 'Toyy'"),
        (["--model.optimizer.init_args.lrr=1"], "optimizer: Option 'lrr' is not accepted"),
        (["--config", "extra.yaml"], "Option 'badkey' is not accepted"),
        (["--config", "interpolation.yaml"], "Interpolation key 'trainer.max_stepsss' not found"),
        (["--ckpt_path", "none.ckpt"], "checkpoint 'none.ckpt' does not exist"),
        (["--checkpoint.every_minutes=0"], "checkpoint.every_minutes above 0"),
        (["--trainer.default_root_dir=null"], "trainer.default_root_dir is not set"),
        (["--trainer.max_steps=-1"], "trainer.max_steps is not set"),
        (["--trainer.default_root_dir=toy.yaml/a"], "run folder 'toy.yaml/a' would lie in a file; choose another"),
        (["--trainer.default_root_dir=toy.yaml"], "run folder 'toy.yaml' is a file"),
        (["--trainer.accelerator=warp"], "trainer: You selected an invalid accelerator name"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(toy, capsys, words, message):
    (toy / "extra.yaml").write_text("badkey: 1")
    (toy / "interpolation.yaml").write_text("data: {init_args: {size: '${trainer.max_stepsss}'}}")
    assert fit(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("unclip: ")
    assert error.count("\n") == 1
    assert not (toy / "runs").exists()


def test_a_model_is_needed(toy, capsys):
    assert main(["fit"]) == 2
    assert "required" in capsys.readouterr().err


def test_a_run_leaves_config_checkpoint_and_log_and_says_what_it_trains(toy, capsys):
    assert fit() == 0
    folder = toy / "runs" / "toy"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"config.yaml", "checkpoints/last.ckpt"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    out = capsys.readouterr().out
    assert out.startswith("toy: Toy, 49 parameters trained, batch 4, steps 0 to 12, on cpu, in runs/toy\n")
    assert "toy: 12 steps done" in out
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["data"]["init_args"]["width"] == 4  # interpolated
    # What is saved is a config again, and trains the same.
    assert main(["fit", "--config", "runs/toy/config.yaml", "--trainer.default_root_dir=runs/again"]) == 0
    again = weights("runs/again")
    assert all(torch.equal(value, again[name]) for name, value in weights().items())


def test_a_run_is_not_overwritten_nor_mixed_with_another(toy, capsys):
    assert fit() == 0
    before = (toy / "runs/toy/checkpoints/last.ckpt").read_bytes()

    assert fit() == 2
    assert "'runs/toy' holds a run of this config already; go on with --ckpt_path last" in capsys.readouterr().err
    assert fit("--trainer.max_steps=13", "--ckpt_path", "last") == 2
    assert "holds a run of another config (trainer.max_steps: 12 -> 13)" in capsys.readouterr().err
    assert fit("--seed_everything=1") == 2
    assert "seed_everything: 0 -> 1" in capsys.readouterr().err
    assert (toy / "runs/toy/checkpoints/last.ckpt").read_bytes() == before

    # How often it saves changes nothing in what is trained.
    assert fit("--checkpoint.every_n_train_steps=5", "--ckpt_path", "last") == 0
    assert fit("--trainer.max_steps=13", "--ckpt_path", "last", "--overwrite") == 0
    assert torch.load("runs/toy/checkpoints/last.ckpt", weights_only=True)["global_step"] == 13
    assert not (toy / "runs/.previous").exists()

    assert fit("--overwrite") == 0
    assert torch.load("runs/toy/checkpoints/last.ckpt", weights_only=True)["global_step"] == 12
    assert torch.load("runs/.previous/toy/checkpoints/last.ckpt", weights_only=True)["global_step"] == 13


def test_a_setting_that_is_newer_than_the_run_is_no_difference_at_its_default(toy, capsys):
    assert fit() == 0
    path = toy / "runs/toy/config.yaml"
    saved = yaml.safe_load(path.read_text())
    del saved["model"]["init_args"]["step_seconds"], saved["trainer"]["gradient_clip_val"]
    path.write_text(yaml.safe_dump(saved))
    assert fit("--ckpt_path", "last") == 0
    path.write_text(yaml.safe_dump(saved))
    assert fit("--ckpt_path", "last", "--model.init_args.step_seconds=0.01") == 2
    assert "another config (model.init_args.step_seconds: 0.0 -> 0.01)" in capsys.readouterr().err
    # One that is gone is one.
    saved["model"]["init_args"]["gone"] = 1
    path.write_text(yaml.safe_dump(saved))
    assert fit("--ckpt_path", "last") == 2
    assert "model.init_args.gone: 1 -> None" in capsys.readouterr().err


def test_ckpt_path_last_starts_where_there_is_nothing_and_says_nothing(toy, capfd):
    assert fit("--ckpt_path", "last") == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert {line.split(":")[0] for line in captured.out.splitlines()} == {"toy"}


def test_a_damaged_checkpoint_is_one_line(toy, capsys):
    assert fit() == 0
    (toy / "runs/toy/checkpoints/last.ckpt").write_bytes(b"damaged")
    assert fit("--ckpt_path", "last") == 2
    error = capsys.readouterr().err
    assert error.startswith("unclip: checkpoint 'runs/toy/checkpoints/last.ckpt' cannot be read")
    assert error.count("\n") == 1


def test_validate_needs_its_checkpoint(toy, capsys):
    assert main(["validate", "--config", "toy.yaml", "--ckpt_path", "last"]) == 2
    assert "checkpoint 'runs/toy/checkpoints/last.ckpt' does not exist; train first" in capsys.readouterr().err
    assert fit() == 0
    assert main(["validate", "--config", "toy.yaml", "--ckpt_path", "last"]) == 0
    assert "val/loss" in capsys.readouterr().out
