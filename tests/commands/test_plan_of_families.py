"""Every family is planned from its `config.json` alone: what is counted is what transformers and PEFT count."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import pytest

from family_cases import FAMILIES, SHAPE, first_case
from lodos.commands.compiled_plan import trace_step
from lodos.config import TrainArgs
from lodos.formats.hf import HFCheckpointConverter
from lodos.lora.config import LoraConfig
from lodos.models.auto import MODEL_TYPES
from lodos.train.config import TrainerConfig

pytest.importorskip("torch")

VOCAB, R, ROWS, LENGTH = 96, 4, 8, 32


@dataclasses.dataclass(frozen=True)
class Counted:
    """Numbers that a model has."""

    base: int
    in_layers: int
    """In matrices of the layers."""
    head: int
    adapter: int


def counted(config: Any) -> Counted:
    """By transformers and PEFT, which make nothing here but shapes."""
    import torch
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        head = linear.pop("lm_head").weight.numel()
        in_layers = sum(module.weight.numel() for module in linear.values())
        base = sum(parameter.numel() for parameter in model.parameters())
        adapted = get_peft_model(model, PeftConfig(r=R, target_modules="all-linear", task_type="CAUSAL_LM"))
        return Counted(base, in_layers, head, adapted.get_nb_trainable_parameters()[0])


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_family_is_counted_from_its_config_alone(model_type: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    case = first_case(model_type, vocab_size=VOCAB) if model_type in FAMILIES else {**SHAPE, "vocab_size": VOCAB}
    config = AutoConfig.for_model(model_type, **case)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    trainer = TrainerConfig(train_batch_size=ROWS, num_train_steps=10)
    args = TrainArgs(
        model_name_or_path=str(tmp_path),
        data="rows.jsonl",
        packing=True,
        max_tune_length=LENGTH,
        gradient_checkpointing="dots",
        lora=LoraConfig(r=R),
        trainer=trainer,
    )
    step = trace_step(args, HFCheckpointConverter.from_hf(str(tmp_path)))
    expected = counted(config.get_text_config())
    assert step.holds.base == 4 * expected.base
    assert step.holds.adapter == 4 * expected.adapter
    tokens = ROWS * LENGTH
    assert step.flops == tokens * (4 * expected.in_layers + 6 * expected.adapter + 4 * expected.head)
    arguments = jax.tree.leaves(step.traced.in_avals)
    assert step.holds.arguments == sum(one.size * one.dtype.itemsize for one in arguments)
