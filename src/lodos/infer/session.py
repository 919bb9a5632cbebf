"""One text that grows, with what the model has read of it kept: an answer token by token, a conversation turn by turn.

The keys and values of tokens already read stay in the cache. A prompt that begins as the text so far costs what it has
beyond it: the cache goes back to where the two part, and reads on from there.

    read before     a b c d e f         what was asked and answered so far
    next prompt     a b c d x y z       two tokens were written otherwise, by the template or the tokenizer
    kept            a b c d             x y z are read

Where the rotary embedding depends on how long the text is (dynamic, longrope), what was read of a shorter text does not
hold for a longer one, and all of it is read again.
"""

from collections.abc import Iterator, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lodos.infer.generate import check_prompts, round_up_length
from lodos.infer.sampling import Sampling, sample
from lodos.models.decoder import LmHeadModel
from lodos.nn.kv_cache import KVCache

_LEAST_LENGTH = 256
_OF_CHANGING_ROPE = frozenset({"dynamic", "longrope"})


class Session:
    """A model with a cache of one text.

    Args:
        eos_token_ids: an answer ends before the first of these.
        seed: with `turn`, decides what is drawn.
    """

    def __init__(
        self,
        model: LmHeadModel,
        *,
        eos_token_ids: Sequence[int],
        sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
        seed: int = 0,
    ) -> None:
        self._model = model
        self._ends = frozenset(eos_token_ids)
        self._sampling = sampling
        self._key = jax.random.key(seed)
        self._cache: KVCache | None = None
        self.read: list[int] = []
        """The tokens that are in the cache."""

    def stream(self, prompt: Sequence[int], *, max_new_tokens: int, turn: int = 0) -> Iterator[int]:
        """What the model says after `prompt`, each id as soon as it is there. Checks before the first.

        Args:
            turn: another one draws other tokens.

        Raises:
            UserError: for a prompt without tokens, or one longer than the model's positions allow.
        """
        check_prompts([prompt], max_new_tokens, self._model.config)
        return self._answer(list(prompt), max_new_tokens, jax.random.fold_in(self._key, turn))

    def shared_with(self, prompt: Sequence[int]) -> int:
        """How many tokens of `prompt` need not be read again; its last is read always, for what follows it."""
        rope_types = {rotary.rope_type for rotary in self._model.config.rotaries}
        if self._cache is None or rope_types & _OF_CHANGING_ROPE:
            return 0
        most = min(len(self.read), len(prompt) - 1)
        return next((i for i in range(most) if self.read[i] != prompt[i]), most)

    def _answer(self, prompt: list[int], max_new_tokens: int, key: PRNGKeyArray) -> Iterator[int]:
        kept = self.shared_with(prompt)
        logits = self._read(prompt[kept:], kept, len(prompt) + max_new_tokens)
        for step in range(max_new_tokens):
            token = int(np.asarray(_choose(logits, key, _scalar(step), self._sampling))[0])
            if token in self._ends:
                return
            yield token
            if step + 1 < max_new_tokens:
                logits = self._read([token], len(self.read), len(self.read) + 1)

    def _read(self, new: list[int], kept: int, room: int) -> Float[Array, "1 vocab"]:
        """Reads tokens after the first `kept` of the cache; the logits of what follows the last.

        Args:
            room: tokens that the cache is to hold in the end.
        """
        # Filler stands behind the tokens, unseen by them, and is written over by what comes next.
        tokens = np.zeros((1, 1 if len(new) == 1 else round_up_length(len(new))), np.int32)
        tokens[0, : len(new)] = new
        read, cache = self.read[:kept], self._with_room(max(room, kept + tokens.shape[1]))
        self._cache, self.read = None, []  # used up by the next line, also if it is interrupted
        self._cache, logits = _read(self._model, cache, jnp.asarray(tokens), _scalar(kept), _scalar(len(new)))
        self.read = [*read, *new]
        return logits

    def _with_room(self, room: int) -> KVCache:
        length = 0 if self._cache is None else self._cache.segment_ids.shape[1]
        if self._cache is not None and length >= room:
            return self._cache
        # Twice as much each time, since each length is compiled.
        wanted = max(_LEAST_LENGTH, 1 << (room - 1).bit_length())
        config = self._model.config
        if self._cache is None:
            dtype = self._model.decoder.embed_tokens.weight.dtype
            return KVCache.empty(
                config.num_hidden_layers, 1, wanted, config.num_key_value_heads, config.head_dim, dtype
            )
        return self._cache.lengthened(wanted)


def generate_stream(
    model: LmHeadModel,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    eos_token_ids: Sequence[int],
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    seed: int = 0,
) -> Iterator[int]:
    """The ids that `generate` gives for one prompt, each as soon as it is there. Checks before the first."""
    session = Session(model, eos_token_ids=eos_token_ids, sampling=sampling, seed=seed)
    return session.stream(prompt, max_new_tokens=max_new_tokens)


@eqx.filter_jit(donate="all-except-first")
def _read(
    model: LmHeadModel, cache: KVCache, tokens: Int[Array, "1 new"], used: Int[Array, ""], count: Int[Array, ""]
) -> tuple[KVCache, Float[Array, "1 vocab"]]:
    """Reads the first `count` of `tokens` after the first `used` of the cache; the logits after the last of them."""
    index = jnp.arange(tokens.shape[1])[None]
    is_real = index < count
    segment_ids = is_real.astype(jnp.int32)
    positions = jnp.where(is_real, used + index, 0)
    hidden, extended = model.decoder(tokens, segment_ids, positions, cache=cache.rewound(used))
    assert extended is not None
    last = jax.lax.dynamic_slice_in_dim(hidden, count - 1, 1)
    return extended.rewound(used + count), model.logits(last)


def _scalar(number: int) -> Int[Array, ""]:
    return jnp.asarray(np.int32(number))  # from numpy, so that there is nothing to compile


@eqx.filter_jit
def _choose(
    logits: Float[Array, "1 vocab"], key: PRNGKeyArray, step: Int[Array, ""], sampling: Sampling
) -> Int[Array, " 1"]:
    return sample(logits, jax.random.fold_in(key, step)[None], sampling)
