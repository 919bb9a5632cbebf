"""Mixed precision, written as in Levanter's configs: `p=f32,c=bfloat16`."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from lodos.errors import UserError

_NAMES = {
    "f32": jnp.float32,
    "float32": jnp.float32,
    "full": jnp.float32,
    "bf16": jnp.bfloat16,
    "bfloat16": jnp.bfloat16,
    "f16": jnp.float16,
    "float16": jnp.float16,
}


@dataclasses.dataclass(frozen=True)
class Policy:
    """Trainable parameters are kept in one dtype; the frozen ones and all computation are in the other."""

    param_dtype: np.dtype
    compute_dtype: np.dtype

    @staticmethod
    def parse(text: str) -> "Policy":
        """Reads `p=<dtype>,c=<dtype>`, or one dtype for both; parameters are float32 if only `c` is given.

        jmp's long names (`params=float32,compute=bfloat16,output=float32`) are read too. The output of a loss is always
        summed in float32, so `output` decides nothing.

        Raises:
            UserError: for anything else, and for float16, whose small gradients would be lost.
        """
        if text in _NAMES:
            return _trained_in(text, text, text)
        words = {"params": "p", "compute": "c", "output": "o"}
        parts = {"p": "f32"}
        for item in text.split(","):
            key, _, value = item.strip().partition("=")
            key = words.get(key, key)
            if key not in words.values() or value not in _NAMES:
                raise UserError(
                    f"mp: {text!r} is not understood at {item.strip()!r}. Write p=<dtype>,c=<dtype> with "
                    f"{', '.join(_NAMES)}, such as p=f32,c=bfloat16."
                )
            parts[key] = value
        return _trained_in(text, parts["p"], parts.get("c", parts["p"]))


def _trained_in(text: str, param: str, compute: str) -> Policy:
    policy = Policy(np.dtype(_NAMES[param]), np.dtype(_NAMES[compute]))
    if np.float16 in (policy.param_dtype, policy.compute_dtype):
        raise UserError(
            f"mp: {text!r}: nothing is trained in float16: gradients below 6e-8 are zero in it, and there is no loss "
            "scaling here that would lift them. Write p=f32,c=bfloat16, which has float32's range."
        )
    return policy
