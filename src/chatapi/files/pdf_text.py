"""Prints the text of the PDF on standard input; a program of its own, which `files.reading` runs within bounds.

It imports nothing of ours, gets no environment, and limits itself before it reads a byte. Its status says what was the matter.
"""

import resource
import sys

MEMORY_BYTES = 768 * 1024 * 1024
CPU_SECONDS = 10
MAX_PAGES = 200
MAX_CHARACTERS = 400_000
LOCKED, BROKEN, EMPTY = 3, 4, 5


def main() -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # it writes no file
    from pypdf import PasswordType, PdfReader

    try:
        reader = PdfReader(sys.stdin.buffer)
        if reader.is_encrypted and reader.decrypt("") == PasswordType.NOT_DECRYPTED:
            return LOCKED
        left, is_empty = MAX_CHARACTERS, True
        for page in reader.pages[:MAX_PAGES]:
            text = page.extract_text().replace("\0", "").encode("utf-8", "replace").decode()[:left]
            is_empty = is_empty and not text.strip()
            print(text, end="\n\n")
            left -= len(text)
            if left <= 0:
                break
        if left <= 0 or len(reader.pages) > MAX_PAGES:
            print("[The rest of the document is left out.]")
    except MemoryError:
        return BROKEN
    except Exception:  # noqa: BLE001 - whatever a broken document does to its reader
        return BROKEN
    return EMPTY if is_empty else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr] # it is a stream of text
    sys.exit(main())
