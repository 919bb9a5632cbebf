"""Whoever gives the wrong folder is told what it is and which one to write."""

import re
import shlex
from pathlib import Path

import pytest

from lodos.errors import UserError
from lodos.formats.folder_contents import adapter_folder, check_model_folder, check_weights


def touched(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}", encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with adapters, checkpoints and a merged model."""
    run = tmp_path / "my runs" / "a-run"
    adapters = [run / "peft" / name / "adapter_config.json" for name in ("step-9", "step-10", "best")]
    touched(*adapters, run / "merged" / "step-10" / "config.json", run / "train_state" / "10" / "_CHECKPOINT_METADATA")
    return run


def refusal(name: Path | str, *, model: bool = False) -> str:
    with pytest.raises(UserError) as error:
        check_model_folder(str(name), Path(name)) if model else adapter_folder(str(name))
    return str(error.value)


def advised(said: str, flag: str) -> str:
    """The folder that the message says to write."""
    (command,) = re.findall(rf"write (--{flag} (?:'[^']*'|\S+?))[.;]?(?: |$)", said)
    return shlex.split(command)[1]


@pytest.mark.parametrize("below", ["", "peft", "train_state", "train_state/10"])
def test_a_folder_of_a_run_names_its_adapters_and_what_to_write(below: str, run: Path) -> None:
    said = refusal(run / below)
    assert str(run / below) in said
    assert re.search(r"best, (peft/)?step-10, (peft/)?step-9", said)
    assert advised(said, "adapter") == str(run / "peft" / "best")
    assert (below.startswith("train_state")) == ("checkpoints, from which training goes on" in said)


def test_without_a_best_one_the_latest_adapter_is_advised(run: Path) -> None:
    (run / "peft" / "best" / "adapter_config.json").unlink()
    assert advised(refusal(run), "adapter") == str(run / "peft" / "step-10")


def test_a_run_given_as_a_model_names_merged_models_first(run: Path) -> None:
    assert advised(refusal(run, model=True), "model") == str(run / "merged" / "step-10")
    (run / "merged" / "step-10" / "config.json").unlink()
    assert advised(refusal(run, model=True), "adapter") == str(run / "peft" / "best")


def test_an_adapter_is_no_model_and_a_model_no_adapter(run: Path) -> None:
    adapter, merged = run / "peft" / "best", run / "merged" / "step-10"
    said = refusal(adapter, model=True)
    assert advised(said, "adapter") == str(adapter)
    assert f"lodos merge --adapter '{adapter}'" in said
    assert advised(refusal(merged), "model") == str(merged)


def test_another_folder_is_named_with_what_is_in_it(tmp_path: Path) -> None:
    touched(tmp_path / "data" / "rows.jsonl", tmp_path / "data" / "notes.txt")
    assert "There are notes.txt, rows.jsonl." in refusal(tmp_path / "data")
    (tmp_path / "empty").mkdir()
    assert "There is nothing." in refusal(tmp_path / "empty", model=True)


def test_a_folder_that_is_not_there_is_missed_beside_what_is(run: Path) -> None:
    said = refusal(run / "peft" / "bset")
    assert f"{run / 'peft' / 'bset'}: there is no such folder. {run / 'peft'} has best, step-10, step-9." in said


def test_a_copy_without_weights_is_named_with_what_it_has(tmp_path: Path) -> None:
    touched(tmp_path / "config.json", tmp_path / "tokenizer.json")
    with pytest.raises(UserError) as error:
        check_weights("some/model", tmp_path)
    said = str(error.value)
    assert f"{tmp_path} has no weights; there are config.json, tokenizer.json" in said
    assert "hf download some/model" in said
    with pytest.raises(UserError, match="Copy its safetensors files there"):
        check_weights(str(tmp_path), tmp_path)
    touched(tmp_path / "model.safetensors")
    check_weights("some/model", tmp_path)


def test_a_file_in_place_of_its_folder_is_answered_with_the_folder(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "rows.jsonl").write_text("{}")
    with pytest.raises(UserError, match=f"a file\\. Give the folder it is in, {re.escape(str(tmp_path))}"):
        adapter_folder(str(tmp_path / "adapter_config.json"))
    with pytest.raises(UserError, match=r"a file\. Give the folder of a model or an adapter"):
        adapter_folder(str(tmp_path / "rows" / "rows.jsonl"))
    with pytest.raises(UserError, match="'' is no name"):
        adapter_folder("")
