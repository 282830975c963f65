#!/usr/bin/env bash
# streaming-form-data writes two files that were sent under one name into one, without an error.
#
# Seen 2026-11-29: streaming-form-data 2.1.0, python-multipart 0.0.34 (Python 3.11).
# `<input type="file" name="file" multiple>` sends a part for each file, all with the same name. The parser hands both to the
# target of that name, one behind the other, and keeps the name of the second: what is stored is neither. The usual parser gives two files.
# One would think that a second part is refused, or has a place of its own.
# Here: uploads are read by `multipart`, and a second file is a problem that says so.
set -euo pipefail
folder=$(mktemp -d) && trap 'rm -rf "$folder"' EXIT && cd "$folder"

python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check streaming-form-data==2.1.0 python-multipart==0.0.34
cat >seen.py <<'PY'
import io

from python_multipart import parse_form
from streaming_form_data import StreamingFormDataParser
from streaming_form_data.targets import ValueTarget

PART = '--b\r\nContent-Disposition: form-data; name="file"; filename="{}.txt"\r\nContent-Type: text/plain\r\n\r\n{}\r\n'
BODY = (PART.format("one", "first") + PART.format("two", "second") + "--b--\r\n").encode()
HEADERS = {"Content-Type": "multipart/form-data; boundary=b"}

target = ValueTarget()
parser = StreamingFormDataParser(headers=HEADERS)
parser.register("file", target)
parser.data_received(BODY)
print("streaming-form-data:", target.multipart_filename, target.value.decode())


def tell(file) -> None:
    file.file_object.seek(0)
    print("python-multipart:", file.file_name.decode(), file.file_object.read().decode())


headers = {"Content-Type": HEADERS["Content-Type"].encode(), "Content-Length": str(len(BODY)).encode()}
parse_form(headers, io.BytesIO(BODY), None, tell)
PY
diff - <(venv/bin/python seen.py) <<'SEEN'
streaming-form-data: two.txt firstsecond
python-multipart: one.txt first
python-multipart: two.txt second
SEEN
