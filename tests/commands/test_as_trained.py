"""What is used afterwards is what was trained: asked so, and ended so, by adapter, merged model, card and commands."""

import dataclasses
import json
import re
import runpy
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lodos.cli import main
from lodos.commands.train import TrainResult, _print_outcome, train
from lodos.config import TrainArgs
from lodos.data.config import DataArgs
from lodos.data.prepare import prepare
from lodos.formats.hf import HFCheckpointConverter
from lodos.lora.config import LoraConfig
from lodos.prompting.description import EndToken, read_prompting
from lodos.train.config import TrainerConfig
from lodos.train.optim import OptimizerConfig

pytest.importorskip("torch")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QUESTION, ANSWER = "A wind?", "Lodos."
CHAT = {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]}
BESIDE_WEIGHTS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
    "prompting.json",
)


def trained(
    make_model: Callable[..., tuple[Path, Any]], folder: Path, row: dict[str, Any], steps: int, **options: Any
) -> TrainResult:
    base, _ = make_model(num_hidden_layers=2, max_position_embeddings=256)
    (folder / "rows.jsonl").write_text((json.dumps(row) + "\n") * 4, encoding="utf-8")
    args = TrainArgs(
        model_name_or_path=str(base),
        data=str(folder / "rows.jsonl"),
        max_tune_length=256,
        lora=LoraConfig(r=16, alpha=32),
        optimizer=OptimizerConfig(learning_rate=2e-2, warmup=0),
        trainer=TrainerConfig(id="a run", run_dir=str(folder / "my runs"), num_train_steps=steps, train_batch_size=4),
        save_merged=True,
    )
    return train(dataclasses.replace(args, **options))


@pytest.fixture(scope="module")
def chat_run(make_model: Callable[..., tuple[Path, Any]], tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A model whose EOS is not what its template ends turns in, trained until it answers."""
    return trained(make_model, tmp_path_factory.mktemp("chat"), CHAT, 60)


def out(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    capsys.readouterr()
    assert main([str(arg) for arg in argv]) == 0
    return capsys.readouterr().out


def merged_of(run: TrainResult) -> Path:
    assert run.merged is not None
    return run.merged


def ids_of(run: TrainResult) -> tuple[list[int], list[int]]:
    """What training had before the answer, and the answer with its end."""
    tokenizer = HFCheckpointConverter.from_hf(run.config.model_name_or_path).tokenizer
    options = {field.name: getattr(run.config, field.name) for field in dataclasses.fields(DataArgs)}
    (example, *_) = prepare(DataArgs(**options), tokenizer, seed=0).training
    start = int(example.trained.argmax())
    return example.ids[:start].tolist(), example.ids[example.trained].tolist()


def test_the_trained_end_of_a_turn_stops_transformers_and_peft(chat_run: TrainResult) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, GenerationConfig

    prompt, answer = ids_of(chat_run)
    assert answer[-1] == 3  # <|im_end|>, which is not the tokenizer's EOS
    merged: Any = AutoModelForCausalLM.from_pretrained(merged_of(chat_run))
    whole = merged.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=40)
    assert whole[0, len(prompt) :].tolist() == answer
    base = AutoModelForCausalLM.from_pretrained(chat_run.config.model_name_or_path)
    adapted: Any = PeftModel.from_pretrained(base, str(chat_run.adapter))
    config = GenerationConfig.from_pretrained(chat_run.adapter)
    found = adapted.generate(input_ids=torch.tensor([prompt]), generation_config=config, max_new_tokens=40)
    assert found[0, len(prompt) :].tolist() == answer


def test_generate_answers_and_ends_as_trained_from_adapter_and_merged_model(
    chat_run: TrainResult, capsys: pytest.CaptureFixture[str]
) -> None:
    for given in (["--adapter", chat_run.adapter], ["--model", merged_of(chat_run)]):
        assert out(capsys, "generate", *given, "--prompt", QUESTION, "--max_new_tokens", 40) == f"{ANSWER}\n"


def test_merging_afterwards_writes_what_the_run_wrote(
    chat_run: TrainResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out(capsys, "merge", "--adapter", chat_run.adapter, "--output", tmp_path / "merged")
    run, afterwards = merged_of(chat_run), tmp_path / "merged"
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in afterwards.iterdir())
    for name in BESIDE_WEIGHTS:
        assert (afterwards / name).read_bytes() == (run / name).read_bytes(), name
        assert (chat_run.adapter / name).read_bytes() == (run / name).read_bytes(), name
    assert json.loads((run / "generation_config.json").read_text())["eos_token_id"] == [1, 3]


def test_merging_writes_the_tokenizer_and_template_that_an_adapter_brings(
    chat_run: TrainResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    from transformers import AutoTokenizer

    theirs = Path(shutil.copytree(chat_run.adapter, tmp_path / "theirs"))
    (theirs / "prompting.json").unlink()  # of another tool, which knows no such file
    (theirs / "generation_config.json").unlink()
    config = json.loads((theirs / "tokenizer_config.json").read_text(encoding="utf-8"))
    (theirs / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<|im_end|>"}), encoding="utf-8")
    (theirs / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    out(capsys, "merge", "--adapter", theirs, "--output", tmp_path / "merged")
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.chat_template == "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    ends = json.loads((tmp_path / "merged" / "generation_config.json").read_text())["eos_token_id"]
    assert ends == [1, 3]


BY_MOOD = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{% if mood == 'calm' %}{% else %}loud{% endif %}"
)


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ({"instruction": QUESTION, "output": ANSWER}, {}),
        (
            {"instruction": QUESTION, "output": ANSWER},
            {"prompts": {"prompt_input": "{instruction}{input}: ", "prompt_no_input": "{instruction}: "}},
        ),
        ({"prompt": QUESTION, "completion": ANSWER}, {}),
        ({"messages": [{"role": "system", "content": "Be 'brief'."}, *CHAT["messages"]]}, {}),
        (CHAT, {"chat_template": BY_MOOD, "chat_template_kwargs": {"mood": "calm"}}),
        (CHAT, {"special_tokens_as_text": True}),
    ],
    ids=["alpaca", "alpaca, a space", "prompt_completion", "chat with a system turn", "chat with variables", "as text"],
)
def test_every_use_asks_with_the_ids_of_the_training(
    row: dict[str, Any],
    options: dict[str, Any],
    make_model: Callable[..., tuple[Path, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The printed command, `generate` on both folders, the code of both cards, and the scripts; without being told."""
    import lodos.commands.generate as generate
    import lodos.commands.train as training

    monkeypatch.chdir(tmp_path)
    run = trained(make_model, tmp_path, row, 1, **options)
    expected, _ = ids_of(run)
    asked: list[list[int]] = []

    def streamed(model: Any, ids: list[int], **_: Any) -> Any:
        asked.append(list(ids))
        return iter([])

    monkeypatch.setattr(generate, "generate_stream", streamed)
    capsys.readouterr()
    training._print_outcome(run)
    (command,) = re.findall(r"Next: (lodos generate .*)", capsys.readouterr().err)
    out(capsys, *[QUESTION if word == "..." else word for word in shlex.split(command)[1:]])
    out(capsys, "generate", "--model", merged_of(run), "--prompt", QUESTION)
    assert asked == [expected, expected]

    from transformers import PreTrainedModel

    class AskedError(Exception):
        pass

    def generated(*_: Any, **inputs: Any) -> Any:
        asked.append(inputs["input_ids"][0].tolist())
        raise AskedError

    import peft

    monkeypatch.setattr(PreTrainedModel, "generate", generated, raising=False)
    monkeypatch.setattr(peft.PeftModel, "generate", generated, raising=False)
    monkeypatch.setattr(peft.PeftModelForCausalLM, "generate", generated, raising=False)
    for folder in (run.adapter, merged_of(run)):
        card = (folder / "README.md").read_text(encoding="utf-8")
        code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
        asked.clear()
        monkeypatch.chdir(folder)
        with pytest.raises(AskedError):
            exec(code.replace('"..."', repr(QUESTION)).replace("'...'", repr(QUESTION)), {})
        assert asked == [expected]
    for folder, script in ((run.adapter, "peft_inference.py"), (merged_of(run), "merged_inference.py")):
        asked.clear()
        monkeypatch.setattr("sys.argv", [script, str(folder), QUESTION])
        with pytest.raises(AskedError):
            runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        assert asked == [expected]


def test_what_a_flag_says_wins_and_is_said(
    chat_run: TrainResult, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    import logging

    import lodos.commands.generate as generate

    asked: list[str] = []
    tokenizer = HFCheckpointConverter.from_hf(chat_run.config.model_name_or_path).tokenizer

    def streamed(model: Any, ids: list[int], **_: Any) -> Any:
        asked.append(str(tokenizer.decode(ids)))
        return iter([])

    monkeypatch.setattr(generate, "generate_stream", streamed)
    monkeypatch.setattr(logging.getLogger("lodos"), "propagate", True)
    for flags, text, says in (
        ([], f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n", "Asked as trained"),
        (["--chat", "false"], QUESTION, "Asked as --chat says"),
        (["--prompts", "alpaca"], f"### Instruction:\n{QUESTION}\n\n### Response:", "Asked as --prompts says"),
        (["--system", "Sing."], "<|im_start|>system\nSing.<|im_end|>\n<|im_start|>user\n", "Asked as --system says"),
    ):
        caplog.clear()
        with caplog.at_level(logging.INFO, "lodos"):
            generate.main(["--adapter", str(chat_run.adapter), "--prompt", QUESTION, *flags])
        assert text in asked[-1]
        assert says in caplog.text


def test_paths_with_spaces_are_quoted_where_commands_are_printed(
    chat_run: TrainResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _print_outcome(chat_run)
    _print_outcome(dataclasses.replace(chat_run, stopped_by=signal.SIGINT))
    said = capsys.readouterr().err
    (generate,) = re.findall(r"(lodos generate .*)", said)
    assert shlex.split(generate)[:4] == ["lodos", "generate", "--adapter", str(chat_run.adapter)]
    (resume,) = re.findall(r"Resume: (lodos train .*)", said)
    assert shlex.split(resume)[-1] == str(chat_run.config.trainer.run_folder / "config.yaml")
    main(["merge", "--adapter", str(chat_run.adapter), "--output", str(tmp_path / "the merged")])
    (asks,) = re.findall(r"Next: (lodos generate .*)", capsys.readouterr().err)
    assert shlex.split(asks)[3] == str(tmp_path / "the merged")


def test_every_adapter_and_merged_folder_has_the_description(chat_run: TrainResult) -> None:
    run_folder = chat_run.config.trainer.run_folder
    folders = [*(run_folder / "peft").iterdir(), *(run_folder / "merged").iterdir()]
    assert len(folders) == 2
    for folder in folders:
        prompting = read_prompting(folder)
        assert prompting is not None
        assert (prompting.format, prompting.end_tokens) == ("chat", (EndToken(3, "<|im_end|>"),))
