"""Whoever reads what a user named on a store: where it fails, another try may help (42); where it refuses, none (1)."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lodos import cli
from lodos.commands.train import train
from lodos.config import TrainArgs
from lodos.errors import TRY_AGAIN
from lodos.places import store
from lodos.places.objects import write_object
from lodos.places.place import place_of
from lodos.places.sending import send_folder
from stores import BUCKET, FaultProxy, s3_store

BASE = f"s3://{BUCKET}/readers"
ROWS = [{"instruction": f"Say {word}.", "output": word} for word in "abcdefgh"]
TRAIN = ["train", "--trainer.num_train_steps", "1", "--trainer.train_batch_size", "2"]
ASK = ["generate", "--max_new_tokens", "2"]
READERS: dict[str, tuple[list[str], dict[str, str], str]] = {
    "config": (["train", f"{BASE}/config.yaml"], {}, "/config.yaml"),
    "prompts": (TRAIN, {"prompts": "prompts.json"}, "/prompts.json"),
    "chat template": (TRAIN, {"chat_template": "template.jinja"}, "/template.jinja"),
    "model, listed": (TRAIN, {"model_name_or_path": "model"}, "prefix=readers%2Fmodel"),
    "model's config": (TRAIN, {"model_name_or_path": "model"}, "/model/config.json"),
    "tokenizer": (TRAIN, {"model_name_or_path": "model"}, "/model/tokenizer.json"),
    "weights": (TRAIN, {"model_name_or_path": "model"}, "/model/model.safetensors"),
    "data": (TRAIN, {"data": "rows.jsonl"}, "/rows.jsonl"),
    "parquet": (TRAIN, {"data": "rows.parquet"}, "/rows.parquet"),
    "data in a folder": (TRAIN, {"data": "folder"}, "prefix=readers%2Ffolder"),
    "data by a glob": (TRAIN, {"data": "fold*/*.jsonl"}, "prefix=readers%2F"),
    "data, streamed": (TRAIN, {"data": "rows.jsonl", "streaming": ""}, "/rows.jsonl"),
    "data cache": (TRAIN, {"data_cache_dir": "cache"}, "prefix=readers%2Fcache"),
    "validation": (TRAIN, {"validation": "rows.jsonl"}, "/rows.jsonl"),
    "adapter": ([*ASK, "--prompt", "a"], {"adapter": "adapter"}, "/adapter/adapter_model.safetensors"),
    "prompts in lines": (ASK, {"adapter": "", "prompt_file": "prompts.txt"}, "/prompts.txt"),
    "prompts in rows": (ASK, {"adapter": "", "prompt_file": "rows.jsonl"}, "/rows.jsonl"),
    "adapter to merge": (["merge", "--output", "merged"], {"adapter": "adapter"}, "prefix=readers%2Fadapter"),
    "lodos data": (["data"], {"data": "rows.jsonl"}, "/rows.jsonl"),
    "lodos plan": (["plan", "--trainer.num_train_steps", "1"], {"model_name_or_path": "model"}, "/model/config.json"),
}
"""What is run, which of its options name what on the store, and what is in the path of the requests that are spoilt."""


@pytest.fixture(scope="module")
def here(make_model: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the options are where they are not on the store: a model, rows, and an adapter."""
    folder = tmp_path_factory.mktemp("here")
    model, _ = make_model()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    args = TrainArgs(model_name_or_path=str(model), data=str(folder / "rows.jsonl"))
    trainer = dataclasses.replace(args.trainer, run_dir=str(folder), num_train_steps=1, train_batch_size=2)
    adapter = train(dataclasses.replace(args, trainer=trainer)).adapter
    return {"model_name_or_path": str(model), "data": str(folder / "rows.jsonl"), "adapter": str(adapter)}


@pytest.fixture(scope="module")
def s3(here: dict[str, str]) -> Iterator[FaultProxy]:
    rows = Path(here["data"]).read_bytes()
    with s3_store() as proxy:
        send_folder(Path(here["model_name_or_path"]), place_of(f"{BASE}/model"))  # pyright: ignore
        send_folder(Path(here["adapter"]), place_of(f"{BASE}/adapter"))  # pyright: ignore
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(ROWS), sink)
        texts = {"prompt_input": "{instruction} {input}:", "prompt_no_input": "{instruction}:"}
        for name, data in {
            "rows.jsonl": rows,
            "folder/a.jsonl": rows,
            "rows.parquet": sink.getvalue().to_pybytes(),
            "prompts.json": json.dumps(texts).encode(),
            "prompts.txt": b"a\nb\n",
            "template.jinja": b"{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}",
            "config.yaml": b"data: x\n",
        }.items():
            write_object(place_of(f"{BASE}/{name}"), data)  # pyright: ignore
        yield proxy


@pytest.fixture(autouse=True)
def asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is tried twice, and nothing is here from before."""
    monkeypatch.setattr(store, "ATTEMPTS", 1)
    monkeypatch.setattr(store, "SECONDS", 60.0)
    monkeypatch.setenv("LODOS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def arguments(name: str, here: dict[str, str]) -> list[str]:
    command, on_store, _ = READERS[name]
    options = {"adapter": here["adapter"]} if command[0] in ("generate", "merge") else {}
    if command[0] in ("train", "data", "plan") and name != "config":
        options = {option: here[option] for option in ("model_name_or_path", "data")}
    options |= {option: f"{BASE}/{path}" for option, path in on_store.items() if path}
    if "streaming" in on_store:
        options["streaming"] = "true"
    return [*command, *(word for option, value in options.items() for word in (f"--{option}", value))]


FAULTS = [(503, TRY_AGAIN), (403, 1), *(pytest.param(*case, marks=pytest.mark.long) for case in
          ((500, TRY_AGAIN), (429, TRY_AGAIN), ("reset", TRY_AGAIN), ("stall", TRY_AGAIN), (404, 1)))]  # fmt: skip


@pytest.mark.parametrize(("fault", "expected"), FAULTS)
@pytest.mark.parametrize("name", READERS)
def test_what_fails_is_tried_again_and_what_is_refused_is_not(
    name: str,
    fault: Any,
    expected: int,
    here: dict[str, str],
    s3: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if (name, fault) == ("data cache", 404):
        pytest.skip("a cache that is not there is made")
    s3.spoiled.clear()
    monkeypatch.setattr(s3, "spoil", lambda method, path: fault if READERS[name][2] in path else None)
    if fault == "stall":
        monkeypatch.setattr(store, "SECONDS", 2.0)
    status = cli.main(arguments(name, here))
    said = capsys.readouterr().err
    assert fault in s3.spoiled, said
    assert (status, "error: " in said, "Traceback" in said) == (expected, True, False), said
