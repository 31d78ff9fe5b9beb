"""The configuration reference, which the docs are built with."""

from __future__ import annotations

import re

from reference_tables import config_reference

from kpnet.cli.json_schema import RECIPES, json_schema


def test_the_reference_has_every_key_and_its_links_lead_somewhere() -> None:
    text = config_reference()
    assert set(re.findall(r"\]\(#(.*?)\)", text)) <= {
        "heads",
        "decoders",
        "backbones",
        "data-formats",
        *re.findall(r"{ #(.*?) }", text),
    }
    sections = {part.partition("`")[0]: part for part in text.split("\n### `")}
    for command in RECIPES:
        schema = json_schema(command)
        for name, model in schema["$defs"].items():
            kind, _, part = name.partition(".")
            held = sections[part] if part and kind != "transform" else text
            for key in model.get("properties", {}):
                assert (part and key == "name") or f"| `{key}` | " in held, f"{name}.{key}"
    assert "| `stride` | integer > 0 | `4` |" in sections["heatmap"]
    assert "| `lr` | number > 0, ≤ 1e+30 | required | Learning rate. |" in sections["train.optimizer: sgd"]
    assert "anything" not in text
