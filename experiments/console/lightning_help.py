"""The help of `unclip fit`, `validate`, `test` and `predict`, without LightningCLI, which takes seconds to import."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.console.configs import LIGHTNING, config_files
from experiments.console.examples import examples_text

WHAT = {
    "fit": "Train one stage.",
    "validate": "Run a stage's validation loop on a checkpoint.",
    "test": "Measure a stage's checkpoint on the test split.",
    "predict": "Write what a stage's checkpoint predicts for the test split.",
}

PAGE = """\
usage: unclip {command} --config FILE.yaml [--config FILE.yaml ...] [--KEY=VALUE ...] [--ckpt_path PATH]

{what}
A YAML such as experiments/quickstart/decoder.yaml says what is trained, on which data and how.

options:
  -h, --help            show this page; with --config FILE, LightningCLI's own list of that stage's options
  -c, --config FILE     a stage's YAML; may be repeated, and a later file changes settings of the earlier ones
  --print_config        print the whole configuration, defaults included, and run nothing
  --ckpt_path PATH      {checkpoint}
{own}  --trainer.KEY=VALUE   a setting of Lightning's Trainer: trainer.max_steps, trainer.devices, trainer.precision
  --model.init_args.KEY=VALUE
                        a setting of the stage: model.init_args.sampler.steps, model.init_args.training.ema_decay
  --data.init_args.KEY=VALUE
                        a setting of the data: data.init_args.batch_size, data.init_args.num_workers
  --model.help CLASS    list the settings of a stage, as in --model.help modules.decoder.Decoder
  --data.help CLASS     list the settings of a data module, as in --data.help datamodules.shapes.ShapesDataModule
  --seed_everything N   seed of the initial weights (default 0)

stages (model.class_path):
{stages}

data (data.class_path):
{data}

`unclip {command} --config FILE --print_config` lists all settings, with their values.

{examples}"""

STAGES = {
    "modules.clip.CLIPTrainer": "CLIP",
    "modules.ar_prior.ARPrior": "autoregressive prior",
    "modules.diffusion_prior.DiffusionPrior": "diffusion prior",
    "modules.linear_prior.LinearPrior": "linear prior",
    "modules.projection_prior.ProjectionPrior": "prior of one evaluation, by squared error",
    "modules.projection_prior.EclipsePrior": "prior of one evaluation, by ECLIPSE's loss",
    "modules.decoder.Decoder": "decoder, and GLIDE",
    "modules.distillation.decoder.DistilledDecoder": "decoder distilled to few steps",
    "modules.upsampler.Upsampler": "upsampler",
    "modules.distillation.upsampler.DistilledUpsampler": "upsampler distilled to half as many steps",
    "modules.dalle1.dvae.DVAE": "DALL-E 1's discrete VAE",
    "modules.dalle1.token_transformer.TokenTransformer": "DALL-E 1's Transformer over tokens",
    "modules.dalle3.captioner.Captioner": "captioner (DALL-E 3)",
    "modules.dalle3.caption_decoder.CaptionDecoder": "decoder that is given captions only (DALL-E 3)",
    "eval.judges.attributes.AttributeClassifier": "classifier of attributes, which judges shapes",
}

DATA = {
    "datamodules.shapes.ShapesDataModule": "rendered scenes with ground truth; need no files",
    "datamodules.limits.crowds.CrowdsDataModule": "the same with one to six objects",
    "datamodules.limits.signs.SignsDataModule": "rendered signs with words",
    "datamodules.image_folder.ImageFolderDataModule": "a folder of pictures with captions",
    "datamodules.coco.CocoDataModule": "MS-COCO, or captions in its format",
    "datamodules.webdataset.WebDatasetDataModule": ".tar shards",
    "datamodules.huggingface.HuggingFaceDataModule": "a Hugging Face data set",
    "datamodules.emoji.EmojiDataModule": "OpenMoji's drawings",
    "datamodules.emoji_styles.EmojiStylesDataModule": "emoji in several styles",
    "datamodules.embeddings.EmbeddingsDataModule": "embeddings of `unclip embed`, for priors",
}

OWN = {
    "fit": """\
  --init_from WEIGHTS   start from given weights: RUN/STAGE, shipped:shapes/decoder, or a file
  --strict false        with --init_from: take the weights that fit, instead of refusing if some do not
  --overwrite           write into a folder that holds a run; without --ckpt_path, the old run moves to .previous
  --checkpoint.KEY=VALUE
                        how often checkpoints are written, and how many are kept: every_n_train_steps,
                        every_minutes, keep
""",
    "validate": """\
  --bound.KEY=VALUE     estimate the variational bound: samples (0: do not), steps, variance, seed
""",
    "predict": """\
  --overwrite           replace predictions that are there
""",
}
"""Options that only some of the four commands have."""


def wants_help_page(words: Sequence[str]) -> bool:
    """Whether the words ask for help without naming a config; with a config, LightningCLI prints the help."""
    return any(word in ("-h", "--help") for word in words) and not config_files([LIGHTNING[0], *words])


def help_page(command: str) -> str:
    """The page of `unclip COMMAND --help` for one of the four commands."""
    fit = "a checkpoint to go on from; 'last' is the run folder's own, if there is one"
    checkpoint = fit if command == "fit" else "the checkpoint, or 'last' for the run folder's own"
    return PAGE.format(
        command=command,
        what=WHAT[command],
        checkpoint=checkpoint,
        own=OWN.get(command, ""),
        stages=_listed(STAGES),
        data=_listed(DATA),
        examples=examples_text(command),
    )


def _listed(classes: dict[str, str]) -> str:
    return "\n".join(f"  {name:50}  {what}" for name, what in classes.items())
