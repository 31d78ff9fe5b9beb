"""Files of the Hugging Face hub: their download, and its cache.

huggingface_hub does the work, in its own cache and with its own token. It is imported when an address is used.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from kpnet.core.errors import KpnetError, did_you_mean, few, first_line
from kpnet.core.hub_address import FORM, HubAddress

TIMEOUT = 5  # seconds that the hub may take to reply before it counts as out of reach
LARGEST = {".yaml": 2**20, ".safetensors": 2**34, ".onnx": 2**31}  # bytes of a file that is fetched, by suffix
_found: ContextVar[dict[object, Path] | None] = ContextVar("found", default=None)  # in `one_commit`
_PASSING = (408, 429)  # of the replies that refuse: it took too long, too many requests
_DIGESTS = {40: "sha1", 64: "sha256"}  # in the names of cached files: git's of small ones, that of the content


@contextmanager
def one_commit() -> Iterator[None]:
    """Look the files of each address up once inside: what reads them several times reads those of one commit."""
    if _found.get() is not None:  # that of the caller
        yield
        return
    token = _found.set({})
    try:
        yield
    finally:
        _found.reset(token)


def fetch(
    address: HubAddress,
    names: Sequence[str],
    *,
    optional: Sequence[str] = (),
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """Return a folder in the hub's cache with files of a repository, all of one commit; what is missing is fetched.

    Where the hub is out of reach, has a failure of its own or too many requests, or `HF_HUB_OFFLINE` is set, the files
    of the cache are taken. Inside of `one_commit` they are looked up once. No other files of the repository are
    fetched, and the content of those in the cache is compared with the digest in their names.

    Args:
        address: The repository, and the folder in it.
        names: The files.
        optional: Files that are fetched if they are there.
        token: Token to read with; None: the one that `hf auth login` or `HF_TOKEN` has set.
        cache_dir: The cache; None: that of huggingface_hub.
        force_download: Fetch files that are in the cache, too.
        local_files_only: Take those in the cache alone.

    Returns:
        The folder.

    Raises:
        KpnetError: The repository, its revision or a file is missing or not readable, a file is too large or damaged,
            or the hub is away and a file is not in the cache.
    """
    found, key = _found.get(), (address, *names, None, *optional, None, token, str(cache_dir))
    if found is not None and key in found and not force_download:
        return found[key]
    options: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "force_download": force_download}
    folder = _fetch(address, names, optional, local_files_only, options)
    if found is not None:
        found[key] = folder
    return folder


def _fetch(
    address: HubAddress, names: Sequence[str], optional: Sequence[str], local_files_only: bool, options: dict[str, Any]
) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    token, failure = options["token"], None
    with hub_errors(address, token), nullcontext() if local_files_only else quick_downloads():
        sizes = None
        if not (local_files_only or constants.HF_HUB_OFFLINE):
            try:
                sizes = _list_files(address, token)
            except HfHubHTTPError as error:
                status = getattr(error.response, "status_code", 0)
                if options["force_download"] or (status < 500 and status not in _PASSING):
                    raise
                local_files_only, failure = True, error
        wanted = list(names)
        if sizes is not None:
            wanted += [name for name in optional if _inside(address, name) in sizes]
            _check_files(address, names, {name: sizes.get(_inside(address, name)) for name in wanted}, sizes)
        options = {**options, "revision": address.revision, "local_files_only": local_files_only}
        for last in (False, True):
            try:
                found = [Path(hf_hub_download(address.repo, _inside(address, name), **options)) for name in wanted]
            except LocalEntryNotFoundError:
                if failure is None:
                    raise
                raise failure from None
            if len({file.parent for file in found}) == 1:
                break
            if last:
                raise KpnetError(f"{address}: the repository is being changed: try again, or name a commit")
    for file in found:
        _check_content(address, file)
    return found[0].parent


def fetch_file(address: HubAddress, optional: Sequence[str] = ()) -> Path:
    """Return one file of a repository in the hub's cache, as `fetch` does for several; `optional` lie beside it."""
    path = PurePosixPath(address.path)
    folder = "" if path.parent == PurePosixPath(".") else str(path.parent)
    return fetch(replace(address, path=folder), [path.name], optional=optional) / path.name


@contextmanager
def quick_downloads() -> Iterator[None]:
    """Let huggingface_hub use the files that it has, where its hub cannot be reached: it would try for a minute.

    Raises:
        ConnectionError: The hub cannot be reached, and a file that is needed inside is not there.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
        reached = True
    except Exception as error:  # of requests or httpx, whichever the library uses
        reached, reason = constants.HF_HUB_OFFLINE, first_line(error)
    if reached:
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise ConnectionError(f"no connection to {constants.ENDPOINT}: {reason}") from None
    finally:
        constants.HF_HUB_OFFLINE = False


@contextmanager
def hub_errors(address: HubAddress, token: str | bool | None = None) -> Iterator[None]:
    """Raise what huggingface_hub raises inside as KpnetErrors of one line that name the address."""
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    try:
        yield
    except KpnetError:
        raise
    except hub.GatedRepoError:
        page = f"{constants.ENDPOINT}/{address.repo}"
        raise KpnetError(f"{address}: its owner asks for consent: accept the terms at {page}, and log in") from None
    except hub.RepositoryNotFoundError:
        raise KpnetError(
            f"{address}: no such repository at {constants.ENDPOINT}; check owner and name; for a private one log in "
            "with hf auth login, or set HF_TOKEN"
        ) from None
    except hub.RevisionNotFoundError:
        raise KpnetError(f"{address}: {_unknown_revision(address, token)}") from None
    except hub.OfflineModeIsEnabled:
        raise KpnetError(f"{address}: HF_HUB_OFFLINE is set, which allows no connection to the hub: unset it") from None
    except hub.LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, hub.HfHubHTTPError):
            raise KpnetError(f"{address}: the hub replied: {first_line(error.__cause__)}") from None
        raise KpnetError(
            f"{address}: not in the cache, and downloads are off (HF_HUB_OFFLINE, or local_files_only): fetch it once "
            "with a connection"
        ) from None
    except hub.LocalTokenNotFoundError:
        raise KpnetError(f"{address}: needs a token: log in with hf auth login, or set HF_TOKEN") from None
    except hub.EntryNotFoundError as error:
        raise KpnetError(f"{address}: {first_line(error)}") from None
    except hub.HFValidationError as error:
        raise KpnetError(f"{address}: {first_line(error)}; expected {FORM}") from None
    except hub.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise KpnetError(
                f"{address}: the hub refuses it ({status}): log in with hf auth login, or set HF_TOKEN, with a token "
                "that may do this"
            ) from None
        raise KpnetError(f"{address}: the hub replied: {first_line(error)}") from None
    except ConnectionError as error:
        raise KpnetError(f"{address}: {first_line(error)}") from None
    except Exception as error:  # of httpx or requests, whichever the library uses, and of its versions
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "requests", "urllib3", "hf_xet"):
            raise
        raise KpnetError(f"{address}: no connection to {constants.ENDPOINT}: {first_line(error)}") from None


def in_hub_cache(folder: Path) -> bool:
    """Return whether a folder is of a commit in huggingface_hub's cache: `…/snapshots/COMMIT` beside `blobs`."""
    place = folder.resolve()
    return any(
        each.parent.name == "snapshots"
        and re.fullmatch("[0-9a-f]{40}", each.name) is not None
        and (each.parent.parent / "blobs").is_dir()
        for each in (place, *place.parents)
    )


def _inside(address: HubAddress, name: str) -> str:
    return f"{address.path}/{name}" if address.path else name


def _list_files(address: HubAddress, token: str | bool | None) -> dict[str, int | None]:
    """Return the sizes in bytes of a repository's files by path."""
    from huggingface_hub import HfApi

    info = HfApi(token=token).model_info(address.repo, revision=address.revision, files_metadata=True)
    return {each.rfilename: each.size for each in info.siblings or ()}


def _check_files(
    address: HubAddress, names: Sequence[str], wanted: dict[str, int | None], there: dict[str, int | None]
) -> None:
    """Raise KpnetError where a file is not in the repository, or too large."""
    missing = [name for name in names if _inside(address, name) not in there]
    if missing:
        own = [path for path in there if not path.startswith(".")]
        folders = sorted(path.rpartition("/")[0] for path in own if PurePosixPath(path).name == missing[0])
        fix = f"; there is one in {few(replace(address, path=each) for each in folders)}" if folders else ""
        lacks, found = " and no ".join(missing), few(own) or "no files"
        raise KpnetError(f"{address}: not a model of kpnet: it has no {lacks}; found {found}{fix}")
    for name, size in wanted.items():
        most = LARGEST.get(PurePosixPath(name).suffix, 0)
        if size is not None and size > most:
            raise KpnetError(
                f"{address}: {name} has {size / 1e6:.0f} MB, expected at most {most / 1e6:.0f} MB: it was not fetched"
            )


def _check_content(address: HubAddress, file: Path) -> None:
    """Raise KpnetError where a file's content is not that which its name in the cache, a digest, says."""
    blob = file.resolve()
    kind = _DIGESTS.get(len(blob.name))
    if kind is None or blob.parent.name != "blobs":  # without symbolic links the cache has no such names
        return
    size = blob.stat().st_size
    digest = hashlib.new(kind, f"blob {size}\0".encode() if kind == "sha1" else b"", usedforsecurity=False)
    with blob.open("rb") as content:
        while part := content.read(2**20):
            digest.update(part)
    if digest.hexdigest() != blob.name:
        raise KpnetError(f"{address}: {file.name} is damaged in the cache: delete {blob}, and it is fetched again")


def _unknown_revision(address: HubAddress, token: str | bool | None) -> str:
    from huggingface_hub import HfApi

    known: list[str] = []
    with suppress(Exception):  # the message is of use without them
        refs = HfApi(token=token).list_repo_refs(address.repo)
        known = [ref.name for ref in (*refs.branches, *refs.tags)]
    there = f"; there are {few(known, 6)}" if known else ""
    return f'no revision "{address.revision}"{did_you_mean(address.revision, known)}{there}'
