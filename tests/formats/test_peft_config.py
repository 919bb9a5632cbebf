"""adapter_config.json, field for field against the one that PEFT writes for the same adapter."""

import json
from pathlib import Path
from typing import Any

import pytest

from lodos.formats.peft_config import PEFT_VERSION, from_peft, to_peft
from lodos.lora.config import LoraConfig

TARGETS = ["q_proj", "down_proj"]
CASES = {
    "defaults": (LoraConfig(target_modules=TARGETS), {}),
    "all of it": (
        LoraConfig(target_modules=TARGETS, r=4, alpha=6.5, dropout=0.1, use_rslora=True, init="gaussian"),
        dict(r=4, lora_alpha=6.5, lora_dropout=0.1, use_rslora=True, init_lora_weights="gaussian"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_fields_are_those_that_peft_writes(case: str, make_model: Any, tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    ours, settings = CASES[case]
    folder, _ = make_model()
    config = peft.LoraConfig(**{"r": 8, "lora_alpha": 8, **settings}, target_modules=TARGETS, task_type="CAUSAL_LM")
    model: Any = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    model.save_pretrained(str(tmp_path))
    theirs = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    written = to_peft(ours, TARGETS, str(folder))
    if peft.__version__ == PEFT_VERSION:  # other versions have other fields
        assert written.keys() == theirs.keys()
    for fields in (written, theirs):  # PEFT keeps the targets as a set
        fields["target_modules"] = sorted(fields["target_modules"])
        del fields["peft_version"]
    assert {name: value for name, value in written.items() if name in theirs} == {
        name: value for name, value in theirs.items() if name in written
    }
    assert from_peft(theirs, "theirs") == from_peft(written, "ours")
