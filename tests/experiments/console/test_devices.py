"""Where commands compute: each that asks a network takes --device."""

from __future__ import annotations

import importlib

import pytest

from experiments.cli import COMMANDS, main

BY_NETWORKS = (
    *("sample", "mix", "embed", "caption", "reword", "study", "evaluate", "blur", "judge", "sweep", "demo"),
    *("invert", "reconstruct", "variations", "interpolate", "text-diff", "complete", "inpaint", "pca", "typographic"),
    *("conditioning-grid", "guidance-grid", "gallery"),
)


@pytest.mark.parametrize("command", BY_NETWORKS)
def test_commands_that_ask_a_network_take_a_device(command: str):
    room = COMMANDS[command][0].partition(".")[0]
    parser = importlib.import_module(f"experiments.{room}.options").PARSERS[command]()
    assert "--device" in parser._option_string_actions


def test_a_device_that_is_not_here_is_refused_in_a_line(tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    assert main(["study", str(tmp_path), "--device", "gpu0"]) == 2
    assert "--device gpu0: not available here" in capsys.readouterr().err
    words = ["--out", str(tmp_path / "x.jsonl"), "--model", str(tmp_path), "--device", "gpu0"]
    assert main(["reword", str(tmp_path / "prompts.txt"), *words]) == 2
    assert "--device gpu0: not available here" in capsys.readouterr().err
