"""infinity 0.0.78 in an environment of its own, in the cache folder: made once, used by every run of `make bench-server`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

VERSION = "0.0.78"
# What 0.0.78 still works with: its optimum asks for a transformers of its time, its command line for a click of its time.
_PACKAGES = (f"infinity-emb[server,torch]=={VERSION}", "transformers<4.49", "optimum<2", "click<8.2")
_INSTALL_SECONDS = 900


def installed() -> Path | None:
    """Its program; None, with the reason on standard error, where it cannot be installed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "serinus" / f"infinity-{VERSION}"
    program = folder / "bin" / "infinity_emb"
    ready = folder / ".installed"
    if ready.exists():
        return program
    uv = Path(sys.executable).with_name("uv")
    made = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)]
    for command in (made, [str(uv), "pip", "install", "--quiet", *_PACKAGES], [str(program), "v2", "--help"]):
        environment = {**os.environ, "VIRTUAL_ENV": str(folder)}
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
            said = done.stderr.strip() if done.returncode else None
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
        if said is not None:
            sys.stderr.write(f"infinity {VERSION} cannot be installed and is left out: {said[-500:]}\n")
            return None
    ready.touch()
    return program


def command(program: Path, model: Path, port: int) -> list[str]:
    """Serves `model` on 127.0.0.1 with torch in fp32, as it is documented."""
    return [
        str(program), "v2", "--model-id", str(model), "--served-model-name", "m", "--engine", "torch", "--device", "cpu",
        "--dtype", "float32", "--no-model-warmup", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning",
    ]  # fmt: skip
