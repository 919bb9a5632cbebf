"""How an adapter beside its base and the model that it is merged into differ, for prompts."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lodos.commands.prompt_file import read_prompt_file
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.peft import load_peft_pretrained
from lodos.infer.divergence import Divergence, divergence, logits_of
from lodos.lora.transform import merge_lora_modules
from lodos.models.decoder import LmHeadModel
from lodos.prompting.description import read_prompting
from lodos.prompting.encode import usual_prompting

_DTYPES = ("bfloat16", "float16", "float32")
"""In the order in which one is recommended."""


def prompt_ids(path: str, converter: HFCheckpointConverter, adapter: Path) -> list[list[int]]:
    """The tokens of the prompts in a file, asked as the adapter was trained."""
    prompting = read_prompting(adapter) or usual_prompting(converter.tokenizer)
    return [prompt.ids for prompt in read_prompt_file(path, converter.tokenizer, prompting, answer="generated")]


def compared(
    converter: HFCheckpointConverter,
    adapter: Path,
    ids: Sequence[Sequence[int]],
    *,
    dtype: str | None = None,
    merged: str | None = None,
) -> Iterator[str]:
    """Says how far the two are apart, and of a merged model that answers otherwise, which dtype would not.

    Everything is computed in float32, so that the weights alone make the difference.

    Args:
        dtype: of the merged weights; None for that of the base's files.
        merged: a merged model to compare with, in place of one that is made here.
    """
    adapted = load_peft_pretrained(converter.load_pretrained(dtype=jnp.float32), adapter)[0]
    reference = logits_of(adapted, ids)
    yield from _through_peft(converter, adapter, ids, reference)
    if merged is not None:
        model = HFCheckpointConverter.from_hf(merged).load_pretrained(dtype=jnp.float32)
        found = divergence(reference, logits_of(model, ids))
        yield f"{merged} against the adapter: {found.describe()}."
        yield from [] if found.answers_alike else ["The merged model would answer otherwise."]
        return
    exact = merge_lora_modules(adapted)
    used = dtype or next(iter(converter.reader().dtypes.values())).name

    def of_dtype(name: str) -> Divergence:
        return divergence(reference, logits_of(_rounded(exact, name), ids))

    found = of_dtype(used)
    yield f"merged in {used} against the adapter: {found.describe()}."
    if found.answers_alike:
        return
    better = next((name for name in _DTYPES if name != used and of_dtype(name).answers_alike), None)
    advice = f"In {better} it would not: --dtype {better}." if better else "So it would in every dtype."
    yield f"warning: merged in {used} the model would answer otherwise than the adapter. {advice}"


def _rounded(model: LmHeadModel, dtype: str) -> LmHeadModel:
    """The weights as a file of that dtype would hold them."""

    def rounded(leaf: Any) -> Any:
        return leaf.astype(dtype).astype(leaf.dtype) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf

    return jax.tree.map(rounded, model)


def _through_peft(
    converter: HFCheckpointConverter, adapter: Path, ids: Sequence[Sequence[int]], reference: list[np.ndarray]
) -> Iterator[str]:
    """The same adapter through PEFT, where torch and PEFT are installed; neither is ever a dependency.

    It is asked in a process of its own: this one does without torch, which transformers would import for seconds.
    """
    with tempfile.TemporaryDirectory(prefix="lodos-peft-") as scratch:
        out = Path(scratch) / "logits.npz"
        request = json.dumps([str(converter.folder), str(adapter), str(out), [list(one) for one in ids]])
        done = subprocess.run(
            [sys.executable, "-c", _WITH_PEFT], input=request, capture_output=True, text=True, check=False
        )
        if done.returncode == _NOT_INSTALLED:
            return
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no reason"])[-1]
            yield f"PEFT cannot load it: {last}"
            return
        with np.load(out, allow_pickle=False) as found:
            logits = [found[str(index)] for index in range(len(ids))]
    yield f"PEFT against lodos: {divergence(reference, logits).describe()}."


_NOT_INSTALLED = 3
_WITH_PEFT = f"""
import json, sys
try:
    import peft, torch
except ImportError:
    sys.exit({_NOT_INSTALLED})
import numpy
from transformers import AutoModelForCausalLM
base, adapter, out, ids = json.load(sys.stdin)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
model = peft.PeftModel.from_pretrained(model, adapter).eval()
with torch.no_grad():
    logits = [model(input_ids=torch.tensor([one])).logits[0].float().numpy() for one in ids]
numpy.savez(out, **{{str(index): one for index, one in enumerate(logits)}})
"""
