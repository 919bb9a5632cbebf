"""From the name of a model to a local folder: a folder is taken as it is, a hub name is downloaded."""

from pathlib import Path

from lodos.errors import UserError

# What a model folder needs; everything else of a repository (other formats, images, code) stays where it is.
WEIGHTS = ["model*.safetensors", "adapter_model.safetensors"]
ALLOW_PATTERNS = ["*.json", "*.model", "*.txt", "*.jinja", "LICENSE*"]
# A star crosses folders, and what lies in them is of other models; only chat templates have a folder of their own.
IGNORE_PATTERNS = ["*/*.json", "*/*.safetensors", "*/*.model", "*/*.txt"]


def model_folder(name_or_path: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """The local folder of a model or adapter, downloading it to Hugging Face's cache if it is a hub name.

    Args:
        weights: download them too; without, it is a matter of seconds.

    Raises:
        UserError: when there is neither such a folder nor such a repository, with what was tried.
    """
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise UserError(f"{name_or_path}: a file. Give the folder that holds config.json and the safetensors files.")
    if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1:
        raise UserError(f"{name_or_path}: there is no such folder.")

    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [*ALLOW_PATTERNS, *(WEIGHTS if weights else ())]
    try:
        return Path(
            snapshot_download(name_or_path, revision=revision, allow_patterns=patterns, ignore_patterns=IGNORE_PATTERNS)
        )
    except HFValidationError as error:
        raise UserError(f"{name_or_path}: neither a folder here nor a name on the hub: {error}") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"{name_or_path}: there is no such folder here, and the hub gave: {str(error).strip().splitlines()[0]}. "
            "A gated model needs its licence accepted and HF_TOKEN set."
        ) from None


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
