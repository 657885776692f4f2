"""Files of the Hugging Face hub: from the user's cache without asking the network, else by download."""

from __future__ import annotations

import os
import socket
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from urllib.parse import urlparse

from concept_monitor_cli.errors import InputError
from concept_monitor_cli.progress import Progress

_CONNECT_SECONDS = 5.0
_downloads: ContextVar[bool] = ContextVar("downloads", default=True)


@contextmanager
def without_downloads() -> Iterator[None]:
    """Inside, what is not on this machine is an error: for who only looks."""
    token = _downloads.set(False)
    try:
        yield
    finally:
        _downloads.reset(token)


def cached(repo: str, filenames: Sequence[str]) -> Path | None:
    """The first of these files of a hub repository that is in the user's cache, or None. Asks no network."""
    import huggingface_hub

    for filename in filenames:
        found = huggingface_hub.try_to_load_from_cache(repo, filename)
        if isinstance(found, str):
            return Path(found)
    return None


def fetch(
    repo: str,
    filenames: Sequence[str],
    *,
    what: str,
    command: str,
    instead: str = "",
    progress: Progress,
) -> Path:
    """The first of these files that there is: from the cache, else downloaded into it.

    Args:
        repo: `org/name` on the hub.
        filenames: names to try, best first.
        what: what the file is, for messages: "the weights of ViT-B-16/openai".
        command: a command that fetches it on a machine with network.
        instead: another way, for the message.
        progress: told of a download.

    Raises:
        InputError: not in the cache, and the hub cannot be reached or does not have it.
    """
    path = cached(repo, filenames)
    if path is not None:
        return path
    reason = _why_unreachable() if _downloads.get() else "a dry run downloads nothing"
    if reason is None:
        progress.notice(f"downloading {what} from {repo}")
        for filename in filenames:
            found, reason = _download(repo, filename)
            if found is not None:
                return found
    raise InputError(
        f"{what} are not on this machine ({reason})",
        where=f"{repo} in the hub cache {_cache()}",
        hint=f"{command}  on a node with network; HF_HOME must be the same folder there and here{instead}",
    )


def _download(repo: str, filename: str) -> tuple[Path | None, str]:
    """(file, "") or (None, why not)."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(repo, filename)), ""
    except Exception as error:  # the hub raises errors of httpx, errors of its own, and OSErrors
        text = str(error).strip()
        return None, text.splitlines()[0] if text else type(error).__name__


def _cache() -> str:
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _why_unreachable() -> str | None:
    """None where the hub answers. Behind a firewall a download would wait through minutes of retries."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    url = urlparse(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT)
    host = url.hostname or "huggingface.co"
    if urllib.request.getproxies():
        return None  # only the proxy can tell
    try:
        with socket.create_connection((host, url.port or 443), timeout=_CONNECT_SECONDS):
            return None
    except OSError as error:
        return f"{host} cannot be reached: {error.strerror or error}"
