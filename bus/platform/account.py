"""As whom PostgreSQL runs: it refuses root, so a root's bus starts it as a system user that owns nothing but its data.

That user must reach the data and the programs. Where a directory above them is closed to others (root's own home is), no
directory's mode is changed: the server is lent a capability of root's for as long as it runs, the least that suffices. That is
more than a way in: with the first, dac_read_search, the server can read every file of the machine, with the second,
dac_override, also write it, and so can whoever is its superuser or finds a hole in it. A home and programs that others may pass
through (--home /var/lib/lien-thong, a checkout in /opt), or an ordinary user, need neither.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bus.config import ConfigError
from bus.platform import talk

USER = "lienthong"
_FALLBACK = "nobody"
_CAPABILITIES = ("", "+dac_read_search", "+dac_override")
"""What is lent, in order of trial: nothing; passing and reading; where programs are not executable for others, everything."""
_TIMEOUT_SECONDS = 10


def owner() -> pwd.struct_passwd | None:
    """Whose the data directory must be: the system user for root, None (ourselves) for anybody else."""
    return _system_user() if os.geteuid() == 0 else None


def prefix(reach: Sequence[Path], run: Path) -> list[str]:
    """What to put before a command so that it runs as the owner, can enter the directories `reach` and execute `run`.
    Empty for an ordinary user. Raises ConfigError when there is no way."""
    user = owner()
    if user is None:
        return []
    for capabilities in _CAPABILITIES:
        found = _as(user, capabilities)
        if found and _reaches(found, reach, run):
            return found
    raise ConfigError(
        f"PostgreSQL does not run as root, and the user {user.pw_name} cannot reach {reach[0]}: "
        "start the bus as an ordinary user, or choose another place with --home, such as /var/lib/lien-thong"
    )


def _as(user: pwd.struct_passwd, capabilities: str) -> list[str]:
    program = shutil.which("setpriv")
    if program is None:
        raise ConfigError(
            "PostgreSQL does not run as root: start the bus as an ordinary user, or install setpriv (package util-linux)"
        )
    # no_setuid_fixup: without it access(2), by which initdb looks for its programs, does not count what is lent
    lent = [f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}", "--securebits=+no_setuid_fixup"]
    lent = lent if capabilities else []
    return [program, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *lent]


def _reaches(as_user: list[str], reach: Sequence[Path], run: Path) -> bool:
    script = 'run=$1; shift; for each in "$@"; do cd "$each" || exit 1; done; exec "$run" --version'
    words = [*as_user, "sh", "-c", script, "sh", str(run), *(str(path) for path in reach)]
    try:
        return subprocess.run(words, cwd="/", capture_output=True, timeout=_TIMEOUT_SECONDS, check=False).returncode == 0
    except subprocess.SubprocessError:  # no answer in time: not known to reach it; the supervisor tries again later
        return False


def _system_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        pass
    command = ["useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", USER]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT_SECONDS)
        talk.say(f"Made the system user {USER}: PostgreSQL does not run as root. (To remove it later: userdel {USER})")
        return pwd.getpwnam(USER)
    except (OSError, subprocess.SubprocessError, KeyError):
        return pwd.getpwnam(_FALLBACK)
