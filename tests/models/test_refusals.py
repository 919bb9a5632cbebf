"""What a model folder may hold, and what is refused before anything is computed from it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lodos.errors import UserError
from lodos.formats.hf import HFCheckpointConverter

pytest.importorskip("torch")

MakeModel = Callable[..., tuple[Path, Any]]


@pytest.fixture
def folder(make_model: MakeModel, tmp_path: Path) -> Path:
    return _copy(make_model()[0], tmp_path)


@pytest.fixture
def tied(make_model: MakeModel, tmp_path: Path) -> Path:
    return _copy(make_model(tie_word_embeddings=True)[0], tmp_path)


def _copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


def _edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _edit_tensors(folder: Path, edit: Callable[[dict[str, np.ndarray]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _logits(folder: Path, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(HFCheckpointConverter.from_hf(str(folder)).load_pretrained()(jnp.asarray(tokens)))


def test_an_unknown_model_type_is_refused_with_those_that_are_known(folder: Path) -> None:
    _edit_config(folder, model_type="gpt2")
    with pytest.raises(UserError, match=r"model_type: 'gpt2' is not supported.*llama, mistral, qwen2, qwen3"):
        HFCheckpointConverter.from_hf(str(folder))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": None, "architectures": ["LlamaForCausalLM"]}, 'LlamaForCausalLM: add "model_type": "llama"'),
        ({"model_type": None, "architectures": ["OddModel"]}, "config.json has none. Supported: llama"),
        ({"model_type": "qwen2_moe"}, "Nearest: qwen2. Supported"),
        ({"model_type": "gpt2"}, "takes a file in models/ and its tests: docs/adding-a-family.md"),
        ({"model_type": "bert"}, "'bert' is not supported: it is an encoder"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "it reads a text and writes another"),
        ({"model_type": "llava", "text_config": {"model_type": "llama"}}, "a model of more than text"),
    ],
)
def test_what_kind_of_model_it_is_is_said(config: dict[str, Any], said: str, folder: Path) -> None:
    _edit_config(folder, **config)
    with pytest.raises(UserError) as error:
        HFCheckpointConverter.from_hf(str(folder))
    assert said in str(error.value)


def test_an_unknown_rope_type_is_refused(folder: Path) -> None:
    _edit_config(folder, rope_parameters={"rope_type": "spiral", "rope_theta": 1e4})
    with pytest.raises(UserError, match=r"rope_type: 'spiral' is not one of default, linear"):
        HFCheckpointConverter.from_hf(str(folder))


def test_a_rope_setting_that_nothing_reads_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rope = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    _edit_config(folder, rope_parameters={**rope, "twist": 3, "finetuned": True})
    HFCheckpointConverter.from_hf(str(folder))
    (remark,) = [record.getMessage() for record in caplog.records if record.name.startswith("lodos")]
    assert "twist among the rope settings: without effect for rope_type linear" in remark
    assert "finetuned" not in remark


def test_dropout_of_the_models_own_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    _edit_config(folder, attention_dropout=0.1)
    HFCheckpointConverter.from_hf(str(folder))
    (remark,) = [record.getMessage() for record in caplog.records if record.name.startswith("lodos")]
    assert "attention_dropout: 0.1 is not applied" in remark


def test_rope_settings_for_each_kind_of_layer_are_refused(folder: Path) -> None:
    rope = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    _edit_config(folder, rope_parameters={"full_attention": rope, "sliding_attention": rope})
    with pytest.raises(UserError, match="full_attention: settings for each kind of layer"):
        HFCheckpointConverter.from_hf(str(folder))


def test_a_missing_rope_parameter_is_refused(folder: Path) -> None:
    _edit_config(folder, rope_parameters={"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0})
    with pytest.raises(UserError, match="low_freq_factor"):
        HFCheckpointConverter.from_hf(str(folder))


def test_what_transformers_refuses_is_an_error_of_the_users(folder: Path) -> None:
    _edit_config(folder, pretraining_tp="wide")
    with pytest.raises(UserError, match=r"config.json: transformers refuses it"):
        HFCheckpointConverter.from_hf(str(folder))


def test_unknown_model_types_and_activations_are_refused_together(folder: Path) -> None:
    _edit_config(folder, model_type="gpt2", hidden_act="quick_gelu")
    with pytest.raises(UserError, match=r"(?s)model_type: 'gpt2'.*hidden_act: 'quick_gelu'"):
        HFCheckpointConverter.from_hf(str(folder))


def test_every_tensor_that_does_not_fit_is_in_one_error(folder: Path) -> None:
    def edit(tensors: dict[str, np.ndarray]) -> None:
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.layers.0.self_attn.q_proj.bias"] = np.zeros(32, np.float32)
        k_proj = "model.layers.2.self_attn.k_proj.weight"
        tensors[k_proj] = np.ascontiguousarray(tensors[k_proj].T)

    _edit_tensors(folder, edit)
    with pytest.raises(UserError) as error:
        HFCheckpointConverter.from_hf(str(folder)).load_pretrained()
    text = str(error.value)
    assert "model.layers.1.mlp.up_proj.weight: missing" in text
    assert "model.layers.0.self_attn.q_proj.bias: extra" in text
    assert "model.layers.2.self_attn.k_proj.weight: the file has [32, 16]" in text
    assert len(text.splitlines()) == 4


def test_a_folder_with_only_a_pickle_is_refused_with_the_reason(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(UserError, match=r"pytorch_model.bin.*pickle, which can run any code"):
        HFCheckpointConverter.from_hf(str(folder)).load_pretrained()


def test_a_sharded_folder_gives_the_same_model(make_model: MakeModel, tokens: np.ndarray, tmp_path: Path) -> None:
    whole, theirs = make_model()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    np.testing.assert_array_equal(_logits(tmp_path, tokens), _logits(whole, tokens))

    missing = sorted(tmp_path.glob("*.safetensors"))[1]
    missing.unlink()
    with pytest.raises(UserError, match=missing.name):
        _logits(tmp_path, tokens)


def test_a_tied_head_in_the_file_must_be_the_embedding(tied: Path, tokens: np.ndarray) -> None:
    alone = _logits(tied, tokens)

    def add_head(tensors: dict[str, np.ndarray]) -> None:
        assert "lm_head.weight" not in tensors
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()

    _edit_tensors(tied, add_head)
    np.testing.assert_array_equal(_logits(tied, tokens), alone)

    def change_head(tensors: dict[str, np.ndarray]) -> None:
        tensors["lm_head.weight"][3, 3] += 1

    _edit_tensors(tied, change_head)
    with pytest.raises(UserError, match=r"lm_head.weight: differs.*tie_word_embeddings: true"):
        _logits(tied, tokens)


def test_tables_of_old_llama_checkpoints_are_ignored(folder: Path, tokens: np.ndarray) -> None:
    before = _logits(folder, tokens)

    def add_table(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(4, np.float32)

    _edit_tensors(folder, add_table)
    np.testing.assert_array_equal(_logits(folder, tokens), before)


@pytest.mark.parametrize("has_model_type", [True, False])
def test_code_of_the_repository_is_never_run(folder: Path, tmp_path: Path, has_model_type: bool) -> None:
    touched = tmp_path / "touched"
    code = f"open({str(touched)!r}, 'w').close()\nclass Config: pass\nclass Model: pass\nclass Tokenizer: pass\n"
    (folder / "evil.py").write_text(code)
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    _edit_config(folder, auto_map=auto_map)
    if not has_model_type:
        _edit_config(folder, model_type="evil")
    path = folder / "tokenizer_config.json"
    tokenizer_config = {
        **json.loads(path.read_text()),
        "auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]},
    }
    path.write_text(json.dumps(tokenizer_config))
    try:
        converter = HFCheckpointConverter.from_hf(str(folder))
        converter.load_pretrained()
        _ = converter.tokenizer
    except UserError:
        pass
    assert not touched.exists()
