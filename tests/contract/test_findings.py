"""The form of findings/ (its README). They are not run here: they need the network."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.serving import REPOSITORY

FINDINGS = sorted((REPOSITORY / "findings").glob("*.sh"))


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda path: path.stem)
def test_a_finding_says_what_was_seen_in_which_versions(finding: Path) -> None:
    text = finding.read_text()
    head = text[: text.index("set -euo pipefail")]
    assert "# Seen 20" in head
    assert "# One would think " in head
    assert os.access(finding, os.X_OK)
    subprocess.run(["bash", "-n", finding], check=True)
    assert f"]({finding.name})" in (finding.parent / "README.md").read_text()
