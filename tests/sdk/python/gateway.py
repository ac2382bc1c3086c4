"""Starts the real binary for a suite: with a configuration, or as `marg demo`. Standard library only."""

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BINARY = Path(os.environ.get("MARG_BIN", ROOT / "target" / "debug" / "marg"))
# How long a start or a stop may take on a busy machine.
PATIENCE = 60.0


class Gateway:
    """A running `marg`, with an application key and an admin token."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.log = folder / "marg.log"
        self.listen, self.admin_listen = free_addresses(2)
        self.key = self.admin_token = ""
        self._process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://{self.listen}"

    @property
    def base_url(self) -> str:
        """What an SDK is given."""
        return f"{self.url}/v1"

    @property
    def admin_url(self) -> str:
        return f"http://{self.admin_listen}"

    @classmethod
    def configured(cls, folder: Path, config: dict) -> "Gateway":
        """Starts with a configuration; addresses and data folder are filled in."""
        self = cls(folder)
        server = {"listen": self.listen, **config.get("server", {})}
        admin = {"listen": self.admin_listen, **config.get("admin", {})}
        config = {**config, "data_dir": str(folder / "data"), "server": server, "admin": admin}
        # JSON is YAML.
        (folder / "marg.yaml").write_text(json.dumps(config, indent=2))
        self.key = self.new_key("sdk")["token"]
        self.admin_token = self.command("admin", "token", "create", "--label", "sdk", "--role", "admin")["token"]
        self._start(["start", "--config", str(folder / "marg.yaml")], {})
        return self

    @classmethod
    def demo(cls, folder: Path) -> "Gateway":
        """Starts `marg demo` and takes the key from what it prints."""
        self = cls(folder)
        variables = {
            "MARG_DATA_DIR": str(folder / "data"),
            "MARG_LISTEN": self.listen,
            "MARG_ADMIN_LISTEN": self.admin_listen,
        }
        self._start(["demo"], variables)
        # The lines for people come after the ports are open.
        curl_line = re.compile(r"^curl .*Bearer (marg_live_\w+)", re.MULTILINE)
        self._wait(lambda: curl_line.search(self.log.read_text()), "printed no curl line")
        self.key = curl_line.search(self.log.read_text())[1]
        return self

    def command(self, *arguments: str) -> dict:
        """Runs a command against the store and reads its JSON."""
        command = [BINARY, *arguments, "--config", self.folder / "marg.yaml", "--output", "json"]
        done = subprocess.run(command, cwd=self.folder, env=environment({}), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"marg {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return json.loads(done.stdout)

    def new_key(self, name: str, *more: str) -> dict:
        """Makes an application key. Keys made while the gateway runs are made through `admin` instead."""
        return self.command("keys", "create", "--name", name, *more)

    def admin(self, method: str, path: str, body=None):
        """Asks the admin API and reads its JSON."""
        request = urllib.request.Request(f"{self.admin_url}{path}", method=method)
        request.add_header("authorization", f"Bearer {self.admin_token}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("content-type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from None

    def wait_for_record(self, fits) -> dict:
        """The newest record of the request log that fits; records reach the log in batches, so it may take a moment."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = [record for record in self.admin("GET", "/admin/requests?limit=100")["requests"] if fits(record)]
            if found:
                return found[0]
            assert time.monotonic() < deadline, f"no record fits; {self.tail()}"
            time.sleep(0.05)

    def start_again(self) -> None:
        """Starts it after a stop, with the configuration as it is now."""
        self._start(["start", "--config", str(self.folder / "marg.yaml")], {})

    def stop(self) -> None:
        """Ends it as an operator would, and holds it to a clean exit."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"marg did not end after SIGTERM; {self.tail()}") from None
        assert code == 0, f"marg ended with {code}; {self.tail()}"

    def tail(self) -> str:
        return f"the end of its log:\n{self.log.read_text()[-4000:]}"

    def _start(self, arguments: list[str], variables: dict[str, str]) -> None:
        assert BINARY.exists(), f"{BINARY} is missing; run `cargo build` or set MARG_BIN"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [BINARY, *arguments], cwd=self.folder, env=environment(variables), stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT,
            )
        self._wait(self._is_ready, "is not ready")

    def _wait(self, condition, otherwise: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self._process.poll() is None, f"marg ended by itself; {self.tail()}"
            assert time.monotonic() < deadline, f"marg {otherwise}; {self.tail()}"
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/ready", timeout=5) as response:
                ready = response.status == 200
            # The port for operators may open a moment later.
            host, port = self.admin_listen.rsplit(":", 1)
            socket.create_connection((host, int(port)), timeout=5).close()
            return ready
        except OSError:
            return False


def environment(variables: dict[str, str]) -> dict[str, str]:
    """This process's environment without what would configure providers, Marg or an SDK."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not re.search(r"_API_KEY$|_TOKEN$|^MARG_|^OPENAI_|_proxy$", name, re.IGNORECASE)
    }
    return {**kept, **variables}


def free_addresses(count: int) -> list[str]:
    """Addresses of loopback on which nothing listens now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    finally:
        for one in sockets:
            one.close()
