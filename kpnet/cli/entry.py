"""The `kpnet` application. Commands import heavy libraries when they run, so that `--help` is instant."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from kpnet.cli.calibrate import calibrate
from kpnet.cli.compare import compare
from kpnet.cli.config import config
from kpnet.cli.data import app as data_app
from kpnet.cli.evaluate import evaluate
from kpnet.cli.info import info
from kpnet.cli.predict import predict
from kpnet.cli.pretrain import pretrain
from kpnet.cli.report import report
from kpnet.cli.sweep import sweep
from kpnet.cli.train import demo, train
from kpnet.cli.tune import tune
from kpnet.cli.visualize import visualize
from kpnet.core.errors import KpnetError

COMMANDS = (train, pretrain, predict, evaluate, calibrate, compare, report, sweep, visualize, tune, info, config, demo)

app = typer.Typer(
    help="Keypoint detection in PyTorch: any backbone, any head, one YAML.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(data_app, name="data")


def main() -> None:
    """Run the command line. A `KpnetError` is printed as one line on stderr, with exit code 2."""
    try:
        _check_empty(sys.argv[1:])
        app()
    except KpnetError as error:
        _fail(str(error))
    except OSError as error:  # a full disk, a folder that cannot be written
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _check_empty(arguments: Sequence[str]) -> None:
    """Raise for an empty argument, such as a variable that is not set: as a path it would mean the working folder."""
    for number, argument in enumerate(arguments, 1):
        if not argument.strip() or (argument.startswith("--") and argument.endswith("=")):
            raise KpnetError(f'argument {number} is empty ("{argument}"); is a variable of your shell not set?')


def _fail(message: str) -> None:
    print(f"kpnet: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
