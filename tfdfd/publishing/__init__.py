"""Export of trained networks: SavedModel, LiteRT, ONNX, OpenVINO."""

# Pixels lie in [0, 1]; resizing and augmentation overshoot that by less than 0.05.
LOWEST_PIXEL, HIGHEST_PIXEL = -0.05, 1.05
# Of one crop; 50 MB when decoded.
MAX_PIXELS = 4096 * 4096
