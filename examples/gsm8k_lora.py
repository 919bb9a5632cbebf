"""Grade-school mathematics with LoRA: how many held-out problems come out right, before and after.

    python examples/gsm8k_lora.py examples/gsm8k-lora.yaml --eval_rows 100

An answer of GSM8K works the problem out and ends in a line `#### <number>`. Right is an answer whose number after
`####` is that of the held-out row; the model itself chooses each token (greedy). The training is `alpaca_lora.py`'s.
"""

import dataclasses
import re
import sys
from collections.abc import Sequence

import alpaca_lora
from lodos import HFCheckpointConverter, LmHeadModel, TrainerState, UserError, checked_uploads, make_loaders, run_script
from lodos.data.examples import TokenizedExample
from lodos.data.text.chat import read_template
from lodos.infer.generate import generate
from lodos.infer.text import filler_token_id
from lodos.lora.transform import loraized_shapes
from lodos.prompting.encode import end_token_ids
from lodos.train.axes import check_axes


@dataclasses.dataclass(kw_only=True)
class TrainArgs(alpaca_lora.TrainArgs):
    """Fine-tune a model with LoRA on GSM8K, and count right answers to held-out problems before and after."""

    eval_rows: int = 100
    """How many of the held-out problems are answered."""
    max_new_tokens: int = 256
    """Longest answer, in tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation is None:
            raise UserError("validation: not given, so there is no problem to answer. Write validation: 500.")
        if self.eval_rows < 1 or self.max_new_tokens < 1:
            raise UserError(f"eval_rows: {self.eval_rows}, max_new_tokens: {self.max_new_tokens} must be at least 1.")
        if not self.mask_inputs:
            raise UserError("mask_inputs: false would train the problems too, and they would be taken for answers.")


def train(config: TrainArgs) -> TrainerState:
    converter = HFCheckpointConverter.from_hf(
        config.model_name_or_path, chat_template=read_template(config.chat_template)
    )
    # What the training refuses is refused before the first exam.
    check_axes(config.trainer, loraized_shapes(converter.structure(), config.lora))
    checked_uploads(config)
    loaders = make_loaders(config, converter)
    assert loaders.held_out is not None
    problems = [loaders.held_out.examples[i] for i in range(min(config.eval_rows, len(loaders.held_out.examples)))]

    before = right_answers(converter.load_pretrained(scan_layers=config.scan_layers), converter, problems, config)
    print(f"Before: {before} of {len(problems)} right ({before / len(problems):.1%}).", flush=True)
    state = alpaca_lora.train(config)
    with config.trainer.device_mesh:
        after = right_answers(state.model, converter, problems, config)
    print(f"After {int(state.step)} steps: {after} of {len(problems)} right ({after / len(problems):.1%}).")
    return state


def right_answers(
    model: LmHeadModel, converter: HFCheckpointConverter, problems: Sequence[TokenizedExample], config: TrainArgs
) -> int:
    """How many problems the model answers with the number that their rows give."""
    tokenizer = converter.tokenizer
    starts = [int(problem.trained.argmax()) for problem in problems]  # where the answer begins
    answers = generate(
        model,
        [problem.ids[:start].tolist() for problem, start in zip(problems, starts, strict=True)],
        max_new_tokens=config.max_new_tokens,
        eos_token_ids=end_token_ids(tokenizer),
        pad_token_id=filler_token_id(tokenizer),
    )
    expected = [problem.ids[start:].tolist() for problem, start in zip(problems, starts, strict=True)]
    numbers = [[final_number(str(tokenizer.decode(ids))) for ids in texts] for texts in (answers, expected)]
    return sum(given is not None and given == right for given, right in zip(*numbers, strict=True))


def final_number(answer: str) -> float | None:
    """The number after `####`, without the commas between thousands; None where there is none."""
    match = re.search(r"####\s*\$?(-?[\d,]*\.?\d+)", answer)
    return None if match is None else float(match[1].replace(",", ""))


if __name__ == "__main__":
    sys.exit(run_script(train))
