"""The page at `/`: says what runs here and where to go on. Nothing on it comes from elsewhere."""

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

router = APIRouter()

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Lorawright</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem }
code { font-size: 0.9em }
</style>
</head>
<body>
<h1>Lorawright</h1>
<p>Turns a folder of pictures into a LoRA for SDXL, and LoRAs into pictures.</p>
<ul>
<li><a href="/docs">The API, to read and try</a> (its page loads a viewer from the network)</li>
<li><a href="/openapi.json">The same as OpenAPI</a>, for programs</li>
<li><a href="/readyz">Whether the service is ready</a></li>
</ul>
<p>On the command line: <code>lorawright train FOLDER --trigger WORD</code>,
<code>lorawright generate "PROMPT" --lora NAME:0.7</code>, <code>lorawright jobs</code>.</p>
</body>
</html>
"""


@router.get("/", include_in_schema=False)
def home() -> HTMLResponse:
    """The start page."""
    return HTMLResponse(PAGE)
