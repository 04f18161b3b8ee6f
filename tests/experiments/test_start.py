"""Commands start fast: what they import, counted. How many seconds that takes is `benchmarks.timings.start`'s."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]
HEAVY = {
    "lightning",
    "matplotlib",
    "open_clip",
    "pandas",
    "pytorch_lightning",
    "scipy",
    "sklearn",
    "timm",
    "torch",
    "torchmetrics",
    "torchvision",
    "transformers",
}
LISTED = "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"


def imported(code: str, *words: str) -> tuple[set[str], str]:
    """The top-level names of what `code` imports in a Python of its own, and what it prints before."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", f"import json, sys\n{code}\n{LISTED}", *words], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr
    *said, names = done.stdout.splitlines()
    return set(json.loads(names)), "\n".join(said)


COMMAND = """
from experiments.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as stopped:
    code = stopped.code
assert code == 0, code
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command):
    names, said = imported(COMMAND, command, "--help")
    assert not names & {*HEAVY, "numpy", "PIL", "jsonargparse", "omegaconf"}
    assert said.startswith(f"usage: unclip {command} ") and "--help" in said


@pytest.mark.parametrize("words", [["sample", "a circle"], ["plan", "--memory", "much"], ["invert", "--eta", "1"]])
def test_wrong_words_are_refused_before_anything_heavy_is_imported(words):
    names, _ = imported(f"{COMMAND.replace('code == 0', 'code == 2')}", *words)
    assert not names & HEAVY


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_the_help_of_lightnings_commands_names_what_they_take(command, capsys):
    assert main([command, "--help"]) == 0
    page = capsys.readouterr().out
    for option in ("--config FILE", "--print_config", "--ckpt_path", "--trainer.KEY", "--model.help CLASS"):
        assert option in page
    assert f"`unclip {command} --config FILE --print_config` lists all settings" in page
    assert ("--bound" in page) == (command == "validate") and ("--checkpoint." in page) == (command == "fit")
    assert all(len(line) <= 120 for line in page.splitlines())


def test_the_options_on_the_help_page_exist(capsys):
    """With a config, --help is LightningCLI's own list."""
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config", str(ROOT / "experiments" / "quickstart" / "clip.yaml"), "--help"])
    listed = capsys.readouterr().out
    for option in ("--print_config", "--ckpt_path", "--overwrite", "--init_from", "--strict", "--trainer.max_steps"):
        assert option in listed
    for option in ("every_n_train_steps", "every_minutes", "keep"):
        assert f"--checkpoint.{option}" in listed
    assert "--model.help" in listed and "--data.help" in listed


def test_a_class_is_described_by_lightning_cli(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--model.help", "modules.linear_prior.LinearPrior"])
    assert "LinearPrior" in capsys.readouterr().out


def test_sampling_on_one_device_imports_what_it_needs(stored_run, tmp_path):
    """And the pipeline, which is looked at before the command: torch alone."""
    words = ["a red circle", "--run", str(stored_run), "--condition", "text_embedding", "--decoder-steps", "1"]
    code = f"import modules.pipeline\n{LISTED}\n{COMMAND}assert 'torch._dynamo' not in sys.modules"
    names, said = imported(code, "sample", *words, "--device", "cpu", "--out", str(tmp_path / "out"))
    pipeline = set(json.loads(said.splitlines()[0]))
    assert "torch" in pipeline and not pipeline & (HEAVY - {"torch"})
    assert "1 picture of 1 caption" in said and (tmp_path / "out" / "00000.png").is_file()
    # open_clip brings torchvision and timm, and transformers where it is installed.
    assert names & (HEAVY - {"transformers"}) == {"torch", "open_clip", "torchvision", "timm"}
    assert not names & {"datamodules", "omegaconf", "rich", "tensorboard"}


def test_defaults_that_options_repeat_are_those_of_the_code():
    from datamodules import base
    from datamodules.embeddings import split
    from experiments.console.arguments import SPLITS
    from experiments.embeddings.options import SHARD_ROWS
    from experiments.manipulations.inpaint import PARTS
    from experiments.manipulations.options import HALVES

    assert (base.SPLITS, split.SHARD_ROWS, tuple(PARTS)) == (SPLITS, SHARD_ROWS, HALVES)
