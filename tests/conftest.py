"""Tiny stages with random weights, and a run folder of them: shared by the tests of several folders."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

# A shell's background jobs start with Ctrl-C ignored, and pass that on to the processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

TOGETHER = ("tests/modules/distributed/",)
"""Folders whose files share what takes long to make: `--dist loadfile` gives them to one process, as one file."""

LONGEST_FIRST = (
    "tests/experiments/costs/test_plan.py",
    "tests/modules/distributed/",
    "tests/experiments/test_whole.py",
    "tests/experiments/suites/test_forking.py",
    "tests/modules/test_decoder.py",
    "tests/experiments/own_data/test_new.py",
    "tests/experiments/training/test_resume_stages.py",
    "tests/experiments/demo/test_page.py",
    "tests/experiments/evaluation/test_evaluate.py",
    "tests/experiments/training/test_resume.py",
    "tests/experiments/sampling/test_drawing.py",
    "tests/experiments/embeddings/test_embed_processes.py",
    "tests/modules/pretrained/test_importing.py",
    "tests/experiments/training/test_resume_ranks.py",
    "tests/modules/test_upsampler.py",
    "tests/modules/distillation/test_distilled_decoder.py",
    "tests/test_extending.py",
    "tests/experiments/suites/test_reproduce.py",
    "tests/test_docs.py",
    "tests/experiments/data/test_formats.py",
    "tests/experiments/test_start.py",
)
"""What takes half of the time: processes begin with it, so that none has much to do when the others are done."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In the processes of pytest-xdist: LONGEST_FIRST."""
    if hasattr(config, "workerinput"):
        places = {name: k for k, name in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: min((places[n] for n in places if item.nodeid.startswith(n)), default=len(places)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`, with TOGETHER, and in the order in which the processes have the tests."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return next((folder for folder in TOGETHER if file.startswith(folder)), file)

    config.option.loadscopereorder = False  # It would begin with the files that have the most tests.
    return Scheduling(config, log)


DIM, CONTEXT, VOCABULARY_SIZE = 16, 20, 30
SIZES = {"train_size": 64, "val_size": 12, "test_size": 12}

CLIP = {
    "embed_dim": DIM,
    "vision_cfg": {"layers": 1, "width": 16, "head_width": 8, "image_size": 16, "patch_size": 4},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": VOCABULARY_SIZE, "width": 16, "heads": 2, "layers": 1},
}
TEXT = {"vocab_size": VOCABULARY_SIZE, "context_length": CONTEXT}
TRANSFORMER = {"width": 16, "depth": 2, "heads": 2}
CODES = {"num_codes": 6, "num_buckets": 8, "num_dot_buckets": 4}
UNET = {"channels": 8, "channel_multipliers": [1, 2], "depth": 1, "head_channels": 8, "image_size": 16, "patch_size": 2}
DECODER = {**TEXT, "text_width": 8, "text_depth": 1, "text_heads": 2, "learned_sigma": False}
X0 = {"parameterization": "x0", "weighting": "min_snr_plus_one"}
SOLVER = {"name": "dpm_solver_pp", "steps": 3}

STAGES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "linear_prior": (
        "modules.linear_prior.LinearPrior",
        "modules.networks.priors.linear_prior.LinearPriorNetwork",
        {"embedding_dim": DIM},
        {},
    ),
    "ar_prior": (
        "modules.ar_prior.ARPrior",
        "modules.networks.priors.ar_prior.ARPriorNetwork",
        {"embedding_dim": DIM, **CODES, **TEXT, **TRANSFORMER},
        {"codec": {"embedding_dim": DIM, **CODES}, "guidance_scale": 1.5, "percentile": 50.0},
    ),
    "diffusion_prior": (
        "modules.diffusion_prior.DiffusionPrior",
        "modules.networks.priors.diffusion_prior.DiffusionPriorNetwork",
        {"embedding_dim": DIM, **TEXT, **TRANSFORMER},
        {
            "objective": {"parameterization": "x0"},
            "sampler": {"name": "analytic_dpm", "steps": 4, "spacing": "adm", "guidance_scale": 1.5, "threshold": None},
        },
    ),
    "decoder": (
        "modules.decoder.Decoder",
        "modules.networks.decoder.DecoderNetwork",
        {"unet": {**UNET, "attention_resolutions": [4]}, "embedding_dim": DIM, **DECODER},
        {"objective": X0, "sampler": {**SOLVER, "guidance_scale": 2.0}},
    ),
    "glide": (
        "modules.decoder.Decoder",
        "modules.networks.decoder.DecoderNetwork",
        {"unet": {**UNET, "attention_resolutions": [4]}, "embedding_dim": None, **DECODER},
        {"objective": X0, "sampler": SOLVER, "drop_text": 0.2},
    ),
    "upsampler": (
        "modules.upsampler.Upsampler",
        "modules.networks.upsampler.UpsamplerNetwork",
        {"unet": {**UNET, "image_size": 32}, "factor": 2, "residual": True},
        {"objective": X0, "sampler": {"name": "dpm_solver_pp", "steps": 2}},
    ),
}
"""Stage -> its class, its network's class, the network's arguments, the stage's other arguments, as YAML has them."""

DALLE: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "dvae": (
        "modules.dalle1.dvae.DVAE",
        "modules.networks.dalle1.dvae.DVAENetwork",
        {"image_size": 16, "num_codes": 6, "width": 8, "multipliers": [1, 2, 2], "blocks": 1, "first_width": 8},
        {},
    ),
    "token_transformer": (
        "modules.dalle1.token_transformer.TokenTransformer",
        "modules.networks.dalle1.token_transformer.TokenTransformerNetwork",
        {"num_codes": 6, "grid": 4, "kernel": 3, **TEXT, **TRANSFORMER},
        {"dvae": "not read"},
    ),
}
"""The same of DALL-E 1, whose stages no other test trains."""

MODELS = {
    "dvae": "modules.models.dalle1.dvae.DVAEModel",
    "token_transformer": "modules.models.dalle1.token_transformer.TokenTransformerModel",
}
"""The models that an export has to name; those of the other stages follow from their class."""


def named(path: str) -> Any:
    """The class of a class_path."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def make_network(stage: str, **changes: Any) -> Any:
    """A stage's network with fresh weights."""
    import torch

    from modules.networks.unet import UNetConfig

    _, path, arguments, _ = {**STAGES, **DALLE}[stage]
    arguments = {**arguments, **changes}
    if "unet" in arguments:
        unet = {key: tuple(v) if isinstance(v, list) else v for key, v in arguments["unet"].items()}
        arguments["unet"] = UNetConfig(**unet)
    torch.manual_seed(0)
    return named(path)(**arguments)


def make_stage(stage: str, network: Any = None, **changes: Any) -> Any:
    """A stage, "clip" among them, around a network, by default one with fresh weights."""
    import torch

    from modules.clip import CLIPTrainer
    from modules.models.configs import Objective, SamplerConfig
    from modules.models.priors.embedding_codec import EmbeddingCodec
    from modules.training.stage import TrainingConfig

    changes = {"training": TrainingConfig(ema_decay=0.5, warmup_steps=1), **changes}
    if stage == "clip":
        torch.manual_seed(0)
        return CLIPTrainer(**{**CLIP, **changes})
    path, _, _, arguments = STAGES[stage]
    made = {**arguments, **changes}
    kinds = {"codec": EmbeddingCodec, "objective": Objective, "sampler": SamplerConfig}
    for key, kind in kinds.items():
        if isinstance(made.get(key), dict):
            made[key] = kind(**made[key])
    return named(path)(make_network(stage) if network is None else network, **made)


def randomise(network: Any, seed: int = 0) -> Any:
    """All weights drawn anew, those that start as zero too, so that everything has an effect on the output."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
            noise = torch.randn(parameter.shape, generator=generator) * fan_in**-0.5
            parameter.copy_(noise if parameter.ndim > 1 else parameter + noise)
    return network.eval()


def write_clip(folder: Path, seed: int = 0, words: list[str] | None = None) -> Path:
    """A CLIP folder with random weights."""
    import torch

    from datamodules.rendered.scenes import VOCABULARY
    from modules.clip import CLIPTrainer
    from modules.clip.word_tokenizer import WordTokenizer

    torch.manual_seed(seed)
    trainer = CLIPTrainer(**CLIP)
    trainer.tokenize = WordTokenizer(sorted(VOCABULARY) if words is None else words, VOCABULARY_SIZE, CONTEXT)
    folder.mkdir(parents=True, exist_ok=True)
    trainer.export(folder)
    return folder / "export"


def write_stage(
    folder: Path, stage: str, network: Any, extra: dict[str, Any] | None = None, clip: str | None = None, **changes: Any
) -> Path:
    """A stage's export, as training on the embeddings of the CLIP of that fingerprint leaves it."""
    import yaml
    from safetensors.torch import save_file

    path, network_path, network_arguments, arguments = {**STAGES, **DALLE}[stage]
    export = folder / "export"
    export.mkdir(parents=True, exist_ok=True)
    config = {
        "class_path": path,
        "init_args": {
            "network": {"class_path": network_path, "init_args": network_arguments},
            **arguments,
            "training": {"ema_decay": 0.99},
            **changes,
        },
        "clip_fingerprint": clip,
        **({"model": MODELS[stage]} if stage in MODELS else {}),
    }
    (export / "config.yaml").write_text(yaml.safe_dump(config))
    save_file({**network.state_dict(), **(extra or {})}, export / "model.safetensors")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Callable[..., Any]:
    """Runs a function in a process for which a folder, `.path`, is a disk of its own; it is as small as one wants.

    `small_disk(size, work)` gives the exit code that `work()` returns (negative: the signal that ended it), what it
    printed on stderr, and the files that it leaves on the disk.
    """
    from types import SimpleNamespace

    disk = tmp_path / "disk"
    disk.mkdir()

    def run(size: str, work: Callable[[], int], seconds: float = 120) -> Any:
        said, left = tmp_path / "said.txt", tmp_path / "left.txt"
        child = os.fork()  # All is imported already; a fresh process would take seconds for that.
        if child == 0:
            code = 70
            try:
                os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
                sys.stderr = os.fdopen(2, "w", closefd=False)
                code = 77 if not mount_disk(disk, size) else work()
                sys.stderr.flush()
                left.write_text("\n".join(str(path) for path in disk.rglob("*") if path.is_file()))
            finally:
                os._exit(code)
        end = time.monotonic() + seconds
        while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.02)
        code = os.waitstatus_to_exitcode(done[1])
        if code == 77:
            pytest.skip("no small disk may be mounted here")
        return SimpleNamespace(code=code, error=said.read_text(), files=left.read_text().split() if code >= 0 else [])

    run.path = disk  # type: ignore[attr-defined]
    return run


def mount_disk(place: Path, size: str) -> bool:
    """Mount a disk in memory, for this process alone; False where that is not allowed."""
    import ctypes

    import torch

    torch.set_num_threads(1)  # Those of before the fork are not here.
    libc = ctypes.CDLL(None)
    new_mounts, private = 0x00020000, 0x4000 | 0x40000
    if not hasattr(libc, "unshare") or libc.unshare(new_mounts) != 0:
        return False
    libc.mount(b"none", b"/", None, private, None)
    return bool(libc.mount(b"tmpfs", str(place).encode(), b"tmpfs", 0, f"size={size}".encode()) == 0)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The words of the stages that a runner of suites starts as programs.

    They are forked from a process that has imported what they need, which saves seconds for each.
    """
    from benchmarks.trials.forked import Forked

    started: list[list[str]] = []

    class Program(Forked):
        """With what the runner uses of `experiments.suites.processes.StageProcess`."""

        def __init__(self, words: list[str], env: dict[str, str], log: Path, lock: Path) -> None:
            started.append(words)
            super().__init__(words[1:], Path.cwd(), env, log)

        code, send = Forked.returncode, Forked.send_signal

    monkeypatch.setattr("experiments.suites.runner.StageProcess", Program)
    return started


@pytest.fixture
def quick_stages(programs: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner of suites starts no process to fork its stages from: they are forked from that of `programs`."""
    monkeypatch.setattr("experiments.suites.runner.forkable", lambda *_: False)


@pytest.fixture(scope="session")
def tiny() -> Any:
    """What this file holds: `tiny.STAGES`, `tiny.make_network`, ..."""
    from types import SimpleNamespace

    return SimpleNamespace(**{name: value for name, value in globals().items() if not name.startswith("_")})


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP folder with random weights; not to be written to."""
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def embeddings(clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That CLIP's embeddings of the shapes of `shapes`; not to be written to."""
    from datamodules.shapes import ShapesDataModule
    from experiments.embeddings.embed import embed
    from modules.clip.frozen import FrozenCLIP

    folder = tmp_path_factory.mktemp("embeddings")
    embed(ShapesDataModule(16, **SIZES, cache_dir=None), FrozenCLIP(str(clip_folder)), folder)
    return folder


@pytest.fixture(scope="session")
def shapes(embeddings: Path) -> Callable[..., Any]:
    """Makes a ShapesDataModule of 16 px with embeddings."""
    from datamodules.shapes import ShapesDataModule

    def make(**changes: Any) -> ShapesDataModule:
        settings = {"image_size": 16, "batch_size": 8, **SIZES, "embeddings": str(embeddings), "cache_dir": None}
        return ShapesDataModule(**{**settings, **changes})

    return make


@pytest.fixture(scope="session")
def stored_run(embeddings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with every stage, of random weights; not to be written to."""
    import torch

    from datamodules.embeddings.folder import open_embeddings
    from modules.diffusion.analytic import ScoreStatistics
    from modules.diffusion.schedules import cosine, respace
    from modules.models.priors.embedding_codec import EmbeddingCodec

    run = tmp_path_factory.mktemp("runs") / "tiny"
    write_clip(run / "clip")
    extra: dict[str, dict[str, Any]] = {}
    codec = EmbeddingCodec(DIM, **CODES)
    opened = open_embeddings(embeddings)
    rows = opened.rows("train")[range(SIZES["train_size"])]
    codec.fit(rows.z_i, rows.z_t)
    extra["ar_prior"] = {f"codec.{name}": tensor for name, tensor in codec.state_dict().items()}
    steps = respace(cosine(1000), 4, "adm").timesteps
    statistics = ScoreStatistics(steps, torch.full((len(steps),), 0.9, dtype=torch.float64), 0.3, 64)
    extra["diffusion_prior"] = {f"statistics.{name}": tensor for name, tensor in statistics.to_tensors().items()}
    for seed, stage in enumerate([*STAGES, *DALLE]):
        write_stage(
            run / stage, stage, randomise(make_network(stage), seed), extra.get(stage), opened.info.clip_fingerprint
        )
    return run


@pytest.fixture(scope="session")
def chained_run(stored_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`stored_run` with the paper's two upsamplers, which make 32 and 64 px here; not to be written to."""
    import shutil

    run = tmp_path_factory.mktemp("chained") / "run"
    shutil.copytree(stored_run, run)
    shutil.rmtree(run / "upsampler")
    for seed, name in enumerate(("upsampler_1024", "upsampler_256")):
        write_stage(run / name, "upsampler", randomise(make_network("upsampler"), seed))
    return run


def fit(module: Any, data: Any, steps: int, root: Path, resumed: Path | None = None, **trainer: Any) -> Any:
    """Train with a Trainer that is set up as `unclip fit` does it; returns the Trainer."""
    import lightning
    import torch

    from experiments.console.quiet import quiet
    from experiments.training.checkpoints import AtomicCheckpointIO

    quiet()
    torch.manual_seed(0)
    settings = {
        "max_steps": steps,
        "accelerator": "cpu",
        "default_root_dir": str(root),
        "check_val_every_n_epoch": None,
        "val_check_interval": steps,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "gradient_clip_val": 1.0,
        "plugins": [AtomicCheckpointIO()],
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    }
    made = lightning.Trainer(**{**settings, **trainer})
    made.fit(module, datamodule=data, ckpt_path=resumed)
    return made


def repeat(data: Any, batch: Any, steps: int) -> Any:
    """The same DataModule, but every training batch is `batch`."""
    from torch.utils.data import DataLoader

    data.train_dataloader = lambda: DataLoader([batch] * steps, batch_size=None)
    return data


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A model hub on this machine (tests/experiments/publishing/hub_server.py), which huggingface_hub asks."""
    from huggingface_hub import constants

    found = runpy.run_path(str(Path(__file__).parent / "experiments" / "publishing" / "hub_server.py"))
    monkeypatch.setenv("HF_TOKEN", found["TOKEN"])
    with found["serving"]() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        yield server


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A COCO folder: twelve images of several shapes (one grey, one with transparency), two captions each."""
    import json

    import numpy as np
    from PIL import Image

    root, rng = tmp_path / "coco", np.random.default_rng(0)
    (root / "val2014").mkdir(parents=True)
    images, annotations = [], []
    for k in range(12):
        name = f"COCO_val2014_{k:012d}.{'png' if k == 1 else 'jpg'}"
        pixels = rng.integers(0, 256, (20 + 3 * (k % 4), 20 + 5 * (k % 3), 4 if k == 1 else 3), dtype=np.uint8)
        picture = Image.fromarray(pixels)
        (picture.convert("L") if k == 0 else picture).save(root / "val2014" / name)
        images.append({"id": 100 + k, "file_name": name, "height": pixels.shape[0], "width": pixels.shape[1]})
        annotations += [
            {"id": 50 - 2 * k - j, "image_id": 100 + k, "caption": f"A thing {k},\n view {j} "} for j in (0, 1)
        ]
    content = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
    (root / "captions_val2014.json").write_text(json.dumps(content))
    return root
