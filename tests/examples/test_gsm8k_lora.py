"""`examples/gsm8k_lora.py`: held-out problems are answered before and after, and counted right."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_a_model_that_learns_the_answer_is_counted_right(run_example: Any, llama: Path, tmp_path: Path) -> None:
    """Every problem has the same answer, so a few steps teach it."""
    rows = [{"question": f"{i} and {i}?", "answer": "So.\n#### 1,234"} for i in range(40)]
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    flags = ["--config_path", EXAMPLES / "gsm8k-lora.yaml", "--model_name_or_path", llama, "--data", "gsm8k.jsonl"]
    flags += ["--validation", "8", "--eval_rows", "6", "--max_new_tokens", "24", "--trainer.num_train_steps", "60"]
    done = run_example("gsm8k_lora.py", *flags, "--optimizer.learning_rate", "0.02", cwd=tmp_path)
    assert done.stdout.splitlines() == ["Before: 0 of 6 right (0.0%).", "After 60 steps: 6 of 6 right (100.0%)."]


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("2 + 2 = 4\n#### 4", 4.0),
        ("#### 1,234", 1234.0),
        ("#### -7 apples", -7.0),
        ("####  $0.50", 0.5),
        ("#### 18.", 18.0),
        ("#### four", None),
        ("The answer is 4.", None),
    ],
)
def test_the_number_is_the_one_after_the_mark(example_modules: None, answer: str, number: float | None) -> None:
    assert importlib.import_module("gsm8k_lora").final_number(answer) == number


def test_without_held_out_rows_it_says_so(run_example: Any, tmp_path: Path) -> None:
    done = run_example("gsm8k_lora.py", "--model_name_or_path", "m", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: validation: not given, so there is no problem to answer. Write validation: 500.\n"
