"""What the pages say is true: their YAML parses, their commands and code run, their quotations and tables are right."""

import difflib
import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from docs import coming_from

from lodos.cli import VERBS, main
from lodos.commands.chat import ChatArgs
from lodos.commands.data import DataReportArgs
from lodos.commands.doctor import DoctorArgs
from lodos.commands.drill import DrillArgs
from lodos.commands.export import ExportArgs
from lodos.commands.generate import GenerateArgs
from lodos.commands.import_adapter import ImportArgs
from lodos.commands.merge import MergeArgs
from lodos.commands.plan import PlanArgs
from lodos.commands.verify import VerifyArgs
from lodos.config import TrainArgs
from lodos.config_parsing import known_names, parse_config
from lodos.models.auto import MODEL_TYPES
from programs import run_here

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = "docs/tutorial-alpaca-lora.md"
LEVANTER = "docs/coming-from-levanter.md"
COMING_FROM = [f"docs/{name}" for name in coming_from.PAGES]
PAGES = ["README.md", "docs/guide.md", "docs/from-laptop-to-pod.md", TUTORIAL, LEVANTER, *COMING_FROM]
EXAMPLES = ROOT / "examples"
TEXTS = [
    *(str(path.relative_to(ROOT)) for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])),
    *(str(path.relative_to(ROOT)) for path in sorted([*EXAMPLES.glob("*.*"), *ROOT.glob("bench/**/*.[py]*")])),
]
"""What readers read, and the comments and docstrings of what they run."""
ARGUMENTS = {
    "data": DataReportArgs,
    "doctor": DoctorArgs,
    "drill": DrillArgs,
    "plan": PlanArgs,
    "train": TrainArgs,
    "generate": GenerateArgs,
    "chat": ChatArgs,
    "merge": MergeArgs,
    "export": ExportArgs,
    "import": ImportArgs,
    "verify": VerifyArgs,
}


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
    """The commands of lodos and of the examples, each on one line."""
    lines = [line for block in blocks(page, "") for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith(("lodos ", "python examples/"))]


def with_flags(command: str, flags: dict[str, Any]) -> str:
    """A command with these flags, in place of their values where it has them."""
    for flag, value in flags.items():
        there = rf'--{re.escape(flag)} ("[^"]*"|\S+)'
        given = f"--{flag} {value}"
        command = re.sub(there, given, command) if re.search(there, command) else f"{command} {given}"
    return command


def is_path(word: str) -> bool:
    """Whether a word of a command is a path with a folder, and not an option, a URL, a placeholder or a hub name."""
    if "/" not in word or word.startswith("-") or re.search(r"[<>$({]|://", word):
        return False
    return bool(re.search(r"\.(ya?ml|jsonl?|py|md|html|csv|parquet|safetensors)$", word)) or word.count("/") > 1


def made_by(command: str) -> set[str]:
    """The files and folders that a command leaves, by the first part of their paths."""
    words = shlex.split(command)
    places = {value for flag, value in itertools.pairwise(words) if re.search(r"(path|output|outfile|html)$", flag)}
    match words:
        case ["git", "clone", url, *_]:
            places.add(url.rsplit("/", 1)[1])
        case ["lodos", "train", *_] | ["python", "-m", "lodos", "train", *_]:
            places.add("runs")
    return {place.split("/")[0] for place in places}


def run(command: str, folder: Path) -> str:
    """Its standard output; run in `folder`."""
    program, *arguments = shlex.split(command)
    if program == "python":
        program, *arguments = arguments
    done = run_here(program if program == "lodos" else ROOT / program, arguments, cwd=folder)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


def unindented(code: str) -> str:
    """For quotations, which are indented otherwise than what they are from."""
    return "".join(line.lstrip() for line in code.splitlines(keepends=True))


def alpaca_rows(path: Path) -> Path:
    rows = [{"instruction": f"Say {word}.", "output": word * 3} for word in "abcdefghijklmnop"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("page", TEXTS)
def test_every_path_is_in_a_clone_or_made_by_an_earlier_command(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.)(])\.\./|/work/|/tmp/|(?<!\w)/home/", text)
    for path in re.findall(r"`((?:src|docs|examples|bench|tests)/[\w./-]+)`", text):
        assert (ROOT / path).exists() or path.startswith("bench/out"), path
    if not page.endswith(".md"):
        return
    for link in re.findall(r"\]\((?!https?://)([^)#\s]+)", text):
        assert ((ROOT / page).parent / link).exists(), link
    made: set[str] = set()
    for command in [line for block in blocks(page, "") for line in block.replace("\\\n", " ").splitlines()]:
        if re.match(r"(lodos|python|make|git|hf|pip) ", command):
            for word in filter(is_path, shlex.split(command)):
                assert (ROOT / word).exists() or word.split("/")[0] in made, f"{command}: {word}"
            made |= made_by(command)


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md", TUTORIAL, LEVANTER, "docs/results.md"])
def test_a_page_says_what_to_install_before_its_first_command(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    command = re.search(r"^(lodos|python (examples|-m (bench|lodos))) ?", text, re.MULTILINE)
    assert command is not None
    assert re.search(r"pip install|make demo", text[: command.start()])
    if "peft_inference" in text or "bench.parity" in text:
        assert re.search(r"pip install .*torch peft", text[: command.start()])


@pytest.mark.parametrize("page", PAGES)
def test_every_yaml_block_is_a_config(page: str, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(page, "yaml")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block, encoding="utf-8")
        required = [] if re.search("^model_name_or_path", block, re.MULTILINE) else ["--model_name_or_path", "m"]
        required += [] if re.search("^data:", block, re.MULTILINE) else ["--data", "d"]
        parse_config(TrainArgs, ["--config_path", str(path), *required], prog="lodos train")


def test_every_command_has_a_verb_and_options_that_exist() -> None:
    for command in [command for page in PAGES for command in commands(page) if command.startswith("lodos ")]:
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
    alpaca_rows(tmp_path / "rows.jsonl")
    (config,) = blocks("README.md", "yaml")
    config = re.sub(r"model_name_or_path: \S+", f"model_name_or_path: {folder}", config)
    (tmp_path / "my.yaml").write_text(config.replace("num_epochs: 3", "num_epochs: 3\n  id: demo"), encoding="utf-8")

    readme = commands("README.md")
    assert len(readme) == 5
    for command in readme:
        short = {"max_new_tokens": 4} if command.startswith("lodos generate") else {}
        run(with_flags(command.replace("<id>", "demo"), short), tmp_path)
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


def test_the_tutorials_commands_and_code_run(make_model: Any, tmp_path: Path) -> None:
    """In their order, on a tiny model and with two steps; then what is not quoted from a script of the examples."""
    folder, _ = make_model(max_position_embeddings=512)
    (tmp_path / "examples").symlink_to(EXAMPLES)
    (tmp_path / "src").symlink_to(ROOT / "src")
    rows = alpaca_rows(tmp_path / "rows.jsonl")
    training = {"model_name_or_path": folder, "trainer.num_train_steps": 2}
    training |= {"trainer.train_batch_size": 4, "trainer.per_device_parallelism": 2, "trainer.mp": "f32"}
    exam = {**training, "eval_rows": 2, "max_new_tokens": 4}

    tutorial = commands(TUTORIAL)
    assert len(tutorial) == 11
    for command in tutorial:
        match shlex.split(command)[1]:
            case "examples/gsm8k_lora.py":
                flags = exam
            case "examples/alpaca.py" | "examples/alpaca_lora.py" | "train":
                # From the hub, where the command names no file.
                flags = training if "--data" in command else {**training, "data": rows, "validation": 4}
            case "merge" | "examples/sums.py":
                flags = {}
            case _:
                flags = {"max_new_tokens": 4}
        run(with_flags(command.replace("step-60", "step-2"), flags), tmp_path)
    # The scripts' own names, from where the two pieces of code go on.
    names = {"path": str(tmp_path / "adapters/lora/step-2"), "merged_path": str(tmp_path / "merged/lora/step-2")}
    scripts = "".join(unindented(path.read_text(encoding="utf-8")) for path in EXAMPLES.glob("alpaca*.py"))
    used = [block for block in blocks(TUTORIAL, "python") if unindented(block) not in scripts]
    assert len(used) == 2
    for block in used:
        exec(block, names)
    assert (tmp_path / "merged-afterwards" / "config.json").exists()


def test_the_tutorial_shows_the_whole_diff_of_the_two_scripts_and_a_config() -> None:
    full, lora = (
        (EXAMPLES / name).read_text(encoding="utf-8").splitlines() for name in ("alpaca.py", "alpaca_lora.py")
    )
    expected = list(difflib.unified_diff(full, lora, "alpaca.py", "alpaca_lora.py", lineterm="", n=0))
    (shown,) = blocks(TUTORIAL, "diff")
    assert shown.splitlines() == expected
    assert len(expected) < 80
    assert (EXAMPLES / "alpaca-lora.yaml").read_text(encoding="utf-8") in blocks(TUTORIAL, "yaml")


def test_the_commands_for_levanters_users_run(make_model: Any, tmp_path: Path) -> None:
    folder, _ = make_model(max_position_embeddings=512)
    (tmp_path / "examples").symlink_to(EXAMPLES)
    rows = alpaca_rows(tmp_path / "rows.jsonl")
    config, defaults = blocks(LEVANTER, "yaml")
    # As a config of Levanter's user with Levanter's defaults written out.
    config = re.sub(r"optimizer:\n(  .*\n)*", defaults, config)
    config = re.sub(r"model_name_or_path: \S+", f"model_name_or_path: {folder}", config)
    (tmp_path / "theirs.yaml").write_text(config, encoding="utf-8")
    tiny = {"data": rows, "trainer.num_train_steps": 2, "trainer.train_batch_size": 4, "trainer.mp": "f32"}
    for command in commands(LEVANTER):
        run(with_flags(command, tiny), tmp_path)
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_the_table_of_keys_is_the_code() -> None:
    """Each key of Levanter's stands under the name it has here, or with what to write instead."""
    from lodos.coming_from.levanter import ELSEWHERE, RENAMED

    text = (ROOT / LEVANTER).read_text(encoding="utf-8").split("## Config keys")[1]
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?)\| ?(.*?) ?\|$", text, re.MULTILINE)
    table = {key: (ours.strip(), remark) for key, ours, remark in rows}
    assert len(table) == len(rows)
    known = {name for name, _ in known_names(TrainArgs)}
    same = {key for key, (ours, _) in table.items() if ours == "the same"}
    assert same <= known
    assert {key: remark for key, (ours, remark) in table.items() if not ours} == {
        key: elsewhere.instead for key, elsewhere in ELSEWHERE.items()
    }
    assert {key for key in RENAMED if table[key][0] == "the same"} == {
        key for key, renamed in RENAMED.items() if key == renamed.to
    }
    assert {key: ours for key, (ours, _) in table.items() if ours.startswith("`")} == {
        key: f"`{renamed.to}`" for key, renamed in RENAMED.items() if key != renamed.to
    }


@pytest.mark.parametrize("page", COMING_FROM)
def test_the_pages_for_other_tools_users_are_what_the_tables_give(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert coming_from.filled(text) == text, "make it anew: python -m docs.coming_from"


@pytest.mark.parametrize("page", COMING_FROM)
def test_a_config_of_another_tool_gets_advice_for_each_key_and_comes_back_as_ours(page: str) -> None:
    ours = blocks(page, "yaml")
    for theirs in blocks(page, "yml"):
        message = coming_from.refusal(theirs)
        unsaid = [
            name
            for name in yaml.safe_load(theirs)
            if not re.search(rf"(: |, |^){re.escape(name)}[.\w]*(,|:)", message, re.MULTILINE)
            and name not in {known for known, _ in known_names(TrainArgs)}
        ]
        assert not unsaid
        assert "unknown." not in message
        assert "must be" not in message
        assert "not given" not in message
        assert coming_from.in_our_words(theirs) in ours


def test_what_comes_back_trains(make_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's page as its reader would go by it, on a tiny model."""
    folder, _ = make_model(max_position_embeddings=1024)
    rows = alpaca_rows(tmp_path / "rows.jsonl")
    (theirs,) = blocks("docs/coming-from-trl.md", "yml")
    ours = coming_from.in_our_words(theirs).replace("Qwen/Qwen2.5-0.5B", str(folder))
    ours = ours.replace("trl-lib/Capybara", str(rows)).replace("split:test", "2").replace("bfloat16", "f32")
    (tmp_path / "my.yaml").write_text(ours.replace("train_batch_size: 16", "train_batch_size: 2"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for command in commands("docs/coming-from-trl.md"):
        assert main(shlex.split(command)[1:]) == 0
    assert list((tmp_path / "sft-out").glob("*/peft/best/adapter_model.safetensors"))


def test_the_names_for_levanters_users_are_there() -> None:
    import lodos

    text = (ROOT / LEVANTER).read_text(encoding="utf-8").split("## Config keys")[0]
    ours = re.findall(r"^\| `.*?` \| `lodos\.(\w+)` \|", text, re.MULTILINE)
    assert len(ours) > 15
    assert set(ours) <= set(lodos.__all__)
    assert all(getattr(lodos, name) is not None for name in ours)


def test_the_readme_lists_the_models_that_there_are() -> None:
    (row,) = (line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if "| models |" in line)
    assert re.findall(r"`(\w+)`", row) == list(MODEL_TYPES)


def test_the_page_on_adding_a_family_quotes_files_that_there_are() -> None:
    page = (ROOT / "docs/adding-a-family.md").read_text(encoding="utf-8")
    (quoted,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert quoted in (ROOT / "src/lodos/models/granite.py").read_text(encoding="utf-8")
    named = re.findall(r"`((?:src|tests|docs)/[\w/]+(?:\.\w+)?)`", page)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
