"""Which options of a config reach timm: nothing in a file may be read or run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from support.marker import Marker

from kpnet import KpnetError
from kpnet.backbones import build_backbone
from kpnet.backbones.timm_options import timm_options

# What functions of timm call a file, an address or the config that holds one.
LOADING = [
    "checkpoint_path cache_dir pretrained_cfg pretrained_cfg_overlay pretrained_strict pretrained_filter_fn",
    "model_cfg feature_cfg feature_cls kwargs_filter kwargs cfg file url hf_hub_id hf_hub_filename state_dict source",
    "custom_load scriptable exportable no_jit num_classes device dtype features_only in_chans out_indices img_size",
]
NETWORKS = [
    "resnet18",
    "vit_tiny_patch16_224",
    "efficientnet_b0",
    "repvgg_a0",
    "hrnet_w18_small",
    "tf_mobilenetv3_small_075",
]


@pytest.mark.parametrize("key", " ".join(LOADING).split())
def test_a_pickle_that_an_option_names_is_not_opened(tmp_path: Path, key: str) -> None:
    file, marker = tmp_path / "weights.bin", tmp_path / "executed"
    file.write_bytes(pickle.dumps(Marker(marker)))
    for value in (str(file), {"file": str(file)}, {"url": file.as_uri(), "custom_load": True}):
        for name in ("resnet18", "vit_tiny_patch16_224", "hrnet_w18_small"):
            with pytest.raises(KpnetError, match=f'"{key}"') as caught:
                build_backbone({"name": name, key: value}, 3)
            assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["hf-hub:a/b", "hf_hub:a/b", "local-dir:{}", "{}", "resnet18.{}", "../resnet18"])
def test_a_name_is_no_address(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    marker = tmp_path / "executed"
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Marker(marker)))
    with pytest.raises(KpnetError):
        build_backbone(name.format(tmp_path), 3)
    assert not marker.exists()


@pytest.mark.parametrize("name", NETWORKS)
def test_options_are_those_of_the_architecture(name: str) -> None:
    options = timm_options(name)
    assert {"drop_rate", "global_pool"} <= options
    assert not options & set(" ".join(LOADING).split())


@pytest.mark.parametrize("value", [{"a": 1}, [{"a": 1}], [[{}]], Path("x")])
def test_values_are_plain(value: Any) -> None:
    with pytest.raises(KpnetError, match=r"expected a number, a name or a list of them, found a"):
        build_backbone({"name": "resnet18", "act_layer": value}, 3)


def test_an_option_that_only_layers_have_is_unknown() -> None:
    # timm before 1.0.31 drops it without a word.
    with pytest.raises(KpnetError, match=r'unknown key "cardinality".*options of this network: .*drop_rate'):
        build_backbone({"name": "hrnet_w18_small", "cardinality": 2}, 3)
