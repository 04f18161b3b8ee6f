"""Suites and Table 3 from a folder without `experiments/`, as after `pip install`."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.cli import main
from experiments.console.shipped import SHIPPED
from experiments.costs import table3
from experiments.costs.flops import Count
from experiments.suites.suite import find_suite, load_suite
from modules.errors import InputError


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNCLIP_RUN", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", ["quickstart", "shapes", "drawings", "emoji", "sam"])
@pytest.mark.parametrize("form", ["{}", "experiments/{}/suite.yaml"])
def test_a_suite_that_ships_runs_from_anywhere(elsewhere, capsys, name, form):
    assert main(["reproduce", form.format(name), "--dry-run"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    count = {"quickstart": 29, "shapes": 36, "drawings": 28, "emoji": 20, "sam": 7}[name]
    assert head == (
        f"{SHIPPED}/experiments/{name}/suite.yaml, run folder runs/{name}: {count} stages, {count} would run"
    )
    assert len(lines) == count and all(line.endswith("would run: it never ran") for line in lines)
    assert list(elsewhere.iterdir()) == []


def test_commands_name_the_files_that_are_there(elsewhere):
    stage = load_suite(find_suite("shapes")).stages["text_decoder"]
    folder = SHIPPED / "experiments"
    files = [f"{folder}/{name}.yaml" for name in ("quickstart/decoder", "shapes/decoder", "shapes/text_decoder")]
    assert stage.configs(Path("runs/x")) == files
    assert stage.text(Path("runs/x")) == " ".join(["unclip fit", *(f"--config {file}" for file in files)])
    assert stage.words(Path("runs/x"))[3::2] == files
    sweep = load_suite(find_suite("quickstart")).stages["sweep_prior"]
    assert sweep.words(Path("runs/x")) == [*("unclip", "sweep", f"{folder}/protocols/prior.yaml", "--run", "runs/x")]


def test_a_stage_is_run_with_them(elsewhere):
    program = 'python -c "import shutil, sys; shutil.copy(*sys.argv[1:])" experiments/quickstart/data.yaml {run}/a/copy'
    Path("mine.yaml").write_text(f"run: runs/x\nstages:\n  - {{name: a, run: '{program}', outputs: [a/copy]}}\n")
    assert main(["reproduce", "mine.yaml"]) == 0
    assert Path("runs/x/a/copy").read_text() == (SHIPPED / "experiments/quickstart/data.yaml").read_text()


def test_a_folder_of_that_name_is_no_suite(elsewhere):
    Path("quickstart").mkdir()
    assert find_suite("quickstart") == SHIPPED / "experiments/quickstart/suite.yaml"
    Path("experiments/quickstart").mkdir(parents=True)
    Path("experiments/quickstart/suite.yaml").touch()
    assert find_suite("quickstart") == Path("experiments/quickstart/suite.yaml")


def test_an_unknown_suite_is_named_with_those_that_there_are(elsewhere):
    with pytest.raises(InputError) as raised:
        find_suite("quikstart")
    assert str(raised.value) == (
        "no suite 'quikstart'; did you mean 'quickstart'? (give a YAML file, or one that ships: "
        "crowds, dalle1, dalle3, drawings, emoji, priors, quickstart, sam, shapes, signs)"
    )
    with pytest.raises(InputError, match=r"config 'none\.yaml' does not exist"):
        load_suite(find_suite("none.yaml"))


def test_table3_runs_from_anywhere(elsewhere, monkeypatch, capsys):
    monkeypatch.setattr(table3, "count", lambda stage, config: Count({"unet": 1_000_000_000}, 2e9, 3e12))
    assert main(["table3"]) == 0
    lines = {line[:24].strip(): line for line in capsys.readouterr().out.splitlines()}
    assert "paper" not in lines["batch size"] and "4096" in lines["batch size"].replace(",", "")
