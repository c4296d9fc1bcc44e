"""``mount -t kvfs``, fstab, and the files that packaging installs."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from place import Done, Place
from support.mount import is_mounted

PACKAGING = Path(__file__).parents[2] / "tools" / "packaging"


def install(place: Place, *arguments: str) -> Done:
    """``tools/packaging/install`` below ``place``."""
    environment = {"DESTDIR": str(place.root / "dest"), "KVFS_BIN": str(Path(place.program("kvfs")).parent)}
    return place.run(str(PACKAGING / "install"), *arguments, environment=environment)


def test_the_helper_mounts(place: Place) -> None:
    done = place.run("mount.kvfs", place.store, place.mountpoint, "-o", f"rw,size=64M,noauto,log={place.log}")
    assert (done.status, done.output, done.error) == (0, "", "")
    assert is_mounted(place.mountpoint)
    assert place.log.exists()
    done = place.run("mount.kvfs", place.store, place.mountpoint)
    done.says("mount.kvfs: ", "expected a free directory")
    assert place.run("kvfs", "umount", place.mountpoint).status == 0


def test_the_helper_pretends_on_request(place: Place) -> None:
    done = place.run("mount.kvfs", place.store, place.mountpoint, "-f", "-n", "-v", "-s", "-o", "size=64M,whatever")
    assert (done.status, done.output, done.error) == (0, "", "")
    assert not is_mounted(place.mountpoint)
    assert not place.store.exists()


def test_install_and_uninstall(place: Place) -> None:
    done = install(place)
    assert done.status == 0, done
    dest = place.root / "dest"
    assert (dest / "sbin" / "mount.kvfs").readlink() == Path(place.program("mount.kvfs"))
    unit = (dest / "etc" / "systemd" / "system" / "kvfs@.service").read_text()
    assert f"ExecStart={place.program('kvfs')} mount --foreground" in unit
    assert "@BIN@" not in unit
    assert "@ROOT@" not in unit
    done = install(place, "--uninstall")
    assert done.status == 0, done
    assert [path for path in dest.rglob("*") if not path.is_dir()] == []


def test_install_replaces_nobody_s_files(place: Place) -> None:
    taken = place.root / "dest" / "usr" / "local" / "bin" / "kvfsctl"
    taken.parent.mkdir(parents=True)
    taken.write_text("mine")
    install(place).says("found a file that is not this script's")
    assert taken.read_text() == "mine"
    assert not (place.root / "dest" / "sbin").exists()


def test_install_needs_the_console_scripts(place: Place) -> None:
    environment = {"DESTDIR": str(place.root / "dest"), "KVFS_BIN": str(place.root)}
    done = place.run(str(PACKAGING / "install"), environment=environment)
    done.says("expected console scripts", "tools/quickstart --setup")


@pytest.mark.root
def test_the_unit_is_one_that_systemd_understands(place: Place) -> None:
    if not Path("/usr/bin/systemd-analyze").exists():
        pytest.skip("NOT TESTED: no systemd-analyze")
    assert install(place).status == 0
    unit = place.root / "dest" / "etc" / "systemd" / "system" / "kvfs@.service"
    instance = unit.with_name("kvfs@pages.service")
    instance.write_bytes(unit.read_bytes())
    done = place.run("/usr/bin/systemd-analyze", "verify", "--man=no", instance)
    assert "kvfs@pages.service" not in done.error, done


@pytest.fixture
def shell(place: Place) -> Callable[[str], Done]:
    """``shell(script)`` runs where /sbin has the helper: in a mount namespace of its own, laid over the real one."""
    assert install(place).status == 0
    overlay = f"mount -t overlay overlay -o lowerdir={place.root}/dest/sbin:$(readlink -f /sbin) $(readlink -f /sbin)"

    def run(script: str) -> Done:
        prelude = (
            f"set -e; {overlay}; S={place.store}; M={place.mountpoint}; L={place.log}; KVFS={place.program('kvfs')}\n"
        )
        done = place.run("/usr/bin/unshare", "--mount", "/bin/bash", "-c", prelude + script, "bash")
        if "overlay" in done.error:
            pytest.skip(f"NOT TESTED: no overlay file system: {done.error}")
        return done

    probe = subprocess.run(["unshare", "--mount", "true"], timeout=60, capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"NOT TESTED: no mount namespaces: {probe.stderr.decode()}")
    return run


@pytest.mark.root
def test_mount_by_type(place: Place, shell: Callable[[str], Done]) -> None:
    done = shell("""
        mount -t kvfs -o size=64M,nosuid,log=$L $S $M
        echo page > $M/page
        $KVFS umount $M
        mount -t kvfs -o ro,log=$L $S $M
        cat $M/page
        ! touch $M/other 2>/dev/null
        umount $M
    """)
    assert (done.status, done.output) == (0, "page\n"), done


@pytest.mark.root
def test_mount_by_fstab(place: Place, shell: Callable[[str], Done]) -> None:
    fstab = place.root / "fstab"
    fstab.write_text(
        f"{place.store} {place.mountpoint} kvfs size=64M,noauto,nofail,_netdev,x-test,log={place.log} 0 0\n"
    )
    done = shell(f"""
        mount --bind {fstab} /etc/fstab
        mount $M
        findmnt --noheadings --output FSTYPE,SOURCE $M
        $KVFS umount $M
    """)
    assert (done.status, done.output.split()) == (0, ["fuse.kvfs", str(place.store)]), done


@pytest.mark.root
def test_mount_fails_with_the_helper_s_line(place: Place, shell: Callable[[str], Done]) -> None:
    done = shell("mount -t kvfs -o frobnicate $S $M")
    done.says("mount.kvfs: unknown mount option 'frobnicate'")
    assert not place.store.exists()
