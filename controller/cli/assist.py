"""What ``lodestem assist`` does: instrument, run and console, each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
import yaml

from controller.cli.output import InputError, Output, command
from controller.cli.plans import read_plan
from controller.cli.server import client_keys
from controller.console.app import guarded, make_app
from controller.console.audit import AuditError, AuditLog
from controller.console.console import Console
from controller.console.gate import Guard
from controller.console.listening import Listening, ListenRefusedError
from controller.console.night import Follower
from controller.console.passwords import AccountError, Accounts
from controller.console.sessions import SessionBook
from controller.decision.night import SERVER
from controller.hardware.errors import MicroscopeError
from controller.hardware.wire.endpoints import Keys
from controller.plan.demo import demo_plan
from controller.plan.run import InstrumentPlan, RunPlan
from controller.server.client import connect

SERVED_S = 120.0
"""A simulated instrument has to be there within this: it imports PyTorch first."""
END_S = 30.0
PROGRAM = (sys.executable, "-c", "from controller.cli.main import run_program; run_program()")


@dataclass(frozen=True)
class Wanted:
    """The options of the command."""

    plan: Path | None
    out: Path
    replay: Path | None
    attach: Path | None
    host: str
    port: int
    accounts: Path
    tls_cert: Path | None
    tls_key: Path | None
    insecure: bool
    known_as: tuple[str, ...]
    root_path: str
    proxies: tuple[str, ...]
    proxy_header: str
    speed: float
    headless: bool


def assist_command(wanted: Wanted, *, as_json: bool) -> None:
    """Start what is needed and serve the console until Ctrl-C."""
    with command("assist", as_json=as_json) as output:
        if sum(x is not None for x in (wanted.plan, wanted.replay, wanted.attach)) > 1:
            raise InputError("give one of: a plan, --replay, --attach")
        with ExitStack() as stack:
            console = _console(wanted, output, stack)
            _serve(console, wanted, output)


def _console(wanted: Wanted, output: Output, stack: ExitStack) -> Console:
    """The console of what was asked for; starts instrument and run where they are wanted."""
    accounts = Accounts(wanted.accounts)
    if wanted.replay is not None or wanted.attach is not None:
        folder = wanted.replay or wanted.attach or wanted.out
        plan = plan_of(folder)
        guard = _guard(accounts, wanted, simulated=wanted.replay is not None or _simulated(folder))
        url, keys = (None, None) if wanted.replay is not None else hardware_of(plan)
        return _made(folder, guard, url, keys, replay=wanted.replay is not None)
    plan = demo_plan(seed=1) if wanted.plan is None else read_plan(wanted.plan)
    # refuse before anything is started
    guard = _guard(accounts, wanted, simulated=plan.instrument.backend == "sim")
    out = fresh(wanted.out)
    out.mkdir(parents=True, exist_ok=True)
    if plan.instrument.backend == "sim":
        output.say("starting the simulated microscope…")
        plan = stack.enter_context(served_simulator(plan, out, wanted.speed))
    elif plan.instrument.backend != SERVER:
        raise InputError(
            f"assist drives an instrument behind a hardware server, not {plan.instrument.backend}",
            "serve it with `lodestem serve`, and name its address in the plan (docs/server.md)",
        )
    url, keys = hardware_of(plan)
    guard.simulated = _is_simulated(url, keys)
    _check(guard, wanted)
    stack.enter_context(supervised_run(plan, out, ends_with_us=guard.simulated))
    return _made(out, guard, url, keys, replay=False)


def _made(
    folder: Path, guard: Guard, url: str | None, keys: Keys | None, *, replay: bool
) -> Console:
    guard.book = SessionBook(folder / "sessions.json")
    try:
        audit = AuditLog(folder / "audit.jsonl")
    except AuditError as error:
        raise InputError(str(error), "keep a copy of the log, and find out who did that") from error
    return Console(run_dir=folder, guard=guard, audit=audit, hardware=url, keys=keys, replay=replay)


def _guard(accounts: Accounts, wanted: Wanted, *, simulated: bool) -> Guard:
    listening = Listening(
        wanted.host, wanted.port, wanted.tls_cert, wanted.tls_key, wanted.insecure
    )
    guard = Guard(
        accounts=accounts,
        listening=listening,
        simulated=simulated,
        hosts=frozenset(wanted.known_as),
        proxies=frozenset(wanted.proxies),
        proxy_header=wanted.proxy_header,
    )
    _check(guard, wanted)
    return guard


def _check(guard: Guard, wanted: Wanted) -> None:
    try:
        has_account = not guard.accounts.is_empty
        guard.listening.check(has_account=has_account, simulated=guard.simulated)
    except (ListenRefusedError, AccountError) as error:
        raise InputError(str(error), "see docs/console.md") from error


def _serve(console: Console, wanted: Wanted, output: Output) -> None:
    app = make_app(console)
    config = uvicorn.Config(
        guarded(app, console),
        host=wanted.host,
        port=wanted.port,
        ssl_certfile=wanted.tls_cert,
        ssl_keyfile=wanted.tls_key,
        root_path=wanted.root_path,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        ws="websockets-sansio",
        ws_max_size=1 << 16,
        timeout_graceful_shutdown=2,
    )
    url = console.guard.listening.url
    if console.guard.accounts.is_empty and not console.guard.simulated:
        output.warn("there is no account yet: `lodestem users add NAME --role operator`")
    output.result(
        {"url": url, "run_dir": str(console.run_dir)}, f"console at {url}, run in {console.run_dir}"
    )
    sys.stdout.flush()
    if not wanted.headless:
        webbrowser.open(url)
    server = _Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: server.leave())
    server.run()
    output.say("the console has ended")


class _Server(uvicorn.Server):
    """Ends at a signal, and then returns: what was started here has to be ended in order."""

    def leave(self) -> None:
        """Serve nobody any more."""
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to us: uvicorn would raise them again."""
        yield


def fresh(out: Path) -> Path:
    """`out`, or the first of out-2, out-3 ... that holds no run."""
    candidate, number = out, 1
    while (candidate / "journal.jsonl").exists():
        number += 1
        candidate = out.with_name(f"{out.name}-{number}")
    return candidate


def plan_of(folder: Path) -> RunPlan:
    """The plan that a run was started with.

    Raises
    ------
    InputError
        No run there.
    """
    follower = Follower(folder)
    follower.look()
    plan = follower.night().plan
    if plan is None:
        raise InputError(f"{folder} holds no run", "give the folder of a run")
    return plan


def _simulated(folder: Path) -> bool:
    follower = Follower(folder)
    follower.look()
    return bool(follower.night().simulated)


def hardware_of(plan: RunPlan) -> tuple[str | None, Keys | None]:
    """Address of the hardware server that a plan names, with the keys."""
    if plan.instrument.backend != SERVER:
        return None, None
    options = plan.instrument.options
    key, server_key = options.get("key"), options.get("server_key")
    keys = client_keys(
        None if key is None else Path(str(key)),
        None if server_key is None else Path(str(server_key)),
    )
    return str(options["url"]), keys


def _is_simulated(url: str | None, keys: Keys | None) -> bool:
    if url is None:
        return False
    try:
        with connect(url, keys=keys, name="console", role="viewer") as microscope:
            return microscope.capabilities.simulated
    except (MicroscopeError, ValueError) as error:
        raise InputError(str(error), "see `lodestem status`") from error


@contextmanager
def served_simulator(plan: RunPlan, out: Path, speed: float) -> Iterator[RunPlan]:
    """Serve the plan's simulator in a process of its own; the plan, driving it there."""
    options: dict[str, Any] = dict(plan.instrument.options)
    # paths of sockets have to be short
    with tempfile.TemporaryDirectory(prefix="lds") as sockets:
        url = f"ipc://{sockets}/s"
        arguments = [*PROGRAM, "simulate", str(options.get("scenario", "typical"))]
        arguments += ["--listen", url, "--out", str(out / "hardware"), "--speed", str(speed)]
        arguments += ["--seed", str(options.get("seed", plan.seed))]
        for fault in options.get("faults") or ():
            arguments += ["--fault", str(fault)]
        process = _start(arguments, out / "hardware.log")
        try:
            _await_served(process, url)
            instrument = InstrumentPlan(
                backend=SERVER, options={"url": url}, calibration=plan.instrument.calibration
            )
            yield plan.replace(instrument=instrument)
        finally:
            _end(process, signal.SIGTERM)


@contextmanager
def supervised_run(plan: RunPlan, out: Path, *, ends_with_us: bool) -> Iterator[None]:
    """A supervised run in a process of its own, which asks at its desk.

    Parameters
    ----------
    ends_with_us
        A simulated one ends with the console; one at an instrument goes on, and is attached to.
    """
    path = out / "plan.yaml"
    document = plan.model_dump(mode="json", by_alias=True, exclude_none=True)
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    arguments = [*PROGRAM, "run", str(path), "--out", str(out), "--supervised", "--desk", "-q"]
    process = _start(arguments, out / "run.log")
    try:
        yield
    finally:
        if ends_with_us:
            _end(process, signal.SIGINT)


def _start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """A process that lives on when this one gets a signal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _await_served(process: subprocess.Popen[bytes], url: str) -> None:
    deadline_s = time.monotonic() + SERVED_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise InputError("the simulated microscope ended at once; see hardware.log")
        try:
            with connect(url, name="console", role="viewer"):
                return
        except MicroscopeError:
            continue
    raise InputError(f"the simulated microscope did not come up within {SERVED_S:g} s")


def _end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(how)
    try:
        process.wait(timeout=END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
