import os
import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodos.errors import UserError
from lodos.lora.transform import lora_layers
from lodos.train.evaluation import EvaluationHook
from lodos.train.optim import OptimizerConfig
from lodos.tree import named_leaves, partition
from tiny_training import Batches, compute_loss, make_batch

KEY = jax.random.key(2)


def arrays(tree: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in named_leaves(tree).items() if isinstance(leaf, jax.Array)}


def moved(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    return {name for name in before if not np.array_equal(before[name], after[name])}


def test_the_frozen_base_is_bit_identical_after_training(model: Any, make_trainer: Any) -> None:
    trainer = make_trainer(model)
    before = arrays(model)
    state = trainer.train(trainer.initial_state(KEY, model=model), Batches())
    changed = moved(before, arrays(state.model))
    assert changed == {name for name in before if name.rsplit(".", 1)[-1] in ("lora_A", "lora_B")}


def test_frozen_leaves_have_no_optimizer_state(model: Any, make_trainer: Any) -> None:
    trainer = make_trainer(model)
    state = trainer.initial_state(KEY, model=model)
    moments = [name for name, leaf in named_leaves(state.opt_state).items() if getattr(leaf, "ndim", 0) > 0]
    assert moments
    assert all(name.endswith(("lora_A", "lora_B")) for name in moments)


def test_a_checkpoint_holds_nothing_frozen(model: Any, make_trainer: Any) -> None:
    import orbax.checkpoint as ocp

    trainer = make_trainer(model)
    trainer.train(trainer.initial_state(KEY, model=model), Batches())
    path = trainer.config.checkpoint_folder / "5"
    names = named_leaves(ocp.StandardCheckpointer().metadata(path.absolute()).item_metadata.tree)
    assert any("lora_A" in name for name in names)
    assert not any("base_layer" in name or "embed_tokens" in name or "norm" in name for name in names)


def test_after_one_step_the_bs_have_moved_and_after_two_both(model: Any, make_trainer: Any) -> None:
    trainer = make_trainer(model, optimizer=OptimizerConfig(learning_rate=1e-2))
    start = arrays(model)
    state, _ = trainer.train_step(trainer.initial_state(KEY, model=model), make_batch(0))
    after_one = arrays(state.model)
    assert moved(start, after_one) == {name for name in start if name.endswith("lora_B")}
    state, _ = trainer.train_step(state, make_batch(1))
    assert moved(after_one, arrays(state.model)) == {name for name in start if name.endswith(("lora_A", "lora_B"))}


def test_small_updates_add_up_in_float32_beside_a_bfloat16_base(model: Any, make_trainer: Any) -> None:
    trainer = make_trainer(
        model, steps=100, mp="p=f32,c=bfloat16", optimizer=OptimizerConfig(learning_rate=1e-5, lr_schedule="constant")
    )
    start = arrays(model)
    state = trainer.train(trainer.initial_state(KEY, model=model), Batches())
    for layer in lora_layers(state.model).values():
        assert layer.lora_A.dtype == layer.lora_B.dtype == jnp.float32
        assert layer.base_layer.weight.dtype == jnp.bfloat16
    # Steps of 1e-5 are below half a unit in the last place of an entry near 0.1 in bfloat16, which would never move.
    end = arrays(state.model)
    assert all(np.mean(end[name] != start[name]) > 0.9 for name in start if name.endswith("lora_A"))


@pytest.mark.parametrize("what", ["everything", "norms"])
def test_any_filter_spec_trains_with_the_same_code(base: Any, make_trainer: Any, what: str) -> None:
    spec: Any = True
    if what == "norms":
        spec = jax.tree_util.tree_map_with_path(lambda path, _: "norm" in jax.tree_util.keystr(path), base)
    trainer = make_trainer(base, is_trainable=spec)
    before = arrays(base)
    state = trainer.train(trainer.initial_state(KEY, model=base), Batches())
    changed = moved(before, arrays(state.model))
    assert changed == (set(before) if what == "everything" else {name for name in before if "norm" in name})


def test_evaluating_changes_nothing(model: Any, make_trainer: Any) -> None:
    def train(evaluate: bool) -> dict[str, np.ndarray]:
        trainer = make_trainer(model, load_checkpoint=False, id=f"evaluate-{evaluate}")
        if evaluate:
            trainer.add_hook(EvaluationHook(trainer.evaluate, [make_batch(99)], lambda *_: None))
        return arrays(trainer.train(trainer.initial_state(KEY, model=model), Batches()).model)

    assert not moved(train(False), train(True))


def test_the_eval_loss_of_a_batch_is_its_training_loss(base: Any, make_trainer: Any) -> None:
    trainer = make_trainer(base, is_trainable=True)
    state = trainer.initial_state(KEY, model=base)
    evaluated = trainer.evaluate(state.model, [make_batch(0)])
    _, metrics = trainer.train_step(state, make_batch(0))
    assert evaluated == pytest.approx(float(metrics.loss), rel=1e-6)


def test_the_eval_loss_does_not_depend_on_the_batch_size(base: Any, make_trainer: Any) -> None:
    trainer = make_trainer(base, is_trainable=True)
    whole = make_batch(0)
    rows = [jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], whole) for row in range(8)]
    assert trainer.evaluate(base, [whole]) == pytest.approx(trainer.evaluate(base, rows), rel=1e-6)
    assert np.isnan(trainer.evaluate(base, []))


def test_hooks_run_every_n_steps_and_once_at_the_end(model: Any, make_trainer: Any) -> None:
    trainer = make_trainer(model, steps=5)
    calls: dict[int, list[int]] = {1: [], 2: [], 5: [], 7: []}
    for every, steps in calls.items():
        trainer.add_hook(lambda info, steps=steps: steps.append(info.step), every=every)
    trainer.train(trainer.initial_state(KEY, model=model), Batches())
    assert calls == {1: [1, 2, 3, 4, 5], 2: [2, 4, 5], 5: [5], 7: [5]}


def test_a_signal_stops_after_the_step_and_saves(model: Any, make_trainer: Any) -> None:
    trainer = make_trainer(model, steps=50)
    ended: list[int] = []
    trainer.add_hook(lambda info: os.kill(os.getpid(), signal.SIGINT) if info.step == 3 else None)
    trainer.add_hook(lambda info: ended.append(info.step), every=1000)
    handler = signal.getsignal(signal.SIGINT)
    state = trainer.train(trainer.initial_state(KEY, model=model), Batches())
    assert (int(state.step), trainer.interrupted, ended) == (3, True, [3])
    assert (trainer.config.checkpoint_folder / "3").is_dir()
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_second_signal_stops_at_once(model: Any, make_trainer: Any) -> None:
    trainer = make_trainer(model, steps=50)

    def twice(_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    trainer.add_hook(twice)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(trainer.initial_state(KEY, model=model), Batches())


@pytest.mark.parametrize("steps", [2, 4])
def test_an_evaluation_that_a_signal_cuts_short_is_made_up_for(table: Any, make_table_trainer: Any, steps: int) -> None:
    """Also that of the last step, after which the run is not at its end."""
    evaluated: dict[int, float] = {}
    seen: list[int] = []

    def run(*, is_stopped: bool = False, **config: Any) -> tuple[Any, Any]:
        def batches() -> Any:
            for seed in range(5):
                seen.append(seed)
                if is_stopped and seed == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield make_batch(seed)

        trainer = make_table_trainer(steps=steps, **config)
        hook = EvaluationHook(
            lambda model, _: trainer.evaluate(model, batches()),
            [],
            lambda info, evaluation, _: evaluated.update({info.step: evaluation.loss}),
        )
        trainer.add_hook(hook, every=2, is_done=lambda step: step in evaluated)
        state = trainer.train(trainer.initial_state(KEY, model=table), Batches())
        return trainer, state

    _, undisturbed = run(id="undisturbed")
    expected = dict(evaluated)
    evaluated.clear()
    seen.clear()
    trainer, state = run(is_stopped=True)
    assert (int(state.step), trainer.stopped_by, evaluated) == (2, signal.SIGTERM, {})
    assert max(seen) <= 2
    assert trainer.evaluate(state.model, [make_batch(0)]) > 0  # after the run there is nothing to stop
    trainer, state = run()
    assert not trainer.interrupted
    assert evaluated == expected
    assert not moved(arrays(undisturbed.model), arrays(state.model))


def test_the_callers_model_is_left_usable(model: Any, make_trainer: Any) -> None:
    trainer = make_trainer(model)
    before = arrays(model)
    trainer.train(trainer.initial_state(KEY, model=model), Batches())
    assert not moved(before, arrays(model))


def test_a_step_takes_over_the_memory_of_what_it_changes(model: Any, make_trainer: Any) -> None:
    def places(state: Any) -> dict[str, int]:
        changing = named_leaves({"trainable": state.trainable, "opt_state": state.opt_state})
        return {name: leaf.unsafe_buffer_pointer() for name, leaf in changing.items() if leaf.ndim}

    trainer = make_trainer(model)
    before = trainer.initial_state(KEY, model=model)
    places_before = places(before)
    after, _ = trainer.train_step(before, make_batch(0))
    assert len(places_before) == 3 * 14
    assert set(places(after).values()) == set(places_before.values())
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(before.frozen))


def test_a_loader_that_ends_is_named(model: Any, make_trainer: Any) -> None:
    trainer = make_trainer(model)
    with pytest.raises(UserError, match="ended after 2 of 5"):
        trainer.train(trainer.initial_state(KEY, model=model), [make_batch(0), make_batch(1)])


def test_a_loss_that_is_not_finite_changes_nothing(model: Any, make_trainer: Any) -> None:
    trainer = make_trainer(model)
    state = trainer.initial_state(KEY, model=model)
    poisoned = make_batch(0)
    poisoned.loss_weight[0, 0] = np.nan
    before = arrays((partition(state.model, state.is_trainable)[0], state.opt_state))
    state, metrics = trainer.train_step(state, poisoned)
    assert not bool(metrics.finite)
    assert not moved(before, arrays((partition(state.model, state.is_trainable)[0], state.opt_state)))


def test_nothing_to_train_is_refused(base: Any, make_trainer: Any) -> None:
    with pytest.raises(UserError, match="selects no parameter"):
        make_trainer(base, is_trainable=False).initial_state(KEY, model=base)


def test_compute_loss_is_the_seeds(base: Any) -> None:
    assert compute_loss(base, make_batch(0)).shape == ()
