"""What of a conversation is asked: all that fits, the oldest forgotten first, and only as the model was trained."""

from typing import Any

import pytest

from lodos.commands.conversation import Conversation
from lodos.errors import UserError
from lodos.prompting.description import Prompting
from lodos.prompting.encode import CHAT
from lodos.prompting.prompts import Prompts

PROMPTS = Prompts("{instruction} {input}>", "{instruction}>")


def conversation(tokenizer: Any, prompting: Prompting = CHAT, positions: int = 400, new: int = 20) -> Conversation:
    return Conversation(tokenizer, prompting, positions=positions, max_new_tokens=new)


def test_earlier_turns_stand_before_the_message(tiny_tokenizer: Any) -> None:
    talk = conversation(tiny_tokenizer)
    assert talk.ask("Hello").forgotten == 0
    talk.note("Hello", "Hi!")
    assert tiny_tokenizer.decode(talk.ask("More?").ids) == (
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi!<|im_end|>\n"
        "<|im_start|>user\nMore?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert talk.undo()
    assert "Hello" not in tiny_tokenizer.decode(talk.ask("More?").ids)
    assert not talk.undo()


def test_a_system_turn_can_be_set_and_taken_away(tiny_tokenizer: Any) -> None:
    talk = conversation(tiny_tokenizer)
    talk.set_system("Sing.")
    assert "system\nSing." in tiny_tokenizer.decode(talk.ask("Hello").ids)
    talk.set_system("")
    assert "system" not in tiny_tokenizer.decode(talk.ask("Hello").ids)
    with pytest.raises(UserError, match="no place for a system turn"):
        conversation(tiny_tokenizer, Prompting("text")).set_system("Sing.")


def test_turns_that_there_is_no_room_for_are_forgotten_from_the_oldest(tiny_tokenizer: Any) -> None:
    talk = conversation(tiny_tokenizer, Prompting("chat", system="Be brief."), positions=200)
    forgotten = 0
    for i in range(12):
        prompt = talk.ask(f"Question {i}?")
        assert len(prompt.ids) + prompt.max_new_tokens <= 200
        assert prompt.max_new_tokens == 20
        forgotten += prompt.forgotten
        talk.note(f"Question {i}?", f"Answer {i}.")
    text = tiny_tokenizer.decode(talk.ask("The last?").ids)
    assert forgotten > 3
    assert "Be brief." in text
    assert "Question 11?" in text
    assert "Question 0?" not in text
    assert len(talk.exchanges) < 12


def test_a_message_that_is_too_long_by_itself_is_refused_and_forgets_nothing(tiny_tokenizer: Any) -> None:
    talk = conversation(tiny_tokenizer, positions=100)
    talk.note("Hello", "Hi!")
    with pytest.raises(UserError, match="the model has 100 positions"):
        talk.ask("x " * 200)
    assert talk.exchanges == [("Hello", "Hi!")]


def test_a_model_of_single_instructions_is_asked_each_alone(tiny_tokenizer: Any) -> None:
    talk = conversation(tiny_tokenizer, Prompting("alpaca", prompts=PROMPTS))
    assert not talk.has_history
    talk.note("Hello", "Hi!")
    assert tiny_tokenizer.decode(talk.ask("More?").ids) == "More?>"


def test_instructions_that_were_trained_with_turns_before_them_are_asked_so(tiny_tokenizer: Any) -> None:
    talk = conversation(tiny_tokenizer, Prompting("alpaca", prompts=PROMPTS, history=True, system="Be brief."))
    talk.note("Hello", "Hi!")
    assert tiny_tokenizer.decode(talk.ask("More?").ids) == "Be brief.\n\nHello>Hi!</s>More?>"
