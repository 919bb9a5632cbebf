"""Cards: metadata that the hub takes, code that runs, nothing of the user's machine."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from lodos.commands.run_facts import run_facts
from lodos.config import TrainArgs
from lodos.formats.model_card import SHOWN_EVALUATIONS, RunFacts, adapter_card, merged_card
from lodos.lora.config import LoraConfig
from lodos.train.config import TrainerConfig

FACTS = RunFacts(step=7, train_loss=1.25, evaluations=[(5, 2.0)], data=["a|b.json"], hub_datasets=["openai/gsm8k"])


def metadata(card: str) -> dict[str, Any]:
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert match is not None
    return yaml.safe_load(match[1])


def test_the_metadata_are_what_the_hub_wants() -> None:
    adapter = adapter_card(LoraConfig(), "some/model", ["q_proj"], FACTS)
    assert metadata(adapter) == {
        "base_model": "some/model",
        "datasets": ["openai/gsm8k"],
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "lodos", "peft"],
    }
    assert metadata(merged_card("some/model", FACTS))["library_name"] == "transformers"
    assert ModelCard(adapter).data.base_model == "some/model"


@pytest.mark.parametrize("base", ["/home/someone/secret-place/model", "~/secret-place/model", "./secret-place/model"])
def test_a_local_base_is_named_by_its_last_part(base: str) -> None:
    for card in (adapter_card(LoraConfig(), base, ["q_proj"], FACTS), merged_card(base, FACTS)):
        assert "base_model" not in metadata(card)
        assert "secret-place" not in card
        assert "| base model | `model`, a local folder |" in card


def test_a_folder_here_that_is_spelled_like_a_hub_name_is_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret-place" / "model").mkdir(parents=True)
    card = merged_card("secret-place/model", FACTS)
    assert "base_model" not in metadata(card)
    assert "secret-place" not in card


def test_a_long_history_is_thinned_with_its_best_and_its_last() -> None:
    evaluations = [(step, 5.0 - 0.01 * step if step != 123 else 0.5) for step in range(1, 401)]
    card = merged_card("some/model", RunFacts(evaluations=[(0, float("nan")), *evaluations]))
    rows = [int(step) for step in re.findall(r"^\| (\d+) \| [\d.]+ \|$", card, re.MULTILINE)]
    assert SHOWN_EVALUATIONS - 2 <= len(rows) <= SHOWN_EVALUATIONS + 1
    assert rows == sorted(rows)
    assert {123, 400} <= set(rows)


def test_a_name_cannot_break_the_table() -> None:
    assert "| data | `a\\|b.json` |" in merged_card("some/model", FACTS)


def test_data_are_named_without_their_places_and_what_a_url_carries(tmp_path: Path) -> None:
    config = TrainArgs(
        model_name_or_path="some/model",
        data=[
            str(tmp_path / "rows.jsonl"),
            "https://me:password@example.org/place/web.jsonl?token=secret",
            {"path": "openai/gsm8k", "name": "main", "split": "train"},
            "s3://bucket/rows/*.parquet",
        ],
        trainer=TrainerConfig(id="r", run_dir=str(tmp_path / "runs"), num_train_steps=3),
    )

    class Info:
        step = 3
        loss = float("nan")

    info: Any = Info()
    facts = run_facts(config, info)
    assert facts.data == ["rows.jsonl", "web.jsonl", "openai/gsm8k (main, train)", "*.parquet"]
    assert facts.hub_datasets == ["openai/gsm8k"]
    assert facts.train_loss is None
    card = merged_card("some/model", facts)
    assert not [word for word in ("password", "secret", "bucket", str(tmp_path)) if word in card]


def test_ranks_and_alphas_of_some_layers_are_told() -> None:
    config = LoraConfig(r=8, alpha=16, rank_pattern={"k_proj": 4}, alpha_pattern={r".*\.0\.mlp.*": 2.5})
    card = adapter_card(config, "some/model", ["k_proj", "up_proj"], FACTS)
    assert "| rank | 8; 4 in `k_proj` |" in card
    assert r"| alpha | 16; 2.5 in `.*\.0\.mlp.*` |" in card
