"""Makes the models of the tests of SmolLM2's file (tests/support/real_model.py): `python models.py FROM.gguf INTO`.

`smollm2.gguf` has its weights as 16-bit floats: the server was compiled for a processor that has instructions for
4-bit weights which others lack. `tiny.gguf` has its first layer alone: it talks nonsense, at once.
"""

import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize

MOSTLY_F16 = 1  # of `general.file_type`


def write(reader: GGUFReader, path: Path, layers: int | None) -> None:
    architecture = reader.fields["general.architecture"].contents()
    changed = {"general.file_type": MOSTLY_F16}
    if layers is not None:
        changed[f"{architecture}.block_count"] = layers
    writer = GGUFWriter(path, architecture)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":  # which the writer writes itself
            kind = field.types[0]
            writer.add_key_value(
                name,
                changed.get(name, field.contents()),
                kind,
                sub_type=field.types[-1] if kind == GGUFValueType.ARRAY else None,
            )
    for tensor in reader.tensors:
        if layers is None or not tensor.name.startswith("blk.") or int(tensor.name.split(".")[1]) < layers:
            is_plain = tensor.tensor_type == GGMLQuantizationType.F32
            values = (
                tensor.data if is_plain else dequantize(tensor.data, tensor.tensor_type).astype(np.float16)
            )
            writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    source, directory = map(Path, sys.argv[1:])
    write(GGUFReader(source), directory / "smollm2.gguf", None)
    write(GGUFReader(source), directory / "tiny.gguf", 1)
