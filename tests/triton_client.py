"""Asks a server of the Open Inference Protocol with Triton's own client; run by tests/test_serve.py.

Usage: python triton_client.py ADDRESS
"""

import io
import json
import struct
import sys
import zlib

import numpy as np
from tritonclient import grpc
from tritonclient.utils import InferenceServerException


def png(level, side=8):
    """A PNG of one gray, without a library for pictures."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    file = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    file.seek(0, io.SEEK_END)
    file.write(chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)))
    file.write(chunk(b"IDAT", zlib.compress((b"\0" + bytes([level]) * 3 * side) * side)) + chunk(b"IEND", b""))
    return file.getvalue()


def infer(client, array, datatype, name="image", **more):
    tensor = grpc.InferInput(name, array.shape, datatype)
    tensor.set_data_from_numpy(array)
    return client.infer("tiny", [tensor], **more).as_numpy("fake_probability")


def refusal(*arguments):
    try:
        infer(*arguments)
    except InferenceServerException as error:
        return error.message()
    return ""


def main():
    client = grpc.InferenceServerClient(sys.argv[1])
    image = np.full((2, 8, 8, 3), 0.5, np.float32)
    pictures = np.array([png(0), png(255)], object)
    told = {
        "states": [
            client.is_server_live(),
            client.is_server_ready(),
            client.is_model_ready("tiny"),
            not client.is_model_ready("other"),
        ],
        "versions": list(client.get_model_metadata("tiny").versions),
        "scores": infer(client, image, "FP32")[:, 0].tolist(),
        "of_pictures": infer(client, pictures, "BYTES", "image_bytes", model_version="1")[:, 0].tolist(),
        "refused": refusal(client, image.astype(np.float64), "FP64"),
        "refused_layout": refusal(client, image.transpose(0, 3, 1, 2).copy(), "FP32"),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
