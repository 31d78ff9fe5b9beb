"""Predictions on Ray Data: on all cores and GPUs of this machine, or of a cluster.

Ray schedules, retries and moves the work. What kpnet adds is the list of inputs and what a worker does with a group of
them, in `kpnet.inference.shards`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import torch
from lightning.pytorch.utilities.memory import is_oom_error

from kpnet import __version__
from kpnet.core.allocator import keep_freed_memory
from kpnet.core.errors import KpnetError, few, first_line
from kpnet.core.locking import LOCK, locked
from kpnet.core.outputs import check_writable
from kpnet.core.progress import progress
from kpnet.core.runtime import best_device
from kpnet.inference import shards
from kpnet.inference.inputs import InputImage
from kpnet.inference.pipeline import NO_ROOM, Outcome
from kpnet.inference.predictor import Predictor

INSTALL = 'pip install "kpnet[ray]"'
_ANSWER = 10  # seconds in which a port has to accept a connection
_HEALTH = 40  # seconds in which a cluster has to say that it is well
_BLOCKS = 1000  # in which the shards are given to Ray, so that its books do not grow with their number
_RETRIES = 3  # of a shard whose worker died


class ShardWorker:
    """What each of Ray's actors is: a predictor that predicts shards.

    Args:
        made: Reference to a predictor's arguments.
        folder: The output folder.
        threads: Threads for torch and OpenCV.
    """

    def __init__(self, made: Any, folder: str, threads: int) -> None:
        import ray

        keep_freed_memory()
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
        model, settings = ray.get(made[0])
        self.predictor = Predictor(model, device=best_device(), **settings)
        self.folder = Path(folder)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Predict shards that are not there yet; a retry finds those that a dead worker had finished."""
        reasons, full = [], []
        for number in map(int, batch["item"]):
            reason, room = "", True
            try:
                if not shards.shard_file(self.folder, number).exists():
                    shards.predict_shard(self.predictor, self.folder, number)
            except OSError as error:
                reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
                room = error.errno not in NO_ROOM
            except KpnetError as error:
                reason = str(error)
            except Exception as error:  # it would cost the shards that come with this one, and hide why
                advice = "; lower --batch-size" if is_oom_error(error) else ""
                reason = f"shard {number}: {first_line(error, with_type=True)}{advice}"
            reasons.append(reason)
            full.append(not room)
        return {"shard": list(map(int, batch["item"])), "reason": reasons, "full": full}


def predict_on_ray(
    predictor: Predictor,
    settings: Mapping[str, Any],
    images: Callable[[list[str]], Iterable[InputImage]],
    videos: Iterable[Path],
    out: Path,
    identity: Mapping[str, Any],
    address: str | None = None,
    size: int = shards.IMAGES,
) -> Outcome:
    """Predict images and videos on Ray, and write the predictions in shards.

    If it is stopped or killed, the same call goes on with the shards that are missing.

    Args:
        predictor: The predictor, on the CPU.
        settings: The arguments that it was made with, besides model and device.
        images: Returns the images, and appends a line for each input that cannot be used to the list that it is given.
        videos: The videos.
        out: The output folder, which all machines of a cluster have to share.
        identity: What makes two calls the same, besides the model: their inputs and options.
        address: Host and port of a cluster's head. None: Ray is started on this machine.
        size: Images in a shard.

    Returns:
        What was written and what failed.

    Raises:
        KpnetError: Ray is not installed, the cluster does not respond or its machines have another version of kpnet,
            the folder is another call's, or nothing could be predicted.
    """
    outcome = Outcome()
    if out.exists():
        check_writable(out)
    with _cluster(address) as ray:
        fresh = not out.exists()
        check_writable(out)
        out.mkdir(parents=True, exist_ok=True)
        try:
            with locked(out / LOCK, out, remove=True):
                identity = {**identity, "kpnet": __version__, "model": digest(predictor)}
                window = predictor.model.frame_window
                failures: list[str] = []
                listed = images(failures)
                count = shards.prepare(out, identity, listed, videos, window, failures, size)
                outcome.failures += shards.listing_failures(out)
                waiting = shards.missing(out, count)
                if waiting:
                    _check_nodes(ray, out / shards.INPUTS, shards.read_key(out / shards.INPUTS))
                    _run(ray, predictor, settings, out, waiting, outcome)
                _summarise(out, count, outcome)
        finally:
            if fresh and not (out / shards.INPUTS).exists():
                shards.remove_empty(out)
    return outcome


def digest(predictor: Predictor) -> str:
    """Return what is the same for two models with the same weights, configs and calibrations."""
    members = getattr(predictor.model, "models", [predictor.model])
    fitted = ("calibration", "instance_calibration")
    parts = [(each.config, *(getattr(each, name, None) for name in fitted), each.skeleton.names) for each in members]
    found = hashlib.sha256(repr(parts).encode())
    for name, value in predictor.model.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard what libraries that are not Python's print; errors are raised all the same."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Connect to a cluster, or start one on this machine, which ends with the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use to its makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        with _silent_stderr():
            import ray
            import ray.data
    except ImportError:
        raise KpnetError(f"--engine ray needs Ray: {INSTALL}") from None
    if address is not None:
        check_address(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        with _silent_stderr():  # Ray says there that its log level is set
            if address is None:
                ray.init(address="local", include_dashboard=False, **quiet)
            else:
                ray.init(address=address, **quiet)
    except Exception as error:  # Ray has no class of its own for them
        where = "on this machine" if address is None else f"at {address}"
        raise KpnetError(f"Ray {where}: {first_line(error)}") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield ray
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Check that a Ray cluster responds; Ray itself would wait for long, and print many lines.

    Args:
        address: Host and port of the cluster's head.

    Raises:
        KpnetError: The address is none, or no cluster responds within a minute.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "://" in address:
        raise KpnetError(f'--address: expected HOST:PORT of a cluster, such as 10.0.0.1:6379, found "{address}"')
    silent = KpnetError(f"--address: no Ray cluster responds at {address}; ray start --head prints its address")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER).close()
        check = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
        done = subprocess.run(check, capture_output=True, timeout=_HEALTH, stdin=subprocess.DEVNULL)
    except (OSError, OverflowError, subprocess.TimeoutExpired):
        raise silent from None
    if done.returncode:
        raise silent


def machine_check() -> Callable[[str, str], tuple[str, str]]:
    """Return a function that Ray sends as it is, so that it runs where there is no kpnet.

    Returns:
        A function of the path of a list of inputs, and of a version of kpnet with what `read_key` gives. It returns the
        machine's name, and what is wrong there, or an empty text.
    """

    def look(path: str, key: str) -> tuple[str, str]:
        import socket

        try:
            import kpnet
        except ImportError:
            return socket.gethostname(), "has no kpnet"
        if kpnet.__version__ != key.partition(" ")[0]:
            return socket.gethostname(), f"has kpnet {kpnet.__version__}"
        try:
            from pathlib import Path

            from kpnet.inference.shards import read_key

            seen = read_key(Path(path)) == key.partition(" ")[2]
        except Exception:
            seen = False
        return socket.gethostname(), "" if seen else "does not see the output folder"

    return look


def _check_nodes(ray: Any, listed: Path, key: str) -> None:
    """Raise KpnetError unless all machines have this version of kpnet and see the output folder."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0)]
    task = ray.remote(num_cpus=0, max_retries=1)(machine_check())
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            str(listed.absolute()), f"{__version__} {key}"
        )
        for node in nodes
    ]
    try:
        found = ray.get(asked, timeout=120)
    except Exception as error:
        raise KpnetError(f"the cluster's machines do not respond: {first_line(error)}") from None
    wrong = [f"{host} {problem}" for host, problem in found if problem]
    if wrong:
        raise KpnetError(
            f"{len(wrong)} of the cluster's {len(nodes)} machines cannot predict: {few(wrong)}; expected kpnet "
            f"{__version__} on each, and {listed.parent} on a disk that they share"
        )


def _resources(ray: Any) -> tuple[int, dict[str, float], int]:
    """Return the number of workers, what each takes, and its threads: a GPU with its share of cores, or a core."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if not gpus:
        return max(1, sum(int(node.get("CPU", 0)) for node in nodes)), {"num_cpus": 1}, 1
    cores = max(1, min(int(node.get("CPU", 1)) // int(node["GPU"]) for node in nodes if int(node.get("GPU", 0))))
    return gpus, {"num_gpus": 1, "num_cpus": cores}, cores


def _run(
    ray: Any, predictor: Predictor, settings: Mapping[str, Any], out: Path, waiting: list[int], outcome: Outcome
) -> None:
    """Predict the missing shards."""
    workers, taken, threads = _resources(ray)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # a shard that ends its worker costs no other
    made = ray.put((predictor.model, dict(settings)))
    blocks = min(len(waiting), _BLOCKS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray 2.60 says that the last option but one will get another name in 2.64
        found = ray.data.from_items(waiting, override_num_blocks=blocks).map_batches(
            ShardWorker,
            fn_constructor_args=([made], str(out.absolute()), threads),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, blocks)),
            max_task_retries=_RETRIES,
            **taken,
        )
    done = 0
    try:
        for row in progress(found.iter_rows(), "shards", len(waiting)):
            done += not row["reason"]
            if row["reason"]:
                outcome.failures.append(row["reason"])
            if row["full"]:
                outcome.stopped = True
                break
    except KeyboardInterrupt:
        outcome.interrupt(f"{done} of {len(waiting)} shards; the same command goes on")
    except Exception as error:  # what Ray raises is of many classes
        outcome.failures.append(f"Ray: {first_line(error, with_type=True)}")


def _summarise(out: Path, count: int, outcome: Outcome) -> None:
    """Say what is there now, and write the file of what could not be predicted."""
    predicted, failed, empty = shards.write_failures(out, count)
    absent = len(shards.missing(out, count))
    if not absent:
        shards.remove_partial(out)
    if predicted:
        none = f", {empty} image(s) without an instance" if empty else ""
        outcome.written.append(f"{predicted} input(s){none}: {out / shards.PREDICTIONS}, {count - absent} shard(s)")
    if failed:
        outcome.failures.append(f"{out / shards.FAILED}: {failed} input(s) that could not be predicted")
    if absent and not outcome.stopped:
        outcome.failures.append(
            f"{absent} of {count} shards are missing, as their workers died {1 + _RETRIES} times or failed; the same "
            "command tries them again"
        )
