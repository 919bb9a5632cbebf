"""Problems of arithmetic in GSM8K's form, for whoever has no GSM8K at hand.

    python examples/sums.py sums.jsonl

The answers are worked step by step and end in `#### ` and a number, as GSM8K's do. The same seed gives the same rows.
"""

import argparse
import json
import random
from pathlib import Path

NAMES = ("Ada", "Bo", "Cem", "Dia", "Eli", "Fay", "Gus", "Hana", "Ivo", "June")
THINGS = ("pears", "stamps", "marbles", "tickets", "shells", "buttons", "books", "coins")


def problem(rng: random.Random) -> dict[str, str]:
    """A problem of two steps."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    boxes, each, given = rng.randint(2, 9), rng.randint(2, 12), rng.randint(1, 4)
    total = boxes * each
    question = f"{name} has {boxes} boxes of {each} {thing} and gives {given} away. How many {thing} are left?"
    answer = (
        f"There are {boxes}*{each}=<<{boxes}*{each}={total}>>{total} {thing} in the boxes.\n"
        f"Then {total}-{given}=<<{total}-{given}={total - given}>>{total - given} are left.\n#### {total - given}"
    )
    return {"question": question, "answer": answer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    args.file.write_text("".join(json.dumps(problem(rng)) + "\n" for _ in range(args.rows)), encoding="utf-8")


if __name__ == "__main__":
    main()
