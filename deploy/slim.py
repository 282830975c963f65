"""Cuts symbols off the extension modules of an environment, of which they are a quarter: python slim.py DIRECTORY

Wheels come with the symbols that a debugger or a linker reads. They stand at the end of a file, after all that is loaded
to run it. `strip` does the same, but the images that we build on do not have it.
"""

import struct
import sys
from pathlib import Path

ELF_64_LITTLE = b"\x7fELF\x02\x01"
# Of the file's header: https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html
PROGRAM_HEADERS, SECTION_HEADERS = (32, "<Q"), (40, "<Q")
PROGRAM_HEADER_SIZE_AND_COUNT, SECTION_COUNT_AND_NAMES = (54, "<HH"), (60, "<HH")
# Of the header of what is loaded: .../ch5.pheader.html
OFFSET, SIZE_IN_FILE = (8, "<Q"), (32, "<Q")


def slim(path: Path) -> None:
    """Cut off what is not loaded, and the list of sections, which would tell of it."""
    content = bytearray(path.read_bytes())
    if not content.startswith(ELF_64_LITTLE):
        return
    (start,) = read(content, PROGRAM_HEADERS)
    size, count = read(content, PROGRAM_HEADER_SIZE_AND_COUNT)
    end = start + size * count
    for header in range(start, end, size):
        (offset,), (length,) = read(content, OFFSET, header), read(content, SIZE_IN_FILE, header)
        end = max(end, offset + length)
    write(content, SECTION_HEADERS, 0)
    write(content, SECTION_COUNT_AND_NAMES, 0, 0)
    path.write_bytes(content[:end])


def read(content: bytearray, field: tuple[int, str], at: int = 0) -> tuple[int, ...]:
    offset, form = field
    return struct.unpack_from(form, content, at + offset)


def write(content: bytearray, field: tuple[int, str], *values: int) -> None:
    offset, form = field
    struct.pack_into(form, content, offset, *values)


if __name__ == "__main__":
    for each in Path(sys.argv[1]).rglob("*.so*"):
        slim(each)
