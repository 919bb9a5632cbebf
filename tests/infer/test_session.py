"""A session says what a fresh model would say, however much of the text it has read before."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lodos.infer.session as module
from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter
from lodos.infer.generate import generate
from lodos.infer.sampling import Sampling
from lodos.infer.session import Session
from lodos.models.decoder import LmHeadModel

pytest.importorskip("torch")

FIRST = [5, 17, 211, 40, 9, 77, 120]


@pytest.fixture(scope="module")
def model(make_model: Callable[..., tuple[Path, Any]]) -> LmHeadModel:
    folder, _ = make_model("mistral", sliding_window=9, num_hidden_layers=2, max_position_embeddings=1024)
    return HFCheckpointConverter.from_hf(str(folder)).load_pretrained()


def fresh(model: LmHeadModel, prompt: list[int], new: int = 8) -> list[int]:
    return generate(model, [prompt], max_new_tokens=new, eos_token_ids=[])[0]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens were read at once, each time."""
    counts: list[int] = []
    real = module._read

    def counted(model: Any, cache: Any, tokens: Any, used: Any, count: Any) -> Any:
        counts.append(int(count))
        return real(model, cache, tokens, used, count)

    monkeypatch.setattr(module, "_read", counted)
    return counts


def test_turns_cost_what_they_add_and_say_what_a_fresh_model_says(model: LmHeadModel, read: list[int]) -> None:
    session = Session(model, eos_token_ids=[])
    text = list(FIRST)
    for turn, more in enumerate([[], [8, 9, 10], [11], [300, 301]]):
        text += more
        read.clear()
        answer = list(session.stream(text, max_new_tokens=8))
        assert answer == fresh(model, text)
        # The last token of an answer was chosen and not read.
        assert read[0] == (len(FIRST) if turn == 0 else len(more) + 1)
        text += answer


def test_a_text_that_parts_from_what_was_read_is_read_from_there(model: LmHeadModel, read: list[int]) -> None:
    session = Session(model, eos_token_ids=[])
    list(session.stream([*FIRST, 8, 9, 10, 11], max_new_tokens=8))
    for prompt, kept in (([*FIRST, 8, 99, 100], len(FIRST) + 1), (FIRST, len(FIRST) - 1), ([6, *FIRST], 0)):
        read.clear()
        assert session.shared_with(prompt) == kept
        assert list(session.stream(prompt, max_new_tokens=8)) == fresh(model, prompt)
        assert read[0] == len(prompt) - kept


def test_an_answer_that_is_left_half_way_leaves_what_was_read(model: LmHeadModel) -> None:
    session = Session(model, eos_token_ids=[])
    stream = session.stream(FIRST, max_new_tokens=8)
    said = [next(stream) for _ in range(3)]
    stream.close()
    prompt = [*FIRST, *said, 12]
    assert session.shared_with(prompt) == len(FIRST) + 2
    assert list(session.stream(prompt, max_new_tokens=8)) == fresh(model, prompt)


def test_a_cache_that_is_outgrown_grows(model: LmHeadModel) -> None:
    session = Session(model, eos_token_ids=[])
    list(session.stream(FIRST, max_new_tokens=4))
    assert session._cache is not None
    before = session._cache.segment_ids.shape[1]
    long = [*FIRST, *[7 + i % 90 for i in range(before)]]
    assert session.shared_with(long) == len(FIRST)
    assert list(session.stream(long, max_new_tokens=4)) == fresh(model, long, 4)
    assert session._cache.segment_ids.shape[1] > before


def test_where_the_rotation_depends_on_the_length_all_is_read_again(
    make_model: Callable[..., tuple[Path, Any]], read: list[int]
) -> None:
    rope = {"rope_type": "dynamic", "factor": 8.0, "rope_theta": 1e4}
    folder, _ = make_model(max_position_embeddings=16, rope_parameters=rope, num_hidden_layers=2)
    model = HFCheckpointConverter.from_hf(str(folder)).load_pretrained()
    session = Session(model, eos_token_ids=[])
    answer = list(session.stream(FIRST, max_new_tokens=8))
    longer = [*FIRST, *answer, *range(20, 40)]
    read.clear()
    assert list(session.stream(longer, max_new_tokens=8)) == fresh(model, longer)
    assert read[0] == len(longer)


def test_what_is_drawn_depends_on_seed_and_turn(model: LmHeadModel) -> None:
    def drawn(seed: int, turn: int) -> list[int]:
        session = Session(model, eos_token_ids=[], sampling=Sampling(temperature=1.0, top_k=50), seed=seed)
        return list(session.stream(FIRST, max_new_tokens=8, turn=turn))

    assert drawn(1, 0) == drawn(1, 0)
    assert len({tuple(drawn(1, 0)), tuple(drawn(1, 1)), tuple(drawn(2, 0))}) == 3


def test_what_has_no_positions_is_refused_at_once(model: LmHeadModel) -> None:
    session = Session(model, eos_token_ids=[])
    with pytest.raises(UserError, match="1024 positions"):
        session.stream([1] * 1020, max_new_tokens=8)
    with pytest.raises(UserError, match="no tokens"):
        session.stream([], max_new_tokens=8)
