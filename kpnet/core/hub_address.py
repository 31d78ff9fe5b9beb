"""Addresses of models on the Hugging Face hub, such as `hf://OWNER/NAME@REVISION/FOLDER`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from kpnet.core.errors import KpnetError

SCHEME = "hf://"
FORM = f"{SCHEME}OWNER/NAME, with @REVISION or /FOLDER behind it where they are needed"
# As a Path writes it, too: that makes one slash of two.
_ADDRESS = re.compile(r"hf:/+(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[^/]+))?(?:/+(?P<path>[^\0]*))?")
_NAME = re.compile(r"(?P<owner>[\w-][\w.-]*)/(?P<name>[\w-][\w.-]*)(?:@[\w.-]+)?")
_FOLDERS = ("runs", "final", "best", "datasets", "spaces", "docs")  # of kpnet, and of the hub's pages
_FILE = re.compile(  # what is no repository's name
    r".*\.(pth?|tar|ckpt|bin|onnx|safetensors|h5|pkl|np[yz]|ya?ml|json|csv|txt|zip|t?gz|jpe?g|png|tiff?|bmp|mp4|avi|mov)",
    re.IGNORECASE,
)
_PAGE = re.compile(  # of a repository, a folder or a file on the web
    r"(?:https?:/+)?(?:huggingface|hf)\.co/(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:/(?:tree|blob|resolve)/(?P<revision>[^/?]+)(?:/(?P<path>[^?]+?))?)?/?(?:\?.*)?"
)


@dataclass(frozen=True)
class HubAddress:
    """Where a model lies on the hub.

    Attributes:
        repo: Owner and name of the repository.
        revision: Branch, tag or commit; None: the main branch.
        path: Path inside of the repository; "" for its top.
    """

    repo: str
    revision: str | None = None
    path: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{SCHEME}{self.repo}{revision}{f'/{self.path}' if self.path else ''}"


def is_hub(path: object) -> bool:
    """Return whether a path is an address of the hub; `Path("hf://me/paws")`, which loses a slash, is one too."""
    text = str(path)
    return text == "hf:" or text.startswith(("hf:/", "hf:\\"))


def hub_suffix(path: str | Path) -> str:
    """Return the suffix of the file that a path names; that of a repository's name is none."""
    return PurePosixPath(parse_address(path).path).suffix if is_hub(path) else Path(path).suffix


def format_path(path: str | Path) -> str:
    """Return a path as a message shows it; an address has both of its slashes, which a Path makes one of."""
    text = str(path).replace("\\", "/") if is_hub(path) else str(path)
    return re.sub(r"^(hf|https?):(?:/+|$)", r"\1://", text)


def hub_hint(path: str | Path) -> str:
    """Return `"; if it is on the hub, give hf://OWNER/NAME"` for a missing file's path that may mean so, or ""."""
    text = str(path).replace("\\", "/")
    page, name = _PAGE.fullmatch(text), _NAME.fullmatch(text)
    if page and page["repo"].partition("/")[0] not in _FOLDERS:
        address = HubAddress(page["repo"], page["revision"], page["path"] or "")
    elif (
        name
        and not {name["owner"], name["name"]} & {*_FOLDERS}
        and not _FILE.fullmatch(text)
        and not Path(text).parent.exists()
    ):
        address = HubAddress(text)
    else:
        return ""
    return f"; if it is on the hub, give {address}"


def parse_address(path: str | Path) -> HubAddress:
    """Parse an address of the hub, or raise KpnetError."""
    text = str(path).replace("\\", "/")
    match = _ADDRESS.fullmatch(text)
    inner = (match["path"] or "").strip("/") if match else ""
    if match is None or any(part in (".", "..") for part in inner.split("/")):
        raise KpnetError(f'"{format_path(path)}": not an address of the hub: expected {FORM}')
    revision = match["revision"]
    return HubAddress(match["repo"], None if revision is None else unquote(revision), inner)
