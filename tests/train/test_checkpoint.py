from typing import Any

import jax
import numpy as np
import pytest

from lodos.errors import UserError
from lodos.lora.config import LoraConfig
from lodos.lora.transform import loraize
from lodos.train.checkpoint import check_fingerprint
from lodos.train.checkpoint_folder import CheckpointFolder
from lodos.train.config import CheckpointerConfig
from lodos.tree import named_leaves
from tiny_training import Batches

KEY = jax.random.key(2)


def arrays(state: Any) -> dict[str, np.ndarray]:
    leaves = named_leaves((state.step, state.model, state.opt_state, jax.random.key_data(state.training_key)))
    return {name: np.asarray(leaf) for name, leaf in leaves.items() if isinstance(leaf, jax.Array)}


def test_ten_steps_and_ten_after_resuming_are_twenty_bit_for_bit(model: Any, make_trainer: Any) -> None:
    straight = make_trainer(model, steps=20, id="straight")
    expected = arrays(straight.train(straight.initial_state(KEY, model=model), Batches()))

    first = make_trainer(model, steps=20, id="resumed")
    first.add_hook(_stop_after(10))
    stopped = first.train(first.initial_state(KEY, model=model), Batches())
    assert int(stopped.step) == 10

    second = make_trainer(model, steps=20, id="resumed")
    state = second.initial_state(jax.random.key(99), model=model)  # the key of the checkpoint counts
    assert int(state.step) == 10
    found = arrays(second.train(state, Batches()))
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def _stop_after(step: int) -> Any:
    import os
    import signal

    return lambda info: os.kill(os.getpid(), signal.SIGTERM) if info.step == step else None


def test_a_checkpoint_of_another_rank_is_refused_by_name(base: Any, model: Any, make_trainer: Any) -> None:
    trainer = make_trainer(model)
    trainer.train(trainer.initial_state(KEY, model=model), Batches())
    other = loraize(base, LoraConfig(r=8), key=KEY)
    with pytest.raises(UserError, match=r"q_proj\.lora_A: \[2, 4, 32\] in the checkpoint, \[2, 8, 32\]"):
        make_trainer(other).initial_state(KEY, model=other)


def test_a_checkpoint_of_another_fingerprint_is_refused_by_name(model: Any, make_trainer: Any) -> None:
    settings = {"rate": 1e-3, "sections": ["a", None], "seed": 3}
    trainer = make_trainer(model)
    trainer.train(trainer.initial_state(KEY, model=model, fingerprint=settings), Batches())
    same = make_trainer(model).initial_state(KEY, model=model, fingerprint=dict(settings))
    assert int(same.step) == 5
    other = {**settings, "rate": 2e-3, "rows": 7}
    with pytest.raises(
        UserError, match=r"rate: 0\.001 in the checkpoint, 0\.002 in this run\.\n  rows: not there"
    ) as error:
        make_trainer(model).initial_state(KEY, model=model, fingerprint=other)
    assert "seed" not in str(error.value)
    with pytest.raises(UserError, match=r"rate: 0\.001 in the checkpoint"):
        check_fingerprint(CheckpointFolder(trainer.config.checkpoint_folder), 5, other)
    check_fingerprint(CheckpointFolder(trainer.config.checkpoint_folder), 5, settings)
    anew = make_trainer(model, load_checkpoint=False).initial_state(KEY, model=model, fingerprint=other)
    assert int(anew.step) == 0


def test_a_checkpoint_without_a_fingerprint_is_resumed_from(model: Any, make_trainer: Any) -> None:
    trainer = make_trainer(model)
    trainer.train(trainer.initial_state(KEY, model=model), Batches())
    assert int(make_trainer(model).initial_state(KEY, model=model, fingerprint={"rate": 1}).step) == 5


def test_a_checkpoint_of_other_targets_is_refused_by_name(base: Any, model: Any, make_trainer: Any) -> None:
    trainer = make_trainer(model)
    trainer.train(trainer.initial_state(KEY, model=model), Batches())
    other = loraize(base, LoraConfig(target_modules=["q_proj"], r=4), key=KEY)
    with pytest.raises(UserError, match=r"k_proj\.lora_A: not trained by this run"):
        make_trainer(other).initial_state(KEY, model=other)


def test_load_checkpoint_demands_ignores_or_takes_what_is_there(model: Any, make_trainer: Any) -> None:
    with pytest.raises(UserError, match="no checkpoint"):
        make_trainer(model, load_checkpoint=True).initial_state(KEY, model=model)
    trainer = make_trainer(model)
    trainer.train(trainer.initial_state(KEY, model=model), Batches())
    for load, step in ((True, 5), (None, 5), (False, 0)):
        assert int(make_trainer(model, load_checkpoint=load).initial_state(KEY, model=model).step) == step


def test_only_the_newest_are_kept(model: Any, make_trainer: Any) -> None:
    trainer = make_trainer(model, steps=7, checkpointer=CheckpointerConfig(save_interval=2, keep=2))
    trainer.train(trainer.initial_state(KEY, model=model), Batches())
    steps = sorted(path.name for path in trainer.config.checkpoint_folder.iterdir() if path.name.isdigit())
    assert steps == ["6", "7"]


def test_chosen_steps_are_kept_beside_the_newest(model: Any, make_trainer: Any) -> None:
    keep = [{"every": 2, "until": 4}, {"every": 5}]
    trainer = make_trainer(model, steps=8, checkpointer=CheckpointerConfig(save_interval=3, keep=keep))
    trainer.train(trainer.initial_state(KEY, model=model), Batches())
    steps = sorted(path.name for path in trainer.config.checkpoint_folder.iterdir() if path.name.isdigit())
    assert steps == ["2", "4", "5", "8"]


def test_by_time_the_last_step_is_still_written(model: Any, make_trainer: Any) -> None:
    trainer = make_trainer(model, steps=3, checkpointer=CheckpointerConfig(save_interval="1h", keep=5))
    trainer.train(trainer.initial_state(KEY, model=model), Batches())
    steps = sorted(path.name for path in trainer.config.checkpoint_folder.iterdir() if path.name.isdigit())
    assert steps == ["3"]


def test_a_run_begun_anew_is_what_resumes(model: Any, make_trainer: Any) -> None:
    old = make_trainer(model, steps=9)
    old.train(old.initial_state(KEY, model=model), Batches())
    anew = make_trainer(model, steps=4, load_checkpoint=False)
    expected = arrays(anew.train(anew.initial_state(jax.random.key(5), model=model), Batches()))
    found = arrays(make_trainer(model, steps=9).initial_state(KEY, model=model))
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_an_error_in_training_leaves_whole_checkpoints(model: Any, make_trainer: Any) -> None:
    def fail(info: Any) -> None:
        if info.step == 3:
            raise RuntimeError("disk on fire")

    trainer = make_trainer(model, steps=9, checkpointer=CheckpointerConfig(save_interval=2))
    trainer.add_hook(fail)
    with pytest.raises(RuntimeError, match="on fire"):
        trainer.train(trainer.initial_state(KEY, model=model), Batches())
    assert int(make_trainer(model, steps=9).initial_state(KEY, model=model).step) == 2
