"""Makes `tiny.gguf` for the tests (tests/support/real_model.py): `python models.py FROM.gguf INTO.gguf`.

It has the first layer alone of a model: it talks nonsense, at once. It does not know the line end, and would say nothing else.
"""

import sys
from pathlib import Path

from gguf import GGUFReader, GGUFValueType, GGUFWriter

LINE_END = 198  # a token, and its row in the embeddings


def write(reader: GGUFReader, path: Path) -> None:
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(path, architecture)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":  # which the writer writes itself
            kind = field.types[0]
            writer.add_key_value(
                name,
                1 if name == f"{architecture}.block_count" else field.contents(),
                kind,
                sub_type=field.types[-1] if kind == GGUFValueType.ARRAY else None,
            )
    for tensor in reader.tensors:
        if not tensor.name.startswith("blk.") or tensor.name.startswith("blk.0."):
            values = tensor.data.copy()
            if tensor.name == "token_embd.weight":
                values[LINE_END] = 0
            writer.add_tensor(tensor.name, values, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    write(GGUFReader(source), target)
