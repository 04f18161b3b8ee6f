"""The fuzzers find no traceback, no write and no read outside; the benchmark runs 5,000 examples each."""

from __future__ import annotations

import os
import subprocess

import pytest

from benchmarks.trials.fuzz import CANARY, Fuzzers, read_or_refused
from modules.errors import InputError

EXAMPLES = 200


@pytest.mark.parametrize("name", ["exports", "clips", "manifests", "tables", "tars", "figures", "yaml", "records"])
def test_no_example_does_harm(name, stored_run, tmp_path):
    if name == "tars":
        pytest.importorskip("webdataset")
    fuzzers = Fuzzers(tmp_path, stored_run / "linear_prior" / "export", stored_run / "clip" / "export")
    assert name in fuzzers.names()
    fuzzers.run(name, EXAMPLES)


def test_the_fuzzers_see_harm(tmp_path):
    (tmp_path / "unclip-canary.png").write_text(CANARY)
    (tmp_path / "in").mkdir()

    def refuse():
        raise InputError("one line")

    read_or_refused(refuse, tmp_path / "in")
    read_or_refused(lambda: (tmp_path / "in" / "a").write_text("x"), tmp_path / "in")
    for harm in (
        lambda: (tmp_path / "unclip-canary.png").read_text(),
        lambda: (tmp_path / "out").write_text("x"),
        lambda: subprocess.run(["true"], check=True),
        lambda: os.system("true"),
        lambda: CANARY,
    ):
        with pytest.raises(AssertionError):
            read_or_refused(harm, tmp_path / "in")
    with pytest.raises(KeyError):
        read_or_refused(lambda: {}["x"], tmp_path / "in")
