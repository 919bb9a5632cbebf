"""Generation says what the full forward pass says, whoever shares the batch and whatever was rounded up."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.infer.generate import check_prompts, generate, longest_sequence, round_up_length
from lodos.infer.sampling import Sampling
from lodos.infer.session import generate_stream
from lodos.models.decoder import LmHeadModel
from lodos.nn.kv_cache import KVCache

pytest.importorskip("torch")

MakeModel = Callable[..., tuple[Path, Any]]

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied, biases": ("llama", {"tie_word_embeddings": True, "attention_bias": True}),
    "mistral, window": ("mistral", {"sliding_window": 4}),
    "qwen2, some windows": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "num_key_value_heads": 1},
    ),
    "qwen3": ("qwen3", {"head_dim": 16}),
}
PROMPTS = [[5, 17, 211, 40], [9], [301, 8, 8, 77, 120, 6, 44, 210, 19, 3, 250], [100, 101, 102, 7, 12, 60]]


@pytest.fixture(params=KINDS, scope="module")
def pair(request: pytest.FixtureRequest, make_model: MakeModel) -> tuple[LmHeadModel, Any]:
    """Ours and theirs, with the same weights."""
    model_type, config = KINDS[request.param]
    folder, theirs = make_model(model_type, **config)
    return _load(folder), theirs


@pytest.fixture(scope="module")
def model(make_model: MakeModel) -> LmHeadModel:
    return _load(make_model(max_position_embeddings=64)[0])


def _load(folder: Path) -> LmHeadModel:
    return HFCheckpointConverter.from_hf(str(folder)).load_pretrained()


def _new_ids(model: LmHeadModel, prompts: list[list[int]], new: int = 12, **options: Any) -> list[list[int]]:
    return generate(model, prompts, max_new_tokens=new, **{"eos_token_ids": [], **_with_sampling(options)})


def _with_sampling(options: dict[str, Any]) -> dict[str, Any]:
    """The options with those of sampling as one."""
    of_sampling = {name: options[name] for name in ("temperature", "top_k", "top_p") if name in options}
    others = {name: value for name, value in options.items() if name not in of_sampling}
    return {**others, "sampling": Sampling(**of_sampling)}


def _empty_cache(model: LmHeadModel, batch: int, length: int) -> KVCache:
    config = model.config
    return KVCache.empty(
        config.num_hidden_layers,
        batch,
        length,
        config.num_key_value_heads,
        config.head_dim,
        jnp.dtype("float32"),
    )


def test_cached_logits_equal_the_full_forward_pass_at_every_step(pair: tuple[LmHeadModel, Any]) -> None:
    model, _ = pair
    tokens = jnp.asarray(np.random.default_rng(0).integers(4, 300, (2, 14)))
    full = model(tokens)
    positions = jnp.broadcast_to(jnp.arange(14), (2, 14))
    cache = _empty_cache(model, 2, 20)
    step = eqx.filter_jit(lambda model, *args, cache: model.model(*args, cache=cache))
    # A prompt of six, two tokens at once, then one by one.
    for start, stop in [(0, 6), (6, 8), *((i, i + 1) for i in range(8, 14))]:
        new = tokens[:, start:stop]
        hidden, cache = step(model, new, jnp.ones_like(new), positions[:, start:stop], cache=cache)
        logits = model.logits(hidden).reshape(2, stop - start, -1)
        np.testing.assert_allclose(logits, full[:, start:stop], rtol=1e-4, atol=1e-4)


def test_left_padded_rows_have_the_logits_of_each_prompt_alone(pair: tuple[LmHeadModel, Any]) -> None:
    model, _ = pair
    length = 16
    tokens = np.full((len(PROMPTS), length), 3)
    segment_ids, positions = np.zeros_like(tokens), np.zeros_like(tokens)
    for row, prompt in enumerate(PROMPTS):
        tokens[row, -len(prompt) :] = prompt
        segment_ids[row, -len(prompt) :] = 1
        positions[row, -len(prompt) :] = range(len(prompt))
    cache = _empty_cache(model, len(PROMPTS), 24)
    hidden, _ = model.model(*(jnp.asarray(x) for x in (tokens, segment_ids, positions)), cache=cache)
    padded = model.logits(hidden).reshape(len(PROMPTS), length, -1)
    assert np.isfinite(padded).all()
    forward = eqx.filter_jit(LmHeadModel.__call__)
    for row, prompt in enumerate(PROMPTS):
        # What follows a token does not change it, so one shape serves for all lengths.
        alone = forward(model, jnp.asarray([prompt + [3] * (length - len(prompt))]))[0, : len(prompt)]
        np.testing.assert_allclose(padded[row, -len(prompt) :], alone, rtol=1e-4, atol=1e-4)


def test_filler_takes_no_positions(make_model: MakeModel) -> None:
    """Seen only by a rope that changes with the length: others turn by distances, whatever the start."""
    import torch

    rope = {"rope_type": "dynamic", "factor": 8.0, "rope_theta": 1e4}
    folder, theirs = make_model(max_position_embeddings=16, rope_parameters=rope)
    for prompt, ours in zip(PROMPTS, _new_ids(_load(folder), PROMPTS, 5), strict=True):
        output = theirs.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=5, eos_token_id=None, pad_token_id=0
        )
        assert ours == output[0, len(prompt) :].tolist()


def test_greedy_equals_transformers(pair: tuple[LmHeadModel, Any]) -> None:
    import torch

    model, theirs = pair
    for prompt, ours in zip(PROMPTS, _new_ids(model, PROMPTS), strict=True):
        output = theirs.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=12, eos_token_id=None, pad_token_id=0
        )
        assert ours == output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_prompt_gets_the_same_in_any_batch(model: LmHeadModel, batch_size: int) -> None:
    together = _new_ids(model, PROMPTS)
    assert len({tuple(ids) for ids in together}) == len(PROMPTS)
    assert _new_ids(model, PROMPTS, batch_size=batch_size) == together


def test_eos_stops_one_row_and_not_the_other(model: LmHeadModel) -> None:
    free = _new_ids(model, PROMPTS, 20)
    # A token that one row says early and another row never.
    row, other, eos = next(
        (i, j, token)
        for i, ids in enumerate(free)
        for token in ids[2:8]
        for j, others in enumerate(free)
        if token not in others
    )
    stopped = _new_ids(model, PROMPTS, 20, eos_token_ids=[eos, 383])
    assert stopped[row] == free[row][: free[row].index(eos)]
    assert stopped[other] == free[other]
    for ids, all_ids in zip(stopped, free, strict=True):
        assert ids == all_ids[: len(ids)]
        assert eos not in ids


def test_an_eos_at_once_is_an_empty_answer(model: LmHeadModel) -> None:
    first = [ids[0] for ids in _new_ids(model, PROMPTS)]
    assert _new_ids(model, PROMPTS, eos_token_ids=first) == [[], [], [], []]
    assert list(generate_stream(model, PROMPTS[0], max_new_tokens=9, eos_token_ids=first)) == []


def test_generation_ends_when_every_row_has(model: LmHeadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Far more tokens are allowed than are wanted: the cost is that of those generated."""
    import lodos.infer.generate as module

    steps = []
    decode = module._decode

    def counted(*args: Any) -> Any:
        state = decode(*args)
        steps.append(int(state.step))
        return state

    monkeypatch.setattr(module, "_decode", counted)
    free = _new_ids(model, PROMPTS[:1], 30)[0]
    steps.clear()
    _new_ids(model, PROMPTS[:1], 50, eos_token_ids=[free[2]])
    assert steps == [free.index(free[2]) + 1]


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "top_k": 20, "seed": 3}])
def test_the_stream_is_what_generate_gives(model: LmHeadModel, options: dict[str, Any]) -> None:
    free = _new_ids(model, PROMPTS[:1], 20, **options)[0]
    for eos in ([], [free[10]]):
        whole = _new_ids(model, PROMPTS[:1], 20, eos_token_ids=eos, **options)[0]
        stream = generate_stream(model, PROMPTS[0], max_new_tokens=20, eos_token_ids=eos, **_with_sampling(options))
        assert list(stream) == whole
    assert whole == free[: free.index(free[10])]


@pytest.mark.parametrize("options", [{}, {"top_k": 50, "top_p": 0.8}])
def test_the_seed_decides_what_is_sampled(model: LmHeadModel, options: dict[str, Any]) -> None:
    options = {"temperature": 1.0, **options}
    first = _new_ids(model, PROMPTS, seed=1, **options)
    assert _new_ids(model, PROMPTS, seed=1, **options) == first
    assert _new_ids(model, PROMPTS, seed=1, batch_size=2, **options) == first
    assert _new_ids(model, PROMPTS, seed=2, **options) != first
    # Equal prompts in one batch do not draw equal tokens.
    twins = _new_ids(model, [PROMPTS[0]] * 2, seed=1, **options)
    assert twins[0] != twins[1]


def test_temperature_zero_and_top_k_one_are_greedy(model: LmHeadModel) -> None:
    greedy = _new_ids(model, PROMPTS)
    assert _new_ids(model, PROMPTS, temperature=0.0, top_k=9, top_p=0.3, seed=7) == greedy
    assert _new_ids(model, PROMPTS, temperature=2.0, top_k=1, seed=7) == greedy


def test_long_generations_go_on_over_chunks(make_model: MakeModel) -> None:
    model = _load(make_model(max_position_embeddings=256)[0])
    longer = _new_ids(model, PROMPTS[:2], 150)
    assert [len(ids) for ids in longer] == [150, 150]
    assert [ids[:40] for ids in longer] == _new_ids(model, PROMPTS[:2], 40)


@contextmanager
def _compilations() -> Iterator[list[str]]:
    """Collects an entry for each program that XLA compiles."""
    compiled: list[str] = []

    def listen(event: str, duration: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_nothing_compiles_for_another_length_of_the_same_bucket(make_model: MakeModel) -> None:
    model = _load(make_model(num_hidden_layers=2)[0])
    with _compilations() as compiled:
        _new_ids(model, PROMPTS[:3], 9)
        assert compiled
        compiled.clear()
        _new_ids(model, [[7] * 20, [8] * 13, [9] * 2, [10]], 11, seed=5)
        assert compiled == []
        _new_ids(eqx.tree_at(lambda m: m.model.norm.weight, model, model.model.norm.weight * 2), PROMPTS[:3], 9)
        assert len(compiled) <= 1  # the doubling; other weights are not another program
        compiled.clear()
        _new_ids(model, [[7] * 33], 9)
        assert compiled  # a longer bucket is one


def test_buckets_are_few_and_waste_little() -> None:
    assert [round_up_length(n) for n in (1, 32, 33, 256, 257, 1000, 1025)] == [
        32,
        32,
        64,
        256,
        288,
        1024,
        1152,
    ]
    assert len({round_up_length(n) for n in range(1, 8193)}) <= 8 + 5 * 8
    assert all(n <= round_up_length(n) <= max(n * 1.125, n + 31) for n in range(1, 8193))


def test_what_the_model_has_no_positions_for_is_refused_at_once(model: LmHeadModel) -> None:
    prompts = [[1] * 60, [], [1] * 4, [1] * 70]
    with pytest.raises(UserError) as error:
        _new_ids(model, prompts, 10)
    text = str(error.value)
    assert "prompt 0: 60 tokens and max_new_tokens 10 make 70, and the model has 64 positions" in text
    assert "Set max_new_tokens to 4 or less" in text
    assert "prompt 1: it has no tokens" in text
    assert "prompt 3" in text
    assert "prompt 2" not in text
    with pytest.raises(UserError, match="prompt 0"):
        generate_stream(model, [], max_new_tokens=3, eos_token_ids=[])
    with pytest.raises(UserError, match="max_new_tokens: 0"):
        _new_ids(model, PROMPTS, 0)
    assert [len(ids) for ids in _new_ids(model, [[1] * 60], 4)] == [4]


def test_rope_scaling_stretches_what_is_allowed(make_model: MakeModel) -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    folder, _ = make_model(max_position_embeddings=16, rope_parameters=rope)
    assert longest_sequence(HFCheckpointConverter.from_hf(str(folder)).config) == 64


def test_no_prompts_no_answers(model: LmHeadModel) -> None:
    assert _new_ids(model, []) == []


def test_a_token_that_the_model_has_no_row_for_is_refused_by_name(model: LmHeadModel) -> None:
    size = model.config.vocab_size
    check_prompts([[1, size - 1]], 2, model.config)
    with pytest.raises(
        UserError, match=rf"prompt 1: '<\|call\|>' \(id {size}\): the model's embedding has {size} rows"
    ):
        check_prompts([[1], [size, 2, size]], 2, model.config, name_of=lambda _: "'<|call|>'")
    with pytest.raises(UserError, match=rf"prompt 0: a token \(id {size + 3}\)"):
        _new_ids(model, [[size + 3]], 2)
