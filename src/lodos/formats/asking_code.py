"""Python for transformers that asks a model as it was trained: the end of a model card's code.

It goes on from the names `path`, `model` and `tokenizer`. The prompt stands in it as `...`.
"""

from lodos.prompting.description import Prompting


def asking_code(prompting: Prompting | None, *, ends: str | None = None) -> str:
    """The lines, each with its end; none where nobody knows how to ask.

    Args:
        ends: the name of the folder whose generation config says what ends an answer; None where the model has it.
    """
    if prompting is None:
        return ""
    lines = ["", *_inputs(prompting)]
    settings = "max_new_tokens=200"
    if ends is not None:
        lines.append(f"generation_config = GenerationConfig.from_pretrained({ends})  # with the end of an answer")
        settings = f"generation_config=generation_config, {settings}"
    lines += [
        f"output = model.generate(**inputs, {settings})",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]
    return "".join(f"{line}\n" for line in lines)


def _inputs(prompting: Prompting) -> list[str]:
    if prompting.format == "alpaca" and prompting.prompts is not None:
        return [
            f"prompt = {prompting.prompts.prompt_no_input!r}",
            'inputs = tokenizer(prompt.format(instruction="..."), return_tensors="pt")',
        ]
    if not prompting.is_chat:
        return ['inputs = tokenizer("...", return_tensors="pt")']
    turns = [{"role": "system", "content": prompting.system}] if prompting.system else []
    dated = f"# The template writes today's date; in the training that was {prompting.date}."
    return [
        *([] if prompting.date is None else [dated]),
        f"messages = {[*turns, {'role': 'user', 'content': '...'}]!r}",
        "inputs = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
        ")",
    ]
