"""An epoch of the same examples, with the real Trainer and the real `lodos train`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench.contestants import Contestant
from bench.epoch import ARRANGEMENTS, LODOS, compare, packed_length, print_epochs
from bench.training_run import TrainingRun

from lodos.formats.peft import WEIGHTS_NAME
from lodos.formats.safetensors import SafetensorsReader

ROWS = 43


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"instruction": f"Repeat {i}.", "output": f"{i} " * (1 + i % 7)} for i in range(ROWS)]
    path = tmp_path_factory.mktemp("data") / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_each_does_the_epoch_and_they_reach_the_same_loss(
    make_model: Any, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = make_model()
    epochs, before = compare(
        folder,
        data,
        held_out=5,
        rows=None,
        contestants=list(ARRANGEMENTS),
        micro_batch=8,
        packed_rows=4,
        steps=2,
        flags=["--trainer.per_device_parallelism", "2"],
    )
    assert {one.name for one in epochs} == {LODOS, *ARRANGEMENTS}
    for one in epochs:
        # 38 examples: 32 and 6 for the Trainer; packed rows straddle, and the last batch begins the next epoch.
        assert sum(one.steps) == len(one.examples) == 2
        assert sum(one.examples) >= 38
        assert one.held_out_loss < before
        assert one.held_out_loss == pytest.approx(epochs[0].held_out_loss, rel=0.01)
        assert one.peak_bytes > 1e8
    print_epochs(epochs)
    table = capsys.readouterr().out
    assert all(f"\n{one.name}" in table for one in epochs)


def test_rows_are_long_enough_for_a_steps_examples_and_for_the_longest() -> None:
    assert packed_length([200] * 100, packed_rows=8) == 832  # 32 * 200 / 8 = 800
    assert packed_length([200] * 99 + [900], packed_rows=8) == 960


def test_the_initial_adapter_is_the_one_lodos_starts_from(make_model: Any, data: Path, tmp_path: Path) -> None:
    folder, _ = make_model()
    arguments = ["--model_name_or_path", str(folder), "--data", str(data), "--optimizer.learning_rate", "1e-30"]
    arguments += ["--trainer.num_train_steps", "1", "--trainer.seed", "3", "--data_cache_dir", str(tmp_path)]
    with Contestant("judge", "bench.peers.judge:judge", {"arguments": arguments, "held_out": str(data)}) as judge:
        judge.ask(initial_adapter=str(tmp_path / "initial"))
    with TrainingRun("lodos", arguments, tmp_path / "run") as run:
        trained = SafetensorsReader(run.finish() / WEIGHTS_NAME)
    initial = SafetensorsReader(tmp_path / "initial" / WEIGHTS_NAME)
    assert initial.shapes == trained.shapes
    for name in initial.shapes:
        if "lora_A" in name:
            assert np.array_equal(initial.read(name), trained.read(name))


def test_flattened_rows_do_not_see_each_other(make_model: Any) -> None:
    import torch
    from transformers import DataCollatorWithFlattening

    _, model = make_model()
    model.config.use_cache = False
    draw = np.random.default_rng(0)
    rows = [draw.integers(4, 256, length).tolist() for length in (5, 9, 3)]
    batch = DataCollatorWithFlattening()([{"input_ids": row, "labels": row} for row in rows])
    with torch.no_grad():
        together = model(**batch).logits[0]
        alone = [model(input_ids=torch.tensor([row])).logits[0] for row in rows]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)
