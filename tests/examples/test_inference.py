"""The scripts that answer in torch, with what the training scripts leave."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peft")

INSTRUCTION = "Say x."


@pytest.fixture(scope="module")
def run(run_example: Any, llama: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three steps, with adapter and merged model."""
    folder = tmp_path_factory.mktemp("inference")
    flags = ["--model_name_or_path", llama, "--data", rows, "--trainer.id", "r", "--trainer.num_train_steps", "3"]
    flags += ["--optimizer.learning_rate", "0.05", "--merged_hf_save_path", "merged"]
    run_example("alpaca_lora.py", *flags, cwd=folder)
    return folder


def test_adapter_and_merged_model_answer_alike_and_not_as_the_base(run_example: Any, run: Path, llama: Path) -> None:
    tokens = ("--max_new_tokens", "12")
    adapted = run_example("peft_inference.py", run / "runs/r/peft/step-3", INSTRUCTION, *tokens, cwd=run).stdout
    merged = run_example("merged_inference.py", run / "merged/r/step-3", INSTRUCTION, *tokens, cwd=run).stdout
    base = run_example("merged_inference.py", llama, INSTRUCTION, *tokens, cwd=run).stdout
    assert adapted.strip()
    assert adapted == merged != base
