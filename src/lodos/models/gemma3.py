"""`model_type: gemma3`: Gemma 3 as it is published from 4B on, with a tower for images, of which text needs nothing."""

from collections.abc import Mapping
from typing import Any

from lodos.models import gemma3_text
from lodos.models.common import text_part
from lodos.models.config import DecoderConfig


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    return text_part(hf_config, {"gemma3_text": gemma3_text.decoder_config})
