"""The trials as TensorBoard's HParams page shows them."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path


def write_trial(folder: str | os.PathLike, trial_id: str, values: dict, scores: dict[str, float], failed: bool) -> None:
    """Writes one ended trial, anew if it was there.

    Args:
        folder: TensorBoard's, of the search.
        trial_id: names the trial's folder in it.
        values: number, word or truth value of each setting.
        scores: numbers by name; none for a trial that failed.
        failed: whether it did.

    Raises:
        ValueError: tensorboard is not installed.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import api, api_pb2, summary
        from tensorboard.summary import Writer
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise ValueError(
            "TensorBoard's log is written with tensorboard, which is not installed: run pip install 'tfdfd[tune]'."
        ) from error
    folder = Path(folder)
    partial = folder / f".{trial_id}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    status = api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS
    events = EventFileWriter(str(partial))
    for told in (api.hparams_pb(values, trial_id=trial_id), summary.session_end_pb(status)):
        # With TensorFlow there, the plugin's are messages of TensorFlow's class.
        told = Summary.FromString(told.SerializeToString())
        events.add_event(Event(wall_time=time.time(), step=0, summary=told))
    events.close()
    writer = Writer(str(partial))
    for name, value in scores.items():
        writer.add_scalar(name, value, step=0)
    writer.close()
    shutil.rmtree(folder / trial_id, ignore_errors=True)
    os.replace(partial, folder / trial_id)
