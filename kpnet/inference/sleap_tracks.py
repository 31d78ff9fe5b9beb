"""Write identities over the frames of a video as a SLEAP project (`kpnet[sleap]`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kpnet.core.files import replacing
from kpnet.core.skeleton import Skeleton
from kpnet.data.video import Video
from kpnet.inference.instance_tracks import InstanceTracks, track_name

MOST_INSTANCES = 50_000  # sleap-io holds a whole project in memory


def write_slp(tracks: InstanceTracks, video: Video, skeleton: Skeleton, path: Path) -> None:
    """Write a `.slp` with a predicted instance, its track and its score for each row.

    Args:
        tracks: The identities.
        video: The video that they are in; the project names its absolute path.
        skeleton: The points, with edges and left/right pairs.
        path: The file.
    """
    import sleap_io as sio

    own = sio.Skeleton(list(skeleton.names), list(skeleton.edges), list(skeleton.pairs), name=skeleton.name or "object")
    height, width = next(video.frames()).shape[:2]
    file = str(video.path.resolve())
    metadata = {"type": "MediaVideo", "shape": [len(tracks), height, width, 3], "filename": file, "grayscale": False}
    source = sio.Video(file, backend_metadata=metadata, open_backend=False)
    names = {number: sio.Track(track_name(number)) for number, _ in tracks.identities()}
    score = tracks.rows[:, 3 + list(tracks.columns).index("score")] if "score" in tracks.columns else None
    frames: dict[int, sio.LabeledFrame] = {}
    for row in range(len(tracks.rows)):
        number = int(tracks.frame[row])
        frame = frames.setdefault(number, sio.LabeledFrame(video=source, frame_idx=number))
        frame.instances.append(
            sio.PredictedInstance.from_numpy(
                np.array(tracks.best[row]),
                own,
                np.nan_to_num(tracks.confidence[row]),
                0.0 if score is None else float(score[row]),
                track=names[int(tracks.number[row])],
            )
        )
    labels = sio.Labels(list(frames.values()), videos=[source], skeletons=[own], tracks=list(names.values()))
    with replacing(path) as beside:
        labels.save(str(beside), embed=False, verbose=False)
