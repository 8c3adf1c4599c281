"""Ray Serve application that scores face crops with a published SavedModel, for a Ray cluster.

    serve run tf_serving/ray_serve.yaml
    curl --data-binary @face.jpg localhost:8000/meso_inception4      # {"fake_probability": 0.83}

Replicas are processes: a decoder that crashes on a crop ends one of them, and Ray starts it again.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from ray import serve

MAX_BYTES, MAX_BATCH = 8 << 20, 8


@serve.deployment
class Scorer:
    """Scores crops, those of several requests in one call.

    Args:
        folder: of a published version, with `saved_model.pb`.
    """

    def __init__(self, folder: str):
        import tensorflow as tf

        if not os.path.isfile(os.path.join(folder, "saved_model.pb")):
            raise ValueError(f"{os.path.abspath(folder)} is not a published version: it has no saved_model.pb.")
        # The signature alone does not keep the variables.
        self._model = tf.saved_model.load(folder)

    async def __call__(self, request: Any) -> Any:
        """The answer to a POST of one JPEG or PNG."""
        from starlette.responses import JSONResponse

        crop = bytearray()
        async for part in request.stream():
            crop += part
            if len(crop) > MAX_BYTES:
                return JSONResponse({"error": f"a crop may have {MAX_BYTES:,} bytes."}, 413)
        score = await self.score(bytes(crop))
        if isinstance(score, str):
            return JSONResponse({"error": score}, 400)
        return {"fake_probability": score}

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0.002)
    async def score(self, crops: list[bytes]) -> list[float | str]:
        """P(fake) of each crop, or why it has none."""
        return await asyncio.to_thread(self._scores, crops)

    def _scores(self, crops: list[bytes]) -> list[float | str]:
        import tensorflow as tf

        try:
            answer = self._model.signatures["image_bytes"](image_bytes=tf.constant(crops))
        except tf.errors.InvalidArgumentError:
            if len(crops) == 1:
                return ["the crop is damaged, too large, or neither JPEG nor PNG."]
            return [self._scores([crop])[0] for crop in crops]
        return [float(score) for score in answer["fake_probability"][:, 0]]


def application(arguments: dict[str, str]) -> serve.Application:
    """The application for the `args` of `ray_serve.yaml`."""
    return Scorer.bind(arguments["folder"])
