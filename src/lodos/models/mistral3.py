"""`model_type: mistral3`: Mistral Small 3.1 and 3.2 and Ministral 3, with a tower for images, of which text needs
nothing."""

from collections.abc import Mapping
from typing import Any

from lodos.models import ministral3, mistral
from lodos.models.common import text_part
from lodos.models.config import DecoderConfig


def decoder_config(hf_config: Mapping[str, Any]) -> DecoderConfig:
    return text_part(hf_config, {"mistral": mistral.decoder_config, "ministral3": ministral3.decoder_config})
