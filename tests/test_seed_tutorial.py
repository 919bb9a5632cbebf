"""The code blocks of the tutorial that lodos implements, run as they stand there.

Only the imports are lodos'. The tutorial leaves out (`...`) what it shares with its full fine-tuning script:
loading the model, the data and the optimizer; those lines are `BEFORE`, `LOADING` and `AFTER` here.
"""

import dataclasses
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lodos.lora.config import LoraConfig
from lodos.prompting.description import read_prompting

TUTORIAL = Path(__file__).resolve().parents[2] / "shared" / "seed-alpaca-lora-tutorial.md"

IMPORTS = """
import os
from dataclasses import dataclass
from typing import List, Optional, Union

import jax
import lodos as hax
import lodos.config as alpaca
from lodos import (
    HFCheckpointConverter, LmExample, LmHeadModel, LoraConfig, Trainer, lora_trainable_params_filter, loraize,
    save_merged_hf_checkpoint_callback, save_peft_checkpoint_callback,
)
from lodos.data.prepare import prepare
from lodos.data.batching.loader import TrainLoader
"""

BEFORE = """
converter = HFCheckpointConverter.from_hf(config.model_name_or_path)
rows = prepare(config, converter.tokenizer, seed=0).training
loader = TrainLoader(rows, batch_size=config.trainer.train_batch_size, pad_id=0, seed=0)
optimizer = config.optimizer.build(config.trainer.num_train_steps)
parameter_axis_mapping = config.trainer.parameter_axis_mapping
lora_key, training_key = jax.random.split(jax.random.key(0))
"""

LOADING = "model = converter.load_pretrained(axis_mapping=parameter_axis_mapping)\n"

AFTER = """
state = trainer.initial_state(training_key, model=model)
state = trainer.train(state, loader)
"""


@pytest.fixture(scope="module")
def blocks() -> list[str]:
    if not TUTORIAL.exists():
        pytest.skip(f"the tutorial is not beside this checkout ({TUTORIAL.name})")
    return re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def run(blocks: list[str], make_model: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Trains by the tutorial's blocks; what a reader would have at the end."""
    folder, _ = make_model()
    tmp = tmp_path_factory.mktemp("tutorial")
    rows = [{"instruction": f"Say {word}.", "output": word * 3} for word in "abcdefgh"]
    (tmp / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    _, loraize_block, trainer_block, peft_block, merged_block, use_peft, use_merged = blocks
    train_args = loraize_block.split("...\n")[0]
    source = (
        IMPORTS
        + train_args
        + "def train(config: TrainArgs):\n"
        + textwrap.indent(BEFORE, "    ")
        + "    with config.trainer.device_mesh:\n"
        + textwrap.indent(LOADING, "        ")
        + _body_of_with(loraize_block)
        + _body_of_with(trainer_block)
        + textwrap.indent(_dedented(peft_block) + _dedented(merged_block) + AFTER, "        ")
        + "    return trainer, state\n"
    )
    names: dict[str, Any] = {}
    exec(compile(source, TUTORIAL.name, "exec"), names)
    from lodos import OptimizerConfig, TrainerConfig

    config = names["TrainArgs"](
        model_name_or_path=str(folder),
        data=str(tmp / "data.json"),
        lora=LoraConfig(r=4),
        optimizer=OptimizerConfig(learning_rate=3e-2),
        trainer=TrainerConfig(run_dir=str(tmp / "runs"), num_train_steps=3, train_batch_size=4),
        hf_save_path=str(tmp / "peft"),
        hf_save_steps=2,
        merged_hf_save_path=str(tmp / "merged"),
    )
    trainer, state = names["train"](config)
    return dict(
        tmp=tmp, trainer=trainer, state=state, use_peft=use_peft, use_merged=use_merged, names=names, folder=folder
    )


def _body_of_with(block: str) -> str:
    """The lines of the block after `with config.trainer.device_mesh:` and its `...`."""
    return block.split("with config.trainer.device_mesh:\n", 1)[1].replace("        ...\n", "", 1)


def _dedented(block: str) -> str:
    lines = block.splitlines()
    # One comment of the tutorial is indented deeper than the code that it stands above.
    return "\n".join(line.lstrip() if line.lstrip().startswith("#") else line for line in lines) + "\n"


def test_lora_config_has_the_tutorials_fields_and_defaults(blocks: list[str]) -> None:
    names: dict[str, Any] = {}
    exec("from dataclasses import dataclass\nfrom typing import *\n" + blocks[0], names)
    ours = {field.name: field.default for field in dataclasses.fields(LoraConfig)}
    for field in dataclasses.fields(names["LoraConfig"]):
        assert ours[field.name] == field.default


def test_adapters_are_saved_when_due_and_at_the_end(run: dict[str, Any]) -> None:
    folder = run["tmp"] / "peft" / run["trainer"].id
    assert sorted(path.name for path in folder.iterdir()) == ["step-2", "step-3"]
    # The tutorial's hooks are told nothing of the data, and yet say how the model is asked.
    for saved in (*folder.iterdir(), run["tmp"] / "merged" / run["trainer"].id / "step-3"):
        prompting = read_prompting(saved)
        assert prompting is not None
        assert (prompting.format, [token.text for token in prompting.end_tokens]) == ("alpaca", ["</s>"])


def test_the_results_load_in_peft_and_transformers_as_the_tutorial_says(
    run: dict[str, Any], tokens: np.ndarray
) -> None:
    import torch

    names: dict[str, Any] = {"path": str(run["tmp"] / "peft" / run["trainer"].id / "step-3")}
    exec(
        "from peft import PeftConfig, PeftModel\nfrom transformers import AutoModelForCausalLM\n" + run["use_peft"],
        names,
    )
    merged: dict[str, Any] = {"path": str(run["tmp"] / "merged" / run["trainer"].id / "step-3")}
    exec(run["use_merged"], merged)

    ours = np.asarray(run["state"].model(tokens))
    for model in (names["lora_model"], merged["model"]):
        with torch.no_grad():
            theirs = model.eval()(torch.tensor(tokens)).logits.numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
