"""The text of a PDF, by a process of its own with bounds."""

import json
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from chatapi.errors.files import FileNotSupported
from chatapi.files.reading import PROGRAM, extracted
from tests.support.files import pdf


async def text_of(content: bytes, program: Path = PROGRAM, seconds: float = 60) -> str:
    with TemporaryFile() as document:
        document.write(content)
        document.seek(0)
        return await extracted(document, "a.pdf", program, seconds)


async def test_is_of_so_many_pages_at_the_most() -> None:
    text = await text_of(pdf(*(f"Page {number}" for number in range(1, 202))))
    assert "Page 200\n" in text
    assert "Page 201" not in text
    assert text.endswith("[The rest of the document is left out.]\n")


@pytest.mark.parametrize(
    "does",
    [
        "import time; time.sleep(60)",
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "raise MemoryError",
    ],
    ids=["hangs", "crashes", "runs out of memory"],
)
async def test_of_a_document_whose_reader_fails_is_refused(tmp_path: Path, does: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(does)
    with pytest.raises(FileNotSupported, match="is broken or too complicated"):
        await text_of(b"", program, seconds=0.1 if "sleep" in does else 60)


async def test_is_read_within_bounds_and_without_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    program = tmp_path / "program.py"
    said = "import json, os, sys; sys.stdin.buffer.read(); print(json.dumps(dict(os.environ)))"
    program.write_text(said)
    assert json.loads(await text_of(b"x", program)).keys() <= {"LC_CTYPE"}
    limits = PROGRAM.read_text().partition("    from pypdf")[0]  # before anything of the document is read
    program.write_text(
        limits + "    return print(json.dumps([resource.getrlimit(each) for each in LIMITS]))\n"
        "import json\nLIMITS = (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE)\nmain()\n"
    )
    assert json.loads(await text_of(b"x", program)) == [[768 * 2**20] * 2, [10, 10], [0, 0]]
