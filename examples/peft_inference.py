"""Answers with an adapter in torch and PEFT; of lodos only what says how to ask.

    python examples/peft_inference.py ADAPTER 'Name three winds.' --max_new_tokens 60

ADAPTER is the folder that training left, such as runs/<id>/peft/step-1218; its base model is the one that it names. It
is asked as it was trained, and its answers end where they were trained to end, which files beside it say; where there
are none, by its chat template, or else by what is given.
"""

import argparse
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from lodos.prompting.description import read_prompting
from lodos.prompting.encode import encode_prompt, usual_prompting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("prompt")
    parser.add_argument("--max_new_tokens", type=int, default=200)
    args = parser.parse_args()

    peft_config = PeftConfig.from_pretrained(args.path)
    assert peft_config.base_model_name_or_path is not None
    base_model = AutoModelForCausalLM.from_pretrained(peft_config.base_model_name_or_path)
    lora_model = PeftModel.from_pretrained(base_model, args.path)
    lora_model.eval()
    if (args.path / "generation_config.json").exists():
        base_model.generation_config = GenerationConfig.from_pretrained(args.path)

    tokenizer = AutoTokenizer.from_pretrained(args.path)
    prompting = read_prompting(args.path) or usual_prompting(tokenizer)
    ids = torch.tensor([encode_prompt(tokenizer, args.prompt, prompting)])
    with torch.no_grad():
        output = lora_model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=args.max_new_tokens, do_sample=False
        )
    print(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main()
