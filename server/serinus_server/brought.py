"""A sentence-transformers folder as somebody brought it, refused by file name when it would run code. Reads only text files: no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from serinus_server.errors import UnsafeModel
from serinus_server.package import refuse_pickled_only, refuse_unsafe

# sentence-transformers' own modules that may follow the transformer.
HEAD_KINDS: Final = ("Pooling", "Dense", "LayerNorm", "Normalize")


def refuse_brought(folder: Path) -> None:
    """Raises UnsafeModel, with the name of the file that is the reason."""
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    refuse_pickled_only(files)
    refuse_unsafe(file for file in files if file.suffix == ".py")
    for path in folder.rglob("*.json"):
        if '"auto_map"' in path.read_text(encoding="utf-8", errors="replace"):
            raise UnsafeModel(
                f"{path.relative_to(folder)}: auto_map asks for code of the model's own, which is not loaded"
            )
    if not (folder / "modules.json").exists():
        raise UnsafeModel("modules.json is missing: this is no sentence-transformers folder")
    for module in json.loads((folder / "modules.json").read_text(encoding="utf-8")):
        _refuse_unknown_module(folder, str(module["type"]), str(module["path"]))


def _refuse_unknown_module(folder: Path, kind: str, subfolder: str) -> None:
    package, _, name = kind.rpartition(".")
    if package.partition(".")[0] != "sentence_transformers" or name not in ("Transformer", *HEAD_KINDS):
        known = ", ".join(("Transformer", *HEAD_KINDS))
        raise UnsafeModel(f"modules.json: module type {kind} is unknown; {known} are supported")
    configuration = folder / subfolder / "config.json"
    if name == "Dense" and configuration.exists():
        activation = json.loads(configuration.read_text(encoding="utf-8")).get("activation_function", "torch.nn")
        if not str(activation).startswith("torch.nn."):
            where = configuration.relative_to(folder)
            raise UnsafeModel(f"{where}: activation_function {activation} is not one of torch's, and is not loaded")
