"""The image that `make container` built with buildah, and processes in it, as its configuration says, but in a chroot."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STORE = ("buildah", "--storage-driver", "vfs")
# The root is read-only, as an orchestrator can have it; only /data is mounted from outside.
ENTER = """
mount --make-rprivate /
mount --bind "$1" "$1"
mount --rbind /dev "$1/dev"
mount -t proc proc "$1/proc"
[ -z "$2" ] || mount --bind "$2" "$1/data"
mount -o remount,bind,ro "$1"
shift 2
exec "$@"
"""


def buildah(*arguments: str) -> str:
    return subprocess.run([*STORE, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def image_is_built() -> bool:
    """Whether there is an image to test, and we may enter it."""
    if shutil.which("buildah") is None or os.geteuid() != 0:
        return False
    found = subprocess.run(
        [*STORE, "inspect", "--type", "image", "chatapi"], capture_output=True, check=False
    )
    return found.returncode == 0


class Image:
    """A container made of the image; `config` is the image's own configuration."""

    def __init__(self) -> None:
        self.config: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", "chatapi"))["Docker"][
            "config"
        ]
        self._container = buildah("from", "--pull-never", "chatapi")
        self.root = Path(buildah("mount", self._container))

    def close(self) -> None:
        buildah("umount", self._container)
        buildah("rm", self._container)

    def is_of(self, sources: Path) -> bool:
        """Whether the image was built from these modules."""
        [installed] = self.root.glob("opt/chatapi/lib/python3.*/site-packages/chatapi")
        return all(
            (installed / module.relative_to(sources)).is_file()
            and (installed / module.relative_to(sources)).read_bytes() == module.read_bytes()
            for module in sources.glob("**/*.py")
        )

    @property
    def environ(self) -> dict[str, str]:
        return dict(each.split("=", 1) for each in self.config["Env"])

    def start(
        self,
        command: list[str],
        environ: Mapping[str, str] | None = None,
        data: Path | None = None,
        user: str | None = None,
    ) -> subprocess.Popen[str]:
        """A process in the image's working directory and environment, with this beside it, as the image's user or another."""
        inside = [
            *("chroot", f"--userspec={user or self.config['User']}", str(self.root)),
            *("env", "--ignore-environment", f"--chdir={self.config['WorkingDir']}"),
            *(f"{name}={value}" for name, value in {**self.environ, **(environ or {})}.items()),
            *command,
        ]
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-euc", ENTER, "sh", str(self.root), str(data or ""), *inside],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, environ: Mapping[str, str] | None = None, data: Path | None = None) -> str:
        """The output of a command, which must exit with 0."""
        process = self.start(list(command), environ, data)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        return output
