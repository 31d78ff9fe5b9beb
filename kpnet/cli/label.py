"""The `kpnet label` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kpnet.cli.options import FormatOption, parse_format
from kpnet.core.console import echo
from kpnet.core.errors import KpnetError
from kpnet.labelling.picking import Pick
from kpnet.labelling.queue import Queue

OTHER_DATA = "give a run of other data, or examine the labels in folds: kpnet data doctor"


def label(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A folder of images, a video, or a file of labels.")],
    skeleton: Annotated[
        str | None, typer.Option(help="Skeleton: a shipped one, or a YAML file; by default made in the page.")
    ] = None,
    run: Annotated[Path | None, typer.Option(metavar="RUN", help="Run folder whose points are proposed.")] = None,
    queue: Annotated[
        Queue, typer.Option(help="Order of the images; uncertain needs --run or --train, suspicious needs --run.")
    ] = Queue.order,
    again: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Show N labelled images anew, without their labels, and compare you with yourself."
        ),
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(metavar="CONFIG", help="Recipe that a button trains on the labels, for better proposals."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File of labels, .csv or .json (COCO); by default in DATA, or beside it."),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames to take from a video.")] = 100,
    pick: Annotated[
        Pick | None,
        typer.Option(
            help="Which of them: spread evenly, or as different from each other as possible.", show_default="evenly"
        ),
    ] = None,
    form: FormatOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; if it is in use, the next one.")] = 8765,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
) -> None:
    """Label images in the browser; the page is served on this machine alone, until Ctrl-C."""
    from kpnet.core.skeleton import Skeleton
    from kpnet.evaluation.run_data import check_unseen
    from kpnet.labelling.again import draw_again
    from kpnet.labelling.server import serve
    from kpnet.labelling.session import Session
    from kpnet.labelling.source import open_source

    if again is not None and (run is not None or train is not None or queue is not Queue.order):
        raise KpnetError("--again: no model is used, and the order is random; leave out --run, --train, --queue")
    examines = None if queue is not Queue.suspicious else run
    if examines is not None:
        check_unseen(examines, None, data, fix=OTHER_DATA, validation_allowed=False)
    source = open_source(data, parse_format(form, "--format"), skeleton, frames=frames, pick=pick, out=out)
    if examines is not None:
        check_unseen(examines, None, out or source.labels, fix=OTHER_DATA, validation_allowed=False)
    given = None if skeleton is None else Skeleton.load(skeleton)
    if again is None:
        session = Session(source, out=out, skeleton=given, run=run, queue=queue, recipe=train)
    else:
        drawn = draw_again(source, again, out=out, skeleton=given)
        session = Session(drawn.source, skeleton=drawn.skeleton, again=drawn.first)

    def ready(address: str) -> None:
        if source.stays is not None:
            echo(f"{source.stays} stays as it is")
        echo(f"{len(session.labels)} images; labels: {session.labels.path}\n{address}\nCtrl-C ends")
        if browser:
            import webbrowser

            webbrowser.open(address)

    serve(session, port, ready)
    echo(f"labels: {session.labels.path}")
    if (command := session.compare_command()) is not None:
        echo(f"compare: {command}")
