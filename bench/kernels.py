"""The parts of a training step by themselves, each against the way it would be written without a second thought.

    python -m bench.kernels

SmolLM2-135M's shapes over 2,048 tokens in float32, forward and backward. The contestants of a part alternate in one
run; the figures are medians in milliseconds. `--freed_memory given_back` leaves the C library as it is.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.measure import write_report

HIDDEN, MLP, KV, HEADS, KV_HEADS, VOCAB = 576, 1536, 192, 9, 3, 49152
TOKENS, RANK, SCALE = 2048, 8, 2.0

Contestants = dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]
"""A compiled function and its arguments, by name."""


def attention(batch: int, seq: int, example: int | None) -> Contestants:
    """Value and gradients; rows of one example, or packed with examples of about `example` tokens."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from lodos.nn.attention.attention import attention
    from lodos.nn.attention.segments import segment_starts

    draw = np.random.default_rng(0)
    segment_ids = np.ones((batch, seq), np.int32)
    if example is not None:
        lengths = draw.lognormal(np.log(0.8 * example), 0.6, (batch, seq // 8)).astype(int) + 8
        segment_ids = np.stack([np.searchsorted(np.cumsum(row), np.arange(seq), side="right") + 1 for row in lengths])
    sizes = (HEADS, KV_HEADS, KV_HEADS, HEADS)
    *qkv, weight = (jnp.asarray(draw.normal(size=(batch, seq, size, 64)), jnp.float32) for size in sizes)
    starts = segment_starts(jnp.asarray(segment_ids))

    def gradients(implementation: Any) -> Callable[..., Any]:
        def loss(q: Any, k: Any, v: Any, starts: Any) -> Any:
            return jnp.sum(attention(q, k, v, starts, implementation=implementation) * weight)

        return jax.jit(jax.grad(loss, (0, 1, 2)))

    names = ["blockwise"] if seq > TOKENS else ["plain", "blockwise"]
    return {name: (gradients(name), (*qkv, starts)) for name in names}


def lora_linear(out: int, in_: int, rank: int = RANK) -> Contestants:
    """Output and the gradients of x, A and B; the base layer's product alone for comparison."""
    import jax
    import jax.numpy as jnp

    from lodos.lora.product import lora_product

    shapes = ((TOKENS, in_), (out, in_), (rank, in_), (out, rank), (TOKENS, out))
    keys = jax.random.split(jax.random.key(0), len(shapes))
    x, weight, A, B, seen = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))

    def gradients(product: Callable[..., Any], *wanted: int) -> Callable[..., Any]:
        def loss(x: Any, A: Any, B: Any, weight: Any, seen: Any) -> Any:
            return jnp.sum(product(x, weight, A, B) * seen)

        return jax.jit(jax.value_and_grad(loss, wanted))

    arguments = (x, A, B, weight, seen)
    return {
        "base layer": (gradients(lambda x, weight, A, B: x @ weight.T, 0), arguments),
        "as written": (gradients(lambda x, weight, A, B: x @ weight.T + SCALE * (x @ A.T @ B.T), 0, 1, 2), arguments),
        "lora_product": (gradients(lambda x, w, A, B: lora_product((x, None, w, A, B), SCALE), 0, 1, 2), arguments),
    }


def cross_entropy(trained: float) -> Contestants:
    """The loss and the gradient of the hidden states, where this share of the tokens is trained."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from lodos.nn.cross_entropy import next_token_loss
    from lodos.nn.embedding import Embedding, TiedHead

    draw = np.random.default_rng(0)
    hidden = jnp.asarray(draw.normal(size=(TOKENS, HIDDEN)), jnp.float32)
    head = TiedHead(Embedding(jnp.asarray(0.05 * draw.normal(size=(VOCAB, HIDDEN)), jnp.float32)))
    targets = jnp.asarray(draw.integers(0, VOCAB, TOKENS))
    weights = jnp.asarray(draw.random(TOKENS) < trained, jnp.float32)

    def plain(hidden: Any, head: TiedHead) -> Any:
        logits = head(hidden)
        picked = jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        return jnp.sum(weights * (jax.nn.logsumexp(logits, axis=-1) - picked))

    def chunked(hidden: Any, head: TiedHead) -> Any:
        return next_token_loss(head, hidden, targets, weights).total

    ways = {"all logits at once": plain, "next_token_loss": chunked}
    return {name: (jax.jit(jax.value_and_grad(way)), (hidden, head)) for name, way in ways.items()}


PARTS: dict[str, Callable[[], Contestants]] = {
    "attention, 4 rows of 512": lambda: attention(4, 512, None),
    "attention, 4 packed rows of 512": lambda: attention(4, 512, 200),
    "attention, 1 row of 2048": lambda: attention(1, 2048, None),
    "attention, 1 packed row of 2048": lambda: attention(1, 2048, 200),
    "attention, 1 packed row of 8192": lambda: attention(1, 8192, 200),
    "gate_proj with LoRA": lambda: lora_linear(MLP, HIDDEN),
    "down_proj with LoRA": lambda: lora_linear(HIDDEN, MLP),
    "q_proj with LoRA": lambda: lora_linear(HIDDEN, HIDDEN),
    "k_proj with LoRA": lambda: lora_linear(KV, HIDDEN),
    "cross-entropy, all tokens": lambda: cross_entropy(1.0),
    "cross-entropy, 60 % of them": lambda: cross_entropy(0.6),
}


def measure(contestants: Contestants, rounds: int) -> dict[str, float]:
    """The median of each contestant's times, in milliseconds."""
    import jax

    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, (function, arguments) in contestants.items():
            started = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            if turn:  # the first compiles
                times[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--freed_memory", choices=["kept", "given_back"], default="kept")
    parser.add_argument("--out", type=Path, default=Path("bench/out/kernels.json"))
    args = parser.parse_args()
    if args.freed_memory == "kept":
        from lodos.runtime import prepare_runtime

        prepare_runtime()
    results = {}
    for part in args.parts:
        results[part] = measure(PARTS[part](), args.rounds)
        print(f"{part:34}" + "   ".join(f"{name} {ms:8.1f} ms" for name, ms in results[part].items()), flush=True)
    write_report(args.out, freed_memory=args.freed_memory, ms=results)


if __name__ == "__main__":
    main()
