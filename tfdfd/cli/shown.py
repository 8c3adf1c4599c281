"""Text of others on a terminal."""


def shown(text: str) -> str:
    """A name that neither begins a line of its own nor steers a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
