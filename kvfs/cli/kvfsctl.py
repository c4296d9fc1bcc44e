"""``kvfsctl``: administration of stores and mounts."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from kvfs.cli.app import make_app, print_json, run
from kvfs.errors import UsageError
from kvfs.paths import require_text
from kvfs.units import parse_seconds, parse_size

app = make_app("Administration of kvfs stores and mounts.")
quota = typer.Typer(help="Limits on what lies below a directory.", no_args_is_help=True)
app.add_typer(quota, name="quota")
fabric = typer.Typer(help="Fabrics: what this host has, and is connected to.", no_args_is_help=True)
app.add_typer(fabric, name="fabric")
configuration = typer.Typer(help="The configuration file.", no_args_is_help=True)
app.add_typer(configuration, name="config")

Store = Annotated[
    str,
    typer.Argument(
        metavar="STORE",
        help="A regular file, a block device, or a namespace on a fabric: nvme+tcp://HOST[:PORT]/NQN[?nsid=N].",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="Transport options of URLs, TOML. Default: /etc/kvfs/kvfs.toml if there."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MountedPaths = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH...",
        help="Files in a kvfs mount, and directories with all that is below them.",
        callback=lambda paths: [require_text(path) for path in paths],
    ),
]
MountedDirectory = Annotated[Path, typer.Argument(metavar="DIRECTORY", help="In a kvfs mount.", callback=require_text)]


@app.command("format")
def format_(
    stores: Annotated[
        list[str],
        typer.Argument(
            metavar="STORE...",
            help="Regular files, made when absent, block devices, or nvme+tcp://HOST[:PORT]/NQN[?nsid=N]; each becomes "
            "a store.",
        ),
    ],
    size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="As in 64G. Default: all of a device or of a file that exists.")
    ] = None,
    segment_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="A power of two, 1M to 256M. Default: by the store's size.")
    ] = None,
    label: Annotated[str, typer.Option(help="A name of your own, at most 64 bytes.")] = "",
    force: Annotated[
        list[str] | None,
        typer.Option(metavar="STORE", help="Destroy what STORE holds; names it again, once for each such STORE."),
    ] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Make empty stores. Refuses what holds anything, unless --force names it again."""
    from kvfs.cli.administration import format_stores, print_volume

    made = format_stores(
        stores,
        size=None if size is None else parse_size(size),
        segment_size=0 if segment_size is None else parse_size(segment_size),
        label=label,
        force=force or (),
        config=config,
    )
    if json:
        print_json(made)
        return
    for volume in made:
        print_volume(volume)


@app.command()
def info(store: Store, config: ConfigFile = None, json: Json = False) -> None:
    """Describe a store; it may be mounted."""
    from kvfs.cli.administration import describe_store, print_volume

    found = describe_store(store, config)
    print_json(found) if json else print_volume(found)


@app.command()
def fsck(
    store: Store,
    json: Json = False,
    no_data: Annotated[bool, typer.Option("--no-data", help="Check the metadata only, don't read the pages.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Keep what can be trusted, drop the rest, and say what was done.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --repair: only check, as without it.")] = False,
    config: ConfigFile = None,
) -> None:
    """Check a store that is not mounted, without changing it unless --repair is given.

    Exit status: 0 clean, 1 not. With --repair: 0 clean, 1 repaired, 4 when something is left.
    """
    from kvfs.cli.administration import check_store, print_repair, print_report, repair_store

    if repair and not dry_run:
        repaired = repair_store(store, config, verify_data=not no_data)
        print_json(repaired) if json else print_repair(repaired)
        raise typer.Exit(0 if repaired.before.clean else 1 if repaired.after.clean else 4)
    report = check_store(store, config, verify_data=not no_data)
    print_json(report) if json else print_report(report)
    raise typer.Exit(0 if report.clean else 1)


@app.command()
def status(
    mountpoint: Annotated[Path, typer.Argument(metavar="MOUNTPOINT", parser=Path)],
    json: Json = False,
) -> None:
    """Show the counters of a mount."""
    from kvfs.cli.status import print_status, read_stats

    stats = read_stats(mountpoint)
    if json:
        print(stats.decode().rstrip("\n"))
    else:
        print_status(stats)


@app.command()
def sync(mountpoint: Annotated[Path, typer.Argument(metavar="MOUNTPOINT", parser=Path)]) -> None:
    """Make everything durable that was written to a mount and closed; sync(2) does not reach it."""
    from kvfs.cli.admin import ask

    ask(mountpoint, "sync")


DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would go, and let it stay.")]


@app.command()
def evict(
    mountpoint: Annotated[Path, typer.Argument(metavar="MOUNTPOINT", parser=Path)],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH...]",
            help="Only these files and what is below these directories.",
            callback=lambda paths: [require_text(path) for path in paths or ()],
        ),
    ] = None,
    bytes_: Annotated[str | None, typer.Option("--bytes", metavar="SIZE", help="How much is to go, as in 10G.")] = None,
    to: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Until no more than this much of the store is used, as in 80%.")
    ] = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Drop files of a mounted store, least recently used first. Exit status: 0 when so much went, 1 when not."""
    from kvfs.cli.evict import evict, print_outcome

    outcome = evict(mountpoint, paths or [], size=bytes_, to=to, dry_run=dry_run)
    print_json(outcome) if json else print_outcome(outcome)
    raise typer.Exit(0 if outcome.is_complete else 1)


@app.command()
def drain(
    path: Annotated[
        Path,
        typer.Argument(metavar="MOUNTPOINT|PATH", help="A whole mount, or what is below a directory.", parser=Path),
    ],
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Drop everything that may go, and say what stays and why. Exit status: 1 when something stays, else 0."""
    from kvfs.cli.evict import drain, print_outcome

    outcome = drain(path, dry_run=dry_run)
    print_json(outcome) if json else print_outcome(outcome)
    raise typer.Exit(1 if outcome.kept else 0)


@app.command()
def scrub(
    mountpoint: Annotated[Path, typer.Argument(metavar="MOUNTPOINT", parser=Path)],
    rate: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Bytes a second at most, as in 200M. Default: no limit.")
    ] = None,
    background: Annotated[bool, typer.Option("--background", help="Start it and return at once.")] = False,
    pause: Annotated[bool, typer.Option("--pause", help="Stop it; the next start goes on there.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Stop it; the next start begins anew.")] = False,
    show: Annotated[bool, typer.Option("--status", help="Only say how far it is.")] = False,
    json: Json = False,
) -> None:
    """Read and verify everything in a mount; what is damaged is dropped. Ctrl-C pauses, another start goes on.

    Exit status: 0 when nothing was found damaged so far, else 1.
    """
    from kvfs.cli.scrub import Action, command_scrub, print_scrub, watch_scrub

    if pause + cancel + show + background > 1:
        raise UsageError("expected one of --background, --pause, --cancel and --status, found more", "give one of them")
    action: Action = "pause" if pause else "cancel" if cancel else "status" if show else "start"
    found = command_scrub(mountpoint, action, 0 if rate is None else parse_size(rate))
    if action == "start" and not background:
        found = watch_scrub(mountpoint, found)
    print_json(found) if json else print_scrub(mountpoint, found)
    raise typer.Exit(0 if found.is_clean else 1)


@app.command()
def physical(
    store: Store,
    publish: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write it to FILE again and again, for `kvfs mount --physical-space`."),
    ] = None,
    every: Annotated[str, typer.Option(metavar="TIME", help="How often, as in 5s; it counts for three times that.")] = (
        "5s"
    ),
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Show how much space is really there under a store: its file system's, or a drive's."""
    from kvfs.cli.physical import describe, keep_publishing, look, print_reading, source_of
    from kvfs.cli.stores import opened_as_named

    with opened_as_named(store, config) as found:
        source = source_of(found.path)
        if publish is not None:
            keep_publishing(source, publish, parse_seconds(every))
        reading = look(source)
    print_json(describe(source, reading)) if json else print_reading(source, reading)


@app.command()
def recover(
    mountpoint: Annotated[Path, typer.Argument(metavar="MOUNTPOINT", parser=Path)],
    json: Json = False,
) -> None:
    """Make a mount writable again that a failing device turned read-only. Exit status: 0 when it is."""
    from kvfs.cli.recover import print_health
    from kvfs.cli.recover import recover as bring_back

    health = bring_back(mountpoint)
    print_json(health) if json else print_health(health)


@app.command()
def takeover(
    store: Store,
    force: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="Although its owner is alive; names the owner as `kvfsctl info` does."),
    ] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Make a store this host's that another host owns: fence that host, whose mount turns read-only for good."""
    from kvfs.cli.takeover import print_takeover, take_over

    found = take_over(store, force, config)
    print_json(found) if json else print_takeover(found)


@app.command()
def warm(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Files in a kvfs mount, and directories with all that is below them.",
            callback=lambda paths: [require_text(path) for path in paths],
        ),
    ],
    check: Annotated[bool, typer.Option("--check", help="Only say how much is in memory.")] = False,
    evict: Annotated[bool, typer.Option("--evict", help="Let go of what is in memory.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=256, help="Files at a time.")] = 16,
    json: Json = False,
) -> None:
    """Bring files into memory. Exit status: 0 when that was done, 1 when something failed."""
    from kvfs.cli.warm import Action, print_summary, warm_paths

    if check and evict:
        raise UsageError("expected --check or --evict, found both", "give one of them")
    summary = warm_paths(paths, Action.CHECK if check else Action.EVICT if evict else Action.WARM, jobs)
    print_json(summary) if json else print_summary(summary)
    raise typer.Exit(1 if summary.failed_files else 0)


@app.command()
def pin(
    paths: MountedPaths,
    lasting: Annotated[str | None, typer.Option("--for", metavar="TIME", help="How long, as in 30m or 2h.")] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="RFC 3339, as in 2026-01-31T18:00:00Z or with +01:00.")
    ] = None,
    json: Json = False,
) -> None:
    """Keep files from being removed by the store itself until a time."""
    from kvfs.cli.pin import pin_paths, print_pins

    pins = pin_paths(paths, lasting=lasting, until=until)
    print_json(pins) if json else print_pins(pins)


@app.command()
def unpin(paths: MountedPaths, json: Json = False) -> None:
    """Take the pins of these paths back; those of directories above stay."""
    from kvfs.cli.pin import print_unpinned, unpin_paths

    unpinned = unpin_paths(paths)
    print_json(unpinned) if json else print_unpinned(unpinned)


@quota.command("set")
def quota_set(
    directory: MountedDirectory,
    size: Annotated[
        str | None, typer.Option("--bytes", metavar="SIZE", help="As in 64G. 0: counted, no limit; none: as it is.")
    ] = None,
    files: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Files and directories. 0: counted, no limit.")
    ] = None,
    json: Json = False,
) -> None:
    """Limit what may lie below a directory. For root and whoever mounted."""
    from kvfs.cli.quota import print_quotas, set_quota

    found = set_quota(directory, size=size, files=files)
    print_json(found) if json else print_quotas([found])


@quota.command("clear")
def quota_clear(directory: MountedDirectory, json: Json = False) -> None:
    """Take a directory's limits away. For root and whoever mounted."""
    from kvfs.cli.quota import clear_quota

    cleared = clear_quota(directory)
    if json:
        print_json({"path": str(directory), "cleared": cleared})
    else:
        print(f"{directory}: quota cleared" if cleared else f"{directory}: had no quota")


@quota.command("show")
def quota_show(directory: MountedDirectory, json: Json = False) -> None:
    """Show a directory's limits and what lies below it."""
    from kvfs.cli.quota import print_quotas, show_quota

    found = show_quota(directory)
    print_json(found) if json else print_quotas([found])


@quota.command("list")
def quota_list(
    mountpoint: Annotated[Path, typer.Argument(metavar="MOUNTPOINT", parser=Path)],
    json: Json = False,
) -> None:
    """Show every quota of a mount. For root and whoever mounted."""
    from kvfs.cli.quota import list_quotas, print_quotas

    found = list_quotas(mountpoint)
    print_json(found) if json else print_quotas(found)


TransportOptions = Annotated[
    list[str] | None,
    typer.Option("-o", metavar="OPTION=VALUE,...", help="Transport options, as in a URL; keys by file name only."),
]
Patience = Annotated[str, typer.Option("--timeout", metavar="TIME", help="How long it may take at most.")]


@fabric.command("discover")
def fabric_discover(
    service: Annotated[str, typer.Argument(metavar="tcp://HOST[:PORT]", help="A discovery service; or rdma://.")],
    options: TransportOptions = None,
    config: ConfigFile = None,
    timeout: Patience = "30s",
    json: Json = False,
) -> None:
    """Show what a target offers to this host."""
    from kvfs.cli.config import load_config
    from kvfs.cli.fabric import discover, print_discovered, to_builtins

    found = discover(service, options or (), load_config(config), parse_seconds(timeout))
    print_json(to_builtins(found)) if json else print_discovered(found)


@fabric.command("connect")
def fabric_connect(
    url: Annotated[str, typer.Argument(metavar="URL", help="nvme+tcp://HOST[:PORT]/NQN[?nsid=N&OPTION=VALUE]")],
    options: TransportOptions = None,
    config: ConfigFile = None,
    timeout: Patience = "30s",
    json: Json = False,
) -> None:
    """Connect a subsystem and wait for its namespaces. A mount does so by itself."""
    from kvfs.cli.config import load_config
    from kvfs.cli.fabric import connect, print_connected, to_builtins

    found = connect(url, options or (), load_config(config), parse_seconds(timeout))
    print_json(to_builtins(found)) if json else print_connected(found)


@fabric.command("disconnect")
def fabric_disconnect(
    name: Annotated[str, typer.Argument(metavar="CONTROLLER|NQN", help="As in nvme1; an NQN: all paths to it.")],
    force: Annotated[bool, typer.Option("--force", help="Also when a namespace is in use.")] = False,
    timeout: Patience = "30s",
    json: Json = False,
) -> None:
    """Disconnect one path, or a subsystem. Refuses what is in use."""
    from kvfs.cli.fabric import disconnect

    gone = disconnect(name, parse_seconds(timeout), force=force)
    print_json({"disconnected": gone}) if json else print("\n".join(f"{each}: disconnected" for each in gone))


@fabric.command("list")
def fabric_list(json: Json = False) -> None:
    """Show the NVMe namespaces of this host and the paths to them."""
    from kvfs.cli.fabric import print_list, to_builtins
    from kvfs.fabric.nvme import list_controllers

    found = list_controllers()
    print_json(to_builtins(found)) if json else print_list(found)


@fabric.command("status")
def fabric_status(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[CONTROLLER|NQN]...", help="Default: all over fabrics.")
    ] = None,
    json: Json = False,
) -> None:
    """Show connections, their state, queues and time limits. Exit status: 1 when one is not live, else 0."""
    from kvfs.cli.fabric import print_status, status, to_builtins

    found = status(names or ())
    print_json(to_builtins(found)) if json else print_status(found)
    raise typer.Exit(0 if all(each.state == "live" for each in found) else 1)


@fabric.command("devices")
def fabric_devices(json: Json = False) -> None:
    """Show the RDMA devices of this host, their ports, addresses and abilities."""
    from kvfs.cli.fabric_devices import print_devices, to_builtins
    from kvfs.fabric.verbs import list_devices

    found = list_devices()
    print_json(to_builtins(found)) if json else print_devices(found)


@configuration.command()
def check(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Default: /etc/kvfs/kvfs.toml.")] = None,
    json: Json = False,
) -> None:
    """Check a configuration file, and print what it says in its normal form."""
    from kvfs.cli.config import DEFAULT_PATH, config_text, load_config

    config = load_config(file or DEFAULT_PATH)
    print_json(config) if json else print(config_text(config))


@app.command()
def doctor(
    json: Json = False,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Compare the request loops for a second, and remember it for `kvfs mount`."),
    ] = False,
) -> None:
    """Probe every kernel and hardware feature that kvfs can use. Exit status: 0 when it can mount, else 1."""
    from rich.console import Console

    from kvfs.cli.doctor import compare_request_loops, diagnose, print_diagnosis

    diagnosis = diagnose()
    loops = compare_request_loops() if measure else None
    if json:
        print_json(diagnosis.to_builtins() | ({"request_loop": loops.to_builtins()} if loops else {}))
    else:
        print_diagnosis(diagnosis, Console(highlight=False))
        if loops:
            print(loops)
    raise typer.Exit(0 if diagnosis.is_able else 1)


def main() -> NoReturn:
    run(app, "kvfsctl")


if __name__ == "__main__":
    main()
