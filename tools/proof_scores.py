"""Writes the scores of the proof crops into the card of each bundled set of weights.

    python -m tools.proof_scores

`tfdfd detect --server` sends the same crops to the server to verify that it serves these weights. Run it again when
bundled weights change; a test compares.
"""

import json
from pathlib import Path

from tfdfd.files import write_atomically
from tfdfd.models import load
from tfdfd.runtime.networks import KerasNetwork, proof_crops
from tfdfd.weights import CARRIED, WeightRecord, list_records
from tfdfd.weights.store import locate


def proof_scores(record: WeightRecord, path: Path) -> list[float]:
    """P(fake) of the proof crops by the Keras model of these weights, rounded to six digits."""
    network = KerasNetwork(load(record, path))
    return [round(float(score), 6) for score in network(proof_crops(network.size))]


def main():
    cards = {json.loads(path.read_text("utf-8"))["handle"]: path for path in CARRIED.glob("*.json")}
    for handle, record in list_records().items():
        if record.carried:
            card = json.loads(cards[handle].read_text("utf-8")) | {"proof_scores": proof_scores(*locate(handle))}
            write_atomically(cards[handle], json.dumps(card, indent=1, ensure_ascii=False) + "\n")
            print(f"{handle}: {card['proof_scores']}")


if __name__ == "__main__":
    main()
