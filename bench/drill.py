"""Runs that are killed again and again, against one that nobody disturbs: `lodos drill`, at length.

    python -m bench.drill                       200 kills of a tiny model's run, in drills of 20
    python -m bench.drill --model smollm2       10 kills of SmolLM2-135M's

The tiny model is a Llama of random weights, two layers of width 32 and 512 tokens. Both train on the demo's
rows with dropout, and evaluate, save adapters and merged models at each checkpoint.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.measure import print_table

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
DRILLS: dict[str, dict[str, int]] = {
    "tiny": {"drills": 10, "kills": 20, "steps": 60, "rows": 8},
    "smollm2": {"drills": 1, "kills": 10, "steps": 24, "rows": 2},
}


def tiny_model(folder: Path) -> Path:
    """A Hugging Face folder of a Llama of random weights, with a tokenizer of the demo's words."""
    import numpy as np
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from lodos.demo.task import TRAIN_FILE

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=["<s>", "</s>"], initial_alphabet=letters, show_progress=False
    )
    tokenizer.train([str(TRAIN_FILE)], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)

    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 512, **SIZES}
    config |= {"max_position_embeddings": 512, "rms_norm_eps": 1e-5, "tie_word_embeddings": True}
    config |= {"bos_token_id": 0, "eos_token_id": 1, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    wide, mlp, keys = SIZES["hidden_size"], SIZES["intermediate_size"], 8 * SIZES["num_key_value_heads"]
    of_layer = {
        "input_layernorm": (wide,),
        "post_attention_layernorm": (wide,),
        "self_attn.q_proj": (wide, wide),
        "self_attn.k_proj": (keys, wide),
        "self_attn.v_proj": (keys, wide),
        "self_attn.o_proj": (wide, wide),
        "mlp.gate_proj": (mlp, wide),
        "mlp.up_proj": (mlp, wide),
        "mlp.down_proj": (wide, mlp),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (512, wide), "model.norm": (wide,)}
    layers = range(SIZES["num_hidden_layers"])
    shapes |= {f"model.layers.{layer}.{name}": shape for layer in layers for name, shape in of_layer.items()}
    rng = np.random.default_rng(0)
    weights = {f"{name}.weight": rng.normal(0.0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def drills(model: str, folder: Path, kills: int | None) -> bool:
    """Runs them and prints a line for each; whether all came to the same."""
    from lodos.commands.drill import DrillArgs, drill
    from lodos.demo.base_model import smollm2_folder
    from lodos.demo.task import PROMPTS, TRAIN_FILE
    from lodos.lora.config import LoraConfig
    from lodos.train.config import TrainerConfig

    setting = DRILLS[model]
    base = smollm2_folder() if model == "smollm2" else tiny_model(folder / "tiny")
    count = setting["drills"] if kills is None else 1
    lines, same = [], True
    for seed in range(count):
        began = time.monotonic()
        result = drill(
            DrillArgs(
                model_name_or_path=str(base),
                data=str(TRAIN_FILE),
                prompts=PROMPTS,
                validation=8,
                save_merged=model == "tiny",
                lora=LoraConfig(r=8, dropout=0.1),
                trainer=TrainerConfig(run_dir=str(folder / "runs"), train_batch_size=setting["rows"]),
                steps=setting["steps"],
                kills=kills or setting["kills"],
                kill_seed=seed,
            )
        )
        same = same and not result.parts
        saving, starting = (
            sum(getattr(kill, name) for kill in result.kills) for name in ("while_saving", "while_starting")
        )
        parting = "; ".join(f"{one.what}: {one.parts}" for one in result.compared if one.parts)
        line: Any = [seed, len(result.kills), saving, starting, parting or "nothing", f"{time.monotonic() - began:.0f}"]
        lines.append(list(map(str, line)))
        print(" | ".join(lines[-1]), file=sys.stderr, flush=True)
    total = [sum(int(line[column]) for line in lines) for column in (1, 2, 3)]
    lines.append(["all", *map(str, total), "nothing" if same else "see above", ""])
    print_table(["drill", "kills", "within a save", "before the first step", "what parts", "seconds"], lines)
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(DRILLS), default="tiny")
    parser.add_argument("--kills", type=int, help="one drill of so many")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return 0 if drills(args.model, Path(folder), args.kills) else 1


if __name__ == "__main__":
    sys.exit(main())
