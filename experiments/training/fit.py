"""`unclip fit | validate | test | predict`: runs LightningCLI and turns its errors into lines for a person."""

from __future__ import annotations

import re

from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

from experiments.console.quiet import quiet
from experiments.training.fitting import missing_package
from experiments.training.lightning_cli import CLI
from modules.errors import InputError

NO_METRIC = "Early stopping conditioned on metric"
"""How Lightning begins to say that EarlyStopping monitors a metric that is not logged."""


def main(argv: list[str]) -> int:
    """Run `fit`, `validate`, `test` or `predict`, the first word of `argv`, with the options that follow."""
    quiet()
    command, *words = argv
    try:
        CLI(command, words).run()
    except InputError:  # A ValueError, too.
        raise
    except MisconfigurationException as error:
        raise InputError(f"trainer: {error}") from error
    except OmegaConfBaseException as error:
        raise InputError(f"config: {error}") from error
    except ValueError as error:
        if "`val_check_interval`" not in str(error):
            raise
        way_out = "trainer.val_check_interval=1.0 validates at the end of every epoch"
        raise InputError(f"trainer: {' '.join(str(error).split())} {way_out}") from error
    except ModuleNotFoundError as error:  # Some callbacks find out when training starts.
        raise InputError(f"config: {missing_package(error)}") from error
    except RuntimeError as error:
        if str(error).startswith(NO_METRIC):
            raise InputError(f"trainer.callbacks: {' '.join(str(error).split())}") from error
        lost = lost_process(error)
        if lost is None:
            raise
        raise ChildProcessError(lost) from error
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns it into exit code 1
            raise KeyboardInterrupt from None
        raise
    return 0


def lost_process(error: RuntimeError) -> str | None:
    """The line for a person, if the error is that another process of this run has died."""
    text = " ".join(str(error).split())
    if "DataLoader worker" in text:
        return (
            f"a worker process of the data loader died ({text.rstrip('. ')}): has memory run out? "
            "go on with --ckpt_path last, with fewer data.init_args.num_workers"
        )
    if re.search("closed by peer|reset by peer|[Gg]loo|NCCL|[Ss]ocket", text):
        return f"another rank of this run died or cannot be reached ({text[:200]}); go on with --ckpt_path last"
    return None
