"""`deploy/slim.py`, with which the image is built: what it cuts runs as before."""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.serving import REPOSITORY

SLIM = REPOSITORY / "deploy/slim.py"


@pytest.mark.skipif(sys.platform != "linux", reason="the image is Linux's")
def test_an_extension_module_without_its_symbols_is_smaller_and_runs(tmp_path: Path) -> None:
    found = find_spec("msgspec")
    assert found is not None
    assert found.origin is not None
    shutil.copytree(Path(found.origin).parent, tmp_path / "msgspec")
    (module,) = (tmp_path / "msgspec").glob("_core*.so")
    before = module.stat().st_size
    subprocess.run([sys.executable, str(SLIM), str(tmp_path)], check=True)
    assert module.stat().st_size < before
    used = f"import msgspec; assert msgspec.__file__.startswith({str(tmp_path)!r}); print(msgspec.json.encode([1.5]))"
    run = [sys.executable, "-c", used]
    told = subprocess.run(run, check=True, cwd=tmp_path, capture_output=True, text=True)
    assert told.stdout == "b'[1.5]'\n"


def test_what_is_no_module_of_linux_stays_as_it_is(tmp_path: Path) -> None:
    other = tmp_path / "other.so"
    other.write_bytes(b"INPUT(libother.so.1)")
    subprocess.run([sys.executable, str(SLIM), str(tmp_path)], check=True)
    assert other.read_bytes() == b"INPUT(libother.so.1)"
