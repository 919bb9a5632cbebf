"""Hugging Face model folders in and out.

The names of the model's leaves are the names in the files, so there is no table of names: a stacked leaf
`model.layers.*.mlp.up_proj.weight` is the tensors `model.layers.0.mlp.up_proj.weight` and on. Reading fills each
device's shard straight from its slice of the file.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from lodos import hosts
from lodos.errors import UserError, refusals_of
from lodos.files import copy_compared, write_compared, write_json
from lodos.formats import text_part
from lodos.formats.folder_contents import check_model_folder, check_weights
from lodos.formats.generation_config import write_generation_config
from lodos.formats.hub import hub_tensor_types, is_folder, model_folder, weights_place
from lodos.formats.merged import TIED_HEAD, embedding_name, join_gathering, merged_tensors
from lodos.formats.progress import progress_bar
from lodos.formats.quantised import left_over, refuse_quantised
from lodos.formats.safetensors import DTYPES, SafetensorsReader
from lodos.formats.safetensors_writer import MAX_SHARD_SIZE, in_files, write_sharded
from lodos.formats.tensor_problems import problem_lines
from lodos.formats.tokenizer_files import copy_tokenizer, load_tokenizer, save_tokenizer
from lodos.json_files import read_object, refuse_fields
from lodos.models.auto import check_model_type, decoder_config
from lodos.models.config import DecoderConfig
from lodos.models.config_fields import config_problems
from lodos.models.decoder import LmHeadModel
from lodos.nn.attention.attention import AttentionImplementation
from lodos.nn.stacked import GradientCheckpointing
from lodos.places.place import Place, place_of
from lodos.places.saving import saved_whole
from lodos.prompting.description import Prompting, write_prompting
from lodos.row_slices import row_slices
from lodos.sharding import AxisMapping, named_shardings
from lodos.target import target
from lodos.tree import layer_names, map_modules, named_leaves

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

# Tables that old Llama checkpoints carry and that follow from the config.
_DERIVED_SUFFIX = "rotary_emb.inv_freq"


@dataclasses.dataclass(frozen=True)
class HFCheckpointConverter:
    """A model folder: its config, its tokenizer, and its weights as a model."""

    folder: Path
    model_name_or_path: str
    """As the user gave it: a folder or a hub name."""
    hf_config: dict[str, Any]
    """config.json with transformers' defaults filled in."""
    config: DecoderConfig
    revision: str | None = None
    chat_template: str | None = None
    """In place of the folder's, for the tokenizer and for what is written."""
    tokenizer_folder: Path | None = None
    """Whose tokenizer is used and written in place of the folder's: an adapter may bring its own."""
    pad_token: str | None = None
    """Added to the folder's tokenizer, for the tokenizer and for what is written."""

    @staticmethod
    def from_hf(
        model_name_or_path: str,
        *,
        revision: str | None = None,
        chat_template: str | None = None,
    ) -> "HFCheckpointConverter":
        """Reads the config of a folder or hub name; no weights yet.

        Args:
            chat_template: to use and to write in place of the folder's.

        Raises:
            UserError: when the model is not there or is of a kind that is not supported.
        """
        from transformers import AutoConfig

        folder = model_folder(model_name_or_path, revision, weights=False)
        check_model_folder(model_name_or_path, folder)
        file = folder / "config.json"
        raw = read_object(file)
        refuse_fields(file, config_problems(raw))
        check_model_type(raw)
        # A config of a model_type that transformers knows needs no code of the repository's.
        with refusals_of("transformers", file):
            hf_config = AutoConfig.from_pretrained(folder, trust_remote_code=False).to_dict()
        refuse_fields(file, config_problems(hf_config))
        return HFCheckpointConverter(
            folder,
            model_name_or_path,
            hf_config,
            decoder_config(hf_config),
            revision=revision,
            chat_template=chat_template,
        )

    @functools.cached_property
    def tokenizer(self) -> "PreTrainedTokenizerFast":
        """The folder's tokenizer, or the one in its place. Python code that a repository brings is never run."""
        tokenizer = load_tokenizer(self.tokenizer_folder or self.folder)
        if self.chat_template is not None:
            tokenizer.chat_template = self.chat_template
        if self.pad_token is not None:
            tokenizer.add_special_tokens({"pad_token": self.pad_token})
        return tokenizer

    def with_pad_token(self, token: str = "[PAD]") -> "HFCheckpointConverter":
        """The same with a PAD token, added to the tokenizer if that has none: `vocab_size` may then be one more.

        For full fine-tuning, with `resize_vocab` on the model; an adapter has no rows for a new token.
        """
        has_pad = self.tokenizer.pad_token_id is not None
        return self if has_pad else dataclasses.replace(self, pad_token=token)

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding: those of the files, or as many as the tokenizer with its added PAD needs."""
        return self.config.vocab_size if self.pad_token is None else max(self.config.vocab_size, len(self.tokenizer))

    def load_pretrained(
        self,
        *,
        axis_mapping: AxisMapping | None = None,
        dtype: Any = None,
        scan_layers: bool = True,
        gradient_checkpointing: GradientCheckpointing = "dots",
        attn_implementation: AttentionImplementation = "auto",
        progress: bool = False,
    ) -> LmHeadModel:
        """The model with the folder's weights, laid out on the ambient mesh by `axis_mapping`.

        Args:
            dtype: of the weights; None keeps the files' own.

        Raises:
            UserError: that lists every tensor that is missing, extra, misshapen or in conflict.
        """
        reader = self.reader()
        model = self.structure(
            scan_layers=scan_layers,
            gradient_checkpointing=gradient_checkpointing,
            attn_implementation=attn_implementation,
        )
        self._check(reader, model)
        shardings = named_leaves(_shardings(model, axis_mapping))
        leaves = named_leaves(model)
        with progress_bar("Loading weights", len(leaves), enabled=progress) as advance:
            loaded = {}
            for name, leaf in leaves.items():
                loaded[name] = _read_leaf(reader, name, leaf.shape, shardings[name], dtype)
                advance()
        return map_modules(lambda name, _: loaded[name], model, _is_shape)

    def save_pretrained(
        self,
        model: LmHeadModel,
        path: str | Place,
        *,
        dtype: Any = None,
        max_shard_size: str | int = MAX_SHARD_SIZE,
        prompting: Prompting | None = None,
        card: str | None = None,
        rounding: Callable[[str, float], None] | None = None,
        progress: bool = False,
        on_tensor: Callable[[], None] = lambda: None,
    ) -> None:
        """Writes `model`, adapters merged, as a folder that transformers loads.

        All of several hosts call it, and the first one writes. Each has some rows of a tensor at a time.

        What training did not touch is copied from the base model's files; a vocabulary that has grown is written as it
        is now.

        Args:
            dtype: of the tensors; None keeps each tensor's dtype in the base model's files.
            max_shard_size: above it the weights are several files with an index.
            prompting: how the model has to be asked, which is written beside it; its end tokens end an answer.
            card: the model card, README.md.
            rounding: told what rounding takes of the adapter, tensor by tensor, as `merged_tensors` has it.
            on_tensor: called on the first host after each tensor; what it raises gives up the folder.

        Raises:
            OSError: if what is read back is not what was written; nothing is left at `path` then.
        """
        tensors = merged_tensors(model, self.reader(), None if dtype is None else np.dtype(dtype), rounding)
        if not hosts.is_first():
            join_gathering(model, tensors, in_files(tensors, max_shard_size), self._called)
            return
        with saved_whole(path) as folder:
            with progress_bar("Writing merged model", len(tensors), enabled=progress) as advance:

                def written(_: str) -> None:
                    advance()
                    on_tensor()

                write_sharded(folder, tensors, max_shard_size=max_shard_size, progress=written)
            self._write_config(folder, dtype, model.config.vocab_size)
            if self.pad_token is None:
                copy_tokenizer(self.tokenizer_folder or self.folder, folder, chat_template=self.chat_template)
            else:
                save_tokenizer(self.tokenizer, folder)
            self._write_generation_config(folder, prompting)
            if prompting is not None:
                write_prompting(prompting, folder)
            for licence in self.folder.glob("LICENSE*"):
                copy_compared(licence, folder / licence.name)
            if card is not None:
                write_compared(folder / "README.md", card)

    def structure(
        self,
        *,
        scan_layers: bool = True,
        gradient_checkpointing: GradientCheckpointing = "dots",
        attn_implementation: AttentionImplementation = "auto",
    ) -> LmHeadModel:
        """The model with shapes in place of arrays: enough to count parameters and match names."""
        return eqx.filter_eval_shape(
            LmHeadModel.init,
            self.config,
            scan_layers=scan_layers,
            gradient_checkpointing=gradient_checkpointing,
            attn_implementation=attn_implementation,
            key=jax.random.key(0),
        )

    def checked_structure(self) -> LmHeadModel:
        """`structure`, once the files are known to have a tensor for each shape and no other.

        Raises:
            UserError: that lists every tensor that is missing, extra, misshapen or in conflict.
        """
        model = self.structure()
        self._check(self.reader(), model)
        return model

    def check_weights(self) -> None:
        """Looks at names, shapes and types of the weights and reads none; of a hub name, before they are downloaded.

        Raises:
            UserError: as `load_pretrained` does.
        """
        if self._is_here:
            self.checked_structure()
        else:
            self._refuse_quantised_on_hub()

    def reader(self) -> SafetensorsReader:
        """The folder's tensors, none of which is read yet.

        Raises:
            UserError: when they are not floats.
        """
        if not self._is_here:
            self._refuse_quantised_on_hub()
        # Of a hub name, the weights join the rest in the cache; on a store they are read where they are.
        place = weights_place(self.model_name_or_path, self.revision)
        place = self.folder if isinstance(place, Path) else place
        check_weights(self.model_name_or_path, place)
        reader = SafetensorsReader(place, floats_only=False, called=self._called)
        refuse_quantised(self.folder, reader.others, reader.shapes, self.hf_config)
        if problems := reader.type_problems():
            raise UserError("\n".join(problems))
        if (method := left_over(self.hf_config)) is not None:
            _say_left_over(self.folder, method)
        return reader

    def _called(self, name: str) -> str:
        """What a tensor of the files is called in the model."""
        return text_part.called(name) if self.config.is_text_part else name

    @property
    def _is_here(self) -> bool:
        """Whether the weights are on this machine, or will never be."""
        return is_folder(self.model_name_or_path) or any(self.folder.glob("*.safetensors"))

    def _refuse_quantised_on_hub(self) -> None:
        if left_over(self.hf_config) is not None:
            types = hub_tensor_types(self.model_name_or_path, self.revision)
            others = {name: kind for name, kind in types.items() if kind not in DTYPES}
            refuse_quantised(place_of(self.model_name_or_path), others, types, self.hf_config)

    def _check(self, reader: SafetensorsReader, model: LmHeadModel) -> None:
        expected = {
            tensor: leaf.shape[1:] if "*" in name else leaf.shape
            for name, leaf in named_leaves(model).items()
            for tensor in layer_names(name, leaf.shape[0])
        }
        found = {name: shape for name, shape in reader.shapes.items() if not name.endswith(_DERIVED_SUFFIX)}
        problems: list[str] = []
        if self.config.is_text_part:
            _say_what_else(self.folder, text_part.what_else(found))
            found = {name: shape for name, shape in found.items() if text_part.is_text(name)}
        if self.config.tie_word_embeddings and TIED_HEAD in found:
            del found[TIED_HEAD]
            embedding = embedding_name(expected)
            if embedding in found and not np.array_equal(reader.read(TIED_HEAD), reader.read(embedding)):
                problems.append(
                    f"{TIED_HEAD}: differs from {embedding}, though config.json says tie_word_embeddings: true."
                )
        wrong = [(name, "missing") for name in expected if name not in found]
        wrong += [(name, "extra; no part of this model takes it") for name in found if name not in expected]
        wrong += [
            (name, f"the file has {list(found[name])}, config.json asks for {list(shape)}")
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ]
        problems += problem_lines(wrong)
        if problems:
            raise UserError(
                f"{self.folder}: the weights do not fit config.json (model_type {self.hf_config['model_type']}):\n  "
                + "\n  ".join(problems)
            )

    def _write_config(self, folder: Path, dtype: Any, vocab_size: int) -> None:
        config = read_object(self.folder / "config.json")
        if vocab_size != self.config.vocab_size:
            (config["text_config"] if self.config.is_text_part else config)["vocab_size"] = vocab_size
        for leftover in ("quantization_config", "quantization"):  # these weights are floats
            config.pop(leftover, None)
        if self.pad_token is not None:
            config["pad_token_id"] = self.tokenizer.pad_token_id
        if dtype is not None:
            config.pop("torch_dtype", None)
            config["dtype"] = np.dtype(dtype).name
        write_json(folder / "config.json", config)

    def _write_generation_config(self, folder: Path, prompting: Prompting | None) -> None:
        """The base model's generation config, in which what was trained to end an answer ends it as well."""
        eos, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        trained = [] if prompting is None else [token.id for token in prompting.end_tokens]
        # Where nobody has looked, an answer ends in EOS.
        ends = trained or ([eos] if isinstance(eos, int) else [])
        others = {} if self.pad_token is None else {"pad_token_id": pad}
        write_generation_config(self.folder, folder, ends, others=others)


@functools.cache  # once, however often the files are opened
def _say_left_over(folder: Path, method: str) -> None:
    said = "%s: config.json says quantised by %s, but the weights are floats: loaded as they are."
    logger.info(said, folder, method)


@functools.cache  # likewise
def _say_what_else(folder: Path, what: str) -> None:
    if what:
        logger.info(
            "%s: text alone is trained. Left as they are, and in a merged folder as they were: %s.", folder, what
        )


def _is_shape(node: object) -> bool:
    return isinstance(node, jax.ShapeDtypeStruct)


def _shardings(model: LmHeadModel, axis_mapping: AxisMapping | None) -> Any:
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jax.tree.map(lambda _: SingleDeviceSharding(target().first_here), model)
    return named_shardings(model, axis_mapping or {}, mesh)


def _read_leaf(
    reader: SafetensorsReader, name: str, shape: tuple[int, ...], sharding: jax.sharding.Sharding, dtype: Any
) -> jax.Array:
    tensors = layer_names(name, shape[0])
    dtype = np.dtype(dtype) if dtype is not None else reader.dtypes[tensors[0]]

    @functools.cache  # devices that hold the same shard share one read
    def read(index_key: tuple[tuple[int, int], ...]) -> np.ndarray:
        index = tuple(slice(start, stop) for start, stop in index_key)
        shard = np.empty(tuple(part.stop - part.start for part in index), dtype)
        if "*" not in name:
            _fill(shard, reader, name, index)
            return shard
        for row, tensor in enumerate(tensors[index[0]]):
            _fill(shard[row], reader, tensor, index[1:])
        return shard

    def callback(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        return read(tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True)))

    return jax.make_array_from_callback(shape, sharding, callback)


def _fill(shard: np.ndarray, reader: SafetensorsReader, name: str, index: tuple[slice, ...]) -> None:
    """Reads the slice `index` of a tensor some rows at a time: of rows that are read in part all pages are mapped."""
    whole_rows = (*shard.shape[:1], *reader.shapes[name][1:])
    for part in row_slices(whole_rows, reader.dtypes[name].itemsize):
        rows = tuple(slice(index[0].start + at.start, index[0].start + at.stop) for at in part)
        shard[part] = reader.read(name, (*rows, *index[1:]))
