"""The three SRM kernels, which the layer in front of a network and the cloned face sets share, as plain numbers.

Fridrich and Kodovsky, "Rich Models for Steganalysis of Digital Images", IEEE TIFS 7(3), 2012 (SQUARE 3x3 and 5x5, also
known as KB and KV, and the horizontal second-order residual), in the order and with the divisors of Zhou et al.,
"Learning Rich Features for Image Manipulation Detection", CVPR 2018, arXiv:1805.04953, figure 3.
"""

from __future__ import annotations

WHOLE = {
    "KB": ((0, 0, 0, 0, 0), (0, -1, 2, -1, 0), (0, 2, -4, 2, 0), (0, -1, 2, -1, 0), (0, 0, 0, 0, 0)),
    "KV": ((-1, 2, -2, 2, -1), (2, -6, 8, -6, 2), (-2, 8, -12, 8, -2), (2, -6, 8, -6, 2), (-1, 2, -2, 2, -1)),
    "second": ((0, 0, 0, 0, 0), (0, 0, 0, 0, 0), (0, 1, -2, 1, 0), (0, 0, 0, 0, 0), (0, 0, 0, 0, 0)),
}
DIVISORS = {"KB": 4, "KV": 12, "second": 2}
