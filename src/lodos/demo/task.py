"""The demo's task: a request for a table, in whatever words, turned into strict JSON.

    Hi, can we get a table for three, this Friday around 7:30 pm, it's Moreau
    {"people":3,"day":"friday","time":"19:30","name":"Moreau"}

The rows are made by a generator with a fixed seed and committed beside it; `python -m lodos.demo.task` writes
the same bytes again. No held-out row is nearly one of the training rows: its name occurs in none of them, and at
most `SIMILARITY` of its words are shared with any.
"""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

DATA = Path(__file__).parent / "data"
TRAIN_FILE = DATA / "train.jsonl"
HELD_OUT_FILE = DATA / "heldout.jsonl"

PROMPTS = {"prompt_no_input": "Request: {instruction}\nJSON:", "prompt_input": "Request: {instruction} {input}\nJSON:"}
"""Short, because in the demo every token costs a few milliseconds."""

SEED = 7
NUM_TRAIN = 1000
NUM_HELD_OUT = 150
SIMILARITY = 0.75
"""The largest share of words (of both rows together) that a held-out and a training request may have in common."""

_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten"}
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_TRAIN_NAMES = (
    "Rossi",
    "Moreau",
    "Kim",
    "Novak",
    "Silva",
    "Haddad",
    "Berg",
    "Costa",
    "Ivanov",
    "Tanaka",
    "Okafor",
    "Weber",
    "Larsen",
    "Duarte",
    "Fischer",
    "Nguyen",
    "Patel",
    "Romero",
    "Santos",
    "Yilmaz",
    "Bianchi",
    "Carter",
    "Dumont",
    "Eriksen",
    "Ferrari",
    "Garcia",
    "Hughes",
    "Jensen",
    "Keller",
    "Lopez",
    "Meyer",
    "Nowak",
    "Ortiz",
    "Petrov",
    "Quinn",
    "Reyes",
    "Schmidt",
    "Torres",
    "Ueda",
    "Vogel",
    "Walsh",
    "Xu",
    "Young",
    "Zhang",
    "Adams",
    "Brown",
    "Clark",
    "Davis",
    "Evans",
    "Foster",
)
_HELD_OUT_NAMES = (
    "Almeida",
    "Becker",
    "Castro",
    "Doyle",
    "Ekman",
    "Fontaine",
    "Greco",
    "Hansen",
    "Ito",
    "Jones",
    "Kowalski",
    "Lambert",
    "Murphy",
    "Nielsen",
    "Olsen",
    "Price",
    "Ramos",
    "Suzuki",
    "Turner",
    "Vargas",
)
_GREETINGS = ("", "", "Hi, ", "Hello! ", "Good evening, ", "Hey there, ")
_PARTIES = (
    "a table for {n}",
    "I'd like a table for {n}",
    "can we get a table for {n}",
    "we need a table for {n}",
    "please book {n} seats",
    "dinner for {n}",
    "there will be {n} of us",
    "could you reserve for {n} people",
    "looking for a spot for {n}",
    "a party of {n}",
)
_DAY_PHRASES = ("on {d}", "this {d}", "{d}", "next {d}", "for {d}")
_TIME_PHRASES = ("at {t}", "around {t}", "{t}", "say {t}", "from {t}")
_NAME_PHRASES = ("under {n}", "name is {n}", "for {n}", "it's {n}", "my name is {n}", "{n} here", "the name's {n}")
_CLOSINGS = ("", "", "", " please", ", thanks", ", thank you")


def generate() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The training rows and the held-out rows, Alpaca-style: instruction, input, output."""
    rng = random.Random(SEED)
    train: dict[str, dict[str, str]] = {}
    while len(train) < NUM_TRAIN:
        row = _row(rng, _TRAIN_NAMES)
        train.setdefault(row["instruction"], row)
    words = [_words(request) for request in train]
    held_out: dict[str, dict[str, str]] = {}
    while len(held_out) < NUM_HELD_OUT:
        row = _row(rng, _HELD_OUT_NAMES)
        own = _words(row["instruction"])
        if all(similarity(own, other) <= SIMILARITY for other in words):
            held_out.setdefault(row["instruction"], row)
    return list(train.values()), list(held_out.values())


def similarity(a: frozenset[str], b: frozenset[str]) -> float:
    """The share of the words of two requests that both have."""
    return len(a & b) / len(a | b)


def write() -> None:
    """Writes both files."""
    for path, rows in zip((TRAIN_FILE, HELD_OUT_FILE), generate(), strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _row(rng: random.Random, names: tuple[str, ...]) -> dict[str, str]:
    people, day, name = rng.choice(list(_NUMBERS)), rng.choice(_DAYS), rng.choice(names)
    clock, spoken = rng.choice(list(_times()))
    party = rng.choice(_PARTIES).format(n=rng.choice([str(people), _NUMBERS[people]]))
    when = [
        rng.choice(_DAY_PHRASES).format(d=rng.choice([day.capitalize(), day])),
        rng.choice(_TIME_PHRASES).format(t=spoken),
    ]
    rng.shuffle(when)
    who = rng.choice(_NAME_PHRASES).format(n=name)
    parts = [party, f"{when[0]} {when[1]}"]
    parts.insert(rng.choice([0, 2, 2]), who)
    text = rng.choice(_GREETINGS) + ", ".join(parts) + rng.choice(_CLOSINGS)
    answer = {"people": people, "day": day, "time": clock, "name": name}
    return {"instruction": text[0].upper() + text[1:], "input": "", "output": json.dumps(answer, separators=(",", ":"))}


def _times() -> Iterator[tuple[str, str]]:
    """Each time on the clock with each way to say it."""
    for hour in range(5, 11):
        for minute in (0, 15, 30, 45):
            clock = f"{hour + 12}:{minute:02}"
            yield clock, clock
            yield clock, f"{hour}:{minute:02} pm" if minute else f"{hour} pm"
            yield clock, f"{hour}:{minute:02}pm" if minute else f"{hour}pm"


def _words(request: str) -> frozenset[str]:
    return frozenset(re.findall(r"[\w:']+", request.lower()))


if __name__ == "__main__":
    write()
