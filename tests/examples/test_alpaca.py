"""`examples/alpaca.py`: every parameter is trained, a PAD token added, and whole models are written."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from lodos.tracking.jsonl import read_records

pytest.importorskip("torch")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def run(run_example: Any, llama: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the script ran for six steps, with a model at 4 and at the end."""
    folder = tmp_path_factory.mktemp("alpaca")
    (folder / "alpaca.yaml").write_text(
        f"model_name_or_path: {llama}\n"
        f"data: {rows}\n"
        "validation: 4\n"
        "hf_save_path: models\n"
        "hf_save_steps: 4\n"
        "optimizer: {type: adam, learning_rate: 3e-3, weight_decay: 0.0}\n"
        "trainer: {id: full, num_train_steps: 6, train_batch_size: 4, steps_per_eval: 3}\n",
        encoding="utf-8",
    )
    run_example("alpaca.py", "--config_path", "alpaca.yaml", cwd=folder)
    return folder


def test_every_parameter_is_trained_and_the_loss_falls(run: Path, llama: Path) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (llama, run / "models" / "full" / "step-6"))
    assert before.keys() == after.keys()
    assert all(not np.array_equal(before[name], after[name][: len(before[name])]) for name in before)
    records = read_records(run / "runs" / "full" / "log.jsonl")
    held_out = [record["eval/loss"] for record in records if "eval/loss" in record]
    assert held_out[-1] < held_out[0]
    summary = next(record["summary"] for record in records if "summary" in record)
    assert summary["trainable_parameters"] == sum(tensor.size for tensor in after.values())
    assert summary["parameters"] == 0


def test_a_model_is_written_when_due_and_at_the_end(run: Path) -> None:
    assert sorted(path.name for path in (run / "models" / "full").iterdir()) == ["step-4", "step-6"]
    assert (run / "runs" / "full" / "config.yaml").exists()


def test_transformers_loads_the_model_with_its_new_token(run: Path, llama: Path, tokens: np.ndarray) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lodos import HFCheckpointConverter

    path = run / "models" / "full" / "step-6"
    tokenizer, base = AutoTokenizer.from_pretrained(path), AutoTokenizer.from_pretrained(llama)
    assert (base.pad_token_id, tokenizer.pad_token, tokenizer.pad_token_id) == (None, "[PAD]", len(base))
    assert tokenizer.chat_template == base.chat_template
    model, loading = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert model.config.vocab_size == len(base) + 1
    assert model.config.pad_token_id == model.generation_config.pad_token_id == len(base)
    assert model.get_input_embeddings().weight.shape[0] == model.lm_head.weight.shape[0] == len(base) + 1

    ours = np.asarray(HFCheckpointConverter.from_hf(str(path)).load_pretrained()(tokens))
    with torch.no_grad():
        theirs = model.eval()(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def test_a_run_resumes_from_its_own_config(run_example: Any, run: Path) -> None:
    config = run / "runs" / "full" / "config.yaml"
    run_example("alpaca.py", "--config_path", config, "--trainer.num_train_steps", "7", cwd=run)
    steps = [record["step"] for record in read_records(run / "runs" / "full" / "log.jsonl") if "train/loss" in record]
    assert steps == [1, 2, 3, 4, 5, 6, 7]


def test_what_the_user_can_mend_is_said_without_a_traceback(run_example: Any, run: Path, tmp_path: Path) -> None:
    done = run_example("alpaca.py", "--config_path", run / "alpaca.yaml", "--lora.r", "8", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: --lora")

    # In a process of its own, which has imported nothing before.
    command = [sys.executable, str(EXAMPLES / "alpaca.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Fine-tune every parameter of a model" in done.stdout
    assert "(default: tatsu-lab/alpaca)" in done.stdout
