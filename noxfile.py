"""Sessions that install the package as others do: `pip install nox`, then `nox -l` and `nox -s NAME`.

newest: all tests with the newest releases of everything, on each Python that is here.
oldest: the tests that touch other people's interfaces, with the oldest releases that pyproject.toml allows.
wheel:  builds the wheel and uses it from a folder without sources.
cpus:   the tests that a CPU's rounding or speed may change, as other CPUs round and with both cores busy.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nox
from nox.command import CommandFailed

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

# Tests that compare a number with a threshold after many roundings, look at what a training has learned, or wait for
# something to happen in another process.
SENSITIVE = (
    "tests/benchmarks/trials/test_reliability.py",
    "tests/datamodules/rendered/test_cache.py",
    "tests/datamodules/test_base.py",
    "tests/eval/judges/test_attributes.py",
    "tests/eval/judges/test_features.py",
    "tests/eval/metrics/test_frechet.py",
    "tests/eval/metrics/test_kernel.py",
    "tests/eval/judges/test_probes.py",
    "tests/experiments/embeddings/test_embed_processes.py",
    "tests/experiments/suites/test_emit.py",
    "tests/experiments/training/test_learned_sigma.py",
    "tests/experiments/suites/test_reproduce.py",
    "tests/experiments/training/test_resume.py",
    "tests/experiments/training/test_resume_ranks.py",
    "tests/experiments/sweeps/test_sweep.py",
    "tests/modules/diffusion",
    "tests/modules/distributed",
    "tests/modules/networks",
    "tests/modules/test_ar_prior.py",
    "tests/modules/clip/test_trainer.py",
    "tests/modules/clip/test_clip_features.py",
    "tests/modules/test_decoder.py",
    "tests/modules/test_diffusion_prior.py",
    "tests/modules/distillation/test_distilled_decoder.py",
    "tests/modules/test_linear_prior.py",
    "tests/modules/training/test_precision.py",
    "tests/modules/models/test_sampling.py",
    "tests/modules/test_upsampler.py",
)

# Instruction sets for torch's own kernels, for oneDNN's convolutions and for MKL's products; a CPU that lacks one
# takes the best that it has.
CPUS = {
    "without AVX": {"ATEN_CPU_CAPABILITY": "default", "DNNL_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
    "torch without AVX": {"ATEN_CPU_CAPABILITY": "default"},
    "torch with AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "oneDNN with SSE4.1": {"DNNL_MAX_CPU_ISA": "SSE41"},
    "oneDNN with AVX2": {"DNNL_MAX_CPU_ISA": "AVX2"},
    "two threads": {"OMP_NUM_THREADS": "2"},
    "busy": {},
}

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
            "import subprocess, sys, experiments, unclip; from pathlib import Path; "
            "assert unclip.__version__ and Path(unclip.__file__).with_name('py.typed').is_file(); "
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


@nox.session
def cpus(session: nox.Session) -> None:
    """The sensitive tests (or those given after --) on each of CPUS; "busy" has a process beside it on every core."""
    session.install("-e", ".[dev]")
    failed = []
    for name, variables in CPUS.items():
        session.log(f"{name}: {variables or 'every core has other work'}")
        try:
            with busy_cores(name == "busy"):
                session.run("python", "-m", "pytest", *(session.posargs or SENSITIVE), env=ONE_THREAD | variables)
        except CommandFailed:
            failed.append(name)
    if failed:
        session.error(f"tests failed on: {', '.join(failed)}")


@contextmanager
def busy_cores(wanted: bool) -> Iterator[None]:
    """If wanted: a process that never rests on each core."""
    count = (os.cpu_count() or 1) if wanted else 0
    loads = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for load in loads:
            load.kill()
            load.wait()
