"""Nets are built and loaded by one thread at a time."""

from __future__ import annotations

import threading

NET_LOCK = threading.RLock()
"""Held while a net is built or loaded. Meanwhile diffusers and accelerate change ``torch.nn.Module`` and
``torch.nn.init`` for all threads: weights that another thread loads would be left on the meta device, without values.
"""
