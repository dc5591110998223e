"""The private Python: fetched, checked by its hash, resumed, brought by hand; also by install.bat, under wine."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.install.download_server import Served, serve
from tests.install.pretended import ROOT, make_root
from tests.install.test_bootstrap import GOOD, TOOLS, Shell
from tests.install.windows import Bridge, Windows, needs_wine, on_windows, stand_in_program

POSIX = pytest.mark.skipif(os.name == "nt", reason="a POSIX shell script")
FETCHING = ("curl", "tar", "gzip", "mkdir", "rm", "mv", "uname", "sha256sum")
NAME = "cpython-3.12.99+20990101-stand-in.tar.gz"


def archive_of(name: str, content: bytes) -> bytes:
    """An archive with one program in it, and enough beside it that a download can break in the middle."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path, data in ((f"python/{name}", content), ("python/lib/data", os.urandom(20_000))):
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def pin(root: Path, content: bytes, address: str, system: str) -> None:
    """Write the table of an app folder: the archive ``content`` at ``address``."""
    line = f"{system} 1 {hashlib.sha256(content).hexdigest()} {NAME} {address}\n"
    (root / "engine" / "install" / "private_python.txt").write_text(f"# a table\n{line}", encoding="ascii")


@pytest.fixture
def server() -> Iterator[Served]:
    with serve() as served:
        yield served


def test_the_pinned_archives_are_well_formed_and_of_one_release() -> None:
    lines = (ROOT / "engine" / "install" / "private_python.txt").read_text(encoding="ascii").splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    assert [row[0] for row in rows] == ["Windows-AMD64", "Linux-x86_64", "Linux-aarch64", "Darwin-arm64"]
    for _, size, digest, name, address in rows:
        assert 15 < int(size) < 60 and re.fullmatch("[0-9a-f]{64}", digest)
        found = re.fullmatch(r"cpython-3\.1[1-3]\.\d+\+(\d{8})-\S+-install_only_stripped\.tar\.gz", name)
        assert found and address.endswith(f"/download/{found.group(1)}") and address.startswith("https://github.com/")
        assert not set("%&^!") & set(name + address)  # cmd would read these twice
    assert len({row[4] for row in rows}) == 1 and len({row[2] for row in rows}) == 4


# --- install.sh ------------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(tmp_path: Path, server: Served) -> Shell:
    """A Linux without a Python; the archive that the server has runs this one."""
    for tool in FETCHING:
        if not any((Path(folder) / tool).exists() for folder in os.environ["PATH"].split(os.pathsep)):
            pytest.skip(f"{tool} is not installed")
    made = Shell(make_root(tmp_path / "wow! a caf\u00e9"), tmp_path / "bin", (*TOOLS, *FETCHING))
    server.content = archive_of("bin/python3", f"#!/bin/sh\n{GOOD}\n".encode())
    pin(made.root, server.content, server.address, f"{platform.system()}-{platform.machine()}")
    return made


@POSIX
def test_without_a_python_one_is_fetched_into_the_apps_folder(shell: Shell, server: Served) -> None:
    result = shell.start("--doctor")
    assert "fetching one for this app alone, 1 MB" in result.stdout and "installer runs in" in result.stdout
    assert (shell.root / ".install" / "python" / "bin" / "python3").exists()
    assert not list((shell.root / ".install").glob("*.partial")) and not (shell.root / ".install/python-new").exists()
    assert shell.start("--doctor").stdout.count("fetching") == 0 and len(server.asked) == 1


@POSIX
def test_a_broken_download_goes_on_where_it_stopped(shell: Shell, server: Served) -> None:
    server.breaks_after = 9000
    result = shell.start("--doctor")
    assert result.returncode == 1 and "it continues where it stopped" in result.stderr and NAME in result.stderr
    server.breaks_after = None
    assert "installer runs in" in shell.start("--doctor").stdout
    assert server.asked[-1] == (f"/{NAME}", 9000)


@POSIX
def test_a_wrong_hash_is_refused_and_nothing_of_it_stays(shell: Shell, server: Served) -> None:
    server.content = server.content[:-1] + b"?"
    result = shell.start("--doctor")
    assert result.returncode == 1 and "not the expected one" in result.stderr
    assert not (shell.root / ".install" / "python").exists() and not list((shell.root / ".install").glob("*.partial"))


@POSIX
def test_what_a_broken_download_left_of_another_file_is_fetched_anew(shell: Shell, server: Served) -> None:
    (shell.root / ".install").mkdir()
    for left in (b"of another file", b"longer" * 10_000):
        (shell.root / ".install" / f"{NAME}.partial").write_bytes(left)
        assert "installer runs in" in shell.start("--doctor").stdout
        assert server.asked[-1][1] == 0
        (shell.root / ".install" / "python").rename(shell.root / f"python-{len(left)}")


@POSIX
def test_an_archive_brought_by_hand_needs_no_network(shell: Shell, server: Served) -> None:
    brought = shell.root / NAME
    brought.write_bytes(server.content[:-5])
    result = shell.start("--doctor")
    assert result.returncode == 1 and "beside install.sh, is damaged" in result.stderr and brought.exists()
    brought.write_bytes(server.content)
    assert "installer runs in" in shell.start("--doctor").stdout
    assert server.asked == [] and brought.exists()


@POSIX
def test_the_proxy_of_the_environment_is_used(shell: Shell, server: Served) -> None:
    pin(shell.root, server.content, "http://python.example.org", f"{platform.system()}-{platform.machine()}")
    assert "installer runs in" in shell.start("--doctor", http_proxy=server.address).stdout
    assert server.asked == [(f"http://python.example.org/{NAME}", 0)]


@POSIX
def test_offline_it_says_what_to_bring_and_where_to_put_it(shell: Shell) -> None:
    pin(shell.root, b"", "http://127.0.0.1:9", f"{platform.system()}-{platform.machine()}")
    result = shell.start("--doctor")
    assert result.returncode == 1
    assert f"get {NAME} from http://127.0.0.1:9" in result.stderr and "put it beside install.sh" in result.stderr
    assert "sudo apt install python3 python3-venv" in result.stderr


@POSIX
def test_a_suitable_python_is_taken_unless_a_private_one_is_asked_for(shell: Shell, server: Served) -> None:
    shell.put("python3", GOOD)
    assert "would install torch" in shell.start("--dry-run").stdout and server.asked == []
    assert "only an installation fetches one" in shell.start("--dry-run", "--private-python").stderr
    assert "fetching one" in shell.start("--doctor", "--private-python").stdout


@POSIX
@pytest.mark.parametrize(
    ("program", "says"), [("curl", "the disk is full"), ("tar", "could not be unpacked: the disk is full")]
)
def test_a_full_disk_is_named(shell: Shell, program: str, says: str) -> None:
    (shell.path / program).unlink()
    shell.put(program, "exit 23")
    result = shell.start("--doctor")
    assert result.returncode == 1 and says in result.stderr and "free some space" in result.stderr
    assert "Or install a Python" not in result.stderr, "that would not help"
    assert not (shell.root / ".install" / "python-new").exists()


@POSIX
def test_why_a_python_is_not_used_is_one_line(shell: Shell) -> None:
    """The stand-ins of pyenv print ten."""
    pin(shell.root, b"", "http://127.0.0.1:9", f"{platform.system()}-{platform.machine()}")
    shell.put("python3.12", "for n in 1 2 3; do echo reason $n >&2; done; exit 127")
    assert shell.start("--doctor").stderr.count("reason") == 1


@POSIX
def test_a_machine_without_an_archive_and_an_archive_that_does_not_run_are_told(shell: Shell, server: Served) -> None:
    server.content = archive_of("bin/python3", b"#!/bin/sh\nexit 1\n")
    pin(shell.root, server.content, server.address, f"{platform.system()}-{platform.machine()}")
    assert "does not run on this system" in shell.start("--doctor").stderr


@POSIX
@pytest.mark.parametrize(
    ("uname", "apple", "libc", "cause"),
    [
        ("Linux armv7l", 0, "glibc", "neither Python nor PyTorch has a build for Linux-armv7l"),
        ("Linux x86_64", 0, "musl libc (x86_64)", "C library is musl"),
        ("Darwin x86_64", 0, "", "no builds for Macs with an Intel processor"),
        ("Darwin x86_64", 1, "", ""),  # a terminal that Rosetta translates
        ("Darwin arm64", 1, "", ""),
    ],
)
def test_a_computer_that_no_python_would_help_is_told_so(
    shell: Shell, server: Served, uname: str, apple: int, libc: str, cause: str
) -> None:
    (shell.path / "uname").unlink()
    system, machine = uname.split()
    shell.put("uname", f'case $1 in -s) echo "{system}" ;; -m) echo "{machine}" ;; esac')
    shell.put("sysctl", f"echo {apple}")
    shell.put("ldd", f'echo "{libc}" >&2; exit 1')
    pin(shell.root, server.content, server.address, "Darwin-arm64")
    result = shell.start("--doctor")
    assert ("installer runs in" in result.stdout) is not bool(cause) and len(server.asked) == int(not cause)
    assert cause in result.stderr and "Or install a Python" not in result.stderr


@POSIX
def test_a_full_disk_is_told_from_a_broken_connection_with_wget_too(shell: Shell) -> None:
    (shell.path / "curl").unlink()
    for code, says in ((3, "the disk is full"), (4, "could not be downloaded")):
        shell.put("wget", f"exit {code}")
        assert says in shell.start("--doctor").stderr


@POSIX
@pytest.mark.skipif(not any(Path(folder, "flock").exists() for folder in os.get_exec_path()), reason="no flock")
def test_a_second_start_does_not_write_into_the_first_ones_download(shell: Shell, tmp_path: Path) -> None:
    import fcntl

    (shell.path / "flock").symlink_to(next(Path(f, "flock") for f in os.get_exec_path() if Path(f, "flock").exists()))
    (shell.root / ".install").mkdir()
    with (shell.root / ".install" / "python-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another start is already fetching Python" in shell.start("--doctor").stderr


# --- install.bat -----------------------------------------------------------------------------------------------------


@pytest.fixture
def windows(tmp_path: Path, server: Served) -> Windows:
    """A Windows without a Python; the server's archive has a python.exe that says what it was given."""
    made = Windows(make_root(tmp_path / "OneDrive - wow! a caf\u00e9"), tmp_path / "bin")
    made.put(
        "found.bat",
        'if not "%~2"=="-m" goto probed',
        "echo RAN %*",
        "exit /b 0",
        ":probed",
        "echo it will do",
    )
    server.content = archive_of("python.exe", stand_in_program(on_windows(made.path / "found.bat")))
    pin(made.root, server.content, server.address, "Windows-AMD64")
    return made


def started(windows: Windows, *arguments: str, **variables: str) -> tuple[subprocess.CompletedProcess[str], Bridge]:
    """Start install.bat with Linux's curl, tar and sha256sum."""
    with Bridge(windows, ("curl", "tar", "certutil"), variables) as bridge:
        result = windows.start(*arguments)
    return result, bridge


@needs_wine
@pytest.mark.slow
def test_on_windows_without_a_python_one_is_fetched_into_the_apps_folder(windows: Windows, server: Served) -> None:
    result, bridge = started(windows, "--demo")
    assert "fetching one for this app alone, 1 MB" in result.stderr
    assert "-m engine.install --demo" in result.stdout and result.returncode == 0
    assert sorted(path.name for path in (windows.root / ".install").iterdir()) == ["python", "python-lock"]
    assert all(str(windows.root.name) not in call for call in bridge.calls)  # relative: no letter can break them


@needs_wine
@pytest.mark.long
def test_on_windows_a_broken_download_goes_on_where_it_stopped(windows: Windows, server: Served) -> None:
    server.breaks_after = 9000
    result, _ = started(windows, "--demo")
    assert result.returncode == 1
    assert "it continues where it stopped" in result.stderr and f"get {NAME}" in result.stderr
    assert "winget install Python.Python.3.12" in result.stdout
    server.breaks_after = None
    result, _ = started(windows, "--demo")
    assert "-m engine.install --demo" in result.stdout and server.asked[-1] == (f"/{NAME}", 9000)


@needs_wine
@pytest.mark.long
def test_on_windows_a_wrong_hash_is_refused(windows: Windows, server: Served) -> None:
    server.content = server.content[:-1] + b"?"
    result, _ = started(windows, "--demo")
    assert result.returncode == 1 and "not the expected one" in result.stderr and "RAN" not in result.stdout
    assert [path.name for path in (windows.root / ".install").iterdir()] == ["python-lock"]


@needs_wine
@pytest.mark.long
def test_on_windows_an_archive_brought_by_hand_needs_no_network(windows: Windows, server: Served) -> None:
    brought = windows.root / NAME
    brought.write_bytes(server.content[:-5])
    result, _ = started(windows, "--demo")
    assert result.returncode == 1 and "beside install.bat, is damaged" in result.stderr and brought.exists()
    brought.write_bytes(server.content)
    result, _ = started(windows, "--demo")
    assert "-m engine.install --demo" in result.stdout and server.asked == [] and brought.exists()


@needs_wine
@pytest.mark.long
def test_on_windows_the_proxy_is_used_and_a_leftover_of_another_file_is_not(windows: Windows, server: Served) -> None:
    pin(windows.root, server.content, "http://python.example.org", "Windows-AMD64")
    (windows.root / ".install").mkdir()
    (windows.root / ".install" / f"{NAME}.partial").write_bytes(b"longer" * 40_000)
    result, _ = started(windows, "--demo", http_proxy=server.address)
    assert "-m engine.install --demo" in result.stdout
    assert [first for _, first in server.asked] == [240_000, 0]
    assert server.asked[0][0] == f"http://python.example.org/{NAME}"


@needs_wine
@pytest.mark.long
def test_on_windows_offline_and_without_curl_it_says_what_to_bring(windows: Windows) -> None:
    pin(windows.root, b"", "http://127.0.0.1:9", "Windows-AMD64")
    result, _ = started(windows, "--demo")
    assert result.returncode == 1 and "could not be downloaded" in result.stderr and "HTTPS_PROXY" in result.stderr
    result = Windows.start(_without(windows, "curl.exe"), "--demo")
    assert "this Windows has no curl" in result.stderr and "from http://127.0.0.1:9" in result.stderr


@needs_wine
@pytest.mark.long
def test_on_windows_a_full_disk_is_named(windows: Windows) -> None:
    for program, says in (("curl", "Cause: the disk is full"), ("tar", "could not be unpacked: the disk is full")):
        windows.put("fails.bat", "exit 23")
        with Bridge(windows, ("curl", "tar", "certutil"), {}):
            (windows.path / f"{program}.exe").write_bytes(stand_in_program(on_windows(windows.path / "fails.bat")))
            result = windows.start("--demo")
        assert result.returncode == 1 and says in result.stderr


@needs_wine
@pytest.mark.long
def test_on_windows_a_second_start_and_a_deep_folder_are_told(tmp_path: Path, windows: Windows) -> None:
    (windows.root / ".install").mkdir()
    (windows.root / "hold.bat").write_bytes(b'@ping -n 15 127.0.0.1 9>".install\\python-lock"\r\n')
    command, environment = windows.command()
    holder = subprocess.Popen([*command[:3], "hold.bat"], cwd=windows.root, env=environment, stdout=subprocess.DEVNULL)
    try:
        while not (windows.root / ".install" / "python-lock").exists():
            assert holder.poll() is None
        result, bridge = started(windows, "--demo")
    finally:
        holder.kill()
        holder.wait()
    assert result.returncode == 1 and "another start is already fetching Python" in result.stderr and not bridge.calls
    deep = Windows(make_root(tmp_path / ("d" * 120)), tmp_path / "other")
    assert "path is too long" in deep.start("--demo").stderr


@needs_wine
@pytest.mark.long
def test_on_windows_a_private_python_can_be_asked_for_but_not_by_an_option_that_only_looks(windows: Windows) -> None:
    windows.put("py.bat", f"echo {on_windows(windows.path / 'found.bat')}")
    assert "only an installation fetches one" in windows.start("--private-python", "--where").stdout
    result, _ = started(windows, "--private-python", "--port", "8000")
    assert "-m engine.install --private-python --port 8000" in result.stdout
    assert "engine.install --where" in windows.start("--where").stdout


@needs_wine
@pytest.mark.long
def test_on_windows_install_bat_deletes_the_private_python_after_it_has_uninstalled_the_rest(windows: Windows) -> None:
    own = windows.root / ".install" / "python"
    own.mkdir(parents=True)
    (own / "python.exe").write_bytes(stand_in_program(on_windows(windows.path / "found.bat")))
    mark = windows.root / ".install" / "remove"
    mark.touch()  # of an uninstallation that was killed
    assert windows.start("--uninstall", "--dry-run").returncode == 0 and own.exists() and not mark.exists()
    assert windows.start("--uninstall").returncode == 0 and own.exists()  # the answer was no
    (windows.root / ".install" / "kept").mkdir()
    windows.put(
        "found.bat", 'if not "%~2"=="-m" goto probed', "echo x>.install\\remove", "exit /b 0", ":probed", "echo ok"
    )
    assert windows.start("--uninstall").returncode == 0
    assert [path.name for path in (windows.root / ".install").iterdir()] == ["kept"]


def _without(windows: Windows, name: str) -> Windows:
    (windows.path / name).unlink()
    return windows
