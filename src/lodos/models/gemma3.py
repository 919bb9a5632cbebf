"""`model_type: gemma3`: Gemma 3 as it is published from 4B on, with a tower for images, of which text needs nothing."""

from collections.abc import Mapping
from typing import Any

from lodos.models import gemma3_text
from lodos.models.common import refuse, text_part
from lodos.models.config import DecoderConfig


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    refuse(hf_config["text_config"], "final_logit_softcapping")  # which transformers leaves out here
    return text_part(hf_config, {"gemma3_text": gemma3_text.decoder_config})
