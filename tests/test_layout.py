"""What must stay so for imports and packaging to work."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_no_package_hides_the_standard_librarys_operator() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert not (ROOT / "tests" / "operator" / "__init__.py").exists()


def test_the_server_imports_without_kopf_and_the_operator_without_torch() -> None:
    code = "import sys, {0}; sys.exit(any(name in sys.modules for name in {1}))"
    for module, banned in (
        ("serinus_server.__main__", ("kopf", "kubernetes", "torch", "mlflow")),
        ("serinus_operator.__main__", ("torch", "sentence_transformers", "onnxruntime", "serinus_server")),
    ):
        assert subprocess.run([sys.executable, "-c", code.format(module, banned)], timeout=60).returncode == 0


def test_requirement_files_name_no_index_and_pin_every_hash() -> None:
    for file in (ROOT / "requirements").glob("*.txt"):
        lines = [line for line in file.read_text().splitlines() if line and not line.lstrip().startswith("#")]
        assert not any("://" in line for line in lines), file.name
        assert all("==" in line or "--hash=sha256:" in line for line in lines), file.name


def test_every_test_that_the_documents_name_exists() -> None:
    """`file.py::test_name`, and `…::test_name` for another one of the file named before."""
    files = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/test_*.py")}
    for document in ROOT.glob("docs/**/*.md"):
        file = ""
        for named, test in re.findall(r"([\w/.…]+)::(test_\w+)", document.read_text(encoding="utf-8")):
            file = file if named == "…" else named.rpartition("/")[2]
            assert f"def {test}(" in files.get(file, ""), f"{document.name}: {file}::{test}"
