"""Alpaca with LoRA: `alpaca.py` with three changes, and few of the parameters to train.

A config and the order of events; what the lines call is in the library.
"""

import dataclasses
import sys

import jax
from jaxtyping import Array, PRNGKeyArray

import alpaca
from lodos import (
    EvaluationHook,
    HFCheckpointConverter,
    LmExample,
    LmHeadModel,
    RunLog,
    Trainer,
    TrainerState,
    checked_uploads,
    make_loaders,
    named_jit,
    run_script,
)
from lodos.checkpoints import save_merged_hf_checkpoint_callback, save_peft_checkpoint_callback
from lodos.data.text.chat import read_template
from lodos.lora.config import LoraConfig
from lodos.lora.filters import lora_trainable_params_filter
from lodos.lora.transform import loraize, loraized_shapes
from lodos.train.axes import check_axes


@dataclasses.dataclass(kw_only=True)
class TrainArgs(alpaca.TrainArgs):
    """Fine-tune a model with LoRA on Alpaca's instructions."""

    lora: LoraConfig = LoraConfig()
    merged_hf_save_path: str | None = None
    """Folder for merged models, as <merged_hf_save_path>/<id>/step-<k>; giving it saves them."""
    merged_hf_upload: str | None = None
    """Hub repository for merged models, as owner/name; giving it saves them."""


def train(config: TrainArgs) -> TrainerState:
    converter = HFCheckpointConverter.from_hf(
        config.model_name_or_path, chat_template=read_template(config.chat_template)
    )
    # What the model has not is refused before it is loaded.
    check_axes(config.trainer, loraized_shapes(converter.structure(), config.lora))
    uploads = checked_uploads(config)
    loaders = make_loaders(config, converter)
    config = loaders.resolve(config)
    optimizer = config.optimizer.build(config.trainer.steps)
    lora_key, training_key = jax.random.split(jax.random.key(config.trainer.seed))
    parameter_axis_mapping = config.trainer.parameter_axis_mapping

    with config.trainer.device_mesh:
        model = converter.load_pretrained(
            axis_mapping=parameter_axis_mapping,
            scan_layers=config.scan_layers,
            gradient_checkpointing=config.gradient_checkpointing,
            attn_implementation=config.attn_implementation,
            progress=True,
        )

        @named_jit(axis_resources=parameter_axis_mapping, donate_args=True)
        def loraize_hf_model(model: LmHeadModel) -> LmHeadModel:
            return loraize(model, config.lora, key=lora_key)

        model = loraize_hf_model(model)

        def compute_loss(model: LmHeadModel, example: LmExample, key: PRNGKeyArray | None = None) -> Array:
            # Without a key it is an evaluation, whose loss is the cross-entropy alone.
            z_loss = 0.0 if key is None else config.z_loss
            return model.compute_loss(example, z_loss=z_loss, key=key).scalar()

        trainer = Trainer(config.trainer, optimizer, compute_loss, is_trainable=lora_trainable_params_filter(model))
        state = trainer.initial_state(training_key, model=model, fingerprint=loaders.fingerprint)
        config.save()

        with uploads, RunLog(config, loaders, first_step=int(state.step)) as log:
            log.start(model, trainer.is_trainable)
            trainer.add_report_hook(log.on_step)
            if loaders.held_out is not None:
                evaluate = EvaluationHook(
                    trainer.evaluate, loaders.held_out, lambda _, evaluation, is_best: log.on_evaluation(evaluation)
                )
                trainer.add_hook(evaluate, every=config.trainer.steps_per_eval)

            # Save what was trained, periodically and at the end.
            folder = config.trainer.save_folder(config.hf_save_path, "peft")
            save = save_peft_checkpoint_callback(
                folder,
                config.lora,
                config.model_name_or_path,
                config.hf_upload,
                chat_template=converter.chat_template,
                uploads=uploads,
            )
            trainer.add_hook(save, every=config.hf_save_steps)
            if config.merged_hf_save_path is not None or config.merged_hf_upload is not None:
                folder = config.trainer.save_folder(config.merged_hf_save_path, "merged")
                save = save_merged_hf_checkpoint_callback(folder, converter, config.merged_hf_upload, uploads=uploads)
                trainer.add_hook(save, every=config.hf_save_steps)

            return trainer.train(state, loaders.training)


if __name__ == "__main__":
    sys.exit(run_script(train))
