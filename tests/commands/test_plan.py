"""What `lodos plan` says beforehand is what a run then takes."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from devices import run_with_devices
from lodos.commands.compiled_plan import Plan, TracedStep, compile_step, trace_step
from lodos.commands.plan import PlanArgs, main
from lodos.commands.plan_remedies import changed_settings, cheapest_that_fits, most_rows_at_once
from lodos.commands.step_time import Speeds
from lodos.config import TrainArgs
from lodos.config_parsing import parse_config
from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter

LIBTPU = Path(sys.prefix) / "libtpu"
"""Where `make test` puts the compiler of TPUs."""
SPEEDS = Speeds(1e9, 1e8)
LLAMA_2_7B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}

SMALL = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 4, "num_attention_heads": 4}
SMALL |= {"num_key_value_heads": 4}


def config_of(folder: Path, *flags: str) -> PlanArgs:
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    usual = {
        "--model_name_or_path": str(folder),
        "--data": "rows.jsonl",
        "--packing": "true",
        "--max_tune_length": "64",
    }
    usual |= {"--trainer.train_batch_size": "8", "--trainer.num_train_steps": "10"}
    words = [word for pair in {**usual, **given}.items() for word in pair]
    return parse_config(PlanArgs, words, prog="lodos plan")


def planned(config: PlanArgs, **options: Any) -> Plan:
    return compile_step(trace_step(config, HFCheckpointConverter.from_hf(config.model_name_or_path)), **options)


def script(folder: Path, model: Path) -> None:
    """On several devices: what is foretold of each layout, and what its compiled program says."""
    found = {}
    for name, flags in {
        "fsdp": [],
        "accumulating": ["--trainer.per_device_parallelism", "1"],
        "whole": ["--trainer.fsdp_axis", "null"],
        "tensor": ["--trainer.model_axis_size", "2"],
    }.items():
        step = trace_step(config_of(model, *flags), HFCheckpointConverter.from_hf(str(model)))
        with step.config.trainer.device_mesh:
            memory: Any = step.traced.lower().compile().memory_analysis()
        plan = compile_step(step)
        found[name] = [step.holds, memory.argument_size_in_bytes, step.traffic, plan.traffic]
    text = json.dumps(found, default=lambda holds: {"arguments": holds.arguments, "adapter": holds.adapter})
    (folder / "found.json").write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def model(make_model: Any) -> Path:
    return make_model(num_hidden_layers=3, tie_word_embeddings=False)[0]


@pytest.fixture(scope="module")
def on_four_devices(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("plan")
    run_with_devices(4, __file__, folder, model)
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("layout", ["fsdp", "accumulating", "whole", "tensor"])
def test_arguments_are_the_bytes_of_the_parameters(layout: str, on_four_devices: dict[str, Any]) -> None:
    counted, compiled, *_ = on_four_devices[layout]
    assert counted["arguments"] == compiled


@pytest.mark.parametrize("layout", ["fsdp", "accumulating"])
def test_what_is_gathered_is_foretold_without_compiling(layout: str, on_four_devices: dict[str, Any]) -> None:
    holds, _, traced, compiled = on_four_devices[layout]
    # What is trained is gathered by XLA's partitioner, of which the traced program says nothing.
    assert 0 < compiled["all-gather"] - traced["all-gather"] <= 4 * holds["adapter"]


def test_what_split_layers_add_up_is_foretold_without_compiling(on_four_devices: dict[str, Any]) -> None:
    _, _, traced, compiled = on_four_devices["tensor"]
    assert 0.9 * compiled["all-reduce"] < traced["all-reduce"] <= compiled["all-reduce"]


def test_accumulating_gathers_the_base_for_each_microbatch(on_four_devices: dict[str, Any]) -> None:
    at_once, twice = (on_four_devices[name][3]["all-gather"] for name in ("fsdp", "accumulating"))
    assert 1.5 * at_once < twice <= 2 * at_once  # the table of embeddings is gathered once in both


def test_a_whole_base_is_not_gathered(on_four_devices: dict[str, Any]) -> None:
    assert "all-gather" not in on_four_devices["whole"][3]


def test_the_plan_of_this_machine(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model_name_or_path", str(model), "--data", "rows.jsonl", "--trainer.num_train_steps", "5"]
    assert main([*flags, "--max_tune_length", "32"]) == 0
    said = capsys.readouterr().out
    for word in ("base", "adapter", "optimizer", "activations and temporaries", "1,024 tokens a step", "5 steps:"):
        assert word in said, said


def test_full_checkpointing_and_fewer_rows_take_less(model: Path) -> None:
    usual = planned(config_of(model, "--gradient_checkpointing", "none")).needed
    assert planned(config_of(model, "--gradient_checkpointing", "full")).needed < usual
    fewer = planned(config_of(model, "--gradient_checkpointing", "none", "--trainer.per_device_parallelism", "2"))
    assert fewer.needed < usual


def test_a_remedy_is_the_shortest_step_that_fits(model: Path) -> None:
    config = config_of(model, "--gradient_checkpointing", "none")
    converter = HFCheckpointConverter.from_hf(str(model))
    memory = planned(config).needed - 1
    remedy, tried = cheapest_that_fits(config, converter, memory, SPEEDS, 1)
    assert remedy is not None
    assert remedy.fits(memory)
    assert all(not other.fits(memory) for other in tried)
    changed = changed_settings(config, remedy.config)
    assert changed
    assert set(changed) <= {"gradient_checkpointing", "trainer"}
    # Pasted, it is the config that was compiled.
    trainer = dataclasses.replace(config.trainer, **changed.pop("trainer", {}))
    assert dataclasses.replace(config, trainer=trainer, **changed) == remedy.config


def test_rows_are_cut_only_when_nothing_else_fits(model: Path) -> None:
    flags = ["--max_tune_length", "256", "--gradient_checkpointing", "full", "--trainer.per_device_parallelism", "1"]
    config = config_of(model, *flags)
    least = planned(config, evaluates=True)
    assert least.evaluation is not None
    memory = max(least.needed, least.evaluation.total) - 1
    remedy, _ = cheapest_that_fits(config, HFCheckpointConverter.from_hf(str(model)), memory, SPEEDS, 1)
    assert remedy is not None
    assert remedy.config.max_tune_length == 128


def test_nothing_fits_where_the_parameters_do_not(model: Path) -> None:
    config = config_of(model, "--gradient_checkpointing", "full", "--trainer.per_device_parallelism", "2")
    assert cheapest_that_fits(config, HFCheckpointConverter.from_hf(str(model)), 1000, SPEEDS, 1) == (None, [])


def test_the_base_in_16_bits_comes_before_shorter_rows(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--max_tune_length", "256", "--gradient_checkpointing", "full", "--trainer.per_device_parallelism", "1"]
    config = config_of(model, *flags)
    converter = HFCheckpointConverter.from_hf(str(model))
    # A CPU computes in 32 bits, so that what compiles here takes no less: which is compiled when is looked at.
    too_large = planned(config)
    compiled: list[TrainArgs] = []

    def compiled_in_vain(step: TracedStep, **options: Any) -> Plan:
        compiled.append(step.config)
        return too_large

    monkeypatch.setattr("lodos.commands.plan_remedies.compile_step", compiled_in_vain)
    remedy, tried = cheapest_that_fits(config, converter, too_large.needed - 1, SPEEDS, 1)
    assert remedy is None
    assert len(tried) == len(compiled)
    assert [changed_settings(config, one) for one in compiled] == [
        {"trainer": {"mp": "p=f32,c=bfloat16"}},
        {"max_tune_length": 128},
    ]


def test_steps_are_those_of_the_data_and_what_is_open_is_decided(
    make_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_model()[0]
    rows = [{"instruction": f"Say {i}.", "output": "a"} for i in range(20)]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    flags = ["--model_name_or_path", str(folder), "--max_tune_length", "64", "--trainer.train_batch_size", "4"]
    assert main([*flags, "--data", str(tmp_path / "rows.json"), "--trainer.num_epochs", "2"]) == 0
    said = capsys.readouterr().out
    assert "10 steps (2 epochs of the data): " in said
    assert "Chosen by memory and time: gradient_checkpointing dots, 4 rows at once" in said
    assert main([*flags, "--data", "owner/rows"]) == 0
    assert "not known: owner/rows is not on this machine, and nothing is fetched." in capsys.readouterr().out


def test_the_most_rows_at_once_fit_and_more_do_not(model: Path) -> None:
    config, converter = config_of(model), HFCheckpointConverter.from_hf(str(model))
    too_many = planned(config_of(model, "--trainer.per_device_parallelism", "8"))
    most = most_rows_at_once(config, converter, too_many.needed - 1)
    assert most is not None
    assert most.config.trainer.per_device_parallelism == 4
    assert most_rows_at_once(config, converter, 1000) is None


def test_what_is_wrong_is_said_before_anything_is_compiled(model: Path) -> None:
    with pytest.raises(UserError, match="utilization"):
        config_of(model, "--utilization", "1.5")
    with pytest.raises(UserError, match="There are v3-8"):
        config_of(model, "--target", "v3-9")
    with pytest.raises(UserError, match="not divisible"):
        trace_step(config_of(model, "--trainer.per_device_parallelism", "3"), HFCheckpointConverter.from_hf(str(model)))


@pytest.mark.parametrize(("name", "extra"), [("v3-32", "plan"), ("h100x8", "cuda")])
def test_a_target_without_its_compiler_names_the_extra(
    name: str, extra: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lodos.plan.described.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"lodos\[{extra}\]"):
        main(["--model_name_or_path", str(model), "--data", "rows.jsonl", "--target", name])


def on_target(*arguments: str | Path) -> subprocess.Popen[str]:
    if not LIBTPU.is_dir():
        pytest.skip(f"needs the compiler of TPUs in {LIBTPU}, where make test puts it")
    path = os.pathsep.join([str(LIBTPU), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "lodos", "plan", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "120"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("names", [["v5e-8", "v6e-8"], pytest.param(["v2-8", "v4-8", "v5p-8"], marks=pytest.mark.long)])
def test_slices_that_are_not_here(names: list[str], model: Path) -> None:
    """Several are compiled for at once, though a TPU has one process at a time."""
    flags = ["--model_name_or_path", model, "--data", "rows.jsonl", "--max_tune_length", "128", "--packing", "true"]
    flags += ["--trainer.train_batch_size", "8", "--trainer.mp", "p=f32,c=bfloat16", "--gradient_checkpointing", "dots"]
    for name, process in [(name, on_target(*flags, "--target", name)) for name in names]:
        said, failed = process.communicate()
        assert process.returncode == 0, said + failed
        assert f"{name}: " in said
        assert "It fits." in said
        assert ("as written" if name in ("v5p-8", "v6e-8") else "as compiled") in said
        assert failed == ""


@pytest.mark.parametrize(
    ("size", "length"),
    [("small", 512), pytest.param("7B", 512, marks=pytest.mark.long), pytest.param("7B", 2048, marks=pytest.mark.long)],
)
def test_the_job_of_the_tutorial_fits_its_slice(size: str, length: int, tmp_path: Path) -> None:
    """The shipped settings on a v3-32: the layers travel to a device once forward and once backward, the rest of the
    base once, and no second copy of it is held."""
    config = LLAMA_2_7B if size == "7B" else {**LLAMA_2_7B, **SMALL}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shipped = Path(__file__).resolve().parents[2] / "examples" / "alpaca-lora-llama2.yaml"
    flags = ["--model_name_or_path", tmp_path, "--data", "rows.jsonl", "--max_tune_length", str(length)]
    process = on_target(shipped, *flags, "--target", "v3-32")
    said, failed = process.communicate()
    assert process.returncode == 0, said + failed
    hidden, mlp, layers = (config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    table, norms = 2 * hidden * config["vocab_size"], (2 * layers + 1) * hidden
    in_layers = layers * (4 * hidden**2 + 3 * hidden * mlp)  # of Llama 2 7B 6.48 billion
    base = 2 * (in_layers + table) / 32 + 2 * norms / 32
    holds = {
        cells[0].strip(): cells[1].strip()
        for line in said.splitlines()
        if len(cells := line.strip("│").split("│")) == 3
    }
    assert bytes_of(holds["base"]) == pytest.approx(base, rel=0.01)
    # What is kept of the layers, their inputs, and beside it less than the base whole: 13.5 GB of Llama 2 7B.
    kept = 4 * length * hidden * layers * 2
    together = bytes_of(holds["together"])
    assert base + kept < together < {"small": 0.6e9, "7B": 8e9}[size]
    moved = next(line for line in said.splitlines() if line.startswith("Moved"))
    assert "as compiled" in moved
    gathered = bytes_of(moved.partition(": ")[2].partition(" all-gather")[0])
    # The layers twice, and the embedding and the output head once.
    assert gathered == pytest.approx(2 * (2 * in_layers + table), rel=0.05)
    assert "all-reduce" in moved
    assert "It fits." in said


def bytes_of(text: str) -> float:
    """What `15.5 GiB` is."""
    number, unit = text.replace(",", "").split()
    return float(number) * 1024 ** (["KiB", "MiB", "GiB"].index(unit) + 1)


if __name__ == "__main__":
    assert jax.device_count() == 4
    script(Path(sys.argv[1]), Path(sys.argv[2]))
