"""The memory of each of several hosts that load a model of 1 GB, and save an adapter of it and the merged model.

    python -m bench.host_memory

prints, for each host, how far its resident memory rose at its peak in each of the three, above what the same had left
behind with a tiny model; beside the host's share of the model and the largest tensor. The model is made on the fly, in
bfloat16; hosts are processes of this machine, of one CPU device each.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.measure import die_with_parent, peak_resident, print_table, write_report
from lodos.demo.base_model import smollm2_folder

PHASES = ("loading", "adapter", "merged")


def hosts_memory(large: Path, tiny: Path, folder: Path, *, hosts: int) -> list[dict[str, float]]:
    """What each host found, in bytes: the growth in each of the `PHASES`, and its share of the parameters.

    Args:
        large, tiny: the adapters that `bench.merge_memory.make_model` made with their models.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    files = [folder / f"host-{index}.json" for index in range(hosts)]
    processes = []
    for index, file in enumerate(files):
        told = {"COORDINATOR_ADDRESS": address, "NUM_PROCESSES": str(hosts), "PROCESS_ID": str(index)}
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", **{f"JAX_{name}": value for name, value in told.items()}}
        command = [sys.executable, "-m", "bench.host_memory", "--host", large, tiny, folder, file]
        processes.append(subprocess.Popen([*map(str, command)], env=environment, preexec_fn=die_with_parent))
    try:
        if any(statuses := [process.wait() for process in processes]):
            raise RuntimeError(f"The hosts ended with {statuses}.")
    finally:
        for process in processes:
            process.kill()
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def _host(large: str, tiny: str, folder: str, file: str) -> None:
    from lodos import hosts
    from lodos.cli import set_up_process
    from lodos.hosts import DistributedConfig

    set_up_process()
    hosts.join(DistributedConfig())
    _load_and_save(Path(tiny), Path(folder) / "tiny", lambda _: None)  # imports, and what is made once
    floor = _resident()
    found: dict[str, float] = {"floor": floor}

    def note(phase: str) -> None:
        found[phase] = peak_resident() - floor
        _forget_peak()

    _forget_peak()
    found["share"] = _load_and_save(Path(large), Path(folder) / "large", note)
    Path(file).write_text(json.dumps(found), encoding="utf-8")
    hosts.finish()


def _load_and_save(adapter: Path, out: Path, note: Callable[[str], None]) -> int:
    """As `lodos train` does; the bytes of the model on this host's device."""
    import jax

    from bench.merge_memory import LORA, factors_of
    from lodos import hosts
    from lodos.commands.lora_model import load_lora_model
    from lodos.config import TrainArgs
    from lodos.formats.hf import HFCheckpointConverter
    from lodos.formats.peft import save_peft_pretrained
    from lodos.lora.transform import with_factors
    from lodos.train.config import TrainerConfig

    base = str(adapter.parent / "model")
    trainer = TrainerConfig(id="memory", mp="p=f32,c=bfloat16", train_batch_size=hosts.count())
    config = TrainArgs(model_name_or_path=base, data="", lora=LORA, trainer=trainer)
    converter = HFCheckpointConverter.from_hf(base)
    with trainer.device_mesh:
        model = load_lora_model(config, converter, key=jax.random.key(0))
        # An adapter that adds nothing would not be saved.
        model = with_factors(model, {name: (A, B + 0.1) for name, (A, B) in factors_of(model)})
        arrays: list[Any] = [leaf for leaf in jax.tree.leaves(model) if isinstance(leaf, jax.Array)]
        share = sum(shard.data.nbytes for leaf in jax.block_until_ready(arrays) for shard in leaf.addressable_shards)
        note("loading")
        save_peft_pretrained(model, LORA, base, out / "adapter", base_folder=converter.folder)
        hosts.wait(f"the adapter in {out}")
        note("adapter")
        converter.save_pretrained(model, out / "merged")
        hosts.wait(f"the model in {out}")
        note("merged")
    return share


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _forget_peak() -> None:
    """Has the kernel count the peak anew, from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    if sys.argv[1:2] == ["--host"]:
        _host(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("bench/out/host_memory.json"))
    args = parser.parse_args()
    from bench.merge_memory import ONE_GB, TINY, make_model

    tokenizer = smollm2_folder()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tiny = make_model(folder / "tiny", TINY, tokenizer, vocab_size=49152)
        large = make_model(folder / "large", ONE_GB, tokenizer, vocab_size=49152)
        model = sum(file.stat().st_size for file in (large.parent / "model").glob("*.safetensors"))
        found = hosts_memory(large, tiny, folder, hosts=args.hosts)
    columns = ("floor", "share", *PHASES)
    rows = [
        [f"host {index}", *(f"{host[column] / 1e6:.0f} MB" for column in columns)] for index, host in enumerate(found)
    ]
    print(f"a model of {model / 1e6:.0f} MB, its largest tensor {49152 * ONE_GB['hidden_size'] * 2 / 1e6:.0f} MB")
    print_table(["", *columns], rows)
    write_report(args.out, model=model, hosts=found)


if __name__ == "__main__":
    main()
