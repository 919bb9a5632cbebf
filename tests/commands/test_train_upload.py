"""`lodos train` with hf_upload: what the hub holds afterwards, and what never gets there."""

import dataclasses
import json
import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from huggingface_hub import ModelCard
from safetensors.numpy import load_file

from hub_server import TOKEN, HubServer
from lodos.checkpoints import save_merged_hf_checkpoint_callback, save_peft_checkpoint_callback
from lodos.commands.train import main, train
from lodos.config import TrainArgs
from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.upload import Uploads
from lodos.lora.config import LoraConfig
from lodos.lora.transform import loraize
from lodos.train.config import TrainerConfig
from lodos.train.optim import OptimizerConfig
from train_args import interrupted_after


@pytest.fixture
def args(make_model: Any, tmp_path: Path) -> TrainArgs:
    folder, _ = make_model()
    rows = [{"instruction": f"Say {word}.", "output": word * 3} for word in "abcdefghijkl"]
    (tmp_path / "private-folder").mkdir()
    (tmp_path / "private-folder" / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return TrainArgs(
        model_name_or_path=str(folder),
        data=str(tmp_path / "private-folder" / "rows.json"),
        validation=4,
        lora=LoraConfig(r=4),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        hf_save_steps=2,
        hf_upload="me/adapter",
        trainer=TrainerConfig(
            id="run", run_dir=str(tmp_path / "runs"), num_train_steps=4, train_batch_size=4, steps_per_eval=2
        ),
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def all_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_adapters_and_merged_models_are_on_the_hub_as_they_are_on_disk(
    args: TrainArgs, hub: HubServer, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: Any
) -> None:
    with caplog.at_level(logging.DEBUG):
        result = train(dataclasses.replace(args, merged_hf_upload="me/merged"))
    assert result.merged is not None  # asked for by the upload alone
    for repo, folder, kind in (("me/adapter", result.adapter, "Adapter"), ("me/merged", result.merged, "Merged model")):
        repository = hub.repositories[repo]
        assert repository.private
        assert repository.files == contents(folder)
        # A merged model of step 2 may have been passed over for that of step 4; the last is always there.
        assert [message for message, _ in repository.commits][-1] == f"{kind} of step 4"
        assert {message for message, _ in repository.commits} <= {f"{kind} of step 2", f"{kind} of step 4"}
    said = capfd.readouterr()
    assert TOKEN not in said.out + said.err + caplog.text
    assert TOKEN.encode() not in all_bytes(tmp_path)
    for request in hub.requests:
        assert TOKEN.encode() not in request.body
        assert {name for name, value in request.headers.items() if TOKEN in value} <= {"authorization"}


def test_the_cards_tell_of_the_run_and_not_of_the_users_machine(args: TrainArgs, hub: HubServer) -> None:
    result = train(dataclasses.replace(args, merged_hf_upload="me/merged"))
    adapter, merged = (hub.repositories[f"me/{name}"].files["README.md"].decode() for name in ("adapter", "merged"))
    records = [json.loads(line) for line in (result.config.trainer.run_folder / "log.jsonl").read_text().splitlines()]
    evaluations = [(record["step"], record["eval/loss"]) for record in records if "eval/loss" in record]
    (last_loss,) = [record["train/loss"] for record in records if record["step"] == 4 and "train/loss" in record]
    assert [step for step, _ in evaluations] == [2, 4]
    for card in (adapter, merged):
        for step, loss in evaluations:
            assert f"| {step} | {loss:.4f} |" in card
        assert f"| training loss of the last batch | {last_loss:.4f} nats a token |" in card
        assert "| data | `rows.json` |" in card
        assert "| learning rate | 0.01, cosine, warmup 0.03 |" in card
        assert "| rank | 4 |" in card
        assert "private-folder" not in card
        assert str(Path.home()) not in card
        assert str(Path(args.model_name_or_path).parent) not in card
    assert ModelCard(adapter).data.library_name == "peft"
    assert ModelCard(merged).data.library_name == "transformers"
    assert "lodos generate --adapter me/adapter --prompt" in adapter
    assert "lodos generate --model me/merged --prompt" in merged


def test_a_hub_that_fails_does_not_stop_the_run_and_the_next_upload_tries_again(
    args: TrainArgs, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.refused_commits = [(403, "out of space")]
    submitted = []
    submit = Uploads.submit

    def one_by_one(uploads: Uploads, *arguments: Any) -> None:
        submit(uploads, *arguments)
        submitted.append(arguments[2])
        uploads.wait()  # so that none is passed over

    monkeypatch.setattr(Uploads, "submit", one_by_one)
    result = train(args)
    assert result.step == 4
    assert submitted == ["Adapter of step 2", "Adapter of step 4"]
    assert [message for message, _ in hub.repositories["me/adapter"].commits] == ["Adapter of step 4"]


def test_an_interrupted_run_uploads_what_it_saved(args: TrainArgs, hub: HubServer) -> None:
    with interrupted_after(2):
        result = train(args)
    assert result.interrupted
    assert hub.repositories["me/adapter"].commits[-1][0] == f"Adapter of step {result.step}"
    assert hub.repositories["me/adapter"].files == contents(result.adapter)


def test_of_several_hosts_only_the_first_uploads(
    args: TrainArgs, hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = HFCheckpointConverter.from_hf(args.model_name_or_path).load_pretrained()
    model = loraize(model, LoraConfig(r=2), key=jax.random.key(0))
    model = jax.tree.map(lambda leaf: leaf + 1 if isinstance(leaf, jax.Array) else leaf, model)
    for index, expected in ((1, []), (0, ["me/adapter"])):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        with Uploads() as uploads:
            save = save_peft_checkpoint_callback(
                tmp_path / str(index), LoraConfig(r=2), args.model_name_or_path, "me/adapter", uploads=uploads
            )
            info: Any = SimpleNamespace(step=1, model=model, loader=None)
            assert (save(info) / "README.md").exists() == (index == 0)
        assert list(hub.repositories) == expected


def test_the_seeds_call_alone_uploads(args: TrainArgs, hub: HubServer, tmp_path: Path) -> None:
    """The fourth argument, by position, with nobody to wait for the upload."""
    converter = HFCheckpointConverter.from_hf(args.model_name_or_path)
    info: Any = SimpleNamespace(step=7, model=converter.load_pretrained(), loader=None)
    folder = save_merged_hf_checkpoint_callback(str(tmp_path / "merged"), converter, "me/merged")(info)
    for _ in range(200):
        if "me/merged" in hub.repositories and hub.repositories["me/merged"].commits:
            break
        time.sleep(0.1)
    assert hub.repositories["me/merged"].files == contents(folder)
    assert hub.repositories["me/merged"].commits[0][0] == "Merged model of step 7"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("hf_upload: true", "hf_upload: True: nothing is ever uploaded to the base model's repository"),
        ("hf_upload: some/model", "hf_upload: some/model is the base model's own repository"),
        ("merged_hf_upload: Some/Model", "merged_hf_upload: Some/Model is the base model's own repository"),
        ("hf_upload: adapter", "hf_upload: 'adapter' is not a repository of the hub"),
        ("hf_upload: me/a\nmerged_hf_upload: me/A", "merged_hf_upload: the same repository as hf_upload"),
    ],
)
def test_where_uploads_must_not_go_is_refused_before_anything_is_read(
    settings: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text(f"model_name_or_path: some/model\ndata: none.json\n{settings}\n", encoding="utf-8")
    with pytest.raises(UserError) as error:
        main(["--config_path", str(tmp_path / "c.yaml")])
    assert message in str(error.value)


def test_a_refusal_of_the_hub_comes_before_any_weight(
    args: TrainArgs, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HFCheckpointConverter, "load_pretrained", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(UserError, match="hf_upload: theirs/adapter: the hub refuses"):
        train(dataclasses.replace(args, hf_upload="theirs/adapter"))
    assert not hub.repositories


def test_uploading_changes_nothing_of_the_training(args: TrainArgs, hub: HubServer) -> None:
    with_upload = train(args)
    without = train(dataclasses.replace(args, hf_upload=None, trainer=dataclasses.replace(args.trainer, id="without")))
    ours, theirs = (load_file(one.adapter / "adapter_model.safetensors") for one in (with_upload, without))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert hub.repositories["me/adapter"].commits
