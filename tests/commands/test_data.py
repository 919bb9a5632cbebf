"""`lodos data`: what it says is what would be trained, and it needs neither weights nor a device."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lodos.cli import main
from lodos.commands import data as data_command
from lodos.data.config import DataArgs
from lodos.data.prepare import prepare
from lodos.formats.hf import HFCheckpointConverter

PROMPTS = {"prompt_input": "{instruction} {input} A:", "prompt_no_input": "{instruction} A:"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LODOS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


@pytest.fixture(scope="module")
def model(make_model: Any) -> Path:
    """A model without weights."""
    folder, _ = make_model()
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def write(tmp_path: Path, model: Path) -> Callable[..., list[str]]:
    """`write(rows, key=value)`: a config of these rows; the arguments to look at it."""

    def write(rows: Sequence[Any], name: str = "rows", **config: Any) -> list[str]:
        data = tmp_path / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        config = {"model_name_or_path": str(model), "data": str(data), "prompts": PROMPTS, **config}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
        return ["data", "--config_path", str(tmp_path / f"{name}.yaml")]

    return write


def row(n: int, **fields: Any) -> dict[str, Any]:
    return {"instruction": f"Say {n}.", "output": f"{n}", **fields}


def test_the_numbers_are_those_of_the_rows(
    write: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], tiny_tokenizer: Any
) -> None:
    rows = [row(n) for n in range(12)]
    rows[3] = row(3, output=" ")
    rows[4] = row(4, output=7)
    rows[6] = row(6, output="x" * 300)
    rows[8] = rows[1]
    rows[9] = row(9, instruction="What is </s>?")
    rows[0] = row(0, source="web")
    rows[11] = row(11, source="book", url="")
    options = dict(max_tune_length=100, on_bad_row="drop", trainer={"train_batch_size": 4, "num_epochs": 2})
    assert main(write(rows, **options)) == 0
    said = capsys.readouterr().out

    def has(pattern: str) -> bool:
        return re.search(pattern, said, re.MULTILINE) is not None

    ids = [
        tiny_tokenizer(PROMPTS["prompt_no_input"].format(**row) + row["output"])["input_ids"]
        for i, row in enumerate(rows)
        if i not in (3, 4, 6)
    ]
    tokens = sum(len(row) + 1 for row in ids)
    trained = sum(len(row["output"]) + 1 for i, row in enumerate(rows) if i not in (3, 4, 6))
    assert has("rows +12 read, 9 kept, 3 left out$")
    assert has(rf"tokens +{tokens}, of which {trained} are trained \({trained / tokens:.1%}\)$")
    assert has(rf"positions +512 in the model, {max(map(len, ids))} of them taken by the longest row$")
    assert has("held out +none$")
    assert has("steps +2.2 an epoch, with 4 rows a batch; the run's 2 epochs are 5 steps$")
    assert has(r"1  left out: the answer is empty\n.*rows\.jsonl: 1 \(row 4\); output is empty, found ' '")
    assert has(r"1  left out: not as the format wants it\n.*1 \(row 5\); output must be text, found int 7")
    assert has(r"1  left out: too long\n.*1 \(row 7\); \d+ tokens, more than max_tune_length=100$")
    assert has(r"none  left out: no trained token$")
    assert has(r"1  duplicates of earlier rows\n.*1 \(row 9\)$")
    assert has(r"1  special token </s> in a row's own text\n.*1 \(row 10\)$")
    assert has(r"none  end of the answer not trained$")
    assert has(r"1  columns and keys that nothing reads\n +source: in 2 rows, the first .*rows\.jsonl, row 1$")
    assert has("Read as alpaca: instruction, output$")
    assert "none that would train wrongly" in said


def test_what_is_trained_is_in_brackets(write: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"instruction": "Say [bold]hi[/bold]\x1b[31m.", "output": "one\ntwo"}]
    assert main(write(rows)) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said  # neither of the row nor colours, since this is no terminal
    _, _, shown = said.partition("row 1: ")
    lines = shown.partition("\n\n")[0].splitlines()[1:]
    text = "".join(line.removeprefix("  ") for line in lines)
    context, _, answer = text.partition("A|:")
    assert context.replace("|", "") == "Say [bold]hi[/bold]\\x1b[31m. "
    assert re.sub(r"\[(.*?)\]", r"\1", answer) == "one⏎two«</s>»"
    assert re.fullmatch(r"(\[[^\[\]]+\])+", answer)


def test_first_rows_of_each_source_are_shown_once(
    write: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write([row(n) for n in range(5)], name="a")
    argv = write(
        [row(n) for n in range(5, 10)],
        name="b",
        data=[str(tmp_path / "a.jsonl"), {"path": str(tmp_path / "b.jsonl"), "weight": 3}],
    )
    assert main([*argv, "--shown_rows", "2"]) == 0
    said = capsys.readouterr().out
    shown = re.findall(r"(\w)\.jsonl, row (\d):", said)
    assert shown == [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")]
    assert "20 rows, 10 different ones" in said


@pytest.mark.parametrize(
    ("rows", "options", "problem"),
    [
        ([row(1), row(2, output=2)], {}, "1 of 2 rows cannot be trained"),
        ([row(1), row(2, output=""), row(3, output="")], {}, "2 of 3 rows were left out (2 the answer is empty)"),
        (
            [row(n, output="x" * 50) for n in range(3)],
            dict(max_tune_length=30, overflow="truncate"),
            "The end of the answer is trained in none of the 3 rows",
        ),
        (
            [row(1), row(2, output="x" * 50), row(3, output="x" * 50)],
            dict(max_tune_length=30),
            "2 of 3 rows were left out",
        ),
        (
            [row(1), row(2, output="x" * 50)],
            dict(max_tune_length=30, overflow="error"),
            "1 of 2 rows cannot be trained",
        ),
    ],
)
def test_strict_makes_an_error_of_what_would_train_wrongly(
    write: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
    rows: list[Any],
    options: dict[str, Any],
    problem: str,
) -> None:
    argv = write(rows, **options)
    assert main(argv) == 0
    shown = capsys.readouterr()
    assert f"- {problem}" in shown.out
    assert "error" not in shown.err
    assert f"rows         {len(rows)} read" in shown.out  # also where the training would refuse one

    assert main([*argv, "--strict"]) == 1
    failed = capsys.readouterr()
    assert failed.out == shown.out
    assert f"error: {problem}" in failed.err


def test_strict_passes_what_is_right(write: Callable[..., list[str]]) -> None:
    assert main([*write([row(1)]), "--strict"]) == 0


def test_no_row_to_look_at_is_an_error(write: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(write([row(1), row(2)], max_tune_length=3)) == 1
    assert "left out, too long: 2 (rows 1, 2)" in capsys.readouterr().err


@pytest.mark.parametrize("chat_template", [None, "{{ messages[0].content }}"])
def test_training_finds_the_tokens_in_the_cache(
    chat_template: str | None, write: Callable[..., list[str]], cache: Path, tmp_path: Path, model: Path
) -> None:
    assert main(write([row(n) for n in range(3)], chat_template=chat_template)) == 0
    made = os.listdir(cache)
    assert len(made) == 1
    converter = HFCheckpointConverter.from_hf(str(model), chat_template=chat_template)
    args = DataArgs(data=str(tmp_path / "rows.jsonl"), prompts=PROMPTS, chat_template=chat_template)
    prepare(args, converter.tokenizer, seed=0)
    assert os.listdir(cache) == made


def test_of_streamed_data_the_first_rows_are_looked_at(
    write: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_command, "STREAMED_ROWS", 4)
    rows: list[Any] = [row(0), row(1), row(0), row(3), {"broken": "and never read"}]
    argv = write(rows, streaming=True, trainer={"num_train_steps": 10})
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "this is its beginning, at most 4 rows of each source" in said
    assert "rows         4 read, 4 kept" in said
    assert "1  duplicates of earlier rows" in said
    assert "an epoch" not in said
    assert not cache.exists()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("--html", "rows.jsonl", "must end in .html"), ("--shown_rows", "-1", "must be at least 0")],
)
def test_options_are_checked_before_rows_are_read(
    write: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], cache: Path, option: str, value: str, said: str
) -> None:
    assert main([*write([row(1)]), option, value]) == 1
    assert said in capsys.readouterr().err
    assert not cache.exists()


def test_neither_weights_nor_a_device_are_needed(write: Callable[..., list[str]], cache: Path) -> None:
    argv = write([row(1), row(2, output="")], on_bad_row="drop")
    done = subprocess.run(
        [sys.executable, "-m", "lodos", *argv],
        capture_output=True,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "no_such_device", "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"2 read, 1 kept, 1 left out" in done.stdout
    assert done.stderr == b""
    assert done.stdout.isascii()
