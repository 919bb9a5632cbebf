"""Token ids in, token ids out, with a key-value cache. Knows nothing of text.

Prompts of a batch are padded on the LEFT, so that all of them end in the same slot and every step writes the
same slot of the cache:

    slots       0 1 2 3 4 5 | 6 7 8
    tokens      . . a b c d | x y z
    segment     0 0 1 1 1 1 | 1 1 1      filler is a segment of its own: nobody sees it
    position    0 0 0 1 2 3 | 4 5 6      counted from the first real token

One call reads the prompts, then one `while_loop` generates until every row has met its EOS. Batch, prompt and
cache lengths are rounded up to a few sizes, each of which compiles once. The weights are arguments of the
compiled functions, never constants in them.
"""

from collections.abc import Callable, Iterator, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from lodos.errors import UserError
from lodos.infer.sampling import Sampling, sample
from lodos.models.config import DecoderConfig
from lodos.models.decoder import LmHeadModel
from lodos.nn.kv_cache import KVCache
from lodos.nn.rotary import RotaryConfig

# How many steps run between two looks at the host: Ctrl-C is heard then.
_CHUNK = 64


def generate(
    model: LmHeadModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_token_ids: Sequence[int],
    pad_token_id: int = 0,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    seed: int = 0,
    batch_size: int = 64,
    progress: Callable[[int], None] = lambda answers: None,
) -> list[list[int]]:
    """What the model says after each prompt: the new ids, in the order of the prompts, without the EOS.

    What a prompt gets depends on the prompt, its index and the seed; not on its neighbours or the batch size,
    but for float rounding.

    Args:
        eos_token_ids: a row ends at the first of these; empty generates `max_new_tokens` for every row.
        pad_token_id: any id of the vocabulary; what filler is filled with.
        sampling: by default the likeliest token each time.
        batch_size: the most prompts at once; prompts of like length go together.
        progress: called with how many more answers are done.

    Raises:
        UserError: for a prompt without tokens, one longer than the model's positions allow, or a
            setting out of its range.
    """
    check_prompts(prompts, max_new_tokens, model.config)
    answers: list[list[int]] = [[] for _ in prompts]
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]), reverse=True)
    for indices in _batches(by_length, batch_size):
        batch = _Batch([prompts[index] for index in indices], pad_token_id, eos_token_ids)
        state = batch.start(model, max_new_tokens, sampling, seed, indices)
        for stop in range(_CHUNK, max_new_tokens + _CHUNK, _CHUNK):
            state = batch.resume(model, state, min(stop, max_new_tokens), sampling)
            if np.all(state.done):
                break
        generated, lengths = np.asarray(state.generated), np.asarray(state.lengths)
        for row, index in enumerate(indices):
            answers[index] = generated[row, : lengths[row]].tolist()
        progress(len(indices))
    return answers


def check_prompts(
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    config: DecoderConfig,
    *,
    names: Sequence[str] | None = None,
    name_of: Callable[[int], str] = lambda token: "a token",
) -> None:
    """Refuses what the model has no positions or no embedding for, before any weight is needed.

    Args:
        names: of the prompts; by default `prompt 0` and on.

    Raises:
        UserError: that lists every prompt without tokens, too long, or with a token that the model does not have.
    """
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens: {max_new_tokens} is less than 1.")
    longest = longest_sequence(config)
    problems = []
    for index, prompt in enumerate(prompts):
        name = f"prompt {index}" if names is None else names[index]
        if beyond := sorted({int(token) for token in prompt if token >= config.vocab_size}):
            tokens = ", ".join(f"{name_of(token)} (id {token})" for token in beyond)
            problems.append(
                f"{name}: {tokens}: the model's embedding has {config.vocab_size} rows, and none for this. "
                "Take the base model's own tokenizer, or leave it out of the prompt and its template."
            )
        if not len(prompt):
            problems.append(f"{name}: it has no tokens. Give at least one, such as BOS.")
        elif len(prompt) + max_new_tokens > longest:
            problems.append(
                f"{name}: {len(prompt)} tokens and max_new_tokens {max_new_tokens} make "
                f"{len(prompt) + max_new_tokens}, and the model has {longest} positions. "
                + (
                    f"Set max_new_tokens to {longest - len(prompt)} or less."
                    if len(prompt) < longest
                    else f"Shorten the prompt to fewer than {longest} tokens."
                )
            )
    if problems:
        raise UserError("\n".join(problems))


def longest_sequence(config: DecoderConfig) -> int:
    """How many positions the model has: those of its config, or what its rope scaling stretches them to."""

    def longest(rotary: RotaryConfig) -> int:
        original = rotary.original_max_position_embeddings or rotary.max_position_embeddings
        return max(rotary.max_position_embeddings, int(original * (rotary.factor or 1)))

    return max(map(longest, config.rotaries))


class _Ends(eqx.Module):
    """What ends a row, and what stands after its end."""

    eos: Int[Array, " eos"]
    pad: Int[Array, ""]


class _State(eqx.Module):
    """Where a batch stands: `step` tokens have been chosen, the last of which the model has not read yet."""

    cache: KVCache
    last: Int[Array, " batch"]
    positions: Int[Array, " batch"]
    """Of the last token."""
    keys: PRNGKeyArray
    """One for each row."""
    done: Bool[Array, " batch"]
    generated: Int[Array, "batch new"]
    lengths: Int[Array, " batch"]
    """How many of a row's `generated` are its answer."""
    step: Int[Array, ""]

    def choose(self, logits: Float[Array, "batch vocab"], ends: _Ends, sampling: Sampling) -> "_State":
        """The state with the next token of each row chosen from its logits."""
        # The key follows from row and step alone, so no step can shift what later ones draw.
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(self.keys, self.step)
        token = sample(logits, keys, sampling)
        done = self.done | jnp.any(token[:, None] == ends.eos[None, :], axis=1)
        token = jnp.where(done, ends.pad, token)
        return _State(
            cache=self.cache,
            last=token,
            positions=self.positions + 1,
            keys=self.keys,
            done=done,
            generated=jax.lax.dynamic_update_slice_in_dim(self.generated, token[:, None], self.step, axis=1),
            lengths=self.lengths + jnp.where(done, 0, 1),
            step=self.step + 1,
        )


class _Batch:
    """Prompts side by side, padded to a shape that compiles once, and what ends them."""

    def __init__(self, prompts: Sequence[Sequence[int]], pad_token_id: int, eos_token_ids: Sequence[int]):
        shape = (_round_up_rows(len(prompts)), round_up_length(max(map(len, prompts))))
        tokens = np.full(shape, pad_token_id, np.int32)
        segment_ids = np.zeros(shape, np.int32)
        positions = np.zeros(shape, np.int32)
        for row, prompt in enumerate(prompts):
            start = shape[1] - len(prompt)
            tokens[row, start:] = prompt
            segment_ids[row, start:] = 1
            positions[row, start:] = np.arange(len(prompt))
        # From numpy to the device without an operation, so that there is nothing to compile.
        self.tokens, self.segment_ids = jnp.asarray(tokens), jnp.asarray(segment_ids)
        self.positions = jnp.asarray(positions)
        self.filler_rows = jnp.asarray(np.arange(shape[0]) >= len(prompts))
        self.ends = _Ends(
            jnp.asarray(np.asarray(sorted(set(eos_token_ids)), np.int32)), jnp.asarray(np.int32(pad_token_id))
        )

    def start(
        self, model: LmHeadModel, max_new_tokens: int, sampling: Sampling, seed: int, indices: Sequence[int]
    ) -> _State:
        """Reads the prompts and chooses each row's first token; row `i` draws from stream `indices[i]`."""
        streams = np.zeros(len(self.tokens), np.uint32)
        streams[: len(indices)] = indices
        return _prefill(
            model,
            self.tokens,
            self.segment_ids,
            self.positions,
            self.filler_rows,
            self.ends,
            jax.random.key(seed),
            jnp.asarray(streams),
            round_up_length(max_new_tokens),
            sampling,
        )

    def resume(self, model: LmHeadModel, state: _State, stop: int, sampling: Sampling) -> _State:
        """Goes on until `stop` tokens of each row are chosen or all rows are done."""
        return _decode(model, state, jnp.asarray(np.int32(stop)), self.ends, sampling)


@eqx.filter_jit
def _prefill(
    model: LmHeadModel,
    tokens: Int[Array, "batch prompt"],
    segment_ids: Int[Array, "batch prompt"],
    positions: Int[Array, "batch prompt"],
    filler_rows: Bool[Array, " batch"],
    ends: _Ends,
    key: PRNGKeyArray,
    streams: Int[Array, " batch"],
    new_length: int,
    sampling: Sampling,
) -> _State:
    """Reads whole prompts into a fresh cache that has room for `new_length` tokens more."""
    rows, length = tokens.shape
    config = model.config
    cache = KVCache.empty(
        config.num_hidden_layers,
        rows,
        length + new_length,
        config.num_key_value_heads,
        config.head_dim,
        model.decoder.embed_tokens.weight.dtype,
    )
    hidden, cache = model.decoder(tokens, segment_ids, positions, cache=cache)
    assert cache is not None
    state = _State(
        cache=cache,
        last=tokens[:, -1],
        positions=positions[:, -1],
        keys=jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, streams),
        done=filler_rows,
        generated=jnp.zeros((rows, new_length), jnp.int32),
        lengths=jnp.zeros(rows, jnp.int32),
        step=jnp.zeros((), jnp.int32),
    )
    # Only the last token of a prompt is followed by something new.
    last = hidden.reshape(rows, length, -1)[:, -1]
    return state.choose(model.logits(last), ends, sampling)


@eqx.filter_jit(donate="all-except-first")
def _decode(model: LmHeadModel, state: _State, stop: Int[Array, ""], ends: _Ends, sampling: Sampling) -> _State:
    def unfinished(state: _State) -> Array:
        return (state.step < stop) & ~jnp.all(state.done)

    def one_token(state: _State) -> _State:
        tokens, positions = state.last[:, None], state.positions[:, None]
        hidden, cache = model.decoder(tokens, jnp.ones_like(tokens), positions, cache=state.cache)
        state = eqx.tree_at(lambda state: state.cache, state, cache)
        return state.choose(model.logits(hidden), ends, sampling)

    return jax.lax.while_loop(unfinished, one_token, state)


def round_up_length(length: int) -> int:
    """The next of a few lengths: multiples of 32, and above 256 eight from one power of two to the next."""
    step = max(32, 1 << max((length - 1).bit_length() - 4, 0))
    return -(-length // step) * step


def _round_up_rows(rows: int) -> int:
    return 1 << (rows - 1).bit_length() if rows <= 8 else -(-rows // 8) * 8


def _batches(indices: list[int], batch_size: int) -> Iterator[list[int]]:
    """Neighbours in batches of nearly equal size, so that the last one needs no shape of its own."""
    if batch_size < 1:
        raise UserError(f"batch_size: {batch_size} is less than 1.")
    if not indices:
        return
    size = -(-len(indices) // -(-len(indices) // batch_size))
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
