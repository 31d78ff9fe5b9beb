"""KeypointModel: saving, and loading what may be damaged or foreign."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save, save_file
from support.marker import Marker
from support.recipes import SANDWICH, small
from torch.nn.utils import prune

from kpnet import KpnetError, Predictor, build_model, load_model
from kpnet.backbones.pretrained import read_source
from kpnet.core.yaml import read_yaml, write_yaml
from kpnet.heads import HEADS, Head, HeadOutput, PyramidInfo
from kpnet.models.calibration import Calibration


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": {**SANDWICH, "norm": "batch"}, "skeleton": ["left_eye", "right_eye", "nose"]},
        {"head": {"name": "regression", "hidden": [6], "activation": "none"}, "input_size": (32, 48), "mean": [0.2]},
        {"backbone": "resnet18", "in_channels": 3, "input_size": 64},
    ],
    ids=["heatmap", "regression", "timm"],
)
def test_round_trip_is_exact(changes: dict[str, Any], tmp_path: Path) -> None:
    model = small(**changes)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.rand_like(tensor))
    model.save(tmp_path / "a" / "b")
    again = load_model(tmp_path / "a" / "b")
    assert not again.training
    assert again.skeleton == model.skeleton
    assert again.config == model.config
    state, loaded = model.state_dict(), again.state_dict()
    assert state.keys() == loaded.keys()
    assert all(torch.equal(state[k], loaded[k]) for k in state)
    images = torch.rand(2, model.config.in_channels, *model.config.input_size)
    assert torch.equal(model.eval()(images), again(images))
    assert {p.name for p in (tmp_path / "a" / "b").iterdir()} == {"model.safetensors", "model.yaml"}


@pytest.mark.parametrize("inner", ["", "fold0"])
def test_nothing_is_written_into_the_cache_of_the_hub(tmp_path: Path, inner: str) -> None:
    model, cached = small(), tmp_path / "models--me--paws/snapshots" / ("0a" * 20) / inner
    model.save(cached)  # not a cache: there are no blobs beside it
    before = (cached / "model.safetensors").read_bytes()
    (tmp_path / "models--me--paws/blobs").mkdir()
    (tmp_path / "link").symlink_to(cached)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    for folder in (cached, tmp_path / "link"):
        with pytest.raises(KpnetError, match=r"read-only; save the model to a folder of your own"):
            model.save(folder)
    assert (cached / "model.safetensors").read_bytes() == before
    model.save(tmp_path / "mine")


def test_a_run_gives_its_final_model(trained: Path) -> None:
    final = load_file(trained / "final" / "model.safetensors")
    state = load_model(trained).state_dict()
    assert all(torch.equal(value, final[key]) for key, value in state.items())
    assert load_model(str(trained / "best")).skeleton.names == ("left_eye", "right_eye", "nose")


WITHOUT_LIGHTNING = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lightning", "pytorch_lightning", "lightning_fabric"):
            raise ImportError(name + " is not installed")
sys.meta_path.insert(0, Block())
import torch
from kpnet import Predictor, load_model
model = load_model(sys.argv[1])
torch.save(model(torch.load(sys.argv[2])), sys.argv[3])
Predictor(model, device="cpu")(torch.zeros(20, 30).byte().numpy())
try: import lightning
except ImportError: print("no lightning")
"""


def test_a_saved_model_loads_without_lightning(tmp_path: Path) -> None:
    model = small().eval()
    model.save(tmp_path / "model")
    images = torch.rand(2, 1, 32, 32)
    torch.save(images, tmp_path / "images.pt")
    arguments = [tmp_path / "model", tmp_path / "images.pt", tmp_path / "prediction.pt"]
    command = [sys.executable, "-c", WITHOUT_LIGHTNING, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "no lightning"
    assert torch.allclose(torch.load(tmp_path / "prediction.pt"), model(images), atol=1e-6)


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def flip_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[8:40] = bytes(32)
    path.write_bytes(data)


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def foreign(folder: Path) -> None:
    save_file({"fc.weight": torch.zeros(3, 3)}, folder / "model.safetensors")


def other_shape(folder: Path) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    key = next(k for k in state if state[k].ndim == 4)
    save_file({**state, key: torch.zeros(5, 1, 3, 3)}, path)


def no_config(folder: Path) -> None:
    (folder / "model.yaml").unlink()


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def config_not_yaml(folder: Path) -> None:
    (folder / "model.yaml").write_text("model: [1, 2")


def config_binary(folder: Path) -> None:
    (folder / "model.yaml").write_bytes(b"\xff\xfe\x00\x01")


def config_empty(folder: Path) -> None:
    (folder / "model.yaml").write_text("")


def config_half(folder: Path) -> None:
    path = folder / "model.yaml"
    text = path.read_text()
    path.write_text(text[: len(text) // 2])


def config_number(folder: Path) -> None:
    (folder / "model.yaml").write_text("model: 3")


def config_other(folder: Path) -> None:
    (folder / "model.yaml").write_text("model: {backbone: conv_sandwich, head: heatmap}\nskeleton: {names: 3}\n")


def config_python(folder: Path) -> None:
    (folder / "model.yaml").write_text(f"model: !!python/object/apply:os.mkdir [{folder / 'executed'}]\n")


@pytest.mark.parametrize(
    "damage",
    [
        *(truncate, flip_header, empty, foreign, other_shape, no_config, no_weights, config_not_yaml, config_binary),
        *(config_empty, config_half, config_number, config_other, config_python),
    ],
)
def test_damaged_files(damage: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    small().save(folder)
    load_model(folder)
    damage(folder)
    with pytest.raises(KpnetError) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "executed").exists()


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(KpnetError, match="no such"):
        load_model(tmp_path / "nothing")


def test_a_pickle_in_safetensors_clothing_is_not_executed(tmp_path: Path) -> None:
    folder, marker = tmp_path / "model", tmp_path / "executed"
    small().save(folder)
    evil = pickle.dumps(Marker(marker))
    pickle.loads(evil)
    assert marker.is_dir(), "the pickle is a live one"
    marker.rmdir()
    (folder / "model.safetensors").write_bytes(evil)
    with pytest.raises(KpnetError):
        load_model(folder)
    torch.save({"state_dict": Marker(marker)}, folder / "model.safetensors")
    with pytest.raises(KpnetError):
        load_model(folder)
    torch.save(Marker(marker), tmp_path / "weights.pth")
    with pytest.raises(KpnetError, match="refused and not run"):
        small(pretrained=str(tmp_path / "weights.pth"))
    assert not marker.exists()


def test_weights_of_another_program_are_not_replaced(tmp_path: Path, tree: Any) -> None:
    for name, data in {"other": save({"w": torch.zeros(1)}, {"format": "pt"}), "text": b"no safetensors"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(data)
    (tmp_path / "file").touch()
    before = tree(tmp_path)
    for name in ("other", "text", "file"):
        with pytest.raises(KpnetError, match=name):
            small().save(tmp_path / name)
    assert tree(tmp_path) == before


def test_a_failed_save_keeps_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: Any) -> None:
    model = small()
    model.save(tmp_path / "model")
    before = tree(tmp_path)
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        write(self, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(OSError, match="No space") as caught:
        model.save(tmp_path / "model")
    assert "model" in Path(caught.value.filename).name
    monkeypatch.undo()
    assert tree(tmp_path) == before


def test_a_model_of_several_heads_goes_through_a_file(tmp_path: Path) -> None:
    model = build_model(
        backbone="conv_sandwich", heads={"a": "rle", "b": "simcc"}, num_keypoints=3, in_channels=1, input_size=32
    )
    model.save(tmp_path)
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(load_model(tmp_path)(images), model.eval()(images))


def test_what_is_missing_in_the_config_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    small().save(folder)
    config = yaml.safe_load((folder / "model.yaml").read_text())
    del config["input"]
    (folder / "model.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(KpnetError, match=r'model\.yaml: "input" is missing$'):
        load_model(folder)


@pytest.mark.parametrize("channels", ["two", 0, 2, 3, [1], 1.5])
def test_a_finder_of_other_channels_is_refused(channels: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    small(instances={"backbone": SANDWICH, "input_size": 32}).save(folder)
    config = yaml.safe_load((folder / "model.yaml").read_text())
    assert config["finder_channels"] == 1
    (folder / "model.yaml").write_text(yaml.safe_dump({**config, "finder_channels": channels}))
    with pytest.raises(KpnetError, match=r"^.*model\.(yaml: .*channels|safetensors: .finder\.mean.).*$"):
        load_model(folder)


@pytest.mark.parametrize("old", ["stem", "calibration", "answer"])
def test_an_old_key_is_refused_with_its_new_name(old: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model = small(head={"name": "multi", "heads": {"a": "rle", "b": "regression"}, "primary": "a"})
    model.calibration = Calibration(log_scales=[0.0] * 3, exponent=1.0, dof=5.0, points=100)
    model.save(folder)
    load_model(folder)
    config = yaml.safe_load((folder / "model.yaml").read_text())
    if old == "stem":
        config["stem"] = config.pop("input")
        renamed = ("stem", "input")
    elif old == "calibration":
        for new, key in (("log_scales", "log_factors"), ("exponent", "power"), ("dof", "tail")):
            config["calibration"][key] = config["calibration"].pop(new)
        renamed = ("calibration.log_factors", "log_scales")
    else:
        config["model"]["head"]["answer"] = config["model"]["head"].pop("primary")
        renamed = ("answer", "primary")
    (folder / "model.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(KpnetError) as caught:
        load_model(folder)
    assert str(caught.value).startswith(str(folder / "model.yaml"))
    assert str(caught.value).endswith(f'unknown key "{renamed[0]}": it is called "{renamed[1]}" now')
    if old == "stem":  # the same file, as the source of pretrained weights
        with pytest.raises(KpnetError, match=r'model\.yaml: unknown key "stem": it is called "input" now$'):
            read_source(folder)


@pytest.mark.parametrize("text", ["model: {backbone: resnet18}\ndata: {}\n", "my notes", "[1, 2"])
def test_a_yaml_of_the_users_is_not_replaced(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(text)
    with pytest.raises(KpnetError, match=r"model\.yaml: exists, and kpnet did not write it"):
        small().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.yaml"]
    assert (tmp_path / "model.yaml").read_text() == text


def test_a_save_that_was_killed_between_its_files_can_be_repeated(tmp_path: Path) -> None:
    small().save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    small().save(tmp_path)
    load_model(tmp_path)


# Forms of a model


class Tied(Head):
    """Two layers of one weight, and a state that is no tensor."""

    def __init__(self, pyramid: PyramidInfo, num_keypoints: int) -> None:
        super().__init__()
        self.x, self.y = (torch.nn.Linear(pyramid.channels[-1], num_keypoints) for _ in range(2))
        self.y.weight = self.x.weight
        self.seen: Any = 0

    def forward(self, features: list[torch.Tensor]) -> HeadOutput:
        mean = features[-1].mean((-2, -1))
        return HeadOutput(torch.stack([self.x(mean), self.y(mean)], -1))

    def get_extra_state(self) -> Any:
        return {"seen": self.seen}

    def set_extra_state(self, state: Any) -> None:
        self.seen = state["seen"]


def test_tied_weights_and_extra_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HEADS, "tied", Tied)
    model = small(head="tied")
    model.head.seen = [3, "x"]  # type: ignore[assignment]
    model.save(tmp_path)
    again = load_model(tmp_path)
    assert again.head.seen == [3, "x"]
    assert isinstance(again.head, Tied)
    assert again.head.y.weight is again.head.x.weight
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(again(images), model.eval()(images))
    model.head.seen = object()  # type: ignore[assignment]
    with pytest.raises(KpnetError, match=r'"head._extra_state" is a dict, expected tensors, or JSON'):
        model.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_quantised_model_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = torch.ao.quantization.quantize_dynamic(small(head="regression").eval(), {torch.nn.Linear})
    with pytest.raises(KpnetError, match="a quantised model cannot be saved"):
        model.save(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_pruned_model_is_loaded_with_its_zeros(tmp_path: Path) -> None:
    model = small(head="regression").eval().to(memory_format=torch.contiguous_format)  # pruning calls view on weights
    for module in list(model.modules()):
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            prune.l1_unstructured(module, "weight", amount=0.5)
    images = torch.rand(2, 1, 32, 32)
    expected = model(images)
    model.save(tmp_path)
    again = load_model(tmp_path)
    assert (again.head.layers[0].weight == 0).float().mean() == 0.5  # type: ignore[index, union-attr]
    torch.testing.assert_close(again(images), expected)
    assert torch.equal(Predictor(model).model.infer(images).keypoints, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_loaded_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    model = small().to(dtype)
    model.save(tmp_path)
    again = load_model(tmp_path)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    assert all(torch.equal(p, q.float()) for p, q in zip(again.parameters(), model.parameters(), strict=True))


def test_the_files_have_the_statistics_that_were_loaded(tmp_path: Path) -> None:
    model = small()
    model.load_state_dict(small(mean=[0.2], std=[0.1]).state_dict())
    model.save(tmp_path)
    assert yaml.safe_load((tmp_path / "model.yaml").read_text())["input"] == {
        "channels": 1,
        "mean": [0.2],
        "std": [0.1],
    }


def test_a_part_that_torch_has_compiled_is_saved_by_its_own_names(tmp_path: Path) -> None:
    model = small()
    model.backbone = torch.compile(model.backbone, backend="eager")  # type: ignore[assignment]
    model.save(tmp_path)
    assert "backbone.blocks.0.0.weight" in load_file(tmp_path / "model.safetensors")


def test_weights_of_a_training_that_diverged(tmp_path: Path) -> None:
    small().save(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["head.maps.0.bias"][0] = torch.nan
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(KpnetError, match=r'model.safetensors: "head.maps.0.bias" holds NaN'):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"\xff" * 8 + b"{",
        (2**40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}",
        b"\x80\x04.",
    ],
    ids=["empty", "a byte", "huge header", "header beyond the end", "no tensors", "a pickle of nothing"],
)
def test_a_broken_weight_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    small().save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(KpnetError, match=r"model\.safetensors: ") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_config_of_a_far_larger_network_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_model(backbone={"name": "conv_sandwich", "channels": [4, 8]}, head="heatmap", num_keypoints=2).save(tmp_path)
    path = tmp_path / "model.yaml"
    values = read_yaml(path, "a model")
    values["model"]["backbone"]["channels"] = [4000, 4000]
    path.write_text(write_yaml(values))
    monkeypatch.setattr("kpnet.models.build.assemble", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(KpnetError, match=r"model\.yaml: a network of [\d,]{11,} parameters, but its weights are"):
        load_model(tmp_path)


@pytest.mark.parametrize(("channels", "found"), [(3, 1), (2, 3), (1, 2)])
def test_channels_that_contradict_each_other(channels: int, found: int, tmp_path: Path) -> None:
    small().save(tmp_path)
    values = read_yaml(tmp_path / "model.yaml", "a model")
    values["model"]["in_channels"], values["input"]["channels"] = channels, found
    (tmp_path / "model.yaml").write_text(write_yaml(values))
    with pytest.raises(KpnetError, match=rf"in_channels is {channels}, but input\.channels is {found}"):
        load_model(tmp_path)
