"""The package stands alone: the command line, the API and the worker all rest on it."""

import subprocess
import sys
from pathlib import Path

import app.lora_format

ALONE = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(f"app.lora_format.{name}")
of_app = {name for name in sys.modules if name.startswith("app.")}
foreign = {name for name in of_app if not name.startswith("app.lora_format")}
heavy = {"torch", "safetensors", "pydantic", "sqlalchemy", "fastapi"} & set(sys.modules)
sys.exit(f"imported: {foreign | heavy}" if foreign | heavy else 0)
"""


def test_it_imports_nothing_else_of_the_service_and_no_tensor_library() -> None:
    folder = Path(app.lora_format.__path__[0])
    modules = sorted(path.stem for path in folder.glob("[a-z]*.py"))
    assert len(modules) > 10
    finished = subprocess.run(
        [sys.executable, "-c", ALONE, *modules], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
