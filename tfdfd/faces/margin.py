"""How much larger than the face's box a crop is unless told otherwise (document S2)."""

MARGIN = 1.3
