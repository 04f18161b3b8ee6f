"""Runs commands of a checkout in processes forked from one that has imported the libraries, which saves seconds each.

`python warm.py`, with the checkout in PYTHONPATH, reads a JSON object {"words", "cwd", "log"} from each line of stdin,
runs `python -m experiments.cli WORDS` in a fork, and answers with its exit code. Only libraries of others are imported
beforehand, so that this works for any layout of the checkout.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import runpy
import sys
import traceback
from importlib.util import find_spec
from typing import Any

LIBRARIES = ("lightning.pytorch.cli", "torchvision", "torchmetrics", "open_clip", "matplotlib.pyplot", "sklearn")


def main() -> None:
    """Serve until stdin ends. The first line of the answers is where `experiments` is imported from."""
    sys.path.pop(0)  # The folder of this file.
    spec = find_spec("experiments")
    print(spec.submodule_search_locations[0] if spec and spec.submodule_search_locations else "", flush=True)
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def run(task: dict[str, Any]) -> None:
    """In the forked process: run the command, and end."""
    os.chdir(task["cwd"])
    descriptor = os.open(task["log"], os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o644)
    empty = os.open(os.devnull, os.O_RDONLY)
    for standard, own in ((0, empty), (1, descriptor), (2, descriptor)):
        os.dup2(own, standard)
    sys.argv = ["unclip", *task["words"]]
    code = 1
    try:
        runpy.run_module("experiments.cli", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
