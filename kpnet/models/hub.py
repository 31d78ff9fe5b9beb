"""Models on the Hugging Face hub, through huggingface_hub's own mixin: fetch one, push one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self, cast

from huggingface_hub import HfApi, ModelCard, ModelHubMixin
from torch import nn

from kpnet.core.errors import KpnetError, first_line
from kpnet.core.files import write_atomic
from kpnet.core.hub import fetch, hub_errors, quick_downloads
from kpnet.core.hub_address import SCHEME, HubAddress, is_hub, parse_address
from kpnet.core.model_folder import CONFIG, WATCH, WEIGHTS, folder_address
from kpnet.models.card import CARD, Statements, check_measures, model_card
from kpnet.models.exported import SUFFIX, ExportedModel
from kpnet.models.files import weights_digest
from kpnet.models.record import FIGURE, make_record, read_record


class HubMixin(ModelHubMixin, library_name="kpnet", tags=["keypoint-detection"]):
    """Gives a model `from_pretrained`, `save_pretrained` and `push_to_hub`.

    Its config is `model.yaml`: huggingface_hub's own way, a `config.json` with the arguments of the constructor, is not
    used.
    """

    folder: Path | None = None
    is_folded: bool = False
    """Whether `kpnet.models.folding` made it: it predicts, and can be neither trained nor saved."""
    load_folder: ClassVar[Callable[..., Any]]  # kpnet.models.build.load_model

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make an instance without a record of the arguments, which ModelHubMixin would write as `config.json`."""
        return object.__new__(cls)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # without arguments of the constructor
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        decoding: str | None = None,
    ) -> Self:
        """Load a model from a folder or from the Hugging Face hub. Nothing in its files is executed.

        Where the hub is out of reach, or `HF_HUB_OFFLINE` is set, the model is taken from the hub's cache.

        Args:
            pretrained_model_name_or_path: A run folder, a folder that `save` wrote, or a repository, `OWNER/NAME` or
                `hf://OWNER/NAME`.
            revision: Branch, tag or commit of the repository; None: the main branch.
            token: Token to read a private repository with; None: that of `hf auth login` or `HF_TOKEN`.
            cache_dir: The cache; None: that of huggingface_hub.
            force_download: Fetch the files even if they are in the cache.
            local_files_only: Take the files of the cache alone.
            decoding: Decoding to use instead of the trained one; see `kpnet.load_model`.

        Returns:
            The model, in eval mode, on the CPU.

        Raises:
            KpnetError: There is neither such a folder nor such a repository, it is not a model of kpnet, or a file is
                too large, damaged or out of reach.

        Example:
            ```python
            model = kpnet.KeypointModel.from_pretrained("me/paws")
            ```
        """
        path, what = pretrained_model_name_or_path, ""
        if not is_hub(path):
            if Path(path).exists():
                if revision is not None:
                    raise KpnetError(f"{path}: a folder, which has no revision {revision}: leave it out")
                return cls.load_folder(path, decoding=decoding)
            if str(path).count("/") != 1 or str(path).startswith((".", "~")):
                raise KpnetError(f"{path}: no such folder, and no repository of the hub, which is OWNER/NAME")
            path, what = f"{SCHEME}{path}", f"{path}: no such folder; "
        try:
            address = folder_address(path)
            if revision is not None and address.revision not in (None, revision):
                raise KpnetError(f"{address}: revision={revision!r} is another one: give one of them")
            found = fetch(
                replace(address, revision=revision or address.revision),
                (WEIGHTS, CONFIG),
                optional=(WATCH,),
                token=token,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
            )
        except KpnetError as error:
            raise KpnetError(f"{what}{error}") from None
        return cls.load_folder(found, decoding=decoding)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        repo_id: str | None = None,
        model_card_kwargs: Mapping[str, Any] | None = None,
        **unused: Any,
    ) -> None:
        """Write the model and its card into a folder, as `push_to_hub` uploads them. A card that is there stays.

        Args:
            save_directory: The folder; created if need be.
            repo_id: Owner and name of the repository that the card names; None: the last two parts of the folder.
            model_card_kwargs: Arguments of `generate_model_card`.

        Raises:
            KpnetError: The model cannot be saved, what the card is made of is refused, an exported model that is given
                is one of other weights, or the folder is no model's and holds another file of the same name.
        """
        if unused := {key: value for key, value in unused.items() if value is not None}:
            raise KpnetError(f"save_pretrained does not take {', '.join(unused)}; push_to_hub uploads a model")
        folder, options = Path(save_directory), dict(model_card_kwargs or {})
        files = self._companions(options.pop("onnx", None))
        for name, file in files.items():
            held = folder / name
            if held.exists() and not (folder / WEIGHTS).exists() and held.read_bytes() != file.read_bytes():
                raise KpnetError(f"{held}: exists, and is not of a model of kpnet; give another folder")
        card = None  # made before anything is written, as what it is made of may be refused
        if not (folder / CARD).exists():
            title = repo_id or "/".join(folder.resolve().parts[-2:])
            card = self.generate_model_card(**{"repo_id": title, **options}, files=tuple(files))
        self._save_pretrained(folder)
        for name, file in files.items():
            if not (folder / name).exists() or not file.samefile(folder / name):
                write_atomic(folder / name, file.read_bytes())
        if card is not None:
            write_atomic(folder / CARD, str(card).encode())

    def _save_pretrained(self, save_directory: Path) -> None:
        """Save the model without the path of the weights that it was trained from, which is of no use elsewhere."""
        model: Any = copy.copy(self)
        model.config = model.config.model_copy(update={"pretrained": False})
        if model.config.instances is not None:
            instances = model.config.instances.model_copy(update={"pretrained": False})
            model.config = model.config.model_copy(update={"instances": instances})
        model.save(save_directory)

    def generate_model_card(
        self,
        *,
        repo_id: str,
        measures: Mapping[str, Any] | None = None,
        files: tuple[str, ...] = (),
        **statements: str | None,
    ) -> ModelCard:
        """Return the model card; see `push_to_hub` for what it is made of.

        Args:
            repo_id: Owner and name of the repository.
            measures: Measures as `kpnet.evaluate` returns them; None: those that the training recorded.
            files: Names of the other files of the repository.
            **statements: `licence`, `data`, `data_licence` and `intended_use`, as the author states them.

        Returns:
            The card, whose text is `str(card)`.

        Raises:
            KpnetError: The measures are others, or a statement is no text or too long.
        """
        if measures is not None:
            check_measures(measures)
        record = read_record(self.folder, self) if measures is None else make_record(self, measures)
        text = model_card(self, repo_id, Statements(**statements), record, files)
        return ModelCard(text, ignore_metadata_errors=True)

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        licence: str | None = None,
        data: str | None = None,
        data_licence: str | None = None,
        intended_use: str | None = None,
        measures: Mapping[str, Any] | None = None,
        onnx: str | Path | None = None,
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        commit_message: str = "Upload a model of kpnet",
    ) -> str:
        """Upload the model and its card to the Hugging Face hub; the repository is created if need be.

        The repository holds `model.safetensors`, `model.yaml`, the summary of held-out data for `kpnet watch`
        where `kpnet guarantee` made it, the skeleton drawn, an exported ONNX model if there is
        one, and the card: an example, the measures with intervals and the reliability that the training recorded, and
        what you state. The card says openly what you do not state. No image of the data is uploaded. What an earlier
        push has left at the top of the repository is replaced: the card, too, and a figure and exports are deleted.

        Args:
            repo_id: Owner and name, `"me/paws"`.
            licence: Licence of the weights: an identifier of the hub such as `mit`, or a name, filed under `other`.
            data: What the model was trained on.
            data_licence: Licence of that data.
            intended_use: What the model is meant for, and what not.
            measures: Measures as `kpnet.evaluate` returns them; None: those that the training recorded.
            onnx: A file of `kpnet export` with the same weights; None: one in the run folder, if there is one.
            private: Whether a new repository is private; None: as the hub's settings have it.
            token: Token to write with; None: that of `hf auth login` or `HF_TOKEN`.
            branch: Branch to write to, created if need be; None: the main one.
            create_pr: Open a pull request instead.
            commit_message: Title of the commit.

        Returns:
            The address of the commit.

        Raises:
            KpnetError: The model cannot be saved, a statement or the measures are refused, the exported model is one of
                other weights, the hub is out of reach or does not take the card, or the token is missing or may not
                write there.

        Example:
            ```python
            model = kpnet.load_model("runs/paws")
            model.push_to_hub("me/paws", licence="mit", data="400 photos of our own cats", data_licence="CC BY 4.0")
            ```
        """
        address = parse_address(repo_id if is_hub(repo_id) else f"{SCHEME}{repo_id}")
        if address.path or address.revision:
            raise KpnetError(f"{address}: expected owner and name alone; branch= names a branch")
        if self.is_folded:
            raise KpnetError("a Predictor's model is made to predict alone: push the one that kpnet.load_model returns")
        texts = {"licence": licence, "data": data, "data_licence": data_licence, "intended_use": intended_use}
        Statements(**texts)
        card = {**texts, "measures": measures, "onnx": onnx}
        api = HfApi(token=token)
        with TemporaryDirectory() as temporary, hub_errors(replace(address, revision=branch), token):
            folder = Path(temporary)
            self.save_pretrained(folder, repo_id=address.repo, model_card_kwargs=card)
            with quick_downloads():
                _check_card(address, folder)
                api.create_repo(address.repo, private=private, exist_ok=True)
                if branch is not None and not create_pr and not branch.startswith("refs/"):
                    api.create_branch(address.repo, branch=branch, exist_ok=True)
                commit = api.upload_folder(
                    repo_id=address.repo,
                    folder_path=folder,
                    commit_message=commit_message,
                    revision=branch,
                    create_pr=create_pr,
                    delete_patterns=_stale_files(api, address.repo, None if create_pr else branch),
                )
        return str(commit)

    def _companions(self, onnx: str | Path | None) -> dict[str, Path]:
        """Return the files that go with the model by name: the figure of its skeleton, and an exported model."""
        folders = [] if self.folder is None else [self.folder]
        folders += [folder.parent for folder in folders if folder.name == "final"]  # the run's own
        if onnx is not None:
            if not self._is_export(Path(onnx)):
                raise KpnetError(f"{onnx}: exported from other weights than the model's: export it again")
            exported = [Path(onnx)]
        else:
            exported = []
            for file in (file for folder in folders for file in sorted(folder.glob(f"*{SUFFIX}"))):
                with suppress(KpnetError):  # one that is not kpnet's, or that cannot be read here
                    exported += [file] if self._is_export(file) else []
        figures = [folder / FIGURE for folder in folders if (folder / FIGURE).is_file()]
        return {file.name: file for file in (*figures[:1], *exported[:1])}

    def _is_export(self, file: Path) -> bool:
        module = cast(nn.Module, self)
        held = ExportedModel(file).info.weights
        return held in (weights_digest(module), weights_digest(module, without="finder"))


def _check_card(address: HubAddress, folder: Path) -> None:
    """Raise KpnetError where the hub does not take the card in a folder."""
    try:
        ModelCard.load(folder / CARD, ignore_metadata_errors=True).validate()
    except ValueError as error:
        raise KpnetError(f"{address}: the hub does not take the model card: {first_line(error)}") from None


def _stale_files(api: HfApi, repo: str, branch: str | None) -> list[str] | None:
    """Return patterns of the files that an earlier push has left, which go with the weights of that time."""
    files = api.model_info(repo, revision=branch).siblings or ()
    names = [each.rfilename for each in files if "/" not in each.rfilename]
    return [escape(name) for name in names if name in (FIGURE, WATCH) or name.endswith(SUFFIX)] or None
