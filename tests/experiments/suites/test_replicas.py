"""Replicas: which commands get which seed, judges are shared and never trained again, numbers over seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.suites.replicas import replica, share_judges
from experiments.suites.suite import Suite, load_suite
from modules.errors import InputError

SUITE = """
run: runs/x
stages:
  - {name: judge, run: python work.py judge {run}, outputs: [judge/out], replicate: false}
  - {name: stage, run: unclip fit --config stage.yaml}
  - {name: plain, run: unclip fit --config plain.yaml}
  - {name: sample, run: "unclip sample --run {run} --out {run}/samples/glide", needs: [stage]}
  - {name: report, run: "unclip report {run}", needs: [sample, judge]}
"""
MODEL = (
    "trainer: {{default_root_dir: '${{oc.env:UNCLIP_RUN,runs/x}}/{}'}}\nmodel: {{class_path: m.M, init_args: {{{}}}}}\n"
)


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    monkeypatch.chdir(tmp_path)
    Path("stage.yaml").write_text(MODEL.format("stage", "training: {warmup: 1}") + "data: {class_path: d.D}\n")
    Path("plain.yaml").write_text(MODEL.format("plain", "width: 3"))
    Path("suite.yaml").write_text(SUITE.replace("run: python work.py judge {run}", 'run: "python work.py judge {run}"'))
    return load_suite(Path("suite.yaml"))


def test_which_commands_get_the_seed(suite: Suite):
    assert replica(suite, 0) is suite
    copy = replica(suite, 2)
    assert copy.run == Path("runs/x/seeds/2") and list(copy.stages) == list(suite.stages)
    added = {name: stage.run.removeprefix(suite.stages[name].run) for name, stage in copy.stages.items()}
    assert added == {
        "judge": "",
        "stage": " --seed_everything=2 --model.init_args.training.seed=2 --data.init_args.seed=2",
        "plain": " --seed_everything=2",
        "sample": " --seed 2",
        "report": "",
    }


def test_judges_are_linked_once(suite: Suite):
    copy = replica(suite, 1)
    share_judges(suite, suite)
    assert not suite.run.exists()
    for _ in range(2):
        share_judges(suite, copy)
    assert (copy.run / "judge").resolve() == (suite.run / "judge").resolve()
    assert [path.name for path in copy.run.iterdir()] == ["judge"]
    (copy.run / "judge").unlink()
    (copy.run / "judge").mkdir()
    with pytest.raises(InputError, match="in the way of a link"):
        share_judges(suite, copy)


def test_a_judge_cannot_need_what_is_trained_again(suite: Suite):
    text = Path("suite.yaml").read_text().replace("replicate: false}", "replicate: false, needs: [plain]}")
    Path("suite.yaml").write_text(text)
    changed = load_suite(Path("suite.yaml"))
    with pytest.raises(InputError, match="judge has replicate: false and needs plain, which is trained again"):
        share_judges(changed, replica(changed, 1))


WORK = """
import json, pathlib, sys
name, run = sys.argv[1:3]
with open("journal.txt", "a") as journal:
    journal.write(f"{name} {run}\\n")
seed = int(pathlib.Path(run).name) if pathlib.Path(run).name.isdigit() else 0
if name == "judge":
    pathlib.Path(run, "judge", "out").write_text(pathlib.Path("journal.txt").read_text())
else:
    for condition, value in (("glide", 5.0 + seed), ("diffusion_prior", 3.0 + 1.1 * seed)):
        folder = pathlib.Path(run, "samples", condition)
        folder.mkdir(parents=True, exist_ok=True)
        interval = {"value": value, "low": 0, "high": 9}
        row = {"condition": condition, "n": 5, "frechet": interval}
        row |= dict.fromkeys(("clip_score", "accuracy", "diversity"))
        keys = "captions per_caption level bootstrap extractor extractor_dim clip inception reference reference_n"
        row["protocol"] = {**dict.fromkeys([*keys.split(), "reference_digest"]), "n": 5, "seed": seed}
        (folder / "metrics.json").write_text(json.dumps(row))
"""


def test_reproduce_over_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.chdir(tmp_path)
    Path("work.py").write_text(WORK)
    Path("suite.yaml").write_text(
        "run: runs/x\nstages:\n"
        '  - {name: judge, run: "python work.py judge {run}", outputs: [judge/out], replicate: false}\n'
        '  - {name: measure, run: "python work.py measure {run}", needs: [judge], '
        "outputs: [samples/glide/metrics.json]}\n"
    )
    assert main(["reproduce", "suite.yaml", "--seeds", "3"]) == 0
    ran = Path("journal.txt").read_text().split("\n")[:-1]
    assert ran == ["judge runs/x", "measure runs/x", "measure runs/x/seeds/1", "measure runs/x/seeds/2"]
    found = json.loads(Path("runs/x/seeds.json").read_text())
    assert found["glide"]["frechet"]["values"] == [5, 6, 7] and found["glide"]["frechet"]["value"] == 6
    assert "diffusion prior < GLIDE" in Path("runs/x/seeds.md").read_text()
    assert "Over 3 training seeds" in capsys.readouterr().out
    assert main(["reproduce", "suite.yaml", "--seeds", "3"]) == 0
    assert Path("journal.txt").read_text().count("\n") == 4  # nothing again

    with Path("journal.txt").open("a") as journal:
        journal.write("a new judge, which differs\n")
    before = len(Path("journal.txt").read_text().split("\n"))
    assert main(["reproduce", "suite.yaml", "--seeds", "2", "--again", "judge"]) == 0
    ran = Path("journal.txt").read_text().split("\n")[before - 1 : -1]
    # One judge for all replicas, also when it is made anew; and all are measured by the new one.
    assert ran == ["judge runs/x", "measure runs/x", "measure runs/x/seeds/1"]


def test_a_suite_that_measures_by_other_commands_ends_well_over_seeds(tmp_path, monkeypatch, capsys):
    """As experiments/dalle3/suite.yaml, whose numbers over seeds are of `unclip study`."""
    monkeypatch.chdir(tmp_path)
    Path("work.py").write_text("import pathlib, sys\npathlib.Path(sys.argv[1], 'study.json').write_text('{}')\n")
    stage = '  - {name: study, run: "python work.py {run}", outputs: [study.json]}\n'
    Path("suite.yaml").write_text(f"run: runs/x\nstages:\n{stage}")
    assert main(["reproduce", "suite.yaml", "--seeds", "2"]) == 0
    assert Path("runs/x/seeds/1/study.json").is_file() and not Path("runs/x/seeds.json").exists()
    assert "nothing is put together here" in capsys.readouterr().out
