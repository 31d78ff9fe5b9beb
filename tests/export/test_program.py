"""A `torch.export` archive predicts what `kpnet.Predictor` predicts, where kpnet cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from support.exports import check_equal, graph_inputs, make_model, odd_images

from kpnet import KeypointModel, Predictor
from kpnet.export import to_torch

RUN = """
import sys
sys.modules["kpnet"] = None
import numpy, torch
given, out, archive = sys.argv[1:]
network = torch.export.load(archive).module()
inputs = numpy.load(given)
found = network(torch.from_numpy(inputs["images"]), torch.from_numpy(inputs["matrices"]))
assert not [name for name in sys.modules if name.startswith("kpnet.")]
numpy.savez(out, *(each.numpy() for each in found))
"""


def test_an_archive_runs_without_kpnet(tmp_path: Path) -> None:
    """A calibrated model, in colour."""
    model, images, path = make_model("rle"), odd_images(7), tmp_path / "rle.pt2"
    assert isinstance(model, KeypointModel)
    info = to_torch(model, path)
    assert info.parity is not None
    assert info.parity.pixels <= 1e-3
    pixels, matrices = graph_inputs(model, images)
    np.savez(tmp_path / "in.npz", images=pixels, matrices=matrices)
    command = [sys.executable, "-c", RUN, tmp_path / "in.npz", tmp_path / "out.npz", path]
    subprocess.run([str(each) for each in command], check=True)
    with np.load(tmp_path / "out.npz") as found:
        check_equal(list(found.values()), Predictor(model)(images))
    with zipfile.ZipFile(path) as archive:
        held = b"".join(map(archive.read, archive.namelist()))
    assert str(Path(torch.__file__).parents[1]).encode() not in held
    assert b"stack_trace" not in held, "which names folders of the machine"
    extra = {"kpnet.json": ""}
    torch.export.load(path, extra_files=extra)
    assert json.loads(extra["kpnet.json"]) == info.model_dump(mode="json")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in.npz", "out.npz", "rle.pt2"]
