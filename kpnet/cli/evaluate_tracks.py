"""`kpnet evaluate --tracks`: identities over the frames of a video, against labelled ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kpnet.cli.errors import warn_of_views
from kpnet.core.console import echo
from kpnet.core.errors import KpnetError


def evaluate_tracks(run: Path, video: Path | None, tracks: Path, settings: dict[str, Any], as_json: bool) -> None:
    """Track the instances of a video, and print how well the identities agree with labelled ones.

    The frames from the first to the last labelled one are predicted.

    Args:
        run: The run folder.
        video: The video.
        tracks: The labelled identities, as `kpnet.evaluation.identities.read_tracks` reads them.
        settings: `also` and `decoding` of the model, and further arguments of `kpnet.Predictor`.
        as_json: Print JSON.
    """
    from itertools import islice

    from kpnet.core.files import plain
    from kpnet.core.runtime import best_device
    from kpnet.data.video import Video
    from kpnet.evaluation.identities import IdentityMeasures, read_tracks
    from kpnet.inference.predictor import Predictor
    from kpnet.inference.tracking import Tracker
    from kpnet.models.ensemble import load_ensemble

    if video is None:
        raise KpnetError("--tracks needs the video that the tracks are in: kpnet evaluate RUN VIDEO --tracks CSV")
    model = load_ensemble([run, *(settings.pop("also") or [])], decoding=settings.pop("decoding"), fold=True)
    warn_of_views(run, model, settings["test_time"])
    truth = read_tracks(tracks, model.skeleton)
    measures = IdentityMeasures(truth, model.skeleton)
    predictor = Predictor(model, device=best_device(), **settings)
    tracker = Tracker(model.skeleton, max_instances=predictor.max_instances if model.finds_instances else 1)
    source = Video(video)
    first, last = int(truth.frames[0]), int(truth.frames[-1])
    frames = islice(source.frames(), first, last + 1)
    frame = first - 1
    for frame, prediction in enumerate(predictor.track(frames), first):
        measures.add(frame, tracker.update(prediction), prediction.keypoints)
    if frame < last:
        raise KpnetError(f"{tracks}: has frame {last}, and {video} has frames up to {frame} only")
    found = measures.compute()
    if as_json:
        print(json.dumps(plain({"identities": found}), indent=2))
        return
    if model.skeleton.sigmas is None:
        echo("The skeleton has no sigmas: OKS with 0.05 for all points.")
    echo(
        f"{video}, {found['frames']} labelled frames, {found['tracks']} tracks, {found['identities']} found: "
        f"IDF1 {found['idf1']:.4f}, {found['switches']} switches, HOTA {found['hota']:.4f} "
        f"(detection {found['deta']:.4f}, association {found['assa']:.4f})"
    )
