"""A tokenizer that knows the special tokens of many templates."""

from typing import Any

import pytest


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Byte-level, with the special tokens of all the templates; it puts BOS in front of a text itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    special += ["<start_of_turn>", "<end_of_turn>", "<|end|>", "<|assistant|>", "<|user|>", "<|system|>"]
    vocab = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    made.add_tokens(special[2:], special_tokens=True)
    return made
