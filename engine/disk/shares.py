"""Whether a folder lies on a network share, where files cannot be locked or mapped as on a disk."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import psutil

_NETWORK = frozenset(
    {
        "nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "9p", "afs", "afpfs", "webdav", "davfs",
        "fuse.sshfs", "fuse.davfs2", "fuse.rclone", "fuse.s3fs", "fuse.glusterfs", "glusterfs", "ceph", "lustre",
        "fuse.gcsfuse", "fuse.juicefs", "fuse.gvfsd-fuse", "fuse.kio-fuse", "fuse.smbnetfs", "fuse.curlftpfs", "beegfs",
        "gpfs", "autofs", "drvfs", "vboxsf", "prl_fs", "fuse.vmhgfs-fuse", "virtiofs",
    }
)  # fmt: skip
"""File systems of other computers, and of the system that a virtual machine runs in. autofs: what it will mount."""
_LONG_SHARE = "\\\\?\\UNC\\"  # Windows' long form of a share


def on_share(path: Path | str) -> bool:
    """Whether a file or folder, which need not exist, lies on a network share, links followed."""
    text = os.path.abspath(path)  # noqa: PTH100 - the disk is asked only if the name itself does not say it
    return _on_share(text) or _on_share(os.path.realpath(text))


def _on_share(text: str) -> bool:
    if text.upper().startswith(_LONG_SHARE):
        return True
    if text.startswith(("\\\\", "//")) and not text.startswith("\\\\?\\"):
        return True
    above = [mount for mount in mounts() if _is_below(text, mount[0])]
    # Of several on one place, the newest counts: a disk that autofs has mounted is none.
    return max(reversed(above), key=lambda mount: len(mount[0]))[1] if above else False


def _is_below(text: str, place: str) -> bool:
    return text == place or text.startswith(place.rstrip("\\/") + os.sep)


@lru_cache(maxsize=1)
def mounts() -> list[tuple[str, bool]]:
    """(mount point, whether it is on the network) of everything that is mounted when it is first asked for."""
    try:
        found = psutil.disk_partitions(all=True)
    except (OSError, RuntimeError):
        return []  # then everything counts as a disk
    return [(one.mountpoint, one.fstype.lower() in _NETWORK or "remote" in one.opts.split(",")) for one in found]
