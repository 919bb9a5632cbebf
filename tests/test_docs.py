"""What README and guide say is true: their YAML parses, their commands exist, their code runs."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lodos.cli import VERBS
from lodos.commands.data import DataReportArgs
from lodos.commands.generate import GenerateArgs
from lodos.commands.merge import MergeArgs
from lodos.config import TrainArgs
from lodos.config_parsing import known_names, parse_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "docs/guide.md"]
ARGUMENTS = {"data": DataReportArgs, "train": TrainArgs, "generate": GenerateArgs, "merge": MergeArgs}


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language; "" for those that name none."""
    found: list[str] = []
    inside: list[str] | None = None
    opened = ""
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.startswith("```"):
            if inside is not None:
                inside.append(line)
        elif inside is None:
            inside, opened = [], line[3:].strip()
        else:
            if opened == language:
                found.append("".join(inside))
            inside = None
    return found


def commands(page: str) -> list[str]:
    lines = [line for block in blocks(page, "") for line in block.splitlines()]
    return [line for line in lines if line.startswith("lodos ")]


@pytest.mark.parametrize("page", PAGES)
def test_every_yaml_block_is_a_config(page: str, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(page, "yaml")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block, encoding="utf-8")
        required = [] if "model_name_or_path" in block else ["--model_name_or_path", "m", "--data", "d"]
        parse_config(TrainArgs, ["--config_path", str(path), *required], prog="lodos train")


def test_every_command_has_a_verb_and_options_that_exist() -> None:
    for command in [*commands("README.md"), *commands("docs/guide.md")]:
        _, verb, *rest = shlex.split(command)
        assert verb in VERBS
        names = {name for name, _ in known_names(ARGUMENTS[verb])} | {"config_path"}
        assert {flag[2:] for flag in rest if flag.startswith("--")} <= names, command


def test_the_makefile_has_the_readmes_targets() -> None:
    targets = re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_the_readmes_commands_and_the_guides_code_run(make_model: Any, tmp_path: Path) -> None:
    """The README's commands as written, on a tiny model; then the guide's PEFT and library code."""
    folder, _ = make_model()
    rows = [{"instruction": f"Say {word}.", "output": word * 3} for word in "abcdefghijklmnop"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (config,) = blocks("README.md", "yaml")
    config = re.sub(r"model_name_or_path: \S+", f"model_name_or_path: {folder}", config)
    (tmp_path / "my.yaml").write_text(config.replace("num_epochs: 3", "num_epochs: 3\n  id: demo"), encoding="utf-8")

    readme = commands("README.md")
    assert len(readme) == 4
    for command in readme:
        arguments = shlex.split(command.replace("<id>", "demo"))[1:]
        if arguments[0] == "generate":
            arguments += ["--max_new_tokens", "4"]
        done = subprocess.run(
            [sys.executable, "-m", "lodos", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "merged" / "model.safetensors").exists()
    written = sorted(path.name for path in (tmp_path / "runs" / "demo").iterdir())
    assert written == ["config.yaml", "log.jsonl", "peft", "train_state"]

    peft_code, library_code = blocks("docs/guide.md", "python")
    exec(peft_code, {"path": str(tmp_path / "runs" / "demo" / "peft" / "best")})

    from lodos import HFCheckpointConverter
    from lodos.data.batching.loader import TrainLoader
    from lodos.data.config import DataArgs
    from lodos.data.prepare import prepare

    tokenizer = HFCheckpointConverter.from_hf(str(folder)).tokenizer
    examples = prepare(DataArgs(data=str(tmp_path / "rows.jsonl"), max_tune_length=512), tokenizer, seed=0).training
    loader = TrainLoader(examples, batch_size=8, pad_id=0, seed=0)
    short = library_code.replace("num_train_steps=100", f"num_train_steps=2, run_dir={str(tmp_path)!r}")
    names: dict[str, Any] = {"model_name_or_path": str(folder), "loader": loader, "held_out": [loader[0]]}
    exec(short, names)
    assert int(names["state"].step) == 2
