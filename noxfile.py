"""Sessions that install the package as others do: `pip install nox`, then `nox -l` and `nox -s NAME`.

newest: all tests with the newest releases of everything, on each Python that is here.
oldest: the tests that touch other people's interfaces, with the oldest releases that pyproject.toml allows.
wheel:  builds the wheel and uses it from a folder without sources.
"""

from __future__ import annotations

from pathlib import Path

import nox

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
OLDEST = "3.10"

INTERFACES = [
    "tests/datamodules/test_base.py",
    "tests/eval/metrics/test_frechet.py",
    "tests/eval/judges/test_features.py",
    "tests/eval/pages/test_report.py",
    "tests/experiments/training/test_checkpoints.py",
    "tests/experiments/test_cli.py",
    "tests/experiments/publishing/test_export.py",
    "tests/experiments/training/test_lightning_cli.py",
    "tests/experiments/training/test_paper_configs.py",
    "tests/experiments/costs/test_plan.py",
    "tests/experiments/training/test_resume.py",
    "tests/experiments/training/test_resume_ranks.py",
    "tests/experiments/training/test_resume_stages.py",
    "tests/experiments/costs/test_table3.py",
    "tests/modules/clip/test_trainer.py",
    "tests/modules/clip/test_clip_features.py",
    "tests/modules/test_pipeline.py",
    "tests/modules/training/test_precision.py",
    "tests/modules/training/test_stage.py",
    "tests/modules/models/test_exports.py",
    "tests/modules/networks",
    "tests/modules/distributed",
]

nox.options.sessions = ["newest", "oldest", "wheel"]
nox.options.error_on_missing_interpreters = False
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@nox.session(python=PYTHONS)
def newest(session: nox.Session) -> None:
    """All tests with the newest releases."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "pytest", *session.posargs, env=ONE_THREAD)


@nox.session(python=OLDEST)
def oldest(session: nox.Session) -> None:
    """The interfaces with the oldest releases allowed: lower bounds are what is tested here, or are changed."""
    pins = Path(session.create_tmp()) / "oldest.txt"
    session.install("uv")
    resolve = ["uv", "pip", "compile", "--quiet", "--resolution", "lowest-direct", "--python-version", OLDEST]
    extras = [word for name in ("emoji", "hf", "parquet", "wds") for word in ("--extra", name)]
    session.run(*resolve, *extras, "pyproject.toml", "--output-file", str(pins))
    session.run("uv", "pip", "install", "--python", session.virtualenv.location, "-r", str(pins))
    # The tests' own tools may be of any age.
    session.run("uv", "pip", "install", "--python", session.virtualenv.location, "-c", str(pins), "-e", ".[dev]")
    session.run("python", "-m", "pytest", *(session.posargs or INTERFACES), env=ONE_THREAD)


@nox.session(python=PYTHONS)
def wheel(session: nox.Session) -> None:
    """The built wheel holds its YAMLs, templates and vocabulary, and works where there are no sources."""
    dist = Path(session.create_tmp()).resolve()
    session.install("build")
    session.run("python", "-m", "build", "--wheel", "--outdir", str(dist), ".")
    built = max(dist.glob("unclip-*.whl"), key=lambda path: path.stat().st_mtime)
    session.install("--force-reinstall", f"{built}")
    with session.chdir(session.create_tmp()):
        session.run("unclip", "--help")
        session.run("unclip", "--version")
        check = (
            "import subprocess, sys, experiments; from pathlib import Path; "
            "folder = Path(experiments.__file__).parent; "
            "assert 'site-packages' in str(folder), folder; "
            "files = sorted(folder.rglob('*.yaml')); assert len(files) > 30, files; "
            "config = str(folder / 'quickstart' / 'clip.yaml'); "
            "sys.exit(subprocess.call(['unclip', 'fit', '--config', config, '--print_config']))"
        )
        session.run("python", "-c", check)
        # Paths below experiments/ are found beside the package: here there is no such folder.
        session.run("unclip", "fit", "--config", "experiments/emoji/clip.yaml", "--print_config")
        session.run("unclip", "reproduce", "quickstart", "--dry-run")
        session.run("unclip", "reproduce", "experiments/shapes/suite.yaml", "--dry-run")
        session.run("unclip", "table3")
        session.run("unclip", "reproduce", "quickstart", "--only", "linear_prior", "--emit", "shell")
