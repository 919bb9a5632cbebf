"""`lodos demo` on few steps, few requests and few of SmolLM2's layers. What a whole run reaches is not tested here."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from lodos.cli import main
from lodos.commands import demo
from lodos.commands.generate import GenerateArgs
from lodos.config_parsing import parse_config
from lodos.data.reading.rows import Row
from lodos.prompting.description import read_prompting
from lodos.prompting.prompts import read_prompts
from lodos.tracking.jsonl import read_records

LAYERS = 3
ANSWER = '{"people":2,"name":"Ito"}'
ROW = Row(file="f", number=1, fields={"instruction": "A table for 2", "output": ANSWER})


@pytest.fixture
def small_smollm2(smollm2: Path, tmp_path: Path) -> Path:
    """The first layers of SmolLM2, which compile in seconds; all thirty take a minute."""
    folder = tmp_path / "first-layers"
    shutil.copytree(smollm2, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": LAYERS}), encoding="utf-8")
    with safe_open(smollm2 / "model.safetensors", "np") as file:
        layer = {name: re.search(r"layers\.(\d+)\.", name) for name in file.keys()}  # noqa: SIM118
        kept = [name for name, found in layer.items() if found is None or int(found[1]) < LAYERS]
        save_file({name: file.get_tensor(name) for name in kept}, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_the_demo_trains_and_answers_before_and_after(
    small_smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(demo.HELD_OUT_FILE.read_text(encoding="utf-8").splitlines(keepends=True)[:2]))
    monkeypatch.setattr(demo, "HELD_OUT_FILE", few)
    monkeypatch.setattr(demo, "smollm2_folder", lambda: small_smollm2)
    assert main(["demo", "--run_dir", str(tmp_path / "runs"), "--num_train_steps", "2"]) == 0

    captured = capsys.readouterr()
    (run,) = (tmp_path / "runs").iterdir()
    assert re.search("1. Before.*2. Fine-tuning.*3. After", captured.err, re.DOTALL)
    assert "exact match on 2 rows" in captured.out
    assert f"Adapter:       {run}/peft/step-2 " in captured.out
    assert f"Merged model:  {run}/merged/step-2 " in captured.out
    assert (run / "peft" / "step-2" / "adapter_model.safetensors").exists()
    assert (run / "merged" / "step-2" / "model.safetensors").exists()
    assert [record["step"] for record in read_records(run / "log.jsonl") if "train/loss" in record] == [1, 2]

    difference = re.search(r"Merged and adapted logits differ by (\S+) of the largest", captured.out)
    assert difference is not None
    assert 0 < float(difference[1]) < 1e-4

    _, advice = captured.out.split("Next:\n")
    arguments = shlex.split(advice.replace("\\\n", ""))
    assert arguments[:2] == ["lodos", "generate"]
    generate = parse_config(GenerateArgs, arguments[2:], prog="lodos generate")
    assert generate.adapter == f"{run}/peft/step-2"
    described = read_prompting(run / "peft" / "step-2")
    assert described is not None
    assert described.prompts == read_prompts(demo.PROMPTS)


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        ('{"people":2,"name":"Ito"}', True),
        ('{"name": "Ito", "people": 2}', True),  # another way to write the same object
        ('{"people":"2","name":"Ito"}', False),
        ('{"people":2,"name":"Ito","day":"friday"}', False),
        ('{"people":2,"name":"Ito"} That is all!', False),
        ('{"people":2,"name":"Ito"', False),
        ("", False),
    ],
)
def test_an_answer_counts_only_if_it_is_the_json_and_nothing_else(answer: str, counts: bool) -> None:
    assert demo._is_exact(answer, ROW) is counts


def test_the_table_shows_answers_as_they_are_and_counts_all_rows(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [ROW] * 8
    after = [ANSWER] * 5 + ["[bold]no[/] markup"] * 3
    demo._print_table(rows, ["[red]base[/] \n says"] * 8, after)
    out = capsys.readouterr().out
    assert out.count("[red]base[/] says") == demo.SHOWN
    assert out.count(ANSWER) == demo.SHOWN
    assert re.search(r"exact match on 8 rows\s*│ 0\.0%\s*│ 62\.5%", out)


@pytest.mark.parametrize("option", ["--num_train_steps", "--run_dir"])
def test_options_are_checked_before_anything_is_fetched(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "smollm2_folder", lambda: pytest.fail("the model was fetched"))
    assert main(["demo", option + "x", "3"]) == 1
    assert f"{option}x: unknown. Did you mean {option}?" in capsys.readouterr().err
