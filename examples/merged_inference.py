"""Answers with a merged model in torch and transformers, without PEFT.

    python examples/merged_inference.py MODEL 'Name three winds.' --max_new_tokens 60

MODEL is a folder that training or `lodos merge` left, or one of alpaca.py's: each is a whole model. It is asked as it
was trained, which prompting.json beside it says; where there is none, by its chat template, or else by what is given.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lodos.prompting.description import read_prompting
from lodos.prompting.encode import encode_prompt, usual_prompting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("prompt")
    parser.add_argument("--max_new_tokens", type=int, default=200)
    args = parser.parse_args()

    model: Any = AutoModelForCausalLM.from_pretrained(args.path)
    model.eval()

    tokenizer = AutoTokenizer.from_pretrained(args.path)
    prompting = read_prompting(args.path) or usual_prompting(tokenizer)
    ids = torch.tensor([encode_prompt(tokenizer, args.prompt, prompting)])
    with torch.no_grad():
        output = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=args.max_new_tokens, do_sample=False
        )
    print(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main()
