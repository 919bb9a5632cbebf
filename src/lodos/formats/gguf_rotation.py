"""The order of the rows of q and k projections, here and in llama.cpp.

llama.cpp pairs rows 2i and 2i+1 of a head where Hugging Face pairs i and i + head_dim/2; its own conversion is
`LlamaModel.permute` in `conversion/llama.py`.
"""

import numpy as np


def rows_for_half_rotation(weight: np.ndarray, heads: int) -> np.ndarray:
    """Puts llama.cpp's rows, `[heads * head_dim, ...]`, into Hugging Face's order."""
    pairs = weight.reshape(heads, -1, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def rows_for_neighbour_rotation(weight: np.ndarray, heads: int) -> np.ndarray:
    """Puts Hugging Face's rows, `[heads * head_dim, ...]`, into llama.cpp's order."""
    halves = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)
