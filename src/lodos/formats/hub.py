"""From the name of a model to a local folder: a folder is taken as it is, one on a store or the hub is downloaded."""

from fnmatch import fnmatch
from pathlib import Path

from lodos.errors import UserError
from lodos.places.fetching import fetched_folder
from lodos.places.manifest import whole_files
from lodos.places.objects import objects_below
from lodos.places.place import Place, is_remote, place_of
from lodos.places.store import refusals

# What a model folder needs; everything else of a repository (other formats, images, code) stays where it is.
WEIGHTS = ["model*.safetensors", "adapter_model.safetensors"]
ALLOW_PATTERNS = ["*.json", "*.model", "*.txt", "*.jinja", "LICENSE*"]
# A star crosses folders, and what lies in them is of other models; only chat templates have a folder of their own.
IGNORE_PATTERNS = ["*/*.json", "*/*.safetensors", "*/*.model", "*/*.txt"]

_SHOWN = 8


def model_folder(name_or_path: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """The local folder of a model or adapter, downloading it to Hugging Face's cache if it is a hub name, to our own if
    it is on a store. Of a whole model on a store the weights stay there: `weights_place`.

    Args:
        weights: download them too; without, it is a matter of seconds.

    Raises:
        UserError: when there is neither such a folder nor such a repository, with what was tried.
    """
    if not name_or_path.strip():
        raise UserError(f"{name_or_path!r} is no name. Give a folder, or a name on the hub.")
    folder = place_of(name_or_path)
    if is_remote(folder):
        with refusals("model or adapter", folder):
            return fetched_folder(folder, _is_wanted)
    if folder.is_dir():
        return folder
    if folder.is_file():
        fits = any((folder.parent / name).is_file() for name in ("adapter_config.json", "config.json"))
        fix = f"it is in, {folder.parent}" if fits else "of a model or an adapter"
        raise UserError(f"{name_or_path}: a file. Give the folder {fix}.")
    if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1:
        raise UserError(f"{name_or_path}: there is no such folder.{_nearest(folder)}")

    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, IncompleteSnapshotError

    patterns = [*ALLOW_PATTERNS, *(WEIGHTS if weights else ())]
    try:
        return Path(
            snapshot_download(name_or_path, revision=revision, allow_patterns=patterns, ignore_patterns=IGNORE_PATTERNS)
        )
    except HFValidationError as error:
        raise UserError(f"{name_or_path}: neither a folder here nor a name on the hub: {error}") from None
    except IncompleteSnapshotError as error:
        # Without a connection there is what was downloaded before; whoever reads it says what is missing.
        return Path(error.snapshot_path)
    except (HfHubHTTPError, OSError) as error:
        raise UserError(f"{name_or_path}: there is no such folder here, and {_of_hub(name_or_path, error)}") from None


def is_folder(name_or_path: str) -> bool:
    """Whether it is a folder, here or on a store, and no name on the hub."""
    place = place_of(name_or_path)
    return is_remote(place) or place.is_dir()


def weights_place(name_or_path: str, revision: str | None = None) -> Place:
    """Where the weights of a model are read: its folder, on a store too; of a hub name, the folder they are downloaded
    to.

    Raises:
        UserError: as `model_folder` does.
    """
    place = place_of(name_or_path)
    if not is_remote(place):
        return model_folder(name_or_path, revision)
    with refusals("model", place):
        whole_files(place, objects_below(place))
    return place


def _is_wanted(name: str) -> bool:
    """Whether a file of a model or adapter on a store is fetched: as from the hub, without a model's weights."""
    patterns = [*ALLOW_PATTERNS, "adapter_model.safetensors"]
    return any(fnmatch(name, one) for one in patterns) and not any(fnmatch(name, one) for one in IGNORE_PATTERNS)


def hub_tensor_types(name: str, revision: str | None = None) -> dict[str, str]:
    """The type of each tensor of a model on the hub, in safetensors' words; nothing is downloaded but the headers.

    Empty where the hub does not say: then the weights do, when they are here.
    """
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError, SafetensorsParsingError

    try:
        metadata = get_safetensors_metadata(name, revision=revision)
    except (HfHubHTTPError, NotASafetensorsRepoError, SafetensorsParsingError, OSError):
        return {}
    files = metadata.files_metadata.values()
    return {tensor: info.dtype for file in files for tensor, info in file.tensors.items()}


def _of_hub(name: str, error: Exception) -> str:
    """What the hub had to say, and what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    said = str(error).strip().splitlines()[0].rstrip(".")
    match error:
        case GatedRepoError():
            return (
                f"on the hub the model is gated ({said}). Accept its licence at https://huggingface.co/{name} and set "
                "HF_TOKEN, or run hf auth login."
            )
        case RepositoryNotFoundError():
            return (
                f"the hub knows no such model, or shows it to its owners only ({said}). Look at the spelling; a "
                "private one needs HF_TOKEN or hf auth login."
            )
        case RevisionNotFoundError():
            return f"the hub has the model without that revision: {said}."
        case LocalEntryNotFoundError():
            return (
                f"it is not in the hub's cache, while the hub cannot be reached or HF_HUB_OFFLINE is set ({said}). "
                "Download it with a connection, or give a folder."
            )
    return f"the hub gave: {said}. A gated model needs its licence accepted and HF_TOKEN set."


def _nearest(folder: Path) -> str:
    """What is where the folder was looked for; nothing where its path does not begin in any folder."""
    parent = next((path for path in folder.parents if path.is_dir()), Path())
    if parent in (Path(), Path("/"), Path("..")) or parent == Path.home():
        return ""
    names = sorted(path.name for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f" {parent} has {', '.join(names[:_SHOWN])}{more}." if names else ""
