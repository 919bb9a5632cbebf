"""The model that `lodos train` trains: as shapes, and with its weights."""

import functools
from typing import Any

import equinox as eqx
from jaxtyping import PRNGKeyArray

from lodos.config import TrainArgs
from lodos.formats.hf import HFCheckpointConverter
from lodos.jit import named_jit
from lodos.lora.transform import loraize
from lodos.models.decoder import LmHeadModel


def lora_structure(config: TrainArgs, converter: HFCheckpointConverter, *, key: PRNGKeyArray) -> LmHeadModel:
    """What `load_lora_model` makes, as shapes, of whatever dtypes.

    Raises:
        UserError: for targets that the model does not have.
    """
    structure = converter.structure(**_model_options(config))
    return eqx.filter_eval_shape(functools.partial(loraize, config=config.lora, key=key), structure)


def load_lora_model(config: TrainArgs, converter: HFCheckpointConverter, *, key: PRNGKeyArray) -> LmHeadModel:
    """The base model in the compute dtype with fresh adapters, laid out on the mesh."""
    parameter_axis_mapping = config.trainer.parameter_axis_mapping
    dtype = config.trainer.policy.compute_dtype
    model = converter.load_pretrained(
        axis_mapping=parameter_axis_mapping, dtype=dtype, progress=True, **_model_options(config)
    )

    @named_jit(axis_resources=parameter_axis_mapping, donate_args=True)
    def loraize_hf_model(model: LmHeadModel) -> LmHeadModel:
        return loraize(model, config.lora, key=key)

    return loraize_hf_model(model)


def _model_options(config: TrainArgs) -> dict[str, Any]:
    return {
        "scan_layers": config.scan_layers,
        "gradient_checkpointing": config.gradient_checkpointing,
        "attn_implementation": config.attn_implementation,
    }
