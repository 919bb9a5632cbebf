"""`lodos train` on several hosts: the losses, adapter and merged model of one, and one end for all of them.

Hosts are processes of several CPU devices each. The file is also a script: `lodos train` with the devices in another
order.
"""

import dataclasses
import json
import random
import signal
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jobs import Job
from lodos.commands.train import train
from lodos.config import TrainArgs
from lodos.config_parsing import dump_config
from lodos.hosts import DistributedConfig
from lodos.lora.config import LoraConfig
from lodos.tracking.jsonl import read_records
from lodos.train.config import CheckpointerConfig, TrainerConfig
from lodos.train.mesh import MeshConfig
from lodos.train.optim import OptimizerConfig

STEPS = 6
JOBS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "2 x 4": (2, 4, dict(per_device_parallelism=1)),
    "4 x 2, a replica on two hosts": (
        4,
        2,
        dict(mesh=MeshConfig(axes={"replica_dcn": 2, "model": 4})),
    ),
    "2 x 4, permuted, in shards and layers split": (2, 4, dict(model_axis_size=4)),
}
"""Hosts, devices of each, and settings of the trainer."""


@pytest.fixture(scope="module")
def base_args(make_model: Any, tmp_path_factory: pytest.TempPathFactory) -> TrainArgs:
    """A run with everything: packed, accumulating, evaluating, saving checkpoints, adapters and merged models."""
    folder = tmp_path_factory.mktemp("hosts")
    model, _ = make_model(num_key_value_heads=4)
    rows = [{"instruction": f"Say {w}.", "output": w * (2 + i % 5)} for i, w in enumerate("abcdefghijklmnopqrst" * 3)]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return TrainArgs(
        model_name_or_path=str(model),
        data=str(folder / "rows.json"),
        validation=8,
        prompts={"prompt_input": "{instruction} {input}:", "prompt_no_input": "{instruction}:"},
        packing=True,
        seq_len=48,
        max_tune_length=48,
        save_merged=True,
        hf_save_steps=3,
        lora=LoraConfig(r=4, dropout=0.1),
        # Where a gradient is near zero, Adam's usual epsilon of 1e-8 makes a whole step of its rounding error.
        optimizer=OptimizerConfig(learning_rate=1e-2, epsilon=1e-3),
        trainer=TrainerConfig(
            id="alone",
            run_dir=str(folder / "runs"),
            num_train_steps=STEPS,
            train_batch_size=16,
            per_device_parallelism=8,
            steps_per_eval=2,
            checkpointer=CheckpointerConfig(save_interval=2),
            distributed=DistributedConfig(heartbeat_timeout=10),
        ),
    )


@pytest.fixture(scope="module")
def alone(base_args: TrainArgs) -> Path:
    """The folder of the run on one device."""
    return train(base_args).config.trainer.run_folder


def written(args: TrainArgs, name: str, **trainer: Any) -> Path:
    """The config of a run of another name as a file, which leaves out the accumulation of the run alone."""
    settings = {"per_device_parallelism": -1, "id": name, **trainer}
    path = Path(args.trainer.run_dir).parent / f"{name}.yaml"
    args = dataclasses.replace(args, trainer=dataclasses.replace(args.trainer, **settings))
    path.write_text(dump_config(args), encoding="utf-8")
    return path


def command(config: Path) -> list[str | Path]:
    return ["-m", "lodos", "train", config]


def numbers(run: Path) -> dict[tuple[int, str], float]:
    return {
        (record["step"], key): record[key]
        for record in read_records(run / "log.jsonl")
        for key in ("train/loss", "train/grad_norm", "eval/loss")
        if key in record
    }


def tensors(file: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(file)


@pytest.mark.parametrize("name", JOBS)
def test_hosts_train_what_one_does(name: str, base_args: TrainArgs, alone: Path, tmp_path: Path) -> None:
    hosts, devices, settings = JOBS[name]
    config = written(base_args, "-".join(name.replace(",", "").split()), **settings)
    start = [__file__, config] if "permuted" in name else command(config)
    with Job(tmp_path, start, hosts=hosts, devices=devices) as job:
        assert job.statuses() == [0] * hosts, [host.said for host in job.hosts]
        assert "Finished" in job[0].said
        assert not any("Finished" in host.said for host in job.hosts[1:])
    run = alone.parent / config.stem
    found, expected = numbers(run), numbers(alone)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[key] for key in expected], list(expected.values()), rtol=1e-5)
    for file in ("peft/step-6/adapter_model.safetensors", "peft/best/adapter_model.safetensors"):
        _assert_close(tensors(run / file), tensors(alone / file), share=1e-4)
    merged = f"merged/step-{STEPS}"
    _assert_close(
        tensors(run / merged / "model.safetensors"), tensors(alone / merged / "model.safetensors"), share=1e-6
    )
    for folder in (merged, f"peft/step-{STEPS}"):
        assert {file.name for file in (run / folder).iterdir()} == {file.name for file in (alone / folder).iterdir()}


def _assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], *, share: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor, rtol=0, atol=share * np.abs(tensor).max())


def test_peft_and_transformers_load_what_hosts_wrote(base_args: TrainArgs, alone: Path) -> None:
    """After the test above."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = alone.parent / "2-x-4"
    if not run.is_dir():
        pytest.skip("needs the run of the test above")
    base = AutoModelForCausalLM.from_pretrained(base_args.model_name_or_path)
    tokens = torch.arange(4, 28)[None]
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(base, run / "peft" / f"step-{STEPS}")(tokens).logits
        merged = AutoModelForCausalLM.from_pretrained(run / "merged" / f"step-{STEPS}")(tokens).logits
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def undisturbed(base_args: TrainArgs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two hosts that nobody disturbs."""
    config = written(base_args, "undisturbed", num_train_steps=12)
    with Job(tmp_path_factory.mktemp("undisturbed"), command(config), hosts=2, devices=2) as job:
        assert job.statuses() == [0, 0], [host.said for host in job.hosts]
    return Path(base_args.trainer.run_dir) / "undisturbed"


def _assert_ends_as(run: Path, undisturbed: Path, config: Path, folder: Path) -> None:
    """Started again, the run ends with the bits of the other one."""
    with Job(folder / "again", command(config), hosts=2, devices=2) as job:
        assert job.statuses() == [0, 0], [host.said for host in job.hosts]
    assert numbers(run) == numbers(undisturbed)
    for file in ("peft/step-12/adapter_model.safetensors", "merged/step-12/model.safetensors"):
        assert (run / file).read_bytes() == (undisturbed / file).read_bytes()


@pytest.mark.parametrize("asked", [1])
def test_a_signal_to_one_host_stops_all_at_one_step(
    asked: int, base_args: TrainArgs, undisturbed: Path, tmp_path: Path
) -> None:
    config = written(base_args, f"asked-{asked}", num_train_steps=12)
    with Job(tmp_path, command(config), hosts=2, devices=2) as job:
        job[0].wait_until_it_says("held-out loss")
        job.send(asked, signal.SIGTERM)
        assert job.statuses() == [143, 143], [host.said for host in job.hosts]
        step = int(job[0].said.split("Stopped at step ")[1].split(".")[0])
    run = undisturbed.parent / config.stem
    assert (run / "train_state" / str(step)).is_dir()
    assert (run / "peft" / f"step-{step}" / "adapter_model.safetensors").exists()
    _assert_ends_as(run, undisturbed, config, tmp_path)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_host_that_dies_ends_the_others(killed: int, base_args: TrainArgs, undisturbed: Path, tmp_path: Path) -> None:
    config = written(base_args, f"killed-{killed}", num_train_steps=12)
    with Job(tmp_path, command(config), hosts=2, devices=2) as job:
        job[0].wait_until_it_says("held-out loss")
        job.send(killed, signal.SIGKILL)
        statuses = job.statuses(seconds=120)  # the heartbeats' 10 s, and then some
        assert statuses[1 - killed] == 42, job[1 - killed].said
        assert f"host {killed} (" in job[1 - killed].said.splitlines()[-1]
    if killed:
        _assert_ends_as(undisturbed.parent / config.stem, undisturbed, config, tmp_path)


def test_hosts_that_disagree_are_told_before_anything_is_loaded(base_args: TrainArgs, tmp_path: Path) -> None:
    config = written(base_args, "disagreeing")
    other = [*command(config), "--lora.r", "8"]
    with Job(tmp_path, command(config), hosts=2, on={1: other}) as job:
        assert job.statuses() == [1, 1]
        for host in job.hosts:
            assert "lora.r: host 0" in host.said
            assert "has 4, host 1" in host.said


@pytest.mark.parametrize("setting", ["trainer.run_dir", "hf_save_path"])
def test_a_folder_of_one_host_alone_is_refused(base_args: TrainArgs, tmp_path: Path, setting: str) -> None:
    """Each host's own: relative to where it is started."""
    config = written(base_args, f"unshared-{setting}")
    script = "import os, sys; os.makedirs(sys.argv[1]); os.chdir(sys.argv[1]); from lodos.cli import main; sys.exit(main(sys.argv[2:]))"  # noqa: E501
    own = ["train", config, f"--{setting}", "own"]
    starts = {index: ["-c", script, tmp_path / f"own-{index}", *own] for index in (0, 1)}
    with Job(tmp_path, [], hosts=2, on=starts) as job:
        assert job.statuses() == [1, 1]
        assert f"{setting}: own" in job[0].said
        assert "host 1 (" in job[0].said


def test_checkpoints_of_several_hosts_on_a_store_that_they_cannot_share_are_refused(
    base_args: TrainArgs, tmp_path: Path
) -> None:
    config = written(base_args, "checkpoints-apart")
    with Job(tmp_path, [*command(config), "--trainer.checkpointer.base_path", "memory://runs"], hosts=2) as job:
        assert job.statuses() == [1, 1]
        for host in job.hosts:
            assert "trainer.checkpointer.base_path: memory:" in host.said
            assert "2 hosts write a checkpoint together" in host.said
            assert "Give it a shared folder, or gs://" in host.said


@pytest.mark.parametrize("present", [0, 1])
def test_who_does_not_come_is_named(present: int, base_args: TrainArgs, tmp_path: Path) -> None:
    config = written(base_args, "absent", distributed=DistributedConfig(initialization_timeout=3))
    with Job(tmp_path, command(config), hosts=2, starts=[present]) as job:
        assert job.statuses(seconds=60) == [42]
        assert "Waiting for 2 hosts" in job[0].said
        expected = "host 1 of 2 did not come" if present == 0 else "nobody answers at localhost"
        assert expected in job[0].said.splitlines()[-1]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_a_signal_at_any_moment(seed: int, base_args: TrainArgs, undisturbed: Path, tmp_path: Path) -> None:
    draw = random.Random(seed)
    config = written(base_args, f"moment-{seed}", num_train_steps=12)
    with Job(tmp_path, command(config), hosts=2, devices=2) as job:
        job[0].wait_until_it_says("All 2 hosts are there")
        try:
            job[0].process.wait(timeout=draw.uniform(0, 20))
        except Exception:
            job.send(draw.randrange(2), signal.SIGTERM)
        statuses = job.statuses()
        assert statuses in ([143, 143], [0, 0]), [host.said for host in job.hosts]
    _assert_ends_as(undisturbed.parent / config.stem, undisturbed, config, tmp_path)


def main() -> int:
    from lodos.cli import main as lodos

    devices = jax.devices

    def permuted(*arguments: Any) -> list[jax.Device]:
        found = devices(*arguments)
        return found[::2][::-1] + found[1::2]

    jax.devices = permuted
    return lodos(["train", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
