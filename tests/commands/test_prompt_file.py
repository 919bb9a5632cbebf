"""`lodos generate --prompt_file`: every row of a file is answered in its place, or the file is refused by row."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lodos.cli import main
from lodos.commands.prompt_file import read_prompt_file
from lodos.data.config import DataArgs
from lodos.data.prepare import prepare
from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.infer.text import generate_texts
from lodos.prompting.description import Prompting
from lodos.prompting.encode import CHAT, PLAIN, encode_messages, encode_prompt
from lodos.prompting.prompts import ALPACA_PROMPTS

pytest.importorskip("torch")

ALPACA = Prompting("alpaca", prompts=ALPACA_PROMPTS)
USER = {"role": "user", "content": "A wind?"}
LODOS = {"role": "assistant", "content": "Lodos."}


@pytest.fixture(scope="module")
def base(make_model: Callable[..., tuple[Path, Any]]) -> Path:
    return make_model(max_position_embeddings=256, num_hidden_layers=1)[0]


def written(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_rows_are_asked_in_the_fields_of_the_format(tiny_tokenizer: Any, tmp_path: Path) -> None:
    def ids(prompting: Prompting, row: dict[str, Any]) -> list[int]:
        (prompt,) = read_prompt_file(written(tmp_path / "rows.jsonl", row), tiny_tokenizer, prompting, answer="x")
        assert prompt.fields == row
        return prompt.ids

    row = {"instruction": "Say it.", "input": "wind", "output": "wind", "id": 7}
    assert ids(ALPACA, row) == encode_prompt(tiny_tokenizer, "Say it.", ALPACA, text="wind")
    assert ids(ALPACA, {"instruction": "Say it.", "input": None}) == encode_prompt(tiny_tokenizer, "Say it.", ALPACA)
    asked = encode_messages(tiny_tokenizer, [USER], CHAT)
    # A row of training has the answer, which is what is asked for.
    for conversation in ({"messages": [USER]}, {"messages": [USER, LODOS]}, {"prompt": [USER]}, {"prompt": "A wind?"}):
        assert ids(CHAT, conversation) == asked
    assert ids(CHAT, {"conversations": [{"from": "human", "value": "A wind?"}]}) == asked
    assert (
        ids(PLAIN, {"prompt": "A wind?"}) == ids(PLAIN, {"text": "A wind?"}) == encode_prompt(tiny_tokenizer, "A wind?")
    )


def test_every_row_that_cannot_be_asked_is_named(tiny_tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"prompt": "x"}, {"instruction": "x"}, {"question": "x"}, {"prompt": ""}, {"prompt": "x", "generated": "y"}]
    path = written(tmp_path / "rows.jsonl", *rows)
    with pytest.raises(UserError) as error:
        read_prompt_file(path, tiny_tokenizer, CHAT, answer="generated")
    lines = str(error.value).splitlines()
    assert [line.removeprefix(f"{path}, row ").split(":")[0] for line in lines] == ["2", "3", "4", "5"]
    assert "add --prompts alpaca" in lines[0]
    assert "messages or prompt is missing; the row has question" in lines[1]
    with pytest.raises(UserError, match="add --chat true"):
        read_prompt_file(written(tmp_path / "chat.jsonl", {"messages": [USER]}), tiny_tokenizer, ALPACA, answer="x")


def test_a_text_file_has_a_prompt_a_line(tiny_tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("One?\r\nTwo\u2028still two?\n".encode())
    prompts = read_prompt_file(str(path), tiny_tokenizer, PLAIN, answer="x")
    assert [prompt.fields["prompt"] for prompt in prompts] == ["One?", "Two\u2028still two?"]
    path.write_text("One?\n\nThree?\n", encoding="utf-8")
    with pytest.raises(UserError, match="row 2: prompt is empty"):
        read_prompt_file(str(path), tiny_tokenizer, PLAIN, answer="x")
    path.write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="no prompts"):
        read_prompt_file(str(path), tiny_tokenizer, PLAIN, answer="x")


def test_answers_come_in_the_order_of_the_rows_with_their_fields(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = ["A wind?", "Another wind of the south, please?", "x", "More?"]
    rows = [{"id": i, "prompt": question} for i, question in enumerate(questions)]
    path, output = written(tmp_path / "rows.jsonl", *rows), tmp_path / "new" / "answers.jsonl"
    options = ["--model", str(base), "--prompt_file", path, "--max_new_tokens", "6", "--batch_size", "2"]
    assert main(["generate", *options]) == 0
    out = capsys.readouterr().out
    assert main(["generate", *options, "--output", str(output)]) == 0
    assert output.read_text(encoding="utf-8") == out
    converter = HFCheckpointConverter.from_hf(str(base))
    expected = generate_texts(
        converter.load_pretrained(), converter.tokenizer, questions, max_new_tokens=6, prompting=CHAT
    )
    found = [json.loads(line) for line in out.splitlines()]
    assert found == [{**row, "generated": text} for row, text in zip(rows, expected, strict=True)]


def test_an_output_is_whole_or_not_there(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import lodos.commands.generate as module

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    path, output = written(tmp_path / "rows.jsonl", {"prompt": "x"}), tmp_path / "answers.jsonl"
    monkeypatch.setattr(module, "generate", interrupted)
    assert main(["generate", "--model", str(base), "--prompt_file", path, "--output", str(output)]) == 130
    assert sorted(file.name for file in tmp_path.iterdir()) == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--prompt", "x", "--prompt_file", "{rows}"], "prompt, prompt_file: both given"),
        (["--prompt_file", "{rows}", "--input", "x"], "input: goes with --prompt"),
        (["--prompt_file", "{rows}", "--output", "{folder}"], "is a folder"),
        (["--prompt_file", "{rows}", "--output", "{rows}"], "which would be lost"),
        (["--prompt_file", "{rows}", "--batch_size", "0"], "batch_size: 0"),
        (["--prompt", "x", "--output", "answers.jsonl"], "output: the answer to --prompt"),
        (["--prompt_file", "{rows}", "--max_new_tokens", "300"], "rows.jsonl, row 1: "),
        (["--prompt_file", "{folder}/none.txt"], "cannot be read"),
    ],
)
def test_what_is_wrong_is_said_before_weights_are_loaded(
    base: Path,
    flags: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(HFCheckpointConverter, "load_pretrained", lambda *_, **__: pytest.fail("weights were loaded"))
    rows = written(tmp_path / "rows.jsonl", {"prompt": "x"})
    flags = [flag.format(rows=rows, folder=tmp_path) for flag in flags]
    assert main(["generate", "--model", str(base), *flags]) == 1
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


TOOLS = [{"name": "gust", "description": "Its strength", "parameters": {"type": "object", "properties": {}}}]
AS_TRAINED = {
    "alpaca, a system text": {"instruction": "A wind?", "output": " Lodos", "system": "Be brief."},
    "alpaca, earlier turns": {"instruction": "More?", "output": " Poyraz", "history": [["A wind?", " Lodos"]]},
    "chat, a column for the system turn": {"messages": [USER, LODOS], "system": "Be brief."},
    "chat, weights": {"messages": [USER, {**LODOS, "weight": 0}, USER, LODOS]},
    "chat, a prompt and its completion": {"prompt": [USER], "completion": [LODOS]},
    "chat, variables": {"messages": [USER, LODOS], "chat_template_kwargs": {"mood": "calm"}},
    "chat, variables as text": {"messages": [USER, LODOS], "chat_template_kwargs": '{"mood": "calm"}'},
    "chat, functions": {"messages": [USER, LODOS], "functions": TOOLS},
}
MOODY = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}{% for m in messages %}<|im_start|>{{ m['role'] }}"
    "{{ mood }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ mood }}\n{% endif %}"
)


@pytest.mark.parametrize("name", AS_TRAINED)
def test_a_row_is_asked_as_it_was_trained(name: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    other = {"instruction": "a", "output": "b"} if name.startswith("alpaca") else {"messages": [USER, LODOS]}
    path = written(tmp_path / "rows.jsonl", AS_TRAINED[name], other)
    args = DataArgs(data=path, chat_template=MOODY, train_on_turns="last", data_cache_dir=str(tmp_path / "cache"))
    training = prepare(args, tiny_tokenizer, seed=0).training
    assert training.prompting is not None
    prompts = read_prompt_file(path, tiny_tokenizer, training.prompting, answer="generated")
    trained = [example.ids[: int(example.trained.argmax())].tolist() for example in training]
    assert [prompt.ids for prompt in prompts] == trained
