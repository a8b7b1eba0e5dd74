"""The token of Ray clusters: where it lies, who may read it, whether it is used."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from rlgen.errors import ConfigError

MAKE = "make one with 'rlgen token', the same on every machine of the cluster"


def token_file(environment: Mapping[str, str | None]) -> Path:
    """Where Ray looks for a token that the environment does not hold itself."""
    given = environment.get("RAY_AUTH_TOKEN_PATH")
    return Path(given) if given else Path.home() / ".ray" / "auth_token"


def choose_mode(environment: Mapping[str, str | None], say: Callable[[str], None]) -> str:
    """``"token"`` wherever there is a token, unless ``RAY_AUTH_MODE`` says otherwise.

    A file that others may read is made the owner's alone.

    Args:
        environment: ``RAY_AUTH_MODE``, ``RAY_AUTH_TOKEN`` and ``RAY_AUTH_TOKEN_PATH`` as the user
            gave them.
        say: is told of a file whose mode was changed.

    Raises:
        ConfigError: a token is asked for, and there is none.
    """
    mode = (environment.get("RAY_AUTH_MODE") or "").lower()
    if mode not in ("", "token", "disabled"):
        raise ConfigError(f"RAY_AUTH_MODE: expected 'token' or 'disabled', got {mode!r}")
    if mode == "disabled":
        return mode
    if environment.get("RAY_AUTH_TOKEN"):
        return "token"
    path = token_file(environment)
    try:
        there = bool(path.read_text().strip())
    except FileNotFoundError:
        there = False
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token in {str(path)!r} cannot be read: {error}") from error
    if there:
        _make_private(path, say)
        return "token"
    if environment.get("RAY_AUTH_TOKEN_PATH"):
        raise ConfigError(f"RAY_AUTH_TOKEN_PATH: there is no token in {str(path)!r}; {MAKE}")
    if mode == "token":
        raise ConfigError(f"RAY_AUTH_MODE=token, but there is no token in {str(path)!r}; {MAKE}")
    return "disabled"


def make_token() -> tuple[Path, bool]:
    """The file of the token, and whether it was made now; its owner alone may read it.

    Raises:
        ConfigError: it cannot be written.
    """
    path = token_file(os.environ)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.is_file() and path.read_text().strip():
            path.chmod(0o600)
            return path, False
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except OSError as error:
        raise ConfigError(f"cannot write a token to {str(path)!r}: {error.strerror}") from error
    return path, True


def _make_private(path: Path, say: Callable[[str], None]) -> None:
    """Take a token's file away from all but its owner, where we may."""
    if path.stat().st_mode & 0o077:
        try:
            path.chmod(0o600)
        except OSError:  # such as a secret that is mounted read-only
            return
        say(f"others could read the token in {path}; its mode is now 0600")
