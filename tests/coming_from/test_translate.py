"""Configs that were written for other tools: each key gets its advice, and a whole one comes back in our words."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lodos.coming_from.advice import Absent
from lodos.coming_from.levanter import ELSEWHERE, RENAMED
from lodos.coming_from.translate import TOOLS, WHOLE
from lodos.config import TrainArgs
from lodos.config_parsing import known_names, parse_config
from lodos.errors import UserError

OURS = {name for name, _ in known_names(TrainArgs)}


def refusal(folder: Path, config: Any, *flags: str) -> str:
    """What is said to a config, without its path."""
    path = folder / "c.yaml"
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    with pytest.raises(UserError) as error:
        parse_config(TrainArgs, [str(path), *flags], prog="lodos train")
    return str(error.value).replace(str(path), "c.yaml")


def said(message: str) -> dict[str, str]:
    """The advice of each key."""
    found = re.findall(r"^c\.yaml: ([\w., ]+?): (.*)$", message, re.MULTILINE)
    return {name: text for names, text in found for name in names.split(", ")}


def pasted(message: str) -> str:
    return message.split("where its config is silent:\n\n")[1]


REQUIRED = ["--model_name_or_path", "m", "--data", "d"]


@pytest.mark.parametrize(
    ("config", "key", "advice"),
    [
        # TRL, transformers, PEFT
        ("learning_rate: 2.0e-4", "learning_rate", "Write optimizer.learning_rate: 0.0002."),
        ("lr_scheduler_type: constant_with_warmup", "lr_scheduler_type", "Write optimizer.lr_schedule: constant."),
        ("lr_scheduler_type: polynomial", "lr_scheduler_type", "'polynomial' is not here. Write optimizer.lr_schedule"),
        ("optim: paged_adamw_8bit", "optim", "Write optimizer.type: adamw."),
        ("optim: galore_adamw_x", "optim", "Write optimizer.type: adamw."),
        ("optim: muon", "optim", "'muon' is not here. Write optimizer.type: one of"),
        ("max_grad_norm: 0", "max_grad_norm", "Write optimizer.max_grad_norm: null."),
        ("warmup_steps: 100\nwarmup_ratio: 0.1", "warmup_steps", "Write optimizer.warmup: 100."),
        ("warmup_steps: 100\nwarmup_ratio: 0.1", "warmup_ratio", "Leave it out: warmup_steps decides."),
        ("max_steps: 10\nnum_train_epochs: 3", "num_train_epochs", "Leave it out: max_steps decides."),
        ("max_steps: -1\nnum_train_epochs: 2", "num_train_epochs", "Write trainer.num_epochs: 2."),
        ("max_steps: -1", "max_steps", "Leave it out"),
        ("bf16: true", "bf16", "Write trainer.mp: p=f32,c=bfloat16."),
        ("fp16: true", "fp16", "Write trainer.mp: p=f32,c=bfloat16. float16 would need its losses scaled."),
        ("load_in_4bit: true", "load_in_4bit", "Write trainer.mp: p=f32,c=bfloat16. There is no base of 4 or 8 bits"),
        ("load_in_4bit: false", "load_in_4bit", "Leave it out"),
        ("gradient_checkpointing: true", "gradient_checkpointing", "Write gradient_checkpointing: full."),
        ("gradient_checkpointing: false", "gradient_checkpointing", "Write gradient_checkpointing: none."),
        ("attn_implementation: eager", "attn_implementation", "Write attn_implementation: plain."),
        ("attn_implementation: flash_attention_2", "attn_implementation", "Leave it out"),
        ("report_to: wandb", "report_to", "Write trainer.wandb: {}."),
        ("report_to: [tensorboard, mlflow]", "report_to", "{type: tensorboard}].*mlflow: not here"),
        ("report_to: none", "report_to", "Leave it out"),
        ("hub_model_id: me/it", "hub_model_id", "Write hf_upload: me/it."),
        ("hub_model_id: it", "hub_model_id", "Write hf_upload: owner/name"),
        ("eval_steps: 0.1", "eval_steps", "0.1 is a share of all steps. Write trainer.steps_per_eval: <steps>."),
        ("save_strategy: epoch", "save_strategy", "Steps are counted here, not epochs"),
        ("target_modules: [q_proj]", "target_modules", "Write lora.target_modules: [q_proj]."),
        ("use_dora: true", "use_dora", "There is no DoRA here"),
        ("use_dora: false", "use_dora", "Leave it out"),
        ("r: 16", "r", "Write lora.r: 16."),
        ("dataset_name: a/b\ndataset_train_split: x", "dataset_name", "Write data: {path: a/b, split: x}."),
        # Axolotl
        ("base_model: a/b", "base_model", "Write model_name_or_path: a/b."),
        ("base_model: a/b-bnb-4bit", "base_model", "holds quantised weights. Write model_name_or_path"),
        ("train_on_inputs: true", "train_on_inputs", "Write mask_inputs: false."),
        ("val_set_size: 0", "val_set_size", "Leave it out"),
        ("val_set_size: 0.05", "val_set_size", "Write validation: 0.05."),
        ("adapter: qlora", "adapter", "Write trainer.mp: p=f32,c=bfloat16. QLoRA's base of 4 bits is not here"),
        ("base_model: m\nadapter:", "adapter", "Leave it out"),
        ("optimizer: adamw_bnb_8bit", "optimizer", "Write optimizer.type: adamw."),
        ("wandb_project: p", "wandb_project", "Write trainer.wandb.project: p."),
        ("chat_template: chatml\nsequence_len: 10", "chat_template", "Leave it out: it is the tokenizer's own."),
        ("datasets: [{path: a/b, type: alpaca}]", "datasets", "Write data: a/b."),
        ("datasets: [{path: json, data_files: x.jsonl}, {path: y, split: z}]", "datasets", r"\[x.jsonl, {path: y, spl"),
        ("datasets: [{path: a, type: chat_template, field_messages: turns}]", "datasets", "columns: {messages: turns}"),
        ("evals_per_epoch: 4", "evals_per_epoch", "Write trainer.steps_per_eval: <steps of an epoch / 4>"),
        ("rl: dpo", "rl", "There is supervised fine-tuning here"),
        ("deepspeed: zero3.json", "deepspeed", "Leave it out: all devices share"),
        # LLaMA-Factory
        ("lora_rank: 8", "lora_rank", "Write lora.r: 8 and lora.alpha: 16."),
        ("lora_rank: 8\nlora_alpha: 8", "lora_rank", "Write lora.r: 8.$"),
        ("lora_target: all", "lora_target", "Write lora.target_modules: all-linear."),
        ("lora_target: q_proj,v_proj", "lora_target", r"Write lora.target_modules: \[q_proj, v_proj\]."),
        ("dataset: identity", "dataset", "Write data: <the file or hub name that dataset_info.json has"),
        ("cutoff_len: 100", "cutoff_len", "Write max_tune_length: 100 and overflow: truncate."),
        ("mask_history: true", "mask_history", "Write train_on_turns: last."),
        ("stage: dpo", "stage", "There is supervised fine-tuning here"),
        ("finetuning_type: full", "finetuning_type", "examples/alpaca.py"),
        ("quantization_bit: 4", "quantization_bit", "There is no base of 4 or 8 bits"),
        # mlx-lm
        ("iters: 100\ngrad_accumulation_steps: 4", "iters", "Write trainer.num_train_steps: 25."),
        ("lora_parameters: {rank: 4, scale: 10.0}", "lora_parameters.rank", "lora.r: 4 and lora.alpha: 40.0."),
        ("num_layers: 4", "num_layers", "The last 4 layers alone take a regex"),
        ("num_layers: -1", "num_layers", "Leave it out"),
        ("mask_prompt: false\niters: 10", "mask_prompt", "Write mask_inputs: false."),
        ("iters: 10\nmodel: a/b", "model", "Write model_name_or_path: a/b."),
        ("iters: 10\nsave_every: 5\ndata: rows", "data", "data: rows/train.jsonl and validation: rows/valid.jsonl"),
        # torchtune
        ("optimizer: {_component_: torch.optim.AdamW, lr: 1e-4}", "optimizer._component_", "optimizer.type: adamw."),
        ("optimizer: {_component_: torch.optim.AdamW, lr: 1e-4}", "optimizer.lr", "optimizer.learning_rate: 0.0001."),
        ("model: {lora_attn_modules: [output_proj], lora_rank: 2}", "model.lora_attn_modules", "o_proj"),
        ("checkpointer: {output_dir: '${output_dir}'}", "checkpointer.output_dir", "refers to another key"),
        # Unsloth
        ("max_seq_length: 100\nuse_gradient_checkpointing: unsloth", "use_gradient_checkpointing", ": full."),
        ("full_finetuning: true", "full_finetuning", "examples/alpaca.py"),
        (
            "training: {num_epochs: 1}\nlora: {target_modules: 'q,v', lora_r: 1}",
            "lora.target_modules",
            r"\[q, v\]",
        ),
    ],
)
def test_a_key_of_another_tool_is_said_with_what_to_write(config: str, key: str, advice: str, tmp_path: Path) -> None:
    text = said(refusal(tmp_path, config))[key]
    assert re.search(advice, text) or advice in text, text


def test_mlx_lms_data_may_be_a_file(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.touch()
    settings = yaml.safe_load(
        pasted(refusal(tmp_path, f"model: m\niters: 10\nlora_parameters: {{rank: 8}}\ndata: {rows}\n"))
    )
    assert settings["data"] == str(rows)
    assert "validation" not in settings


@pytest.mark.parametrize(
    ("keys", "size", "times"),
    [
        ({"micro_batch_size": 2, "gradient_accumulation_steps": 8}, "micro_batch_size", "gradient_accumulation_steps"),
        (
            {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8},
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
        ),
        ({"batch_size": 2, "grad_accumulation_steps": 8}, "batch_size", "grad_accumulation_steps"),
    ],
)
def test_the_arithmetic_of_batches_is_that_of_the_users_numbers(
    keys: dict[str, int], size: str, times: str, tmp_path: Path
) -> None:
    advice = said(refusal(tmp_path, keys))
    assert "trainer.per_device_parallelism: 2 and trainer.train_batch_size: 16." in advice[size]
    assert f"16 is 2 x 8 ({times})" in advice[size]
    assert "16 / 2" in advice[times]


def test_accumulation_alone_is_that_of_the_tools_own_batch(tmp_path: Path) -> None:
    advice = said(refusal(tmp_path, "base_model: m\nsequence_len: 5\ngradient_accumulation_steps: 8"))
    assert "trainer.train_batch_size: 8. 8 is 1 x 8" in advice["gradient_accumulation_steps"]


def test_the_same_key_means_what_the_tool_means_by_it(tmp_path: Path) -> None:
    mlx = refusal(tmp_path, "model: m\niters: 100\nbatch_size: 4\nlearning_rate: 1e-4")
    axolotl = refusal(tmp_path, "base_model: m\nsample_packing: true\nbatch_size: 4\nlearning_rate: 1e-4")
    assert "written for mlx-lm" in mlx
    assert "written for Axolotl" in axolotl
    assert "per_device_parallelism: 4" in said(mlx)["batch_size"]
    assert said(axolotl)["batch_size"] == "Write trainer.train_batch_size: 4."


def test_a_few_foreign_keys_in_a_config_of_ours_are_only_named(tmp_path: Path) -> None:
    config = "model_name_or_path: m\ndata: d\nlora: {r: 4}\nmicro_batch_size: 2\ntrainer: {train_batch_size: 32}\n"
    message = refusal(tmp_path, config)
    assert message.splitlines() == [
        "c.yaml: micro_batch_size: Write trainer.per_device_parallelism: 2 and trainer.train_batch_size: 2. "
        "2 is 2 x 1 (gradient_accumulation_steps) for one device; multiply it by their number."
    ]
    message = refusal(tmp_path, "model_name_or_path: m\ndata: d\nlearning_rate: 1\noptimizer: {learning_rate: 2}\n")
    assert said(message) == {"learning_rate": "Leave it out: optimizer.learning_rate, which it is here, is given too."}


@pytest.mark.parametrize("steps", ["max_steps: 20", "max_steps: 20\nnum_epochs: 2"])
def test_where_steps_are_given_epochs_are_not(steps: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, f"base_model: m\ndatasets: [{{path: d, type: alpaca}}]\nlora_r: 8\n{steps}\n")
    (tmp_path / "pasted.yaml").write_text(pasted(message), encoding="utf-8")
    trainer = parse_config(TrainArgs, [str(tmp_path / "pasted.yaml")], prog="lodos train").trainer
    assert (trainer.num_train_steps, trainer.num_epochs) == (20, None)


def test_a_name_of_ours_without_a_value_is_still_to_be_given(tmp_path: Path) -> None:
    assert refusal(tmp_path, "model_name_or_path: m\ndata:\n").startswith("data: not given. Write data: rows.jsonl")


def test_keys_that_are_ours_stay(tmp_path: Path) -> None:
    config = "model_name_or_path: m\npacking: true\nstreaming: false\nbf16: true\nlora_r: 2\nmax_length: 9\n"
    message = refusal(tmp_path, config)
    assert set(said(message)) == {"bf16", "lora_r", "max_length"}
    assert yaml.safe_load(pasted(message))["packing"] is True


def test_flags_are_advised_in_flags() -> None:
    with pytest.raises(UserError) as error:
        parse_config(
            TrainArgs, [*REQUIRED, "--learning_rate", "2e-4", "--bf16", "--lora_target_modules", "a,b"], prog="p"
        )
    assert str(error.value).splitlines() == [
        "--learning_rate: Write --optimizer.learning_rate 0.0002 instead.",
        "--bf16: Write --trainer.mp p=f32,c=bfloat16 instead.",
        "--lora_target_modules: Write --lora.target_modules '[a, b]' instead.",
    ]


def test_what_is_wrong_besides_is_in_the_same_error(tmp_path: Path) -> None:
    message = refusal(tmp_path, "base_model: m\nmicro_batch_siz: 2\nlora: {r: x}\nlora_alpha: sixteen\n")
    assert "base_model: Write model_name_or_path: m." in message
    assert "micro_batch_siz: unknown." in message
    assert "lora.r: must be INT, found 'x'." in message
    assert "lora_alpha: Write lora.alpha: NUMBER, which 'sixteen' does not say." in message
    assert "data: not given." in message
    assert "model_name_or_path: not given" not in message


def test_secrets_are_not_echoed(tmp_path: Path) -> None:
    config = {"hub_token": "canary", "wandb_api_key": "canary", "hf_hub_token": "canary", "token": "canary"}
    config |= {"swanlab_api_key": "canary", "comet_api_key": "canary", "openai_api_key": "canary", "bf16": True}
    config |= {
        "base_model": "hf_canarycanarycanary",
        "report_to": {"api_key": "canary"},
        "trainer": {"wandb": {"api_key": "canary"}},
        "lora_r": 3,
    }
    config |= {"logging": {"hf_token": "canary", "wandb_token": "canary"}, "lora_alpha": {"password": "canary"}}
    message = refusal(tmp_path, config)
    assert "canary" not in message
    assert "lora.r" in pasted(message) or "r: 3" in pasted(message)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_the_tables_name_what_is_there(tool: Any) -> None:
    """No setting of ours that does not exist, and nothing is said to be absent that has its name here."""
    for name, entry in tool.keys.items():
        assert all(setting in OURS or setting.startswith("trainer.wandb.") for setting in entry.ours), name
        assert entry.remark == "" or entry.remark.endswith((".", "*")), name
        if isinstance(entry, Absent):
            assert not {name, f"lora.{name}", f"lora.{name.removeprefix('lora_')}", f"optimizer.{name}"} & OURS, name


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_a_tools_defaults_are_settings_of_ours_that_differ(tool: Any) -> None:
    config = parse_config(TrainArgs, REQUIRED, prog="p")
    for name, value in tool.defaults.items():
        ours: Any = config
        for part in name.split("."):
            ours = getattr(ours, part)
        assert name in OURS
        assert name in ("lora.r", "trainer.per_device_parallelism") or ours != value, name


def test_levanters_keys_are_levanters_where_no_other_tool_is_seen(tmp_path: Path) -> None:
    shared = {name for tool in TOOLS for name in tool.keys} & (ELSEWHERE.keys() | RENAMED.keys())
    assert "model" in shared
    message = refusal(tmp_path, "model: {type: llama}\ndata_seed: 3\n", *REQUIRED)
    assert said(message) == {name: ELSEWHERE[name].instead for name in ("model", "data_seed")}


VALUES = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        1,
        3,
        -1,
        0.1,
        2.5,
        "",
        "x",
        "auto",
        "a/b",
        "true",
        "1e-4",
        "none",
        "q_proj,v_proj",
        "a.json",
    ]
) | st.sampled_from([[], ["x"], [1, 2], [{"path": "a"}], {}, {"x": 1}, {"path": "a", "split": "b"}, [None], [[1]]])


# Unshrunk: the first that is found is small enough to read.
@settings(deadline=None, max_examples=100, phases=[Phase.generate])
@given(data=st.data(), tool=st.sampled_from(TOOLS))
def test_whatever_a_config_of_theirs_holds_is_advised_and_what_is_pasted_is_a_config(
    data: st.DataObject, tool: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(tool.keys)), min_size=1, max_size=8, unique=True))
    nested: dict[str, Any] = {}
    for name in names:
        *sections, last = name.split(".")
        place: Any = nested
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                return
        if isinstance(place.get(last), dict):
            return
        place[last] = data.draw(VALUES)
    folder = tmp_path_factory.getbasetemp()
    path = folder / "theirs.yaml"
    path.write_text(yaml.safe_dump(nested), encoding="utf-8")
    try:
        parse_config(TrainArgs, [str(path), *REQUIRED], prog="lodos train")
        return
    except UserError as error:
        message = str(error).replace(str(path), "c.yaml")
    assert "Traceback" not in message
    if "is silent:" in message:
        assert len(said(message)) >= WHOLE
        again = folder / "ours.yaml"
        again.write_text(pasted(message), encoding="utf-8")
        flags = [] if "\nmodel_name_or_path:" in f"\n{pasted(message)}" else REQUIRED[:2]
        flags += [] if "\ndata:" in f"\n{pasted(message)}" else REQUIRED[2:]
        said_again = ""
        try:
            parse_config(TrainArgs, [str(again), *flags], prog="lodos train")
        except UserError as error:  # a value that is of the right type, and not sensible
            said_again = str(error)
        assert not re.search("unknown|must be [A-Z{\\[]|not given. Write|written for", said_again)
