"""DALL-E's suite begins with the quickstart's own stages: in a finished quickstart run they are done already."""

from __future__ import annotations

from pathlib import Path

from experiments.suites.suite import load_suite


def test_the_first_stages_are_the_quickstarts_word_for_word():
    quickstart, dalle = (load_suite(Path(f"experiments/{name}/suite.yaml")) for name in ("quickstart", "dalle1"))
    shared = [name for name in dalle.stages if name in quickstart.stages]
    assert {"real", "reference", "clip", "embeddings", "upsampler", "eval_clip", "classifier"} <= set(shared)
    assert {name: dalle.stages[name].run for name in shared} == {name: quickstart.stages[name].run for name in shared}
    assert {name: dalle.stages[name].outputs for name in shared} == {
        name: quickstart.stages[name].outputs for name in shared
    }
    assert dalle.run == quickstart.run
