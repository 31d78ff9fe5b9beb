"""The `kpnet` application. Commands import heavy libraries when they run, so that `--help` is instant."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import typer

from kpnet.cli.calibrate import calibrate
from kpnet.cli.compare import compare
from kpnet.cli.config import config
from kpnet.cli.data import app as data_app
from kpnet.cli.errors import describe_crash, hide_secrets, is_shortage_of_memory
from kpnet.cli.evaluate import evaluate
from kpnet.cli.export import export
from kpnet.cli.guarantee import guarantee
from kpnet.cli.info import info
from kpnet.cli.label import label
from kpnet.cli.predict import predict
from kpnet.cli.pretrain import pretrain
from kpnet.cli.push import push
from kpnet.cli.report import report
from kpnet.cli.sweep import sweep
from kpnet.cli.train import demo, train
from kpnet.cli.tune import tune
from kpnet.cli.visualize import visualize
from kpnet.cli.watch import watch
from kpnet.core.allocator import keep_freed_memory
from kpnet.core.console import OneLineFormatter
from kpnet.core.display import one_line
from kpnet.core.errors import KpnetError, UserInterruptError, first_line
from kpnet.core.files import expand_path

COMMANDS = (
    *(
        label,
        train,
        pretrain,
        predict,
        evaluate,
        calibrate,
        guarantee,
        watch,
        export,
        push,
        compare,
        report,
        sweep,
        visualize,
        tune,
    ),
    *(info, config, demo),
)
PIPE_CLOSED, FAILED, CRASHED, INTERRUPTED = 1, 2, 70, 130
# Of click, or of the copy of it that newer versions of typer hold.
ClickException: type[Exception] = typer.BadParameter.__mro__[2]

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
    """Run the command line and exit. Whatever goes wrong is one line on stderr.

    The exit code is 2 for what the user can change: a `KpnetError`, a wrong command line, a file that cannot be read or
    written, too little memory. It is 130 after Ctrl-C, 1 if the reader of the output has gone, and 70 for any other
    exception, which is a bug: the line names a report with the traceback.
    """
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal's encoding lacks is shown with escapes
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(OneLineFormatter())
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")  # libraries' advice to programmers
        code = _run()
    sys.exit(code)


def _run() -> int:
    try:
        _check_empty(sys.argv[1:])
        code = app(args=[_expand(argument) for argument in sys.argv[1:]], prog_name="kpnet", standalone_mode=False)
        sys.stdout.flush()
    except UserInterruptError as error:
        return _fail(str(error), INTERRUPTED)
    except KpnetError as error:
        return _fail(str(error))
    except ClickException as error:
        return _fail_usage(error)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:  # kpnet … | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except OSError as error:  # a full disk, a folder that cannot be written
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception as error:
        if is_shortage_of_memory(error):
            return _fail(f"not enough memory: {first_line(error)}; use smaller images, batches or networks")
        return _fail(describe_crash(error), CRASHED)
    return code if isinstance(code, int) else 0  # typer returns the code of typer.Exit


def _fail(message: str, code: int = FAILED) -> int:
    print(f"kpnet: {one_line(hide_secrets(message))}", file=sys.stderr)
    return code


def _fail_usage(error: Any) -> int:
    """Print what is wrong with the command line, or the help of a command that was called without arguments."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return FAILED
    command = error.ctx.command_path if getattr(error, "ctx", None) else "kpnet"
    return _fail(f"{error.format_message().strip().rstrip('.')}; see {command} --help")


def _expand(argument: str) -> str:
    """Expand `~` and `$VAR` in a path, and in the path that is given to an option as in `--out=~/run`."""
    option, sign, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return f"{option}{sign}{expand_path(value)}" if value.startswith(("~", "$")) or "/$" in value else argument


def _check_empty(arguments: Sequence[str]) -> None:
    """Raise for an empty argument, such as a variable that is not set: as a path it would mean the working folder."""
    for number, argument in enumerate(arguments, 1):
        if not argument.strip() or (argument.startswith("--") and argument.endswith("=")):
            raise KpnetError(f'argument {number} is empty ("{argument}"); is a variable of your shell not set?')
