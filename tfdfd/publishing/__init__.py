"""Trained networks in the formats that others run: SavedModel, LiteRT, ONNX, OpenVINO."""
