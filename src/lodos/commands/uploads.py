"""From the settings of a run to what uploads its results."""

from lodos import hosts
from lodos.config import UPLOADS, FineTuneArgs
from lodos.formats.upload import Uploads


def checked_uploads(config: FineTuneArgs) -> Uploads:
    """What uploads to the hub, having seen that it can; of several hosts only the first one does.

    Raises:
        UserError: when there is no token, or the hub refuses one of the repositories.
    """
    uploads = Uploads(private=config.hf_private)
    for setting in UPLOADS:
        if (repo := getattr(config, setting, None)) is not None and hosts.is_first():
            uploads.check(setting, repo)
    return uploads
