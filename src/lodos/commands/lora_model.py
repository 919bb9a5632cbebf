"""What `lodos train` trains: the model, as shapes and with its weights, and its trainer."""

from typing import Any

from jaxtyping import Array, PRNGKeyArray

from lodos import hosts
from lodos.config import TrainArgs
from lodos.formats.hf import HFCheckpointConverter
from lodos.jit import named_jit
from lodos.lora.filters import lora_trainable_params_filter
from lodos.lora.norms import lora_norms
from lodos.lora.transform import loraize, loraized_shapes
from lodos.models.decoder import LmHeadModel
from lodos.train.trainer import Trainer
from lodos.types import LmExample


def lora_structure(config: TrainArgs, converter: HFCheckpointConverter) -> LmHeadModel:
    """What `load_lora_model` makes, as shapes, of whatever dtypes.

    Raises:
        UserError: for targets that the model does not have.
    """
    return loraized_shapes(converter.structure(**model_options(config)), config.lora)


def load_lora_model(config: TrainArgs, converter: HFCheckpointConverter, *, key: PRNGKeyArray) -> LmHeadModel:
    """The base model in the compute dtype with fresh adapters, laid out on the mesh."""
    parameter_axis_mapping = config.trainer.parameter_axis_mapping
    dtype = config.trainer.policy.compute_dtype
    model = converter.load_pretrained(
        axis_mapping=parameter_axis_mapping, dtype=dtype, progress=hosts.is_first(), **model_options(config)
    )

    @named_jit(axis_resources=parameter_axis_mapping, donate_args=True)
    def loraize_hf_model(model: LmHeadModel) -> LmHeadModel:
        return loraize(model, config.lora, key=key)

    return loraize_hf_model(model)


def lora_trainer(config: TrainArgs, model: LmHeadModel) -> Trainer:
    """The trainer of what `load_lora_model` or `lora_structure` made; `config` has its number of steps."""

    def compute_loss(model: LmHeadModel, example: LmExample, key: PRNGKeyArray | None = None) -> Array:
        # Without a key it is an evaluation, whose loss is the cross-entropy alone.
        z_loss = 0.0 if key is None else config.z_loss
        return model.compute_loss(example, z_loss=z_loss, key=key).scalar()

    optimizer = config.optimizer.build(config.trainer.steps)
    trainable = lora_trainable_params_filter(model)
    return Trainer(config.trainer, optimizer, compute_loss, is_trainable=trainable, watch=lora_norms)


def model_options(config: TrainArgs) -> dict[str, Any]:
    """What of the settings decides how a model is built."""
    return {
        "scan_layers": config.scan_layers,
        "gradient_checkpointing": config.gradient_checkpointing,
        "attn_implementation": config.attn_implementation,
    }
