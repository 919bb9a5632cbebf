"""A model, adapters merged, as one GGUF file that llama.cpp and what is built on it load."""

from pathlib import Path

import gguf
import numpy as np

from lodos.formats.gguf_architecture import GgufArchitecture
from lodos.formats.gguf_file import GgufTensor, GgufType, file_type, type_of, write_gguf
from lodos.formats.gguf_vocabulary import add_tokenizer
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.merged import TIED_HEAD, merged_tensors
from lodos.formats.safetensors_writer import TensorSource
from lodos.models.decoder import LmHeadModel
from lodos.prompting.description import Prompting
from lodos.prompting.message_template import message_template


def save_gguf(
    converter: HFCheckpointConverter,
    model: LmHeadModel,
    path: Path,
    wanted: GgufType,
    *,
    name: str,
    prompting: Prompting | None = None,
    progress: bool = False,
) -> list[str]:
    """Writes `model` with its tokenizer, chat template and end tokens to the file `path`.

    A tensor is summed with what the adapter adds in float32, turned into the file's type and written before the next.

    Args:
        model: its base may be one of shapes without arrays, as for `merged_tensors`.
        name: what llama.cpp shows.
        prompting: how it was trained to be asked.

    Returns:
        What llama.cpp does otherwise than here, a sentence each.

    Raises:
        UserError: for a model or tokenizer that llama.cpp has not.
        OSError: if what is read back is not what was written.
    """
    architecture = architecture_of(converter)
    sources = merged_tensors(model, converter.reader(), np.dtype(np.float32))
    if converter.config.tie_word_embeddings:
        sources.pop(TIED_HEAD, None)
    tensors = {}
    for hf_name, source in sources.items():
        gguf_name = architecture.tensor_name(hf_name)
        heads = architecture.heads_to_reorder(hf_name.rsplit(".", 1)[0])
        tensors[gguf_name] = GgufTensor(source, type_of(gguf_name, source.shape, wanted), heads)
    for gguf_name, array in architecture.extra_tensors().items():
        tensors[gguf_name] = GgufTensor(TensorSource.of(array), gguf.GGMLQuantizationType.F32)
    remarks = [*architecture.remarks()]

    def add_fields(writer: gguf.GGUFWriter) -> None:
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(name)
        architecture.add_settings(writer)
        writer.add_file_type(file_type(wanted))
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        remarks.extend(add_tokenizer(writer, converter.tokenizer, converter.config.vocab_size, prompting))
        if template := message_template(converter.tokenizer, prompting):
            writer.add_chat_template(template)

    write_gguf(path, architecture.name, tensors, add_fields, progress=progress)
    return remarks


def architecture_of(converter: HFCheckpointConverter) -> GgufArchitecture:
    """What llama.cpp makes of a model.

    Raises:
        UserError: where it would compute something else.
    """
    return GgufArchitecture.of(converter.hf_config["model_type"], converter.config)
