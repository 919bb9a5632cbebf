"""A message is trained or not as its author says, in whoever's words; what cannot be followed is refused."""

from typing import Any

import pytest

from lodos.data.text.turn_weights import weight_of, without_weights


@pytest.mark.parametrize("key", ["weight", "train", "training", "trainable", "loss", "loss_weight"])
def test_each_key_says_it(key: str) -> None:
    for value, trained in (
        (0, False),
        (1, True),
        (0.0, False),
        (1.0, True),
        (False, False),
        (True, True),
        (None, None),
    ):
        message = {"role": "assistant", "content": "a", key: value}
        assert weight_of(message) == (trained, [])
        assert without_weights([message]) == [{"role": "assistant", "content": "a"}]
    assert weight_of({"role": "user", key: 0}) == (False, [])


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ({"role": "assistant", "weight": 0.5}, ".weight"),
        ({"role": "assistant", "weight": 2}, ".weight"),
        ({"role": "assistant", "train": "false"}, ".train"),
        ({"role": "assistant", "trainable": []}, ".trainable"),
        ({"role": "assistant", "weight": 1, "train": False}, ""),
        ({"role": "assistant", "train_detail": [{"begin_offset": 0}]}, ".train_detail"),
        ({"role": "user", "train": True}, ".train"),
        ({"role": "assistant", "mask": False}, ".mask"),
        ({"role": "assistant", "loss_mask": 1}, ".loss_mask"),
    ],
)
def test_what_cannot_be_followed_is_named(message: Any, place: str) -> None:
    trained, problems = weight_of(message)
    assert trained is None
    assert [where for where, _ in problems] == [place]
