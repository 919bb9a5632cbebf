"""What is compiled for GPUs that are not here: cuDNN attends, nothing is held twice, and all that is moved is read.

Needs the compiler of JAX's CUDA plugin where `make test` puts it, and no card.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from lodos.commands.compiled_plan import trace_step
from lodos.config import TrainArgs
from lodos.formats.hf import HFCheckpointConverter
from lodos.nn.attention.attention import attention
from lodos.plan.accelerators import accelerators_of
from lodos.plan.described import ENVIRONMENT, described_target
from lodos.plan.footprint import temporaries_of
from lodos.plan.traffic import traffic_of_text
from lodos.target import compiling_for
from lodos.train.config import TrainerConfig

CUDA = Path(sys.prefix) / "cuda"
TOKENS = 4 * 256
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "tie_word_embeddings": False,
}
KEPT = 128 + 128 + 2 * 64 + 128 + 2 * 192
"""Of a token in a layer: its input, and the products with q, k, v, o, gate and up. Nobody asks for that with down."""


def compiled_on(target: str, layers: int, folder: Path) -> dict[str, Any]:
    """What is counted of a step, and what its compiled program says."""
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": layers}), encoding="utf-8")
    with compiling_for(described_target(accelerators_of(target))):
        trainer = TrainerConfig(train_batch_size=4, num_train_steps=10, mp="p=f32,c=bfloat16")
        config = TrainArgs(
            model_name_or_path=str(folder),
            data="rows.jsonl",
            packing=True,
            max_tune_length=256,
            gradient_checkpointing="dots",
            trainer=trainer,
        )
        step = trace_step(config, HFCheckpointConverter.from_hf(str(folder)))
        with config.trainer.device_mesh:
            compiled = step.traced.lower().compile()
    memory: Any = compiled.memory_analysis()
    text = compiled.as_text() or ""
    return {
        "counted": step.holds.arguments,
        "adapter": step.holds.adapter,
        "arguments": memory.argument_size_in_bytes,
        "temporaries": temporaries_of(compiled),
        "traced": step.traffic,
        "moved": traffic_of_text(text),
        "attention": text.count('custom_call_target="__cudnn$fmha'),
    }


def attends_with_cudnn(target: str, head_size: int) -> bool:
    with compiling_for(described_target(accelerators_of(target))):
        q = jax.ShapeDtypeStruct((1, 16, 2, head_size), jnp.bfloat16)
        starts = jax.ShapeDtypeStruct((1, 16), jnp.int32)
        # A function of its own, since JAX keeps traces by function, and not by what is compiled for.
        return "dot_product_attention" in str(jax.make_jaxpr(lambda *given: attention(*given))(q, q, q, starts))


def script(folder: Path) -> None:
    found = {
        "shallow": compiled_on("h100", 4, folder),
        "deep": compiled_on("h100", 12, folder),
        "four": compiled_on("l4x4", 4, folder),
        "cudnn": [attends_with_cudnn(*card) for card in (("a100-40", 128), ("a100-40", 256), ("h200", 256))],
    }
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")


def with_plugin() -> dict[str, str]:
    """The environment in which it is found."""
    if not CUDA.is_dir():
        pytest.skip(f"needs the compiler of GPUs in {CUDA}, where make test puts it")
    path = os.pathsep.join([str(CUDA), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "120"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("gpus")
    environment = {**with_plugin(), **ENVIRONMENT}
    subprocess.run([sys.executable, __file__, str(folder)], check=True, env=environment)
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["shallow", "deep", "four"])
def test_arguments_are_the_bytes_of_the_parameters(name: str, found: dict[str, Any]) -> None:
    assert found[name]["counted"] == found[name]["arguments"]


def test_what_is_kept_for_the_backward_pass_is_held_once(found: dict[str, Any]) -> None:
    """Eight more layers take what eight more layers keep, and hardly anything besides."""
    grown = found["deep"]["temporaries"] - found["shallow"]["temporaries"]
    assert grown == pytest.approx(8 * TOKENS * KEPT * 2, rel=0.05)  # k's products alone are 7 % of it


def test_attention_is_cudnns_where_the_card_takes_it(found: dict[str, Any]) -> None:
    """Forward, once more in the backward pass, and backward. Heads of 256 need Hopper."""
    assert all(found[name]["attention"] == 3 for name in ("shallow", "deep", "four"))
    assert found["cudnn"] == [True, False, True]


def test_what_moves_is_read_of_the_program(found: dict[str, Any]) -> None:
    moved, traced, adapter = (found["four"][name] for name in ("moved", "traced", "adapter"))
    # What is trained is gathered by XLA's partitioner, of which the traced program says nothing.
    assert 0 < moved["all-gather"] - traced["all-gather"] <= 4 * adapter
    # Of some sums every card keeps its quarter alone.
    assert moved["all-reduce"] + 4 * moved["reduce-scatter"] == pytest.approx(traced["all-reduce"], rel=0.01)
    assert not found["deep"]["moved"]


def test_the_plan_of_a_card(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": 2}), encoding="utf-8")
    flags = ["--model_name_or_path", str(tmp_path), "--data", "rows.jsonl", "--trainer.mp", "p=f32,c=bfloat16"]
    flags += ["--trainer.train_batch_size", "4", "--packing", "true", "--max_tune_length", "128", "--target", "l4"]
    command = [sys.executable, "-m", "lodos", "plan", *flags]
    environment = {**with_plugin(), "XLA_CLIENT_MEM_FRACTION": "0.5"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("l4: 1 x NVIDIA L4 on 1 host", "% of 11.0 GiB", "Not autotuned", "as compiled): nothing", "It fits."):
        assert words in done.stdout, done.stdout
    assert done.stderr == ""


if __name__ == "__main__":
    script(Path(sys.argv[1]))
