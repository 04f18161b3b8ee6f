"""Stages forked from one process: they are what programs of their own are, also when something is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.suites import forkable as policy
from experiments.suites import forking
from experiments.suites.forkable import forkable, imports_of
from experiments.suites.forking import ForkedStage, ForkServer
from experiments.suites.processes import environment, is_held, stop_all
from experiments.suites.suite import Stage

WORK = """
import atexit, json, os, pathlib, signal, subprocess, sys, time

def main(words):
    what, *rest = words
    atexit.register(lambda: pathlib.Path(f"{what}.atexit").touch())
    if what == "tell":
        import numpy
        print(json.dumps({"words": words, "argv": sys.argv, "pid": os.getpid(), "parent": os.getppid(),
            "session": os.getsid(0), "group": os.getpgid(0), "cwd": os.getcwd(), "draw": float(numpy.random.rand()),
            "handlers": [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)],
            "env": dict(os.environ), "stdin": os.read(0, 1).decode(), "hold": os.get_inheritable(held())}))
        print("to stderr", file=sys.stderr)
    if what == "code":
        return int(rest[0])
    if what == "raise":
        raise RuntimeError("as it was raised")
    if what == "helper":
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        pathlib.Path("helper").write_text(str(helper.pid))
    if what in ("sleep", "helper"):
        pathlib.Path(f"{what}.pid").write_text(str(os.getpid()))
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            print("saved")
            return 130
    return 0

def held():
    places = {int(n): os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")}
    return next(n for n, place in places.items() if place.endswith("/a.lock"))
"""
PROGRAM = """import sys
descriptor, imports, *sys.path[:] = sys.argv[1:]
from experiments.suites.fork_server import serve
from work import main
sys.exit(main(serve(int(descriptor), imports.split(","), {})))"""
pytestmark = pytest.mark.skipif(not policy.AVAILABLE, reason="stages are forked on Linux only")


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def folder(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder whose `unclip` is what `work.py` says."""
    (toy / "work.py").write_text(WORK)
    monkeypatch.setattr(forking, "PROGRAM", PROGRAM)
    return toy


@pytest.fixture
def server(folder: Path) -> Iterator[ForkServer]:
    server = ForkServer(environment(1, {"GIVEN": "by the server", "GONE": "x"}), ["numpy.random", "no_such_module"])
    yield server
    server.kill()


def start(server: ForkServer, *words: str, name: str = "a", **extra: str) -> ForkedStage:
    env = {**environment(1, extra), "GIVEN": "by the server"}
    return ForkedStage(server, ["unclip", *words], env, Path(f"{name}.log"), Path(f"{name}.lock").absolute())


def ended(stage: ForkedStage) -> int:
    wait_for(lambda: stage.code is not None)
    assert stage.code is not None
    return stage.code


def started(what: str) -> int:
    path = Path(f"{what}.pid")
    wait_for(lambda: path.exists() and path.read_text())
    return int(path.read_text())


def test_a_forked_stage_is_as_a_program_of_its_own(server):
    Path("a.log").write_text("$ the command\n")
    stage = start(server, "tell", "it's", "all", UNCLIP_RUN="runs/x y")
    assert ended(stage) == 0
    head, line, last = Path("a.log").read_text().splitlines()
    assert (head, last) == ("$ the command", "to stderr")
    told = json.loads(line)
    assert told["words"] == ["tell", "it's", "all"] and told["argv"][1:] == told["words"]
    assert Path(told["argv"][0]).name == "unclip"
    assert told["pid"] == told["session"] == told["group"] == stage.pid
    assert told["parent"] == server.process.pid and told["cwd"] == str(Path.cwd()) and told["stdin"] == ""
    assert told["handlers"] == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)]
    env = told["env"]
    assert env["UNCLIP_RUN"] == "runs/x y" and env["GIVEN"] == "by the server" and "GONE" not in env
    assert env["OMP_NUM_THREADS"] == "1"
    assert told["hold"] is True  # Helpers hold the stage's lock too.
    assert Path("tell.atexit").exists()
    assert not is_held(Path("a.lock").absolute())


def test_stages_draw_different_numbers(server):
    draws = set()
    for _ in range(2):
        assert ended(start(server, "tell")) == 0
        draws.add(json.loads(Path("a.log").read_text().splitlines()[-2])["draw"])
    assert len(draws) == 2


def test_exit_codes_and_tracebacks(server):
    stages = [start(server, "code", str(code), name=f"s{code}") for code in (0, 2, 75, 130)]
    assert [ended(stage) for stage in stages] == [0, 2, 75, 130]
    assert ended(start(server, "raise")) == 1
    assert Path("a.log").read_text().splitlines()[-1] == "RuntimeError: as it was raised"


def test_nothing_runs_in_the_server_but_its_own_thread(server):
    assert ended(start(server, "code", "0")) == 0
    assert len(list(Path(f"/proc/{server.process.pid}/task").iterdir())) == 1


def test_a_stage_is_stopped_so_that_it_can_save(server):
    stage = start(server, "sleep")
    started("sleep")
    assert stage.code is None and is_held(Path("a.lock").absolute())
    stop_all([stage], hurry=lambda: False, tick=lambda: None)
    assert stage.code == 130
    assert Path("a.log").read_text() == "saved\n"
    stage.send(signal.SIGKILL)  # Nothing is there any more to send it to.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_reaches_all_helpers_of_a_stage(server, number):
    stage = start(server, "helper")
    started("helper")
    helper = int(Path("helper").read_text())
    stage.send(number)
    assert ended(stage) == -number
    wait_for(lambda: not alive(helper))
    assert server.alive


def test_stages_die_with_a_killed_server(server):
    stage, waiting = start(server, "sleep"), start(server, "sleep", name="b")
    pid = started("sleep")
    wait_for(lambda: waiting.code is None and waiting.pid is not None)
    os.kill(server.process.pid, signal.SIGKILL)
    assert ended(stage) == ended(waiting) == -signal.SIGKILL
    wait_for(lambda: not alive(pid))
    assert not server.alive


def test_a_server_that_is_closed_ends(server):
    assert ended(start(server, "code", "0")) == 0
    server.close()
    assert server.process.returncode == 0


def test_a_stage_that_waits_for_imports_can_be_stopped(folder):
    Path("slow.py").write_text("import time\ntime.sleep(60)\n")
    server = ForkServer(environment(1, {}), ["slow"])
    stage = start(server, "code", "0")
    assert stage.code is None
    stop_all([stage], hurry=lambda: False, tick=lambda: None)
    assert stage.code == -signal.SIGKILL  # Not 0: its import of a minute has not ended.
    assert not is_held(Path("a.lock").absolute())
    server.close()


def test_where_the_server_cannot_start_stages_are_programs(folder, monkeypatch):
    monkeypatch.setattr(forking, "PROGRAM", "import sys; sys.exit(3)")
    server = ForkServer(environment(1, {}), [])
    stage = ForkedStage(
        server,
        ["python", "-c", "print('as ever'); raise SystemExit(5)"],
        environment(1, {}),
        Path("a.log"),
        Path("l/a"),
    )
    assert ended(stage) == 5
    assert Path("a.log").read_text() == "as ever\n"
    server.close()


def test_an_import_that_touches_a_device_makes_stages_programs(folder, monkeypatch):
    """torch says so itself where there is a device; here it is made to say so."""
    Path("touching.py").write_text("import torch\ntorch.cuda._is_in_bad_fork = lambda: True\n")
    Path("bin").mkdir()
    server = ForkServer(environment(1, {}), ["touching"])
    words = ["python", "-c", "import os, sys; print('torch' in sys.modules, os.getpid(), os.environ['UNCLIP_RUN'])"]
    stage = ForkedStage(server, words, environment(1, {"UNCLIP_RUN": "here"}), Path("a.log"), Path("l/a"))
    assert ended(stage) == 0
    assert Path("a.log").read_text() == f"False {stage.pid} here\n"
    server.close()


@pytest.mark.parametrize(
    ("command", "config", "forked"),
    [
        ("unclip fit --config x.yaml", "", True),
        ("unclip fit --config x.yaml", "devices: 1", True),
        ("unclip fit --config x.yaml", "devices: '1'", True),
        ("unclip fit --config x.yaml", "devices: 2", False),
        ("unclip fit --config x.yaml", "devices: auto", False),
        ("unclip fit --config x.yaml", "devices: [0]", False),
        ("unclip fit --config x.yaml", "num_nodes: 2", False),
        ("unclip fit --config x.yaml", "strategy: auto", True),
        ("unclip fit --config x.yaml", "strategy: ddp", False),
        ("unclip fit --config x.yaml", "strategy: {class_path: S}", False),
        ("unclip fit --config x.yaml --trainer.devices=4", "", False),
        ("unclip fit --config x.yaml --trainer.devices 1", "", True),
        ("unclip fit --config x.yaml --trainer.strategy.class_path S", "", False),
        ("unclip sample --run {run} --devices 2", "", False),
        ("unclip sample --run {run} --devices=1", "", True),
        ("unclip embed --num-nodes 2", "", False),
        ("unclip report {run}", "", True),
        ("python unclip", "", False),
    ],
)
def test_which_stages_are_forked(folder, monkeypatch, command, config, forked):
    Path("x.yaml").write_text(f"trainer: {{{config}}}")
    assert forkable(Stage("a", command), Path("runs/x")) is forked
    assert not forkable(Stage("a", command, fork=False), Path("runs/x"))
    monkeypatch.setattr(policy, "AVAILABLE", False)
    assert not forkable(Stage("a", command), Path("runs/x"))


def test_what_is_imported(folder):
    assert all(importlib.util.find_spec(name) for name in policy.WORK)
    stages = [
        Stage("a", "unclip fit --config toy.yaml"),
        Stage("b", "unclip report {run}"),
        Stage("c", "unclip report x"),
    ]
    assert imports_of(stages, Path("runs/x")) == [*policy.WORK, "fit", "toy", "torch.optim", "report"]
    assert imports_of(stages[:1], Path("runs/x")) == [*policy.TRAINING, "fit", "toy", "torch.optim"]


SUITE = """
run: runs/x
stages:
  - {name: one, run: "unclip fit --config toy.yaml --trainer.default_root_dir {run}/one", outputs: [one/checkpoints]}
  - {name: two, run: "unclip fit --config toy.yaml --trainer.default_root_dir {run}/two", outputs: [two/checkpoints]}
"""
NOTE = """
import os
with open("parents.txt", "a") as file:
    file.write(f"{os.getppid()}\\n")
"""


@pytest.fixture
def suite(toy: Path) -> Path:
    """Two stages that train the toy model, and note who has started them."""
    text = (toy / "toy.py").read_text()
    (toy / "toy.py").write_text(
        text.replace("    def train_dataloader(self):\n", f"    def train_dataloader(self):\n{indented(NOTE)}")
    )
    (toy / "suite.yaml").write_text(SUITE)
    return toy


def indented(text: str) -> str:
    return "".join(f"        {line}\n" for line in text.strip().splitlines())


def parents() -> list[int]:
    lines = [int(line) for line in Path("parents.txt").read_text().split()]
    Path("parents.txt").unlink()
    return lines


def test_a_suite_is_forked_and_comes_to_the_same(suite, capsys):
    assert main(["reproduce", "suite.yaml", "--jobs", "2"]) == 0, capsys.readouterr().out
    first, second = parents()
    assert first == second != os.getpid()
    wait_for(lambda: not alive(first))
    assert main(["reproduce", "suite.yaml", "--run", "runs/y", "--only", "one"]) == 0
    assert parents() == [os.getpid()]
    records = [json.loads(Path(run, "one", "stage.json").read_text()) for run in ("runs/x", "runs/y")]
    assert records[0]["hash"] == records[1]["hash"]
    from benchmarks.trials.compare import differing
    from experiments.training.checkpoints import LAST, load_checkpoint

    ours, theirs = (load_checkpoint(Path(run, "one", LAST))["state_dict"] for run in ("runs/x", "runs/y"))
    assert differing(ours, theirs) == []


def test_one_stage_alone_is_a_program(suite, programs, capsys):
    assert main(["reproduce", "suite.yaml", "--only", "one"]) == 0, capsys.readouterr().out
    assert main(["reproduce", "suite.yaml"]) == 0
    assert [words[-1] for words in programs] == ["runs/x/one", "runs/x/two"], "one stage is left"
    assert main(["reproduce", "suite.yaml", "--run", "runs/y", "--jobs", "2", "--no-fork"]) == 0
    assert {words[-1] for words in programs[2:]} == {"runs/y/one", "runs/y/two"}, "--no-fork"


def test_a_killed_runner_takes_its_forked_stages_with_it(suite, unclip):
    text = Path("toy.yaml").read_text().replace("max_steps: 12", "max_steps: 600")
    Path("toy.yaml").write_text(text.replace("network:", "step_seconds: 0.05\n    network:", 1))
    runner = unclip("reproduce", "suite.yaml", "--jobs", "2")
    wait_for(lambda: all(Path("runs/x", name, "progress.json").exists() for name in ("one", "two")), 120)
    servers = set(parents())
    (server,) = servers
    stages = [int(pid) for pid in Path(f"/proc/{server}/task/{server}/children").read_text().split()]
    assert len(stages) == 2 and alive(server)
    runner.kill()
    runner.communicate()
    wait_for(lambda: not any(alive(pid) for pid in (server, *stages)))


def test_an_interrupted_runner_lets_its_forked_stages_save(suite, unclip):
    text = Path("toy.yaml").read_text().replace("max_steps: 12", "max_steps: 600")
    Path("toy.yaml").write_text(text.replace("network:", "step_seconds: 0.05\n    network:", 1))
    runner = unclip("reproduce", "suite.yaml", "--jobs", "2")
    wait_for(lambda: all(Path("runs/x", name, "progress.json").exists() for name in ("one", "two")), 120)
    (server,) = set(parents())
    runner.send_signal(signal.SIGTERM)
    out, _ = runner.communicate(timeout=60)
    assert runner.returncode == 75 and "stopping" in out
    assert all(Path("runs/x", name, "checkpoints/last.ckpt").exists() for name in ("one", "two"))
    status = [json.loads(Path("runs/x", name, "started.json").read_text())["status"] for name in ("one", "two")]
    assert status == ["interrupted"] * 2 and not alive(server)
