"""What `run.py` measures with: servers that it starts, clients, rows of figures."""

import asyncio
import hashlib
import http.client
import json
import os
import pathlib
import platform
import selectors
import shutil
import socket
import statistics
import subprocess
import threading
import time

# The processor of whatever serves, and that of whatever asks.
SERVING, ASKING = 0, 1
# Bytes that a client reads at once.
BUFFER = 1 << 20
HERE = pathlib.Path(__file__).parent


class Failed(Exception):
    """No result."""


def pinned():
    os.sched_setaffinity(0, {SERVING})


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Process:
    """Something that serves, and ends with its `with`."""

    headers = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def ask(self, method, path, body=None, headers=None, statuses=(200, 201, 204)):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, {**self.headers, **(headers or {})})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.status not in statuses:
            raise Failed(f"{self.name}: {method} {path}: {answer.status} {content[:200]}")
        return content

    def check(self, digests):
        """Reads blobs and hashes them."""
        for digest in digests:
            content = self.ask("GET", self.path(digest))
            if hashlib.sha256(content).hexdigest() != digest:
                raise Failed(f"{self.name}: {digest} is something else")

    def pids(self):
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [self.process.pid, *map(int, children)]

    def cpu(self):
        """Processor time in seconds."""
        ticks = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self, what):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(what + ":"):
                return int(line.split()[1]) * 1024
        raise Failed(f"no {what}")


class Server(Process):
    """The cache server on a directory, with a token that may do everything."""

    name = "preheat"
    find_missing = "/v1/namespaces/bench/find-missing"

    def __init__(self, program, directory, log=False):
        directory.mkdir(exist_ok=True)
        self.directory = directory
        settings = directory.parent / f"{directory.name}.toml"
        settings.write_text(
            f'listen = "127.0.0.1:0"\ndirectory = "{directory}"\n\n[log]\naccess = {str(log).lower()}\n\n[namespaces.bench]\nkind = "raw"\n'
        )
        new = [program, "token", "new", "bench", "--namespace", "*", "--config", settings]
        for right in ("read", "write-blob", "write-key", "admin"):
            new += ["--right", right]
        self.token = subprocess.run(new, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        self.headers = {"authorization": f"Bearer {self.token}"}
        began = time.perf_counter()
        with open(directory.parent / f"{directory.name}.log", "ab") as errors:
            self.process = subprocess.Popen([program, "--config", settings], stdout=subprocess.PIPE, stderr=errors, text=True, preexec_fn=pinned)
        line = self.process.stdout.readline()
        if not line.startswith("listening on http://"):
            raise Failed(f"the server does not start: {line}")
        self.port = int(line.rsplit(":", 1)[1])
        self.ask("GET", "/readyz")
        self.start_seconds = time.perf_counter() - began

    def path(self, digest):
        return f"/bench/cas/{digest}"

    def put(self, digest, content):
        self.ask("PUT", self.path(digest), content, statuses=(201,))


class Nginx(Process):
    """nginx over the files of a server: one worker, sendfile."""

    name = "nginx"

    def __init__(self, work, server, log=False):
        self.port, home, self.headers = free_port(), work / "nginx", server.headers
        home.mkdir(exist_ok=True)
        (home / "nginx.conf").write_text(
            f"""
            user root; worker_processes 1; daemon off; pid {home}/pid; error_log {home}/error.log;
            events {{ worker_connections 4096; }}
            http {{
                access_log {f"{home}/access.log" if log else "off"};
                sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 300;
                default_type application/octet-stream;
                server {{ listen 127.0.0.1:{self.port} backlog=4096; root {server.directory}/ns; }}
            }}
            """
        )
        self.process = subprocess.Popen(["nginx", "-p", home, "-c", home / "nginx.conf"], preexec_fn=pinned, stderr=subprocess.DEVNULL)
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.05)
        raise Failed("nginx does not start")

    def path(self, digest):
        return f"/bench/cas/{digest[:2]}/{digest[2:]}"


class Wrk:
    """Runs wrk with one thread on the processor of whatever asks."""

    def __init__(self, work, seconds):
        self.work, self.seconds = work, seconds

    def run(self, system, method, paths, connections, body=None):
        (self.work / "paths").write_text("".join(path + "\n" for path in paths))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{self.seconds}s", "--timeout", "30s", "-s", HERE / "load.lua"]
        for name, value in system.headers.items():
            command += ["-H", f"{name}: {value}"]
        if body:
            (self.work / "body").write_text(body)
            command += ["-H", "content-type: application/json"]
        command += [f"http://127.0.0.1:{system.port}", "--", method, self.work / "paths"]
        command += [self.work / "body"] if body else []
        before = system.cpu()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        cpu = system.cpu() - before
        if done.returncode:
            raise Failed(f"wrk: {done.stdout}")
        result = json.loads(done.stdout.strip().rsplit("\n", 1)[-1])
        if result["errors"] or not result["requests"]:
            raise Failed(f"{system.name}: {method}: {done.stdout}")
        return {**result, "seconds": result["microseconds"] / 1e6, "cpu": cpu}


def heads(system, paths, connections, seconds):
    """HEAD over some connections, each asking again once it has its answer; gives the median in microseconds. wrk waits for bodies here."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in system.headers.items())
    requests = [f"HEAD {path} HTTP/1.1\r\nhost: x\r\n{lines}\r\n".encode() for path in paths]
    selector, times, at = selectors.DefaultSelector(), [], 0
    for _ in range(connections):
        stream = socket.create_connection(("127.0.0.1", system.port))
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(stream, selectors.EVENT_READ, [0.0])
    end = time.perf_counter() + seconds
    for key in list(selector.get_map().values()):
        key.data[0] = time.perf_counter()
        key.fileobj.send(requests[at % len(requests)])
        at += 1
    running = connections
    while running:
        for key, _ in selector.select():
            answer = key.fileobj.recv(4096)
            now = time.perf_counter()
            if not answer.startswith(b"HTTP/1.1 200") or not answer.endswith(b"\r\n\r\n"):
                raise Failed(f"{system.name}: HEAD: {answer[:40]}")
            times.append(now - key.data[0])
            if now > end:
                selector.unregister(key.fileobj)
                key.fileobj.close()
                running -= 1
                continue
            key.data[0] = time.perf_counter()
            key.fileobj.send(requests[at % len(requests)])
            at += 1
    return statistics.median(times) * 1e6


def discard(system, paths, connections, seconds):
    """GETs over some connections by a client that has the kernel throw the bodies away, which takes less than any use of them would; gives
    bytes and seconds."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in system.headers.items())
    requests = [f"GET {path} HTTP/1.1\r\nhost: x\r\n{lines}\r\n".encode() for path in paths]
    selector, at, total, nothing = selectors.DefaultSelector(), 0, 0, bytearray(BUFFER)
    began = time.perf_counter()
    for _ in range(connections):
        stream = socket.create_connection(("127.0.0.1", system.port))
        selector.register(stream, selectors.EVENT_READ, None)
        stream.send(requests[at % len(requests)])
        at += 1
    running = connections
    while running:
        for key, _ in selector.select():
            stream = key.fileobj
            if key.data is None:
                answer = stream.recv(4096)
                head, _, rest = answer.partition(b"\r\n\r\n")
                length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), None)
                if not head.startswith(b"HTTP/1.1 200") or length is None:
                    raise Failed(f"{system.name}: GET: {answer[:40]}")
                left, total = int(length.split(b":")[1]) - len(rest), total + len(rest)
            else:
                read = stream.recv_into(nothing, min(key.data, BUFFER), socket.MSG_TRUNC)
                if not read:
                    raise Failed(f"{system.name}: the answer broke off")
                left, total = key.data - read, total + read
            if left:
                selector.modify(stream, selectors.EVENT_READ, left)
            elif time.perf_counter() - began < seconds:
                selector.modify(stream, selectors.EVENT_READ, None)
                stream.send(requests[at % len(requests)])
                at += 1
            else:
                selector.unregister(stream)
                stream.close()
                running -= 1
    return total, time.perf_counter() - began


def many_at_once(server, digests, count, size, pause):
    """`count` clients ask, wait for `pause` seconds, and then read what they got, and hash it."""

    async def one(number, go):
        digest = digests[number % len(digests)]
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 16)
        await go.wait()
        head = "".join(f"{name}: {value}\r\n" for name, value in server.headers.items())
        writer.write(f"GET {server.path(digest)} HTTP/1.1\r\nhost: x\r\n{head}connection: close\r\n\r\n".encode())
        await writer.drain()
        writer.transport.pause_reading()
        await asyncio.sleep(pause)
        writer.transport.resume_reading()
        head, hasher, read = await reader.readuntil(b"\r\n\r\n"), hashlib.sha256(), 0
        while part := await reader.read(1 << 16):
            hasher.update(part)
            read += len(part)
        writer.close()
        if not head.startswith(b"HTTP/1.1 200") or read != size or hasher.hexdigest() != digest:
            raise Failed(f"{server.name}: one of many GETs: {head[:20]}, {read} bytes")

    async def all_of_them():
        go = asyncio.Event()
        tasks = [asyncio.create_task(one(number, go)) for number in range(count)]
        await asyncio.sleep(2)
        go.set()
        await asyncio.gather(*tasks)

    asyncio.run(all_of_them())


def in_threads(at_once, work, items):
    """Does `work` for each of `items` in some threads; gives the seconds that took."""
    failures = []

    def some(part):
        try:
            work(part)
        except (Failed, OSError) as error:
            failures.append(error)

    threads = [threading.Thread(target=some, args=(items[n::at_once],)) for n in range(at_once)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if failures:
        raise Failed(f"{failures[0]}")
    return seconds


def put_all(server, contents, at_once):
    """Uploads blobs over some connections that stay open."""

    def some(part):
        with socket.create_connection(("127.0.0.1", server.port)) as stream:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answers = stream.makefile("rb")
            for digest, content in part:
                stream.sendall(
                    f"PUT {server.path(digest)} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.token}\r\n"
                    f"content-length: {len(content)}\r\n\r\n".encode()
                )
                stream.sendall(content)
                status, length = answers.readline(), 0
                while (line := answers.readline()) not in (b"\r\n", b""):
                    name, value = line.split(b":", 1)
                    if name.lower() == b"content-length":
                        length = int(value)
                answers.read(length)
                if not status.startswith(b"HTTP/1.1 201"):
                    raise Failed(f"PUT: {status}")

    return in_threads(at_once, some, contents)


def dd_all(hasher, source, target, names, at_once):
    """The same bytes through a hash and `dd conv=fsync`, on the processor of whatever serves."""
    target.mkdir()
    loop = f'cd "$1"; shift; for name; do tee >({hasher} >"$name.sum") <"{source}/$name" | dd of="$name" bs=1M iflag=fullblock conv=fsync status=none; done'

    def some(part):
        subprocess.run(["bash", "-c", loop, "bash", target, *part], check=True, preexec_fn=pinned)

    seconds = in_threads(at_once, some, names)
    for name in names:
        # A hash that still runs is as good as done: it is waited for here, not above.
        for _ in range(100):
            if (target / f"{name}.sum").stat().st_size:
                break
            time.sleep(0.01)
        if (target / f"{name}.sum").read_text().split()[0] != name:
            raise Failed(f"dd: {name} is something else")
    shutil.rmtree(target)
    return seconds


def meets(row, ratio):
    """Whether our figure over that of another keeps the target."""
    return ratio <= row["target"] if row["less"] else ratio >= row["target"]


class Rows:
    """Figures by what was measured and for which system."""

    def __init__(self, rounds):
        self.rounds, self.rows = rounds, {}

    def add(self, what, how, unit, system, value, target=None, less_is_better=False, limit=None):
        row = self.rows.setdefault((what, how, unit), {"values": {}, "target": target, "limit": limit, "less": less_is_better})
        row["values"].setdefault(system, []).append(value)

    def all(self):
        rows = []
        for (what, how, unit), row in self.rows.items():
            systems = list(row["values"])
            ours = "preheat" if "preheat" in systems else "a million" if "a million" in systems else systems[0]
            ratios = {}
            for system in systems:
                if system != ours:
                    pairs = zip(row["values"][ours], row["values"][system])
                    ratios[system] = statistics.median(one / other if other else float("inf") for one, other in pairs)
            met = None
            if row["target"] is not None:
                met = all(meets(row, ratio) for ratio in ratios.values())
            if row["limit"] is not None:
                met = statistics.median(row["values"][ours]) < row["limit"]
            rows.append({"what": what, "how": how, "unit": unit, "target": row["target"], "limit": row["limit"],
                         "less": row["less"], "ours": ours, "values": row["values"], "ratios": ratios, "met": met})
        return rows

    def met(self):
        """Whether no target is missed."""
        return all(row["met"] is not False for row in self.all())

    def table(self):
        lines = ["| what | how | system | median | least to most | ratio | asked | |", "|---|---|---|--:|--:|--:|--:|---|"]
        for row in self.all():
            for system, values in row["values"].items():
                ratio = row["ratios"].get(system)
                asked = "" if system != row["ours"] else f"< {figure(row['limit'], row['unit'])}" if row["limit"] else ""
                if ratio is not None and row["target"]:
                    asked = f"{'≤' if row['less'] else '≥'} {row['target']}"
                verdict = ""
                if asked:
                    good = row["met"] if row["limit"] else meets(row, ratio)
                    verdict = "met" if good else "**missed**"
                spread = f"{figure(min(values), row['unit'])} to {figure(max(values), row['unit'])}"
                lines.append(
                    f"| {row['what']} | {row['how']} | {system} | {figure(statistics.median(values), row['unit'])} | {spread} "
                    f"| {'' if ratio is None else f'{ratio:.2f}'} | {asked} | {verdict} |"
                )
        return "\n".join(lines)


def figure(value, unit):
    if unit == "bytes/s":
        return f"{value / 1e9:.2f} GB/s" if value >= 1e9 else f"{value / 1e6:.0f} MB/s"
    if unit == "bytes":
        return f"{value / 1e6:.1f} MB"
    if unit == "requests/s":
        return f"{value:,.0f}/s"
    if unit == "µs":
        return f"{value / 1000:.2f} ms" if value >= 1000 else f"{value:.0f} µs"
    if unit == "ms":
        return f"{value:.0f} ms"
    return f"{value:.2f} {unit.removeprefix('CPU ')}"


def machine(directory):
    """What it is measured on, as figures depend on it."""
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    flags = next((line for line in open("/proc/cpuinfo") if line.startswith("flags")), "").split()
    system = subprocess.run(["stat", "-f", "-c", "%T", directory], stdout=subprocess.PIPE, text=True).stdout.strip()
    version = lambda *command: subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout.split("\n")[0].split("version: ")[-1]
    return {
        "processors": f"{os.cpu_count()} ({model}{', SHA extensions' if 'sha_ni' in flags else ''})",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 30} GiB",
        "Linux": platform.release(),
        "file system": system,
        "peer": version("nginx", "-v"),
        "load at the start": round(os.getloadavg()[0], 2),
    }
