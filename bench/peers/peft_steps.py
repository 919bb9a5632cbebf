"""transformers and PEFT on torch, one step at a time, as their users write it."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.contestants import Channel
from bench.peers.random_tokens import RandomTokens


def steps(
    channel: Channel, *, folder: str, tokens: dict[str, Any], optimizer: dict[str, Any], initial_adapter: str
) -> None:
    """Answers `{"first": k, "steps": n}` with the losses of batches k to k+n-1 and the seconds they took.

    Args:
        folder: the base model, in Hugging Face's form.
        tokens: fields of `RandomTokens`, whose rows are one example each.
        optimizer: fields of lodos's `OptimizerConfig`, of a constant schedule.
        initial_adapter: what to start from.
    """
    import torch

    batches = RandomTokens(**tokens)
    model = load_adapted(Path(folder), Path(initial_adapter))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    update = adamw(parameters, optimizer)
    channel.send(threads=torch.get_num_threads())
    for request in channel:
        first = request["first"]
        inputs = [[torch.from_numpy(x) for x in batches.batch(k)] for k in range(first, first + request["steps"])]
        losses = []
        started = time.perf_counter()
        for input_ids, labels in inputs:
            loss = model(input_ids=input_ids, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, optimizer["max_grad_norm"])
            update.step()
            update.zero_grad()
            losses.append(loss.item())
        channel.send(seconds=time.perf_counter() - started, losses=losses)


def load_adapted(folder: Path, adapter: Path) -> Any:
    """The base model in float32 with the adapter, in training mode."""
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    is_of_more = hasattr(AutoConfig.from_pretrained(folder), "text_config")
    auto = AutoModelForImageTextToText if is_of_more else AutoModelForCausalLM
    base = auto.from_pretrained(folder, dtype=torch.float32)
    return PeftModel.from_pretrained(base, str(adapter), is_trainable=True).train()


def adamw(parameters: Iterable[Any], optimizer: Mapping[str, Any]) -> Any:
    """torch's AdamW as it comes, with the numbers of lodos's `OptimizerConfig`."""
    import torch

    return torch.optim.AdamW(
        parameters,
        lr=optimizer["learning_rate"],
        betas=(optimizer["beta1"], optimizer["beta2"]),
        eps=optimizer["epsilon"],
        weight_decay=optimizer["weight_decay"],
    )
