"""`lodos train` on several hosts: the losses, adapter and merged model of one, and what is refused.

Hosts are processes of several CPU devices each. The file is also a script: `lodos train` with the devices in another
order.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from host_runs import STEPS, Undisturbed, command, numbers, written
from jobs import Job
from lodos.commands.train import train
from lodos.config import TrainArgs
from lodos.hosts import DistributedConfig
from lodos.train.mesh import MeshConfig

JOBS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "4 x 2, a replica on two hosts": (
        4,
        2,
        dict(mesh=MeshConfig(axes={"replica_dcn": 2, "model": 4})),
    ),
    "2 x 4, permuted, in shards and layers split": (2, 4, dict(model_axis_size=4)),
}
"""Hosts, devices of each, and settings of the trainer; beside two hosts of four devices, as they come."""


@pytest.fixture(scope="module")
def alone(base_args: TrainArgs) -> Path:
    """The folder of the run on one device."""
    return train(base_args).config.trainer.run_folder


def tensors(file: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(file)


def test_two_hosts_train_what_one_does(undisturbed: Undisturbed, alone: Path) -> None:
    assert "Finished" in undisturbed.said[0]
    assert "Finished" not in undisturbed.said[1]
    _assert_same(undisturbed.run, alone)


@pytest.mark.parametrize("name", JOBS)
def test_hosts_train_what_one_does(name: str, base_args: TrainArgs, alone: Path, tmp_path: Path) -> None:
    hosts, devices, settings = JOBS[name]
    config = written(base_args, "-".join(name.replace(",", "").split()), **settings)
    start = [__file__, config] if "permuted" in name else command(config)
    with Job(tmp_path, start, hosts=hosts, devices=devices) as job:
        assert job.statuses() == [0] * hosts, [host.said for host in job.hosts]
    _assert_same(alone.parent / config.stem, alone)


def test_hosts_that_share_rows_train_what_one_does(make_model: Any, base_args: TrainArgs, tmp_path: Path) -> None:
    """Parts of each row are on either host; data is streamed and packed, angles go by the length of examples."""
    rope = dict(rope_type="dynamic", factor=4.0, rope_theta=100.0)
    model, _ = make_model(max_position_embeddings=8, rope_parameters=rope)
    args = dataclasses.replace(
        base_args,
        model_name_or_path=str(model),
        streaming=True,
        validation=base_args.data,
        save_merged=False,
        trainer=dataclasses.replace(base_args.trainer, run_dir=str(tmp_path / "runs"), num_train_steps=4),
    )
    config = written(args, "parts-of-rows", mesh=MeshConfig(axes={"sequence": 4, "data": 1}))
    alone = train(dataclasses.replace(args, trainer=dataclasses.replace(args.trainer, id="alone"))).config
    with Job(tmp_path, command(config), hosts=2, devices=2) as job:
        assert job.statuses() == [0, 0], [host.said for host in job.hosts]
    found, expected = numbers(args.trainer.run_folder.parent / config.stem), numbers(alone.trainer.run_folder)
    assert len(expected) == 4 * 2 + 2
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[key] for key in expected], list(expected.values()), rtol=1e-5)


def _assert_same(run: Path, alone: Path) -> None:
    """The same losses, adapters and merged model but for rounding, and the same files."""
    found, expected = numbers(run), numbers(alone)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[key] for key in expected], list(expected.values()), rtol=1e-5)
    for file in (f"peft/step-{STEPS}/adapter_model.safetensors", "peft/best/adapter_model.safetensors"):
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


def test_peft_and_transformers_load_what_hosts_wrote(base_args: TrainArgs, undisturbed: Undisturbed) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = undisturbed.run
    base = AutoModelForCausalLM.from_pretrained(base_args.model_name_or_path)
    tokens = torch.arange(4, 28)[None]
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(base, run / "peft" / f"step-{STEPS}")(tokens).logits
        merged = AutoModelForCausalLM.from_pretrained(run / "merged" / f"step-{STEPS}")(tokens).logits
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-4)


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
        assert job.statuses(seconds=180) == [42]
        assert "Waiting for 2 hosts" in job[0].said
        expected = "host 1 of 2 did not come" if present == 0 else "nobody answers at localhost"
        assert expected in job[0].said.splitlines()[-1]


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
