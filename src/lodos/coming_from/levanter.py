"""Configs that were written for Levanter: what their keys are called here, and what has no place here.

A key that means the same under the same name needs no entry. `RENAMED` is translated without a word. `ELSEWHERE` holds
the keys that mean nothing here: with a value that asks for nothing they are passed over, with any other they are an
error that says what to write instead. docs/coming-from-levanter.md has them all in a table.

Knows the dotted names of keys and nothing of the dataclasses they fill.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Renamed:
    """A key that has another name or another form here."""

    to: str
    value: Callable[[Any], Any] = lambda value: value
    """From its value to ours; a ValueError says what to write instead."""


def _share(value: Any) -> Any:
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError("must be a share of all steps, from 0 to below 1. Write optimizer.warmup: <steps>.")
    return value


def _repository(value: Any) -> Any:
    if value is True:
        raise ValueError("nothing is ever uploaded to the base model's repository. Write the name of your own.")
    return value or None


def _one_axis(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    if len(value) != 1:
        raise ValueError("parameters are stored in shards along one axis. Write the name of one, such as embed.")
    return value[0]


def _default_init(value: Any) -> Any:
    if value is not True:
        raise ValueError("B always starts at zero, so that a fresh adapter changes nothing. Leave it out.")
    return "default"


RENAMED: Mapping[str, Renamed] = {
    "hf_upload": Renamed("hf_upload", _repository),
    "merged_hf_upload": Renamed("merged_hf_upload", _repository),
    "lora.zero_init_b": Renamed("lora.init", _default_init),
    "optimizer.warmup_ratio": Renamed("optimizer.warmup", _share),
    "trainer.fsdp_axis": Renamed("trainer.fsdp_axis", _one_axis),
    "trainer.run_base_dir": Renamed("trainer.run_dir"),
}


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """A key without a place here."""

    instead: str
    """What to do about it."""
    idle: tuple[Any, ...] = ()
    """Values, beside null, that ask for nothing."""


_UNSPLIT = "Devices form a mesh of data x model: give trainer.model_axis_size, tensor_parallel_axes and fsdp_axis."
_ONE_DECAY = "lr_schedule is constant, linear or cosine after the warmup. Leave it out."
_LEAVE_OUT = "Leave it out."

ELSEWHERE: Mapping[str, Elsewhere] = {
    "model": Elsewhere("The model's shape comes from its config.json. Write model_name_or_path."),
    "model_cache_dir": Elsewhere("Models are in Hugging Face's cache. Set the environment variable HF_HUB_CACHE."),
    "data_seed": Elsewhere("Write trainer.seed, which orders the data too."),
    "input_key": Elsewhere("Write columns: {instruction: <name>}."),
    "output_key": Elsewhere("Write columns: {output: <name>}."),
    "trust_remote_code": Elsewhere(
        "Code of a model's repository is never run: models are lodos' own, and a tokenizer is its tokenizer.json. "
        + _LEAVE_OUT,
        (False,),
    ),
    "initialize_from_hf": Elsewhere("Write model_name_or_path.", (False,)),
    "peft_save_path": Elsewhere("Write hf_save_path."),
    "peft_hf_upload": Elsewhere("Write hf_upload."),
    "epoch": Elsewhere("Write trainer.num_epochs.", (0,)),
    "optimizer.stable": Elsewhere(_ONE_DECAY, (0,)),
    "optimizer.cooldown": Elsewhere(_ONE_DECAY, (0,)),
    "optimizer.decay": Elsewhere(_ONE_DECAY),
    "optimizer.rewarmup": Elsewhere(_ONE_DECAY, (0,)),
    "optimizer.cycles": Elsewhere(_ONE_DECAY),
    "optimizer.cycle_length": Elsewhere(_ONE_DECAY),
    "optimizer.haps": Elsewhere(_ONE_DECAY),
    "optimizer.nesterov": Elsewhere("AdamW is used without Nesterov's momentum. Leave it out.", (False,)),
    "optimizer.weight_decay_modules": Elsewhere("weight_decay is for all that is trained. Leave it out."),
    "optimizer.default_weight_decay_mask": Elsewhere(
        "weight_decay is for all that is trained. Leave it out.", (False,)
    ),
    "trainer.log_dir": Elsewhere("A run's log is in its folder, <run_dir>/<id>. Write trainer.run_dir."),
    "trainer.batch_axis": Elsewhere("The batch is split over all devices that model_axis_size leaves.", ("batch",)),
    "trainer.axis_resources": Elsewhere(_UNSPLIT, ({},)),
    "trainer.parameter_axis_resources": Elsewhere(_UNSPLIT, ({},)),
    "trainer.replica_ici_axis_size": Elsewhere(_UNSPLIT, (1,)),
    "trainer.replica_dcn_axis_size": Elsewhere("Write trainer.mesh: {axes: {replica_dcn: 2}}.", (1,)),
    "trainer.use_explicit_mesh_axes": Elsewhere(_UNSPLIT, (False,)),
    "trainer.allow_nondivisible_batch_size": Elsewhere("Give a train_batch_size that the devices divide.", (False,)),
    "trainer.max_eval_batches": Elsewhere("Write validation: <rows> for how many rows are held out."),
    "trainer.load_checkpoint_path": Elsewhere("Write trainer.id and checkpointer.base_path of the run to resume."),
    "trainer.initialize_from": Elsewhere("Write initialize_from: a run of lodos, or an adapter of PEFT or lodos."),
    "trainer.allow_partial_checkpoint": Elsewhere("A run resumes whole or not at all. Leave it out.", (False,)),
    "trainer.jax_config": Elsewhere("JAX takes its settings from environment variables, JAX_<NAME>.", ({},)),
    "trainer.jax_compilation_cache_dir": Elsewhere("Set the environment variable JAX_COMPILATION_CACHE_DIR."),
    "trainer.ray": Elsewhere("There is no Ray here. " + _LEAVE_OUT, ({}, {"auto_start_cluster": False})),
    "trainer.require_accelerator": Elsewhere("Any device will do. Set JAX_PLATFORMS=cuda to insist.", (False,)),
    "trainer.shutdown_at_exit": Elsewhere(
        "Shut the machine down after the command: lodos train ...; sudo poweroff.", (False,)
    ),
    "trainer.crash_on_nan": Elsewhere(
        "Training stops at a loss that is not finite; trainer.on_nonfinite: skip leaves the step out.", (True,)
    ),
    "trainer.crash_on_inf": Elsewhere(
        "Training stops at a loss that is not finite; trainer.on_nonfinite: skip leaves the step out.", (True,)
    ),
    "trainer.quantization": Elsewhere("The frozen base is held in the compute dtype of mp. " + _LEAVE_OUT),
    "trainer.model_averaging": Elsewhere("There is no averaging of weights. " + _LEAVE_OUT),
    "trainer.watch": Elsewhere("Norms are in log.jsonl. " + _LEAVE_OUT, ({},)),
    "trainer.profiler": Elsewhere("Trace with jax.profiler around the library's Trainer. " + _LEAVE_OUT, (False,)),
    "trainer.profiler_start_step": Elsewhere(_LEAVE_OUT),
    "trainer.profiler_num_steps": Elsewhere(_LEAVE_OUT),
    "trainer.profiler_perfetto_link": Elsewhere(_LEAVE_OUT, (False,)),
    "trainer.log_jaxprs": Elsewhere("Set JAX_LOG_COMPILES=1 to see what is compiled. " + _LEAVE_OUT, (False,)),
    "trainer.log_xla_hlo": Elsewhere("Set XLA_FLAGS=--xla_dump_to=DIR. " + _LEAVE_OUT, (False,)),
    "trainer.checkpointer.append_run_id_to_base_path": Elsewhere(
        "Each run has a folder of its own in base_path, so that none resumes another's checkpoint.", (True,)
    ),
    "trainer.checkpointer.temporary_base_path": Elsewhere("All checkpoints are in base_path. " + _LEAVE_OUT),
    "trainer.checkpointer.delete_old_temp_checkpoints": Elsewhere("keep says which checkpoints stay.", (True,)),
    "trainer.checkpointer.keep_last_temporary_checkpoints": Elsewhere("keep says which checkpoints stay.", (1,)),
}


def from_levanter(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The nested values of a config with Levanter's keys translated, and what is to be said of those without a place.

    Those that are ours stay as they are. A line begins with the key, and says what to write instead.
    """
    problems: list[str] = []
    return _translated(values, "", problems), problems


def _translated(values: Mapping[str, Any], prefix: str, problems: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if (elsewhere := ELSEWHERE.get(name)) is not None:
            if not _is_idle(value, elsewhere):
                problems.append(f"{name}: {elsewhere.instead}")
        elif (renamed := RENAMED.get(name)) is not None:
            problems += _rename(found, values, name, renamed, value)
        elif name == "trainer.tensor_parallel_axes" and value is None:
            found[key] = []
        elif isinstance(value, Mapping) and name in ("lora", "optimizer", "trainer", "trainer.checkpointer"):
            found[key] = _translated(value, f"{name}.", problems)
        else:
            found[key] = value
    return found


def _rename(found: dict[str, Any], values: Mapping[str, Any], name: str, renamed: Renamed, value: Any) -> Iterator[str]:
    """Puts the value under its name here; yields what is wrong with it."""
    own_key, key = name.rsplit(".", 1)[-1], renamed.to.rsplit(".", 1)[-1]
    if own_key != key and value is None:
        return
    if own_key != key and key in values:
        yield f"{name}: {renamed.to} is given too, and they are the same. Leave one of them out."
        return
    try:
        found[key] = renamed.value(value)
    except ValueError as error:
        yield f"{name}: {value}: {error}"


def _is_idle(value: Any, elsewhere: Elsewhere) -> bool:
    # In Python True equals 1, which in a config it does not.
    return value is None or any(
        value == idle and isinstance(value, bool) == isinstance(idle, bool) for idle in elsewhere.idle
    )
