"""Softmax attention with grouped heads, over rows that may hold several examples.

Who sees whom is one number a token: the index at which its segment starts. Token `i` sees the tokens from there to
itself and, with a window, no more than `window` of them. Filler starts at itself.

    attention.py   chooses an implementation by platform
    segments.py    where segments start
    blockwise.py   any platform: exact, memory linear in the length, only the blocks that somebody sees
    splash.py      TPU: JAX's splash attention
    cudnn.py       NVIDIA GPU: cuDNN's fused attention, through `jax.nn`
    plain.py       the definition; also reads a key-value cache
"""
