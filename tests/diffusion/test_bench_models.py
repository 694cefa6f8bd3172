"""Models of the benches: text encoders as wide as the full-size UNet that reads them."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.support.random_models import FULL, widen_text_encoders
from sdstream.diffusion.tiny import write_tiny_model


@pytest.mark.parametrize("name", FULL)
def test_text_encoders_are_together_as_wide_as_the_network_wants(name: str, tmp_path: Path) -> None:
    family: Any = name
    write_tiny_model(tmp_path, family, lcm_lora=False)
    widen_text_encoders(tmp_path, FULL[name])

    configs = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("text_encoder*/config.json"))]

    assert sum(config["hidden_size"] for config in configs) == FULL[name]["cross_attention_dim"]
    if name == "sdxl-turbo":
        times = 6 * FULL[name]["addition_time_embed_dim"]
        assert configs[1]["projection_dim"] + times == FULL[name]["projection_class_embeddings_input_dim"]
