"""Which messages of a conversation are trained, where its author says so for each.

OpenAI writes `weight: 0` or `1` on the assistant's messages, Axolotl `train: true` or `false` (also `training`),
ms-swift `loss`, others `trainable` or `loss_weight`. A message that is not trained is context: the model reads it, and
learns to say none of it. A `mask` is on what is left out for some, and on what is trained for others, so it is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lodos.data.reading.rows import shown

WEIGHT_KEYS = ("weight", "train", "training", "trainable", "loss", "loss_weight")
"""All mean the same."""

FINER_KEYS = ("train_detail", "training_detail")
"""Axolotl's, of parts of a message, which we cannot follow."""

UNCLEAR_KEYS = ("mask", "masked", "loss_mask")
"""Of which it is not known whether they mark what is trained or what is not."""


def weight_of(message: Mapping[str, Any]) -> tuple[bool | None, list[tuple[str, str]]]:
    """Whether a message is to be trained, None where it does not say; and (key, what is wrong with its value)."""
    said = {key: message[key] for key in WEIGHT_KEYS if message.get(key) is not None}
    problems = [
        (f".{key}", f"must be 0 or 1, or true or false, found {shown(value)}.")
        for key, value in said.items()
        if not isinstance(value, bool | int | float) or value not in (0, 1)
    ]
    problems += [
        (f".{key}", "says which parts of the message are trained, and only whole messages can be. Take it out.")
        for key in FINER_KEYS
        if message.get(key)
    ]
    problems += [
        (f".{key}", "may mark what is trained or what is not. Say it with weight, 1 or 0, in its place.")
        for key in UNCLEAR_KEYS
        if message.get(key) is not None
    ]
    if problems or not said:
        return None, problems
    if len({bool(value) for value in said.values()}) > 1:
        return None, [("", f"says both that it is trained and that it is not ({' and '.join(said)}).")]
    trained = bool(next(iter(said.values())))
    if trained and message.get("role") != "assistant":
        key = next(iter(said))
        return None, [(f".{key}", "is for the assistant's messages: no others can be trained. Leave it out.")]
    return trained, []


def without_weights(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages as a template is to see them."""
    return [{key: value for key, value in message.items() if key not in WEIGHT_KEYS} for message in messages]
