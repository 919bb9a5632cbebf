"""`model_type: mistral`: Llama without biases, every layer with a sliding window if there is one."""

from collections.abc import Mapping
from typing import Any

from lodos.models.common import common_config
from lodos.models.config import DecoderConfig


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    window = hf_config.get("sliding_window")
    windows = None if window is None else (window,) * hf_config["num_hidden_layers"]
    return common_config(hf_config, sliding_windows=windows)
