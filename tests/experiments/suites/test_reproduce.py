"""`unclip reproduce`: what runs, what does not and why; interruptions, failures and two runners at once."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from eval.runs import read_run
from experiments.cli import main
from experiments.suites.processes import available_cores
from experiments.suites.staging import Staging
from experiments.suites.suite import load_suite

WORK = """
import json, os, pathlib, sys, time
name, run, *rest = sys.argv[1:]
seconds = float(os.environ.get(f"SECONDS_{name}", 0))
with open("journal.txt", "a") as journal:
    journal.write(" ".join(["start", name, *rest]) + "\\n")
together = os.environ.get("TOGETHER", "").split()
for other in together if name in together else ():
    while f"start {other}\\n" not in pathlib.Path("journal.txt").read_text():
        time.sleep(0.02)
part = pathlib.Path(run, name, "part")
done = int(part.read_text()) if "on" in rest and part.exists() else 0
for done in range(done, int(seconds * 20)):
    if pathlib.Path("let_go").exists():
        break
    part.with_suffix(".new").write_text(str(done + 1))
    part.with_suffix(".new").replace(part)
    time.sleep(0.05)
if os.environ.get("FAIL") == name:
    sys.exit("the reason why it failed")
text = pathlib.Path("a.yaml").read_text() if name == "a" else name
pathlib.Path(run, name, "out").write_text(text + os.environ.get("SALT", ""))
print("output of", name)
with open("journal.txt", "a") as journal:
    journal.write(f"end {name}\\n")
"""
SUITE = """
run: runs/x
stages:
  - {name: a, run: "python work.py a {run} --config=a.yaml", outputs: [a/out]}
  - {name: b, run: "python work.py b {run}", needs: [a], outputs: [b/out], cost: 5, resume: "on"}
  - {name: c, run: "python work.py c {run}", needs: [a], outputs: [c/out], inputs: [c.txt]}
  - {name: d, run: "python work.py d {run}", needs: [b, c], outputs: [d/out], show: true}
  - {name: e, run: "python work.py e {run}", outputs: [e/out], cost: 20}
"""


@pytest.fixture
def folder(toy: Path) -> Path:
    """A working folder with a suite; the toy's environment."""
    for name, text in {
        "work.py": WORK,
        "suite.yaml": SUITE,
        "a.yaml": "lr: 1  # slow\nsteps: 5\n",
        "c.txt": "c",
    }.items():
        (toy / name).write_text(text)
    return toy


def reproduce(*words: str) -> int:
    return main(["reproduce", "suite.yaml", *words])


def journal() -> list[str]:
    """What ran since the last call."""
    path = Path("journal.txt")
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def ran() -> list[str]:
    return sorted(line.split()[1] for line in journal() if line.startswith("start"))


def plan(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    capsys.readouterr()
    assert reproduce("--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[1:]}


def wait_for(condition: Callable[[], object], seconds: float = 200) -> None:
    """Until something is so; the limit is for what never happens, and far above what a busy machine needs."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        # A zombie is dead, whoever has yet to collect it.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_everything_runs_once_in_order_and_a_second_call_runs_nothing(folder, capsys):
    assert set(plan(capsys).values()) == {"would run: it never ran"}
    assert not Path("runs").exists()

    assert reproduce("--jobs", "1") == 0
    lines = journal()
    # One after the other, the longest chain first: e (20), a (1 + 5 + 1), b, c, d.
    assert [line.split()[1] for line in lines if line.startswith("start")] == list("eabcd")
    assert [line.split()[1] for line in lines] == ["e", "e", "a", "a", "b", "b", "c", "c", "d", "d"]
    assert list(read_run("runs/x").stages) == list("eabcd"), "tables have the stages in this order, fast ones too"
    out = capsys.readouterr().out
    assert f"OMP_NUM_THREADS={available_cores()} python work.py a runs/x --config=a.yaml" in out
    assert "output of d" in out
    assert "output of a" not in out
    assert "output of a" in Path("runs/x/a/log.txt").read_text()

    assert reproduce() == 0
    assert journal() == []
    assert "output of d" in capsys.readouterr().out
    assert set(plan(capsys).values()) == {"up to date"}


def test_independent_stages_run_side_by_side(folder, monkeypatch):
    monkeypatch.setenv("TOGETHER", "b c")  # Each waits until the other has started.
    assert reproduce("--jobs", "2", "--only", "d") == 0
    lines = journal()
    assert sorted(lines[2:4]) == ["start b", "start c"]
    assert lines[-2:] == ["start d", "end d"]
    assert not any(line.endswith(" e") for line in lines)


def test_a_stage_that_takes_two_cores_has_them_for_itself(folder, monkeypatch, capsys):
    suite = Path("suite.yaml")
    suite.write_text(suite.read_text().replace("cost: 5", "cost: 5, cores: 2"))
    monkeypatch.setattr("experiments.suites.reproduce.available_cores", lambda: 2)
    monkeypatch.setenv("SECONDS_b", "0.3")
    assert reproduce("--only", "d") == 0
    lines = journal()
    assert lines[lines.index("start b") + 1] == "end b"  # c is ready as soon as b, and waits
    out = capsys.readouterr().out
    assert "OMP_NUM_THREADS=2 python work.py b" in out
    assert "OMP_NUM_THREADS=1 python work.py c" in out
    assert json.loads(Path("runs/x/b/stage.json").read_text())["threads"] == 2
    suite.write_text(suite.read_text().replace("inputs: [c.txt]", "cost: 9"))
    monkeypatch.setenv("SECONDS_c", "0.3")
    assert reproduce("--only", "d", "--again", "b") == 0
    assert journal()[:3] == ["start c", "end c", "start b"]  # there is one place beside c, too few for b
    assert reproduce("--jobs", "1", "--again", "b", "--only", "b") == 0  # a machine of fewer cores than that
    assert journal() == ["start b", "end b"]


def test_a_record_says_what_was_done(folder):
    assert reproduce("--only", "b") == 0
    record = json.loads(Path("runs/x/b/stage.json").read_text())
    assert (record["name"], record["status"]) == ("b", "done")
    assert record["command"].endswith(" python work.py b runs/x")
    assert record["config_files"] == ["work.py"]
    assert record["seconds"] > 0
    assert re.search(r":\d\d\.\d{3}[+-]", record["started"]), "the order of stages that take less than a second"
    assert record["needs"] == {"a": json.loads(Path("runs/x/a/stage.json").read_text())["fingerprint"]}
    assert not Path("runs/x/b/started.json").exists()


def test_a_changed_config_runs_its_stage_and_what_depends_on_it_only(folder, capsys):
    assert reproduce() == 0
    journal()
    Path("a.yaml").write_text("steps: 5\nlr: 1\n# another order and another comment\n")
    assert set(plan(capsys).values()) == {"up to date"}

    Path("a.yaml").write_text("lr: 2\nsteps: 5\n")
    expected = {
        "a": "would run: a.yaml changed (lr: 1 -> 2)",
        "b": "would run: a changed",
        "c": "would run: a changed",
        "d": "would run: b changed; c changed",
        "e": "up to date",
    }
    assert plan(capsys) == expected
    assert reproduce() == 0
    assert ran() == ["a", "b", "c", "d"]
    # What was there is kept, once.
    assert "lr: 1" in Path("runs/x/.previous/a/out").read_text()
    assert json.loads(Path("runs/x/.previous/a/stage.json").read_text())["status"] == "done"
    assert not Path("runs/x/.previous/e").exists()


def test_a_config_counts_together_with_the_one_that_it_extends(folder):
    recipe = Staging(load_suite(Path("suite.yaml"))).recipes["a"]
    Path("base.yaml").write_text("lr: 0.5\nsteps: 5\nwidth: 3\n")
    Path("a.yaml").write_text("extends: base.yaml\nwithout: [width]\nlr: 1\n")
    assert Staging(load_suite(Path("suite.yaml"))).recipes["a"].hash == recipe.hash
    Path("base.yaml").write_text("lr: 0.5\nsteps: 6\nwidth: 3\n")
    changed = Staging(load_suite(Path("suite.yaml"))).recipes["a"]
    assert changed.hash != recipe.hash
    record = {"command": recipe.command, "files": recipe.files, "needs": recipe.needs}
    assert changed.changes_since(record) == "a.yaml changed (steps: 5 -> 6)"


def test_inputs_and_commands_count_too(folder, capsys):
    assert reproduce() == 0
    journal()
    Path("c.txt").write_text("other")
    assert {name: text for name, text in plan(capsys).items() if text != "up to date"} == {
        "c": "would run: c.txt changed",
        "d": "would run: c changed",
    }
    Path("c.txt").write_text("c")
    Path("suite.yaml").write_text(
        SUITE.replace("work.py d {run}", "work.py d {run} more").replace("cost: 20", "cost: 1")
    )
    assert {name: text for name, text in plan(capsys).items() if text != "up to date"} == {
        "d": "would run: its command changed"
    }
    assert reproduce() == 0
    assert journal() == ["start d more", "end d"]


def test_a_missing_output_is_made_again_and_dependants_run_only_if_it_differs(folder, capsys, monkeypatch):
    assert reproduce() == 0
    journal()
    Path("runs/x/b/out").unlink()
    found = plan(capsys)
    assert found["b"] == "would run: its output runs/x/b/out is missing"
    assert found["d"] == "up to date, unless b comes out different"
    assert reproduce() == 0
    assert ran() == ["b"]

    # The same command, another result (as on another machine): what depends on it does not fit any more.
    Path("runs/x/b/out").unlink()
    monkeypatch.setenv("SALT", "!")
    assert reproduce() == 0
    assert ran() == ["b", "d"]
    assert plan(capsys)["d"] == "up to date"


def test_logs_and_records_are_no_output(folder):
    Path("suite.yaml").write_text(SUITE.replace("outputs: [a/out]", "outputs: [a]"))
    assert reproduce("--only", "a") == 0
    made = json.loads(Path("runs/x/a/stage.json").read_text())["fingerprint"]
    for name in ("log.txt", "progress.json", "events.out.tfevents.1"):
        Path("runs/x/a", name).write_text("later")
    staging = Staging(load_suite(Path("suite.yaml")))
    assert staging.fingerprint("a") == made
    Path("runs/x/a/out").write_text("other")
    assert staging.fingerprint("a") != made


def test_a_stage_can_be_asked_for_again(folder, capsys):
    assert reproduce() == 0
    journal()
    assert reproduce("--again", "b", "--dry-run") == 0
    assert "b  would run: asked for with --again" in capsys.readouterr().out
    assert reproduce("--again", "b") == 0
    assert ran() == ["b"]
    assert reproduce("--again", "q") == 2
    assert "no stage 'q'" in capsys.readouterr().err


def test_outputs_elsewhere_in_the_run_folder_are_moved_aside_too(folder):
    text = "run: runs/x\nstages:\n  - {name: a, run: 'python write.py {run}/samples/a', outputs: [samples/a]}\n"
    Path("suite.yaml").write_text(text)
    script = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); p.mkdir(parents=True); (p / 'x').write_text('%s')"
    Path("write.py").write_text(script % "first")
    assert reproduce() == 0
    Path("write.py").write_text(script % "second")
    assert reproduce() == 0  # mkdir would fail if the folder were still there
    assert Path("runs/x/samples/a/x").read_text() == "second"
    assert Path("runs/x/.previous/a/outputs/samples/a/x").read_text() == "first"


def test_a_failed_stage_shows_its_end_and_lets_the_others_finish(folder, capsys, monkeypatch):
    monkeypatch.setenv("FAIL", "c")
    monkeypatch.setenv("TOGETHER", "b c")
    monkeypatch.setenv("SECONDS_b", "0.5")
    assert reproduce("--jobs", "2") == 1
    out = capsys.readouterr().out
    assert "c: FAILED (exit code 1)" in out
    assert "  | the reason why it failed" in out
    lines = journal()
    assert "end b" in lines  # was running, was let finish
    assert "start d" not in lines
    monkeypatch.delenv("FAIL")
    monkeypatch.delenv("TOGETHER")
    assert plan(capsys)["c"] == "would go on: it failed"
    assert reproduce() == 0
    assert ran() == ["c", "d"]


def test_a_stage_that_leaves_no_output_has_failed(folder, capsys):
    Path("suite.yaml").write_text("run: runs/x\nstages:\n  - {name: a, run: python -c pass, outputs: [a/nothing]}\n")
    assert reproduce() == 1
    assert "a: FAILED (it left no runs/x/a/nothing)" in capsys.readouterr().out


def test_an_unknown_program_is_named(folder, capsys):
    Path("suite.yaml").write_text("run: runs/x\nstages:\n  - {name: a, run: no-such-program}\n")
    assert reproduce() == 2
    assert capsys.readouterr().err == "unclip: command 'no-such-program' is not installed; see its name in the suite\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_an_interrupted_runner_stops_its_stages_and_the_next_goes_on(folder, unclip, monkeypatch, capsys, number, code):
    monkeypatch.setenv("SECONDS_b", "600")
    runner = unclip("reproduce", "suite.yaml", "--jobs", "2")
    wait_for(lambda: Path("runs/x/b/part").exists() and Path("runs/x/c/stage.json").exists())
    runner.send_signal(number)
    out, _ = runner.communicate(timeout=200)
    assert runner.returncode == code
    assert "stopping b" in out
    assert "interrupted; the same command goes on from here" in out
    done = int(Path("runs/x/b/part").read_text())
    assert 0 < done < 20 * 600
    journal()
    assert plan(capsys)["b"] == "would go on: it was interrupted"
    monkeypatch.setenv("SECONDS_b", "0.5")
    assert reproduce() == 0
    lines = journal()
    assert "start b on" in lines  # the stage's `resume`
    assert not {"start a", "start c", "start e"} & set(lines)


def test_a_killed_runner_takes_its_stages_with_it_and_the_next_goes_on(folder, unclip, monkeypatch, capsys):
    monkeypatch.setenv("SECONDS_b", "600")
    runner = unclip("reproduce", "suite.yaml", "--jobs", "1", "--only", "b")
    wait_for(lambda: Path("runs/x/b/part").exists())
    children = Path(f"/proc/{runner.pid}/task/{runner.pid}/children").read_text().split()
    assert len(children) == 1
    runner.kill()
    runner.communicate()
    wait_for(lambda: not alive(int(children[0])))
    done = int(Path("runs/x/b/part").read_text())
    time.sleep(0.2)
    assert int(Path("runs/x/b/part").read_text()) == done
    assert plan(capsys)["b"] == "would go on: it was interrupted"
    monkeypatch.setenv("SECONDS_b", "0.1")
    assert reproduce("--only", "b") == 0
    assert json.loads(Path("runs/x/b/stage.json").read_text())["status"] == "done"


def test_what_a_killed_stage_had_half_written_goes_before_it_runs_again(folder):
    outputs = "[samples/one/manifest.jsonl, b/out]"
    Path("suite.yaml").write_text(SUITE.replace("outputs: [b/out]", f"outputs: {outputs}"))
    left = [Path("runs/x/samples", name) for name in (".one.partial-0123abcd", ".one.old-0123abcd")]
    others = [
        Path("runs/x/samples", name) for name in (".two.partial-0123abcd", ".one.partial", "one.partial-0123abcd")
    ]
    for path in (*left, *others):
        path.mkdir(parents=True)
        (path / "00000.png").touch()
    left.append(Path("runs/x/b/.out.partial-0123abcd"))
    left[-1].parent.mkdir()
    left[-1].touch()
    assert reproduce("--only", "b") == 1  # It leaves no manifest.
    assert not any(path.exists() for path in left)
    assert all((path / "00000.png").exists() for path in others)


def test_an_interrupted_stage_whose_config_changed_starts_again(folder, unclip, monkeypatch, capsys):
    monkeypatch.setenv("SECONDS_a", "600")
    runner = unclip("reproduce", "suite.yaml", "--only", "a")
    wait_for(lambda: Path("runs/x/a/part").exists())
    runner.kill()
    runner.communicate()
    Path("a.yaml").write_text("lr: 3\nsteps: 5\n")
    assert plan(capsys)["a"] == "would run: it was interrupted, and then a.yaml changed (lr: 1 -> 3)"
    monkeypatch.setenv("SECONDS_a", "0")
    assert reproduce("--only", "a") == 0
    assert Path("runs/x/.previous/a/part").exists()


def test_a_second_runner_is_told_who_holds_the_run_folder(folder, unclip, monkeypatch, capsys):
    monkeypatch.setenv("SECONDS_a", "600")
    first = unclip("reproduce", "suite.yaml", "--only", "a")
    wait_for(lambda: Path("runs/x/a/part").exists())
    capsys.readouterr()
    assert reproduce() == 2
    assert capsys.readouterr().err.startswith(f"unclip: run folder 'runs/x' is in use by process {first.pid} on ")
    assert reproduce("--run", "runs/y", "--only", "e") == 0


def test_a_runner_can_wait_for_the_run_folder(folder, unclip, when_waiting, monkeypatch, capsys):
    monkeypatch.setenv("SECONDS_a", "600")
    first = unclip("reproduce", "suite.yaml", "--only", "a")
    wait_for(lambda: Path("runs/x/a/part").exists())
    when_waiting(Path("let_go").touch)
    assert reproduce("--only", "a", "--wait") == 0
    assert first.wait() == 0
    captured = capsys.readouterr()
    assert captured.err.startswith(f"waiting for run folder 'runs/x', in use by process {first.pid} on ")
    assert "a: up to date" in captured.out


def test_what_a_dead_runner_has_left_blocks_nobody(folder):
    Path("runs/x/.locks").mkdir(parents=True)
    for name in (".lock", ".locks/e", ".locks/e.fit"):
        Path("runs/x", name).write_text('{"pid": 1, "host": "gone", "since": "long ago"}')
    assert reproduce("--only", "e") == 0


def test_a_stage_that_the_system_stops_is_no_failure(folder, capsys):
    """The others are stopped too, and the runner leaves with the code that requeues it."""
    text = SUITE.replace("python work.py e {run}", "python -c 'import sys; sys.exit(75)'").replace("SECONDS", "")
    Path("suite.yaml").write_text(text)
    assert reproduce("--jobs", "1") == 75
    out = capsys.readouterr().out
    assert "e: was asked to stop by the system" in out and "FAILED" not in out
    assert "interrupted; the same command goes on from here" in out
    assert json.loads(Path("runs/x/e/started.json").read_text())["status"] == "interrupted"


def test_each_stage_has_a_device_of_its_own(folder, capsys):
    script = """
import os, pathlib, sys, time
name = sys.argv[1]
device = os.environ["CUDA_VISIBLE_DEVICES"]
used = pathlib.Path(f"device{device}")
used.touch(exist_ok=False)  # fails if another stage is on it
time.sleep(0.3)
used.unlink()
with open("journal.txt", "a") as journal:
    journal.write(f"{name} {device}\\n")
"""
    Path("gpu.py").write_text(script)
    stages = "".join(f"  - {{name: s{k}, run: python gpu.py s{k}}}\n" for k in range(5))
    Path("suite.yaml").write_text(f"run: runs/x\nstages:\n{stages}")
    assert reproduce("--devices", "3,5") == 0
    lines = dict(line.split() for line in journal())
    assert sorted(lines) == ["s0", "s1", "s2", "s3", "s4"] and set(lines.values()) == {"3", "5"}
    assert "CUDA_VISIBLE_DEVICES=3 python gpu.py s0" in capsys.readouterr().out
    assert reproduce("--devices", "3,3") == 2
    assert "--devices" in capsys.readouterr().err


def test_a_stage_that_outlives_its_runner_is_waited_for(folder, monkeypatch, capsys):
    """Where the kernel does not kill a dead runner's stages, their locks keep the next runner from them."""
    from experiments.suites import processes

    monkeypatch.setattr(processes, "LOCK_SECONDS", 0.3)
    Path("runs/x/.locks").mkdir(parents=True)
    held = processes.take_lock(Path("runs/x/.locks/e"), ["python"])
    assert reproduce("--only", "e") == 2
    assert "of another runner is still running in 'runs/x'" in capsys.readouterr().err
    os.close(held)
    assert reproduce("--only", "e") == 0


def test_another_run_folder_is_in_the_command_that_is_printed(folder, capsys):
    assert reproduce("--run", "runs/other", "--only", "e") == 0
    assert "UNCLIP_RUN=runs/other python work.py e runs/other" in capsys.readouterr().out
    assert Path("runs/other/e/out").exists()
    assert not Path("runs/x").exists()


def test_progress_is_shown_as_lines_where_there_is_no_terminal(folder, monkeypatch, capsys):
    from experiments.suites import display

    script = (
        "import time; from experiments.console.progress import progress\n"
        "for _ in progress(range(30), 'part one'): time.sleep(0.05)\n"
    )
    Path("slow.py").write_text(script)
    Path("suite.yaml").write_text("run: runs/x\nstages:\n  - {name: slow, run: python slow.py}\n")
    monkeypatch.setattr(display, "LINE_SECONDS", 0.2)
    assert reproduce() == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  [1/1] slow: part one:")]
    assert len(lines) > 2
    assert " of 30, " in lines[-1]
    assert "left; running for 0:0" in lines[-1]


def test_an_interrupted_fit_goes_on_from_its_checkpoint(folder, unclip, programs, monkeypatch, capsys):
    monkeypatch.setenv("TOY_HOLD", "8")
    config = Path("toy.yaml").read_text().replace("runs/toy", "${oc.env:UNCLIP_RUN,runs/x}/toy")
    Path("toy.yaml").write_text(config)
    stage = "{name: toy, run: unclip fit --config toy.yaml, outputs: [toy/checkpoints/last.ckpt]}"
    Path("suite.yaml").write_text(f"run: runs/x\nstages:\n  - {stage}\n")
    runner = unclip("reproduce", "suite.yaml")
    wait_for(lambda: Path("held").exists())
    runner.send_signal(signal.SIGINT)
    wait_for(lambda: "stopping after this step" in Path("runs/x/toy/log.txt").read_text())
    Path("let_go").touch()
    runner.communicate(timeout=200)
    assert runner.returncode == 130
    interrupted = plan(capsys)["toy"]
    assert interrupted == "would go on: it was interrupted at step 9"
    assert reproduce() == 0
    assert "unclip fit --config toy.yaml --ckpt_path last" in capsys.readouterr().out
    assert "steps 9 to 12" in Path("runs/x/toy/log.txt").read_text()
