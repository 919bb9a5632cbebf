"""Answers with an adapter in torch and PEFT, which know nothing of lodos.

    python examples/peft_inference.py ADAPTER 'Name three winds.' --max_new_tokens 60

ADAPTER is the folder that training left, such as runs/<id>/peft/step-1218; its base model is the one that it names.
"""

import argparse

import torch
from peft import PeftConfig, PeftModel
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

    peft_config = PeftConfig.from_pretrained(args.path)
    assert peft_config.base_model_name_or_path is not None
    base_model = AutoModelForCausalLM.from_pretrained(peft_config.base_model_name_or_path)
    lora_model = PeftModel.from_pretrained(base_model, args.path)
    lora_model.eval()

    tokenizer = AutoTokenizer.from_pretrained(args.path)
    inputs = tokenizer(PROMPT.format(instruction=args.instruction), return_tensors="pt")
    with torch.no_grad():
        output = lora_model.generate(**inputs, max_new_tokens=args.max_new_tokens, do_sample=False)
    print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main()
