"""Every suite in experiments/: its stages name what is there, and every config builds the stage that it is for."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from benchmarks.made_up_data.formats import write_package
from experiments.console.configs import read_config
from experiments.suites.replicas import replica
from experiments.suites.suite import fit_folder, load_suite
from experiments.training.config_checks import check_data, check_settings

SUITES = sorted(Path("experiments").glob("*/suite.yaml"))
LOADED = {path: load_suite(path) for path in SUITES}
FITS = [(path, name) for path, suite in LOADED.items() for name, stage in suite.stages.items() if stage.is_fit]


@pytest.mark.parametrize("path", SUITES, ids=str)
def test_stages_read_what_earlier_ones_leave(path):
    suite = LOADED[path]
    folder = {name: output for name, stage in suite.stages.items() for output in stage.outputs}
    for name, stage in suite.stages.items():
        for config in stage.configs(suite.run):
            assert Path(config).exists()
        for needed in stage.needs:
            assert list(folder).index(needed) < list(folder).index(name)
        if stage.is_fit:
            assert stage.outputs[0].startswith(f"{name}/export/")


@pytest.mark.parametrize("path", SUITES, ids=str)
def test_a_suite_can_run_elsewhere(path, tmp_path, monkeypatch):
    """--run and --seeds: no stage trains into, or reads from, the suite's own folder."""
    suite = load_suite(path, tmp_path / "mine")
    own = str(LOADED[path].run)
    monkeypatch.setenv("UNCLIP_RUN", str(suite.run))
    for name, stage in suite.stages.items():
        files = [OmegaConf.create(read_config(Path(file))) for file in stage.configs(suite.run)]
        text = str(OmegaConf.to_container(OmegaConf.merge(*files), resolve=True)) if files else ""
        assert own not in text.replace("runs/cache", "") and own not in stage.text(suite.run)
        if stage.is_fit:
            assert fit_folder(stage, suite) == suite.run / name
            assert fit_folder(stage, replica(suite, 1)) == suite.run / "seeds" / "1" / name


def write_drawings(folder: Path, prefixes: tuple[str, ...] = ("red", "blue")) -> Path:
    """Icon sets of 100 things each, as the drawings suite wants them from npm."""
    folder.mkdir()
    names = {f"thing-{k}": f"{0x1F400 + k:x}" for k in range(100)}
    body = '<circle cx="8" cy="8" r="7" fill="#f00"/>'
    for prefix in prefixes:
        licence = {"title": "MIT", "spdx": "MIT", "url": "https://example.org"}
        files = {
            "icons.json": {"prefix": prefix, "icons": {name: {"body": body} for name in names}, "height": 16},
            "info.json": {"prefix": prefix, "name": prefix, "author": {"name": "A"}, "license": licence},
            "package.json": {"name": f"@iconify-json/{prefix}", "version": "1.2.3"},
            "chars.json": {code: name for name, code in names.items()},
        }
        write_package(folder, files, "1.2.3")
    return folder


@pytest.mark.parametrize(("path", "name"), FITS, ids=[f"{path.parent.name}-{name}" for path, name in FITS])
def test_a_stage_can_be_built(path, name, tmp_path, monkeypatch):
    if path.parent.name in ("emoji", "drawings"):
        pytest.importorskip("resvg_py")
    if path.parent.name == "drawings":
        monkeypatch.setenv("UNCLIP_EMOJI", str(write_drawings(tmp_path / "drawings")))
        monkeypatch.setenv("UNCLIP_MORE_EMOJI", str(write_drawings(tmp_path / "more", ("old",))))
    from experiments.training.lightning_cli import CLI

    suite = LOADED[path]
    words = suite.stages[name].words(suite.run)[2:]
    files = [OmegaConf.create(read_config(Path(file))) for file in suite.stages[name].configs(suite.run)]
    assert OmegaConf.merge(*files).trainer.default_root_dir == str(suite.run / name)
    # Weights to start from (init_from) are those of an earlier stage.
    command = CLI("fit", [*words, f"--trainer.default_root_dir={tmp_path}", "--init_from=null"])
    assert sum(p.numel() for p in command.model.parameters() if p.requires_grad) > 0
    check_settings(command.model, command.datamodule)
    if getattr(command.datamodule, "embeddings", None):
        command.datamodule.embeddings = None  # They are made by an earlier stage.
        check_data(command.model, command.datamodule)
    data = command.config.data.init_args
    folder = data.get("embeddings") or data.get("folder")
    made = [need for need in suite.stages[name].needs if need.startswith("embeddings")]
    assert folder == (str(suite.run / made[0]) if made else None)


@pytest.mark.parametrize("path", SUITES, ids=str)
def test_weights_that_a_training_starts_from_are_of_a_stage_before_it(path):
    suite = LOADED[path]
    for stage in suite.stages.values():
        for config in [read_config(Path(file)) for file in stage.configs(suite.run)]:
            if config.get("init_from"):
                start = Path(OmegaConf.to_container(OmegaConf.create({"x": config["init_from"]}), resolve=True)["x"])
                assert start.parent == suite.run and start.name in stage.needs


@pytest.mark.parametrize("path", SUITES, ids=str)
def test_samples_can_be_made_again(path):
    """A stage whose declared output is one file of a folder meets the rest of that folder when it runs anew."""
    for stage in LOADED[path].stages.values():
        if stage.run.startswith(("unclip sample", "unclip data export")):
            assert "--overwrite" in stage.run.split()


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("quickstart", ("report", "tables", "figures")),
        ("shapes", ("report", "tables", "figures")),
        ("dalle1", ("report_dalle", "figures_dalle")),
    ],
)
def test_report_tables_and_figures_wait_for_the_same_results(name, stages):
    """All read what the other stages have measured, and none reads another's files: they can run side by side."""
    suite = LOADED[Path("experiments", name, "suite.yaml")]
    needs = [set(suite.stages[stage].needs) for stage in stages]
    assert all(found == needs[0] for found in needs) and not needs[0] & set(stages)
