"""Model cards: what a trained stage is, what it was trained on and how, how good it is, and how it is loaded."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from safetensors import SafetensorError

from eval.errors import InputError as EvalInputError
from eval.figures.curves import read_curves
from eval.runs import Run
from eval.samples.conditions import REAL
from eval.samples.folder import MANIFEST
from eval.samples.manifest import read_manifest
from eval.tables.hyperparameters import lookup
from eval.tables.main import main_table
from modules.aliases import today
from modules.clip.frozen import CONFIG_FILE
from modules.conditions import CONDITIONS
from modules.errors import InputError
from modules.models.exports import export_folder
from modules.models.licences import BETWEEN, attribution_of, card_text, joined, licence_of
from modules.untrusted.eight_bits import SCALE
from modules.untrusted.reading import printable, read_yaml
from modules.untrusted.weights import check_header, file_hash, header_of

CARD = "README.md"

OWN_DATA = ("datamodules.shapes.ShapesDataModule",)
"""Data sets that this package draws itself, so that its own licence is all there is."""

ATTRIBUTIONS = {
    "datamodules.emoji.EmojiDataModule": "OpenMoji (https://openmoji.org), CC BY-SA 4.0",
    "datamodules.emoji_styles.EmojiStylesDataModule": "the authors of the icon sets, as `unclip data check` lists them",
}
"""Whom the licences of our own data sets want to be named. A run's config may name any class: nothing of it is made."""

PLACES = ("folder", "packages", "training_packages", "path", "name", "train")
"""Arguments of data modules that say which data they read."""

ASKED = {
    "CC BY-SA 4.0": (
        "cc-by-sa-4.0",
        "name author and licence, say that it was changed, pass it on under this or a compatible licence",
    ),
    "CC BY 4.0": ("cc-by-4.0", "name the author and the licence, and say that it was changed"),
    "Apache 2.0": ("apache-2.0", "keep its notices and text, and say what was changed"),
    "MIT": ("mit", "keep its copyright notice and text"),
}
"""Licences of drawings: how model hubs write them, and what they ask, in short; the strictest about passing on first.

Whether they reach weights is not settled; a card takes it that they do.
"""

WHAT = {
    "CLIPTrainer": "CLIP, which embeds captions and images (unCLIP, section 2 and appendix C)",
    "LinearPrior": "a linear prior: CLIP text embedding to CLIP image embedding",
    "ARPrior": "the autoregressive prior: caption to the codes of a CLIP image embedding (unCLIP, section 2.2)",
    "DiffusionPrior": "the diffusion prior: caption to CLIP image embedding (unCLIP, section 2.2)",
    "EclipsePrior": "ECLIPSE's prior: caption and noise to CLIP image embedding, in one step (2312.04655)",
    "Decoder": "a decoder: CLIP image embedding and caption to image (unCLIP, section 2.1)",
    "DistilledDecoder": "a decoder that has learned its teacher's guidance: CLIP image embedding and caption to image",
    "DVAE": "a discrete VAE: image to a grid of tokens and back (DALL-E 1, section 2.1)",
    "TokenTransformer": "DALL-E 1's Transformer: caption to the tokens of an image (DALL-E 1, section 2.2)",
    "Upsampler": "an upsampler: image to larger image (unCLIP, section 2.1)",
    "DistilledUpsampler": "an upsampler that does in one step what its teacher does in two: image to larger image",
    "AttributeClassifier": "a classifier of what captions mention; it judges pictures and draws none",
}
GLIDE = "a decoder of captions alone, as GLIDE (unCLIP's baseline)"

EXAMPLE = "a small red circle"
NAMING = "attribution: "

IMPORTED = "Imported by `unclip import`"
"""What the card of a released stage says."""


def stage_card(run: Run, name: str, out: Path, weights: Path) -> str:
    """The card of one stage, as Markdown with the front matter that model hubs read.

    That of an imported stage stays the release's, with its licence.

    Args:
        run, name: the stage.
        out: the folder that is made.
        weights: the file of weights in it, as it is given away.

    Raises:
        InputError: the stage's config or weights are not such as `unclip fit` writes.
    """
    try:
        return _imported_card(run, name, out, weights) or _stage_card(run, name, out, weights)
    except (AttributeError, KeyError, TypeError, ValueError, SafetensorError) as error:
        if isinstance(error, (InputError, EvalInputError)):
            raise
        raise InputError(
            f"{run.path / name} cannot be described ({printable(str(error)[:200])}): its config.yaml is not one that "
            "`unclip fit` writes"
        ) from error


def _imported_card(run: Run, name: str, out: Path, weights: Path) -> str | None:
    """The card that `unclip import` wrote, of the weights as they are given away; None for a stage of a training."""
    folder = export_folder(run.path / name)
    text = card_text(folder / CARD) if (folder / CARD).is_file() else ""
    if IMPORTED not in text:
        return None
    text = re.sub(r"^- weights: .*$", lambda _: _weights(weights), text, count=1, flags=re.MULTILINE)
    return (
        "\n".join([text.rstrip(), "", "## Load it", "", "```python", _load(name, folder, out, example(run)), "```"])
        + "\n"
    )


def _stage_card(run: Run, name: str, out: Path, weights: Path) -> str:
    folder, config = export_folder(run.path / name), settings(run.path / name / "config.yaml")
    (licence, source), own = _data(run, config), licence_of(folder)
    front = {
        "license": licence if own is None else own.name,
        "library_name": "unclip",
        "pipeline_tag": "text-to-image",
        "tags": ["unclip", "dall-e-2", name],
    }
    body = [f"# {printable(f'{run.path.resolve().name}: {name}')}", ""]
    body += _what(folder, config, weights)
    body += ["", "## Trained on", "", *(f"- {line}" for line in [*source, *_training(run, name, folder, config)])]
    body += ["", "## Measured", "", *_measured(run, name)]
    body += ["", "## Licence", ""]
    body += [] if own is None else [f"The weights come from {own.of}. {own.text}", ""]
    body += [_licence(licence, source)]
    body += ["", "## Load it", "", "```python", _load(name, folder, out, example(run)), "```"]
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n" + "\n".join(body) + "\n"


def overview(run: Run, names: list[str], place: str) -> str:
    """The card of the whole folder, with the front matter that model hubs read.

    Args:
        run: that is exported.
        names: of its stages.
        place: what `UnCLIP.from_run` is to be given.
    """
    title = printable(run.path.resolve().name)
    own = {name: licence_of(export_folder(run.path / name)) for name in names}
    licences = {
        _data(run, settings(run.path / name / "config.yaml"))[0] if found is None else found.name
        for name, found in own.items()
    }
    front = {
        "license": licences.pop() if len(licences) == 1 else "other",
        "library_name": "unclip",
        "pipeline_tag": "text-to-image",
        "tags": ["unclip", "dall-e-2"],
    }
    body = [
        f"# {title}",
        "",
        "A text-to-image system in the way of unCLIP (DALL-E 2, arXiv 2204.06125), made with `unclip`. "
        "One folder for each stage, with a card of its own:",
        "",
        *(
            f"- [{printable(name)}]({quote(name)}/{CARD}): {_kind(run.path / name)}"
            + ("" if found is None else f"; licence {found.name}")
            for name, found in own.items()
        ),
        "",
        "```python",
        "from modules.pipeline import UnCLIP",
        "",
        f"system = UnCLIP.from_run({json.dumps(place, ensure_ascii=False)})",
        f'images = system.generate(["{example(run)}"])  # (1, 3, H, W) in [-1, 1]',
        "```",
        "",
        f'On a command line: `unclip sample "{example(run)}" --run {shlex.quote(place)} --out pictures`.',
    ]
    if run.rows:
        body += ["", main_table(run.rows).markdown().rstrip()]
    trained = [name for name, found in own.items() if found is None]
    if trained:
        body += ["", "## Licence", "", _licence_of_all(run, trained)]
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n" + "\n".join(body) + "\n"


def _licence_of_all(run: Run, names: list[str]) -> str:
    """What the data of all stages that were trained here ask."""
    found = [_data(run, settings(run.path / name / "config.yaml")) for name in names]
    said = [line.removeprefix(NAMING) for _, lines in found for line in lines if line.startswith(NAMING)]
    whom = joined(said)
    free = whom is None and all(licence == "mit" for licence, _ in found)
    return _licence("mit" if free else "other", [] if whom is None else [NAMING + whom])


def example(run: Run) -> str:
    """A caption that the run's models know: the first of its real pictures, else one of shapes."""
    try:
        said = [str(record["caption"]) for record in read_manifest(run.path / "samples" / "real" / MANIFEST)]
    except (EvalInputError, OSError):
        return EXAMPLE
    return next((caption for caption in said if re.fullmatch(r"\w[\w ,.-]{0,99}", caption)), EXAMPLE)


def settings(path: Path) -> dict[str, Any]:
    """The values of a YAML file, with today's class paths; none where it cannot be read."""
    try:
        content = today(read_yaml(path))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _kind(folder: Path) -> str:
    config = settings(folder / "config.yaml")
    name = str(lookup(config, "model.class_path") or "?").rpartition(".")[2]
    network = lookup(config, "model.init_args.network.init_args") or {}
    if name == "?" and (export_folder(folder) / CONFIG_FILE).is_file():
        return WHAT["CLIPTrainer"]
    return GLIDE if name == "Decoder" and network.get("embedding_dim") is None else WHAT.get(name, name)


def parameters(path: Path) -> int:
    """Numbers in a safetensors file, from its header alone."""
    return sum(tensor.numel() for tensor in header_of(path).values())


def _weights(path: Path) -> str:
    size = path.stat().st_size / 1e6
    small = any(name.endswith(SCALE) for name in check_header(path))
    how = " (8-bit integers with a scale for each row)" if small else ""
    return f"- weights: `{path.name}`, {parameters(path):,} numbers{how}, {size:.1f} MB, sha256 `{file_hash(path)}`"


def _what(folder: Path, config: dict[str, Any], weights: Path) -> list[str]:
    lines = [f"{_kind(folder.parent)[0].upper()}{_kind(folder.parent)[1:]}.", ""]
    lines += [f"- class: `{lookup(config, 'model.class_path')}`", _weights(weights)]
    decay = lookup(config, "model.init_args.training.ema_decay")
    if decay is not None:
        lines.append(f"- they are the exponential moving average of training (decay {decay})")
    return lines


def _data(run: Run, config: dict[str, Any]) -> tuple[str, list[str]]:
    """The licence's short name, and lines that say what the data were."""
    data = config.get("data") or {}
    if data.get("class_path") == "datamodules.embeddings.EmbeddingsDataModule":
        folder = lookup(data, "init_args.folder")
        first = next(
            (settings(run.path / name / "config.yaml").get("data") for name in ("decoder", "glide", "clip")), None
        )
        licence, lines = _data(run, {"data": first}) if first else ("other", [])
        return licence, [f"CLIP embeddings (`{folder}`) of:", *lines]
    if not data:
        return "other", ["data that the run does not name"]
    arguments = data.get("init_args") or {}
    shown = [key for key in ("image_size", "train_size", "seed") if key in arguments]
    shown += ["augmented_copies"] if arguments.get("augmented_copies") else []
    listed = ", ".join(f"{key} {arguments[key]}" for key in shown)
    lines = [f"`{data['class_path']}`" + (f" ({listed})" if listed else "")]
    whom = attribution(run, data)
    if whom:
        lines.append(NAMING + whom)
    return ("mit" if data["class_path"] in OWN_DATA else in_short(whom)), lines


def in_short(whom: str | None) -> str:
    """The licence of a card's front matter: the strictest of the data's, as model hubs write it.

    "other" if there is a data set whose licence is not one of `ASKED`. What the others ask stands in the card's text.

    Args:
        whom: data sets with their licences, parted by `BETWEEN`.
    """
    parts = [_named(part) for part in whom.split(BETWEEN)] if whom else []
    if not parts or not all(parts):
        return "other"
    return next(short for name, (short, _) in ASKED.items() if any(name in part for part in parts))


def _named(text: str) -> list[str]:
    """The licences of `ASKED` that an attribution names: behind a bracket, comma or colon, and up to the next one."""
    return [name for name in ASKED if re.search(rf"(?:\(|[,:] ){re.escape(name)}(?=[,);]| \(|$)", text)]


def attribution(run: Run, data: dict[str, Any]) -> str | None:
    """Whom a data set's licence asks to name: what a stage that was trained on it recorded, else what we know of it.

    A CLIP's export records nothing, and stages take the same data in other sizes and batches.
    """
    for folder in sorted(path for path in run.path.iterdir() if path.is_dir()):
        said = attribution_of(export_folder(folder))
        if said is not None and _source(settings(folder / "config.yaml").get("data")) == _source(data):
            return said
    return ATTRIBUTIONS.get(str(data.get("class_path")))


def _source(data: object) -> tuple[str, dict[str, Any]] | None:
    """What says which pictures a data module reads; None for what is no data module."""
    if not isinstance(data, dict) or not isinstance(data.get("init_args") or {}, dict):
        return None
    arguments = {key: value for key, value in (data.get("init_args") or {}).items() if key in PLACES}
    return str(data.get("class_path")), arguments


def _training(run: Run, name: str, folder: Path, config: dict[str, Any]) -> list[str]:
    """Steps, batch, optimiser, seed and time."""
    trainer = config.get("trainer") or {}
    exported = settings(folder / "config.yaml")
    step = exported.get("step") or trainer.get("max_steps")
    factors = [lookup(config, "data.init_args.batch_size"), *(trainer.get(k) for k in ("devices", "num_nodes"))]
    factors.append(trainer.get("accumulate_grad_batches"))
    batch = " x ".join(str(value) for value in factors if value not in (None, 1, "auto")) or "1"
    lines = [f"steps: {step:,}" if isinstance(step, int) else f"steps: {step}", f"samples a step: {batch}"]
    chosen = exported.get("chosen")
    if isinstance(chosen, dict):
        lines[0] += f" of {chosen.get('of_steps')}, chosen by {printable(str(chosen.get('by')))}"
    optimizer = lookup(config, "model.init_args.optimizer") or {}
    if optimizer:
        rate = lookup(optimizer, "init_args.lr")
        lines.append(f"optimiser: {optimizer.get('class_path')}, learning rate {rate}")
    lines.append(f"precision: {trainer.get('precision') or '32-true'}; seed: {config.get('seed_everything', '?')}")
    if config.get("init_from"):
        lines.append(f"fine-tuned from: `{printable(str(config['init_from']))}`")
    if teacher := lookup(config, "model.init_args.teacher"):
        lines.append(f"distilled from: `{printable(str(teacher))}`")
    seconds = run.stages.get(name, {}).get("seconds")
    if seconds:
        lines.append(f"time: {seconds / 60:.1f} minutes")
    return lines


def _measured(run: Run, name: str) -> list[str]:
    """The last validation, and the rows of the main table that this stage has a part in."""
    curves = read_curves(run.path / name)
    last = {key: (steps[-1], values[-1]) for key, (steps, values) in curves.items() if key.startswith("val/") and steps}
    lines = [f"- {key} after step {step:,}: {value:.4g}" for key, (step, value) in sorted(last.items())]
    if name == "clip":
        found = {key: value for key, value in run.probe.items() if not key.endswith("_pairs")}
        lines += ["- linear probe: " + ", ".join(f"{key} {value:.3f}" for key, value in found.items())] if found else []
    part = [key for key, own in CONDITIONS.items() if name in own.stages or name.startswith("upsampler")] + [REAL]
    rows = [row for row in run.rows if row["condition"] in part]
    if any(row["condition"] != REAL for row in rows):
        lines += ["", main_table(rows).markdown().rstrip()]
    return lines or ["Nothing was measured in this run."]


def _licence(licence: str, source: list[str]) -> str:
    named = [line for line in source if line.startswith(NAMING)]
    if licence == "mit" and not named:
        return "MIT, as the package: the data are drawn by the package itself."
    text = (
        "The code is MIT. The weights come from data with a licence of their own, which may bind what is made of them"
    )
    if not named:
        return f"{text}; see to it before you pass them on."
    whom = named[0].removeprefix(NAMING)
    asked = [f"- {name}: {ASKED[name][1]}" for name in _named(whom)]
    heading = ["", "What these licences ask of whoever passes on weights or pictures (others: see their texts):", ""]
    return "\n".join([f"{text}: {whom}.", *(heading if asked else []), *asked])


def _load(name: str, folder: Path, out: Path, caption: str) -> str:
    folder_name = f"{out.name}/{name}"
    place, local = (json.dumps(text, ensure_ascii=False) for text in (folder_name, f"local-dir:{folder_name}"))
    if (folder / CONFIG_FILE).exists():
        return "\n".join(
            [
                "from modules.clip import FrozenCLIP",
                "",
                f"clip = FrozenCLIP({place})  # open_clip reads it too: open_clip.create_model({local})",
                f'z_t = clip.encode_text(clip.tokenize(["{caption}"]))',
            ]
        )
    if not (folder / "config.yaml").is_file() or "init_args" not in settings(folder / "config.yaml"):
        return f"from eval.judges.attributes import load_classifier\n\nclassifier = load_classifier({place})"
    return "\n".join(
        [
            "from modules.models.exports import load_model",
            "",
            f"model = load_model({place}).model  # model.network, model.sample(...)",
        ]
    )
