"""Alpaca, as Stanford did it: every parameter of a model learns to follow 52,000 instructions.

A config and the order of events; what the lines call is in the library.
"""

import dataclasses
import sys

import jax
from jaxtyping import Array, PRNGKeyArray

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
from lodos.checkpoints import save_hf_checkpoint_callback
from lodos.config import FineTuneArgs
from lodos.data.config import Sources
from lodos.data.text.chat import read_template
from lodos.models.vocabulary import resize_vocab
from lodos.train.axes import check_axes


@dataclasses.dataclass(kw_only=True)
class TrainArgs(FineTuneArgs):
    """Fine-tune every parameter of a model on Alpaca's instructions."""

    data: Sources = "tatsu-lab/alpaca"
    """Training rows: a file, folder, glob, URL or hub name."""


def train(config: TrainArgs) -> TrainerState:
    converter = HFCheckpointConverter.from_hf(
        config.model_name_or_path, chat_template=read_template(config.chat_template)
    )
    # What the model has not is refused before it is loaded.
    check_axes(config.trainer, converter.structure())
    converter = converter.with_pad_token()  # Llama has none
    uploads = checked_uploads(config)
    loaders = make_loaders(config, converter)
    config = loaders.resolve(config)
    optimizer = config.optimizer.build(config.trainer.steps)
    training_key = jax.random.key(config.trainer.seed)
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
        def grow_vocabulary(model: LmHeadModel) -> LmHeadModel:
            return resize_vocab(model, converter.vocab_size)

        model = grow_vocabulary(model)

        def compute_loss(model: LmHeadModel, example: LmExample, key: PRNGKeyArray | None = None) -> Array:
            # Without a key it is an evaluation, whose loss is the cross-entropy alone.
            z_loss = 0.0 if key is None else config.z_loss
            return model.compute_loss(example, z_loss=z_loss, key=key).scalar()

        trainer = Trainer(config.trainer, optimizer, compute_loss)
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
            folder = config.trainer.save_folder(config.hf_save_path, "hf")
            save = save_hf_checkpoint_callback(folder, converter, config.hf_upload, uploads=uploads)
            trainer.add_hook(save, every=config.hf_save_steps)

            return trainer.train(state, loaders.training)


if __name__ == "__main__":
    sys.exit(run_script(train))
