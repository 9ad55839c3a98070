"""The keys that clients must show: from the settings, and from a file that only we can read."""

from __future__ import annotations

from cupel_service.errors import CannotServe
from cupel_service.settings import Settings


def read_api_keys(settings: Settings) -> tuple[str, ...]:
    """All keys; none if this service asks for none.

    Raises:
        CannotServe: The file of keys cannot be read, or holds none.
    """
    keys = {key.get_secret_value() for key in settings.api_keys}
    path = settings.api_keys_file
    if path is not None:
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not a text file"
            raise CannotServe(
                f"the file of API keys {path} cannot be read ({why})",
                "Check its path and permissions, or choose another with CUPEL_API_KEYS_FILE",
            ) from None  # a decoding error quotes what it could not decode
        found = {line.strip() for line in lines} - {""}
        if not found:
            raise CannotServe(
                f"the file of API keys {path} holds no key",
                "Write one key per line, for example: openssl rand -hex 32 > keys",
            )
        keys |= found
    return tuple(sorted(keys))
