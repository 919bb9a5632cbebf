"""Answers with a merged model in torch and transformers, without PEFT.

    python examples/merged_inference.py MODEL 'Name three winds.' --max_new_tokens 60

MODEL is a folder that training or `lodos merge` left, or one of alpaca.py's: each is a whole model.
"""

import argparse
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
"""Alpaca's, for an instruction without an input: a model is asked as it was trained."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("instruction")
    parser.add_argument("--max_new_tokens", type=int, default=200)
    args = parser.parse_args()

    model: Any = AutoModelForCausalLM.from_pretrained(args.path)
    model.eval()

    tokenizer = AutoTokenizer.from_pretrained(args.path)
    inputs = tokenizer(PROMPT.format(instruction=args.instruction), return_tensors="pt")
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=args.max_new_tokens, do_sample=False)
    print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main()
