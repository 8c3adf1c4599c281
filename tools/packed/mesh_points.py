"""118 points of MediaPipe's 468-point face mesh, and the face regions that they outline.

A pack stores these points for each crop. `POINTS` are indices into the mesh; `REGIONS` are masks over `POINTS`.
The trainer runs where OpenCV is not installed, so the points are not imported from `tfdfd.data.self_blending`.
"""

import numpy as np

_OVAL = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149,
         150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)  # fmt: skip
_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
_EYES = (263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398,
         33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173)  # fmt: skip
_BROWS = (276, 283, 282, 295, 285, 300, 293, 334, 296, 336, 46, 53, 52, 65, 55, 70, 63, 105, 66, 107)
_NOSE = (168, 6, 197, 195, 5, 4, 1, 19, 94, 2)
# From ear to ear, as the jaw line of the 68-point layout.
_JAW = (454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234)
_LOWER_JAW = (361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136, 172, 58, 132)

POINTS = (*_OVAL, *_LIPS, *_EYES, *_BROWS, *_NOSE)

_PARTS = {
    "jaw_to_brows": (_JAW, _BROWS),
    "oval": (_OVAL,),
    "features": (_BROWS, _EYES, _NOSE, _LIPS),
    "lower_face": (_LOWER_JAW, _LIPS, _NOSE[3:]),
    "mouth": (_LIPS,),
    "eyes": (_EYES, _BROWS),
    "eyes_and_nose": (_EYES, _BROWS, _NOSE),
    "nose_and_mouth": (_NOSE[3:], _LIPS),
}
# Most face swaps replace everything from the brows to the chin; reenactment alters the mouth.
REGION_SHARES = np.array([0.4, 0.18, 0.14, 0.08, 0.08, 0.04, 0.04, 0.04])
REGIONS = np.array([[point in {i for part in parts for i in part} for point in POINTS] for parts in _PARTS.values()])
