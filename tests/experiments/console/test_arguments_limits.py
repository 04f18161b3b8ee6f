"""Numbers that no machine has, and places without a name, are refused before anything is read."""

from __future__ import annotations

import pytest

from experiments.cli import main


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["sample", "a", "--out", "o", "-n", str(2**32)], "--n is 4,294,967,296: the most is 1,000,000"),
        (["sample", "a", "--out", "o", "--devices", "5000"], "--devices is 5,000: the most is 4,096"),
        (["sample", "a", "--out", "o", "--size", "5000"], "--size is 5,000: the most is 4,096"),
        (["evaluate", "a", "--reference", "b", "--size", str(10**12)], "the most is 4,096"),
        (["data", "check", "a", "--image-size", str(2**32)], "--image-size is 4,294,967,296"),
        (["data", "check", "a", "--out="], "--out is empty"),
        (["export", "a", "--out="], "is empty"),
    ],
)
def test_what_no_machine_has_is_one_line(tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1
