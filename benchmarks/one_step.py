"""Seconds of a plain training step, printed: ``python one_step.py MODEL fp32|bf16 kept|default THREADS``.

A process of its own, because an allocator's setting cannot be taken back.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from compute import make_batch, make_module, make_step
from measure import Settings, interleave

from gaze.training.allocator import keep_freed_memory


def main() -> None:
    model, precision, mode, threads, quick = sys.argv[1:]
    torch.set_num_threads(int(threads))
    if mode == "kept":
        assert keep_freed_memory()
    settings = Settings(torch.device("cpu"), quick == "quick", int(threads), 3, Path(), 0)
    half = precision == "bf16"
    step = make_step(make_module(model, 0.0, settings), make_batch(settings.batch_size, settings), settings, half)
    sample, _ = interleave(step, lambda: None, settings, 3)
    print(sorted(sample.seconds)[1])


if __name__ == "__main__":
    main()
