"""Commit and configuration hash."""

import re
import subprocess
from pathlib import Path

from experiments.storage.provenance import commit, config_hash


def git(folder, *words):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True)


def test_the_commit_and_whether_files_have_changed_since(tmp_path):
    git(tmp_path, "init")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "one")
    head = subprocess.run(["git", "-C", tmp_path, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert re.fullmatch("[0-9a-f]{40}", head)
    (tmp_path / "untracked").write_text("1")
    commit.cache_clear()
    assert commit(tmp_path) == head
    (tmp_path / "a").write_text("2")
    commit.cache_clear()
    assert commit(tmp_path) == head + "+"


def test_no_commit_outside_git_or_inside_another_repository(tmp_path, monkeypatch):
    (tmp_path / "bare").mkdir()
    assert commit(tmp_path / "bare") is None
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "one")
    commit.cache_clear()
    assert commit(tmp_path) is not None
    (tmp_path / "site-packages").mkdir()
    assert commit(tmp_path / "site-packages") is None
    monkeypatch.setenv("PATH", "")
    commit.cache_clear()
    assert commit(tmp_path) is None


def test_the_hash_is_of_values_not_of_order():
    config = {"a": 1, "b": {"c": [1, 2.5, None], "d": Path("x")}}
    assert re.fullmatch("[0-9a-f]{12}", config_hash(config))
    assert config_hash({"b": {"d": "x", "c": [1, 2.5, None]}, "a": 1}) == config_hash(config)
    assert config_hash({"a": 1, "b": {"c": [2.5, 1, None], "d": "x"}}) != config_hash(config)
    assert config_hash({"a": 1}) != config_hash({"a": "1"})
