"""Every file of a folder that is written is read back: a disk that keeps another byte is found out, whichever it is.

What is there already stays as it was.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from lodos import files
from lodos.formats import safetensors_writer
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.peft import save_peft_pretrained
from lodos.lora.config import LoraConfig
from lodos.lora.transform import loraize

pytest.importorskip("torch")

Save = Callable[[Path], None]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def saves(make_model: Any) -> dict[str, Save]:
    """What writes each kind of folder, of a model with all that goes along."""
    folder, _ = make_model(num_hidden_layers=1)
    (folder / "LICENSE.md").write_text("Take it.", encoding="utf-8")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "short.jinja").write_text(TEMPLATE, encoding="utf-8")
    converter = HFCheckpointConverter.from_hf(str(folder), chat_template=TEMPLATE)
    config = LoraConfig(r=2)
    base = converter.load_pretrained()
    model = loraize(base, config, key=jax.random.key(0))
    model = jax.tree.map(lambda leaf: leaf + 1 if isinstance(leaf, jax.Array) else leaf, model)

    def adapter(path: Path) -> None:
        save_peft_pretrained(model, config, str(folder), path, chat_template=TEMPLATE)

    def merged(path: Path) -> None:
        converter.save_pretrained(model, path, max_shard_size="20KB", card="# A card")

    def whole(path: Path) -> None:
        converter.with_pad_token().save_pretrained(base, path, card="# A card")

    return {"adapter": adapter, "merged": merged, "whole with a PAD token": whole}


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


EXPECTED = {
    "adapter": {"adapter_config.json", "adapter_model.safetensors", "README.md", "chat_template.jinja"},
    "merged": {"config.json", "model.safetensors.index.json", "README.md", "LICENSE.md", "generation_config.json"},
    "whole with a PAD token": {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"},
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_byte_that_changes_on_the_disk_is_found_in_every_file(
    kind: str, saves: dict[str, Save], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, place = saves[kind], tmp_path / "place"
    save(place)
    written = names(place)
    assert EXPECTED[kind] <= written
    before = {name: (place / name).read_bytes() for name in written}
    for victim in sorted(written):

        def flush(path: Path, victim: str = victim) -> None:
            """The disk is done, and keeps another last byte of one file than it was given."""
            if str(path).endswith(f"/{victim}"):
                content = bytearray(path.read_bytes())
                content[-1] ^= 1
                path.write_bytes(content)

        for module in (files, safetensors_writer):
            monkeypatch.setattr(module, "flush", flush)
        with pytest.raises(OSError, match=f"{Path(victim).name}: read back differently"):
            save(place)
    assert {name: (place / name).read_bytes() for name in names(place)} == before
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
