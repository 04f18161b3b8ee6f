"""A suite's YAML: what it says, and what is refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from experiments.suites.suite import load_suite
from modules.errors import InputError

SUITE = """
run: runs/quick
stages:
  - {name: report, run: "unclip report {run}", needs: [decoder, prior], show: true}
  - {name: clip, run: unclip fit --config clip.yaml, outputs: [clip/export], cost: 3}
  - name: prior
    run: unclip fit --config clip.yaml --trainer.default_root_dir runs/quick/prior
    needs: [clip]
    cost: 2
  - {name: decoder, run: python train.py, needs: [clip], cost: 14, resume: "--go on"}
"""
CLIP = "trainer: {default_root_dir: '${oc.env:UNCLIP_RUN,runs/quick}/clip'}"


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.yaml").write_text(CLIP)

    def write(text: str) -> Path:
        Path("suite.yaml").write_text(text)
        return Path("suite.yaml")

    return write


def test_stages_come_after_what_they_need(write):
    suite = load_suite(write(SUITE))
    assert list(suite.stages) == ["clip", "prior", "decoder", "report"]
    assert suite.stages["report"].words(suite.run) == ["unclip", "report", "runs/quick"]
    assert suite.stages["report"].text(Path("a b")) == "unclip report 'a b'"
    assert suite.stages["clip"].resume_words() == ["--ckpt_path", "last"]
    assert suite.stages["decoder"].resume_words() == ["--go", "on"]
    assert suite.stages["report"].resume_words() is None


def test_the_longest_chain_counts(write):
    assert load_suite(write(SUITE)).chain_minutes() == {"clip": 18, "prior": 3, "decoder": 15, "report": 1}


def test_a_selection_has_what_it_needs(write):
    suite = load_suite(write(SUITE))
    assert suite.selected(["prior"]) == ["clip", "prior"]
    assert suite.selected([]) == ["clip", "prior", "decoder", "report"]
    with pytest.raises(InputError, match=r"no stage 'pryor'; did you mean 'prior'\?"):
        suite.selected(["pryor"])


def stage(**keys) -> str:
    entry = ", ".join(f"{key}: {value}" for key, value in {"name": "a", "run": "python a.py", **keys}.items())
    return f"run: r\nstages:\n  - {{{entry}}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: []", "a suite has a folder, 'run', and a list, 'stages'"),
        ("run: r\nstage: []", "unknown key 'stage'; did you mean 'stages'?"),
        (stage(need="[b]"), r"stage 1 (a): unknown key 'need'; did you mean 'needs'?"),
        (stage(needs="b"), "stage 1 (a): 'needs' is not a list of names: 'b'"),
        (stage(needs="[b]"), "stage 'a' needs 'b', which is no stage"),
        (stage(cost="soon"), "'cost' is missing or of the wrong type: 'soon'"),
        (stage(run="null"), "'run' is missing or of the wrong type: None"),
        (stage(name="../a"), "a name has letters"),
        (stage(inputs="[captions.txt]"), "stage 'a' has an input that does not exist: 'captions.txt'"),
        (stage(needs="[a]"), "these stages need each other: a"),
        (stage() + "  - {name: a, run: x}", "two stages are named 'a'"),
        ("run: r\nstages: [clip]", "stage 1 is not a mapping"),
        (stage(run="unclip fit --config clpi.yaml"), "config 'clpi.yaml' does not exist; did you mean 'clip.yaml'?"),
        (
            stage(run="unclip fit --config clip.yaml"),
            "stage 'a' trains into 'r/clip', not into 'r/a'; let its config say trainer.default_root_dir: "
            "${oc.env:UNCLIP_RUN,r}/a",
        ),
    ],
)
def test_what_is_wrong_is_named(write, text, message):
    with pytest.raises(InputError) as raised:
        load_suite(write(text))
    assert message in str(raised.value)


def test_another_run_folder_needs_configs_that_follow(write):
    text = "run: runs/quick\nstages:\n  - {name: clip, run: unclip fit --config clip.yaml}\n"
    assert load_suite(write(text), Path("elsewhere")).run == Path("elsewhere")
    Path("clip.yaml").write_text("trainer: {default_root_dir: runs/quick/clip}")
    with pytest.raises(InputError, match=r"trains into 'runs/quick/clip', not into 'elsewhere/clip'"):
        load_suite(write(text), Path("elsewhere"))


@pytest.mark.parametrize(
    ("stage", "line"),
    [
        ({"run": 'echo "unclosed'}, "'run': 'echo \"unclosed' cannot be split into words"),
        ({"run": "  "}, "'run' is empty: write a command"),
        ({"run": "true", "outputs": ["../precious"]}, "the output '../precious' lies outside of the run folder"),
        ({"run": "true", "outputs": ["/precious"]}, "the output '/precious' lies outside of the run folder"),
        ({"run": "true", "outputs": ["a/../../precious"]}, "lies outside of the run folder; name a path in it"),
    ],
)
def test_a_command_that_cannot_be_read_and_an_output_elsewhere_are_refused(tmp_path, stage, line):
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump({"run": str(tmp_path / "run"), "stages": [{"name": "one", **stage}]}))
    with pytest.raises(InputError, match=re.escape(line)):
        load_suite(path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("matrx: {a: [1]}", "unknown key 'matrx'; did you mean 'matrix'"),
        ("cost: -1", "'cost' is minutes, 0 or more, not -1"),
        ("cost: .nan", "'cost' is minutes, 0 or more, not nan"),
        ("cost: .inf", "'cost' is minutes, 0 or more, not inf"),
        ("cores: 0", "'cores' is how many cores the stage takes, 1 or more, not 0"),
        ("cores: two", "'cores' is how many cores the stage takes, 1 or more, not 'two'"),
        ("cores: true", "'cores' is how many cores the stage takes, 1 or more, not True"),
    ],
)
def test_misspelt_keys_and_impossible_costs_are_refused(write, more, message):
    suite = f"run: r\nstages:\n  - {{name: a, run: python x.py, {more}}}\n"
    with pytest.raises(InputError, match=re.escape(message)):
        load_suite(write(suite))
