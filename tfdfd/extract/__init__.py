"""Extraction of face crops from media files in sandboxed decoding processes."""
