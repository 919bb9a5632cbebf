"""The contestants of the training step do the same work."""

from typing import Any

import jax
import pytest
from bench.contestants import ContestantFailedError
from bench.peers.random_tokens import RandomTokens
from bench.step import COMPARED_STEPS, LODOS, PEFT, TUNED, compare


def test_all_contestants_train_the_same(make_model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder, model = make_model()
    tokens = RandomTokens(2, 24, model.config.vocab_size, trained=0.6)
    comparison = compare(
        folder,
        tokens,
        contestants=[PEFT, TUNED],
        rounds=2,
        steps=2,
        lora={"r": 4, "alpha": 8.0},
        flags={"gradient_checkpointing": "full"},
        matrix_seconds=0.01,
    )
    report = comparison.report()
    assert [one["name"] for one in report["contestants"]] == [LODOS, PEFT, TUNED]
    for one in report["contestants"]:
        assert len(one["losses"]) == 6 > COMPARED_STEPS
        assert len(set(one["losses"])) == 6
        assert one["loss_difference"] < 1e-4
        assert one["peak_bytes"] > 1e8
        assert one["tokens_per_second"] > 0
        assert one["share_of_peak"] > 0
    assert {name: len(speeds) for name, speeds in report["matrix_flops_per_second"].items()} == {"JAX": 2, "torch": 2}

    comparison.print()
    table = capsys.readouterr().out
    assert "28 of 48 trained" in table
    assert (
        table.index("of PEFT as it comes")
        < table.index("\nlodos")
        < table.index("\nPEFT as it comes")
        < table.index("\nPEFT tuned")
    )


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="a GPU has what is asked for")
def test_what_is_asked_for_beside_the_defaults_is_heeded(make_model: Any) -> None:
    folder, model = make_model()
    with pytest.raises(ContestantFailedError, match="cudnn needs an NVIDIA GPU"):
        compare(
            folder,
            RandomTokens(2, 24, model.config.vocab_size),
            contestants=[],
            rounds=1,
            steps=1,
            lora={"r": 4, "alpha": 8.0},
            flags={"attn_implementation": "cudnn"},
        )
