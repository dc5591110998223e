"""Checks whether this Python can run the app. Prints its path if it can, else the reason on stderr.

install.sh and install.bat run this file with every Python that they find, so it must start under any of them:
no annotations, no f-strings, nothing that an old version cannot parse.
"""

import os
import sys
import sysconfig

OLDEST = (3, 11)
NEWEST = (3, 13)


def reason_against(version, bits, executable, missing):
    """Why a Python cannot be used, as one sentence; "" if it can.

    version: (major, minor). bits: 32 or 64. executable: its path. missing: names of absent standard modules.
    """
    if not OLDEST <= tuple(version) <= NEWEST:
        return "it is Python %d.%d; %d.%d to %d.%d are supported" % (tuple(version) + OLDEST + NEWEST)
    if bits != 64:
        return "it is a 32-bit Python; PyTorch needs a 64-bit one"
    if "windowsapps" in executable.lower():
        return "it comes from the Microsoft Store, whose file redirection breaks virtual environments"
    if missing:
        return "its module %s is missing (on Debian and Ubuntu: sudo apt install python%d.%d-venv)" % (
            (missing[0],) + tuple(version)
        )
    return ""


def unusual_build():
    """Why packages have no builds for this kind of Python, as one sentence; "" for the usual CPython."""
    implementation = getattr(getattr(sys, "implementation", None), "name", "cpython")
    if implementation != "cpython":
        return "it is %s; the packages need CPython" % implementation
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "it is the free-threaded kind, for which most packages have no builds"
    if sys.platform in ("cygwin", "msys") or (os.name == "nt" and "GCC" in sys.version):
        return "it is a Python of MSYS2 or Cygwin; the packages need the one from python.org"
    if sys.platform == "darwin" and os.popen("/usr/sbin/sysctl -n sysctl.proc_translated 2>&1").read().strip() == "1":
        return "it is a Python for Intel's processors, which this Mac translates; PyTorch needs one for Apple's"
    return ""


def missing_modules(names=("venv", "ensurepip", "ssl", "ctypes")):
    """The standard modules that this Python was built or packaged without."""
    missing = []
    for name in names:
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
    return missing


def main():
    """Exit status 0 and the path on stdout, or 1 and the reason on stderr."""
    # The Python of a virtual environment disappears with it: print the one that the environment was made from.
    executable = getattr(sys, "_base_executable", None) or sys.executable
    bits = 64 if sys.maxsize > 2**32 else 32
    reason = reason_against(sys.version_info[:2], bits, executable, missing_modules()) or unusual_build()
    if reason:
        sys.stderr.write("%s: %s%s" % (executable, reason, os.linesep))
        return 1
    sys.stdout.write(executable + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
