"""The API's process stays small."""

import subprocess
import sys


def test_the_api_never_imports_torch():
    code = (
        "import sys; from app.main import create_app; create_app().openapi();"
        "heavy = {'torch', 'diffusers', 'transformers', 'peft', 'accelerate', 'worker'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_start_page_loads_nothing_from_elsewhere(client):
    answer = client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "http://" not in answer.text
    assert "https://" not in answer.text
