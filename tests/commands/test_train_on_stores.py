"""A whole run with every path on a real store: S3 and Google Cloud Storage, served on loopback."""

import dataclasses
import itertools
import json
import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lodos.commands import generate, merge
from lodos.commands.train import train
from lodos.config import TrainArgs
from lodos.config_parsing import dump_config, parse_config
from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.places import store
from lodos.places.manifest import MANIFEST, SENDING
from lodos.places.objects import objects_below, read_object, write_object
from lodos.places.place import is_remote, place_of
from lodos.places.sending import send_folder
from lodos.tracking.jsonl import read_records
from lodos.train.trainer import newest_step
from stores import BUCKET, FaultProxy, gcs_store, s3_store
from train_args import interrupted_after, named


@pytest.fixture(scope="module")
def s3() -> Iterator[FaultProxy]:
    with s3_store() as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(store, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(store, "SECONDS", 10.0)
    # A folder called `s3:` or `gs:` would be made where a process stands.
    monkeypatch.chdir(tmp_path)


def on_store(args: TrainArgs, base: str) -> TrainArgs:
    """The run with everything that it reads put below `base`, and everything that it writes to go there."""
    send_folder(Path(args.model_name_or_path), place_of(f"{base}/model"))  # pyright: ignore[reportArgumentType]
    write_object(place_of(f"{base}/data/rows.json"), Path(args.data).read_bytes())  # pyright: ignore
    prompts = {"prompt_input": "{instruction} {input}:", "prompt_no_input": "{instruction}:"}
    write_object(place_of(f"{base}/prompts.json"), json.dumps(prompts).encode())  # pyright: ignore
    return dataclasses.replace(
        args,
        model_name_or_path=f"{base}/model",
        data=f"{base}/data",
        data_cache_dir=f"{base}/cache",
        prompts=f"{base}/prompts.json",
        packing=True,
        hf_save_path=f"{base}/adapters",
        merged_hf_save_path=f"{base}/merged",
        trainer=dataclasses.replace(
            args.trainer,
            run_dir=f"{base}/runs",
            checkpointer=dataclasses.replace(args.trainer.checkpointer, base_path=f"{base}/checkpoints"),
        ),
    )


def from_config_file(args: TrainArgs, base: str) -> TrainArgs:
    """The run as its config file on the store says."""
    write_object(place_of(f"{base}/config.yaml"), dump_config(args).encode())  # pyright: ignore
    return parse_config(TrainArgs, [f"{base}/config.yaml"], prog="lodos train", description="")


def losses(args: TrainArgs) -> list[float]:
    records = read_records(args.trainer.run_folder / "log.jsonl")
    return [record["train/loss"] for record in records if "train/loss" in record]


def checkpoints(args: TrainArgs) -> dict[str, Any]:
    """The objects of a run's checkpoints."""
    return objects_below(args.trainer.checkpoint_folder)  # pyright: ignore[reportArgumentType]


def local_twin(args: TrainArgs, tmp_path: Path) -> TrainArgs:
    """The same run with every path here."""
    prompts = {"prompt_input": "{instruction} {input}:", "prompt_no_input": "{instruction}:"}
    (tmp_path / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")
    return dataclasses.replace(args, prompts=str(tmp_path / "prompts.json"), packing=True, save_merged=True)


def failing(faults: Iterable[Any], *, every: int) -> Callable[[str, str], Any]:
    """Spoils one request of so many, with one fault after another, and silence once."""
    count, faults = itertools.count(1), itertools.chain(["stall"], itertools.cycle(faults))
    return lambda method, path: next(faults) if next(count) % every == 0 else None


@pytest.mark.parametrize(
    "seed", [None, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(10))]
)  # fmt: skip
def test_a_run_on_an_s3_that_fails_is_the_run_on_disk(
    args: TrainArgs,
    s3: FaultProxy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    seed: int | None,
) -> None:
    """It meets errors, broken connections and silence, is interrupted and goes on; then it is asked and merged."""
    base = f"s3://{BUCKET}/whole-{seed}"
    here = train(local_twin(args, tmp_path))
    there = from_config_file(on_store(args, base), base)
    faults: list[Any] = [500, "reset", 429, 503]
    if seed is not None:
        faults = random.Random(seed).choices(faults, k=97)
    monkeypatch.setattr(store, "SECONDS", 4.0)
    s3.spoiled.clear()
    monkeypatch.setattr(s3, "spoil", failing(faults, every=12 if seed is None else 4))
    with interrupted_after(3):
        assert train(there).interrupted
    assert 3 <= (newest_step(there.trainer) or 0) < 6
    resumed = train(there)
    assert losses(resumed.config) == losses(here.config)
    assert len(losses(here.config)) == 6
    assert is_remote(resumed.adapter)
    assert resumed.merged is not None
    assert here.merged is not None
    for mine, twin in ((resumed.adapter, here.adapter), (resumed.merged, here.merged)):
        found = objects_below(mine)  # pyright: ignore[reportArgumentType]
        assert SENDING not in found
        assert set(found) == {p.relative_to(twin).as_posix() for p in twin.rglob("*") if p.is_file()}
    for mine, name in ((resumed.adapter, "adapter_model.safetensors"), (resumed.merged, "model.safetensors")):
        twin = here.adapter if mine is resumed.adapter else here.merged
        assert read_object(mine / name) == (twin / name).read_bytes()  # pyright: ignore[reportArgumentType]
    # What was prepared once is there for other machines.
    assert any(name.endswith(MANIFEST) for name in objects_below(place_of(f"{base}/cache")))  # pyright: ignore

    assert generate.main(["--adapter", str(resumed.adapter), "--prompt", "Say a.", "--max_new_tokens", "4"]) == 0
    answered = capsys.readouterr().out
    assert generate.main(["--adapter", str(here.adapter), "--prompt", "Say a.", "--max_new_tokens", "4"]) == 0
    assert answered == capsys.readouterr().out
    output = f"{base}/merged-again"
    assert merge.main(["--adapter", str(resumed.adapter), "--output", output]) == 0
    merged = read_object(place_of(output) / "model.safetensors")  # pyright: ignore[reportArgumentType]
    assert merged == (here.merged / "model.safetensors").read_bytes()
    assert {500, 503, 429, "reset", "stall"} <= set(s3.spoiled)
    assert not [name for name in os.listdir() if ":" in name]


def test_a_run_on_a_gcs_that_fails_is_resumed_from(args: TrainArgs, tmp_path: Path) -> None:
    """TensorStore writes its checkpoints, and Orbax and we the rest; each meets errors, broken connections, silence."""
    here = train(local_twin(named(args, "here"), tmp_path))
    with gcs_store() as gcs:
        base = f"gs://{BUCKET}/whole"
        there = from_config_file(on_store(args, base), base)
        spoils = {of_tensorstore: failing([500, "reset", 429, 503], every=25) for of_tensorstore in (True, False)}
        gcs.spoil = lambda method, path: spoils["ocdbt" in path](method, path)
        with interrupted_after(3):
            assert train(there).interrupted
        assert 3 <= (newest_step(there.trainer) or 0) < 6
        resumed = train(there)
        assert "6/_CHECKPOINT_METADATA" in checkpoints(there)
        assert losses(resumed.config) == losses(here.config)
        name = "adapter_model.safetensors"
        assert (resumed.adapter / name).read_bytes() == (here.adapter / name).read_bytes()
        assert generate.main(["--adapter", str(resumed.adapter), "--prompt", "Say a.", "--max_new_tokens", "4"]) == 0
        assert merge.main(["--adapter", str(resumed.adapter), "--output", f"{base}/merged-again"]) == 0
        merged = read_object(place_of(f"{base}/merged-again/model.safetensors"))  # pyright: ignore[reportArgumentType]
        assert here.merged is not None
        assert merged == (here.merged / "model.safetensors").read_bytes()
        assert {500, 503, 429, "reset", "stall"} <= set(gcs.spoiled)
    assert not [name for name in os.listdir() if ":" in name]


@pytest.mark.parametrize("setting", ["run_dir", "hf_save_path", "merged_hf_save_path", "model", "data", "base_path"])
def test_a_bucket_that_is_not_there_is_said_before_weights_are_loaded(
    args: TrainArgs, s3: FaultProxy, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = "s3://no-such-bucket/x"
    match setting:
        case "run_dir":
            args = dataclasses.replace(args, trainer=dataclasses.replace(args.trainer, run_dir=nowhere))
        case "base_path":
            checkpointer = dataclasses.replace(args.trainer.checkpointer, base_path=nowhere)
            args = dataclasses.replace(args, trainer=dataclasses.replace(args.trainer, checkpointer=checkpointer))
        case "model":
            args = dataclasses.replace(args, model_name_or_path=nowhere)
        case _:
            args = dataclasses.replace(args, **{setting: nowhere})
    monkeypatch.setattr(HFCheckpointConverter, "load_pretrained", lambda *a, **k: pytest.fail("weights were loaded"))
    with pytest.raises(UserError, match="no-such-bucket"):
        train(args)
