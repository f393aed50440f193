#!/usr/bin/env python3
"""Measures the cache server beside tools that do the same work: nginx over the same files, dd and sha256sum, curl and zstd.

Everything that serves runs on one processor, everything that asks on another; systems take turns, round after round, in an order that changes
from round to round. Figures are medians over the rounds, with the least and the most; a ratio is the median of the rounds' ratios. A wrong
status, size or digest ends the run. `--help` has the rest.
"""

import argparse
import hashlib
import json
import os
import pathlib
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import parts
import pulling
from parts import Failed, Rows, Server, Nginx, Wrk, SERVING, ASKING

MIB = 1 << 20
BLOB = 16 * MIB
PARTS = ["reading", "memory", "writing", "many", "pulling"]


def blobs(count, size, seed):
    """Contents that do not compress, each with its digest."""
    base = bytearray(random.Random(seed).randbytes(size))
    for number in range(count):
        base[:8] = number.to_bytes(8, "big")
        content = bytes(base)
        yield hashlib.sha256(content).hexdigest(), content


def in_turn(rounds, systems):
    """The systems of each round, in an order that changes."""
    for number in range(rounds):
        yield systems if number % 2 == 0 else systems[::-1]


def at_once(connections):
    return "one connection, median" if connections == 1 else f"{connections} connections, median"


class Bench:
    def __init__(self, args, work):
        self.args, self.work, self.rows = args, work, Rows(args.rounds)
        self.wrk = Wrk(work, args.seconds)

    def server(self, name="cache", **settings):
        return Server(self.args.server, self.work / name, **settings)

    # GET and HEAD, find-missing

    def reading(self):
        with self.server() as server:
            large = self.put(server, blobs(8, BLOB, 1))
            small = self.put(server, blobs(1024, 4096, 2))
            with Nginx(self.work, server) as nginx:
                systems = [server, nginx]
                for system in systems:
                    # Warms the page cache, and has the server verify each chunk once.
                    for digests in (large, small):
                        system.check(digests)
                self.get("GET, 16 MiB", systems, large, 8, "bytes/s", 0.5)
                self.discard("GET, 16 MiB, bodies thrown away by the kernel", systems, large, 8)
                self.get("GET, 4 KiB", systems, small, 16, "requests/s", 0.3)
                self.heads(systems, small)
                unknown = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(500)]
                asked = random.Random(3).sample(small[:500] + unknown, 1000)
                body = json.dumps({"digests": ["sha256:" + digest for digest in asked]})
                missing = server.ask("POST", server.find_missing, body.encode(), {"content-type": "application/json"})
                if json.loads(missing)["missing"] != ["sha256:" + digest for digest in asked if digest in set(unknown)]:
                    raise Failed("find-missing gave another answer")
                self.missing(server, body)
                for system in systems:
                    system.check(random.Random(4).sample(large, 2) + random.Random(5).sample(small, 50))
        # As it comes: with a line in the log for each request.
        with self.server(log=True) as server, Nginx(self.work, server, log=True) as nginx:
            for system in (server, nginx):
                system.check(small)
            self.get("GET, 4 KiB, both with access logs", [server, nginx], small, 16, "requests/s", None)
        shutil.rmtree(self.work / "cache")

    def put(self, server, contents):
        digests = []
        for digest, content in contents:
            server.put(digest, content)
            digests.append(digest)
        return digests

    def get(self, what, systems, digests, connections, unit, target):
        for turn in in_turn(self.args.rounds, systems):
            for system in turn:
                paths = [system.path(digest) for digest in digests]
                result = self.wrk.run(system, "GET", paths, connections)
                done = result["bytes"] if unit == "bytes/s" else result["requests"]
                self.rows.add(what, f"{connections} connections", unit, system.name, done / result["seconds"], target)
                scale, per = (1e9, "CPU s/GB") if unit == "bytes/s" else (1e6, "CPU µs/request")
                self.rows.add(what, "processor time of who serves", per, system.name, result["cpu"] / done * scale, None, True)

    def discard(self, what, systems, digests, connections):
        for turn in in_turn(self.args.rounds, systems):
            for system in turn:
                done, seconds = parts.discard(system, [system.path(digest) for digest in digests], connections, self.args.seconds)
                self.rows.add(what, f"{connections} connections", "bytes/s", system.name, done / seconds)

    def heads(self, systems, digests):
        for connections, limit in ((1, 5000), (16, None)):
            for turn in in_turn(self.args.rounds, systems):
                for system in turn:
                    median = parts.heads(system, [system.path(digest) for digest in digests], connections, self.args.seconds)
                    self.rows.add("HEAD", at_once(connections), "µs", system.name, median, None, True, limit)

    def missing(self, server, body):
        for connections, limit in ((1, 5000), (16, None)):
            for _ in range(self.args.rounds):
                result = self.wrk.run(server, "POST", [server.find_missing], connections, body)
                self.rows.add("find-missing of 1,000", at_once(connections), "µs", server.name, result["p50"], None, True, limit)

    # Memory

    def memory(self):
        with self.server() as server:
            digests = self.put(server, blobs(64, MIB, 6))
        # A new process: what it took to upload does not count.
        for _ in range(self.args.rounds):
            with self.server() as server:
                idle = server.memory("VmRSS")
                parts.many_at_once(server, digests, 1000, MIB, 2.0)
                self.rows.add("1,000 GETs of 1 MiB at once", "most resident memory", "bytes", server.name, server.memory("VmHWM"), None, True, 256e6)
                self.rows.add("1,000 GETs of 1 MiB at once", "resident memory before", "bytes", server.name, idle, None, True)
            with self.server() as server:
                self.wrk.run(server, "GET", [server.path(digest) for digest in digests], 1000)
                self.rows.add("GETs of 1 MiB on 1,000 connections", "most resident memory", "bytes", server.name, server.memory("VmHWM"), None, True, 256e6)
        shutil.rmtree(self.work / "cache")

    # PUT

    def writing(self):
        count = 16
        contents = list(blobs(count, BLOB, 7))
        source = self.work / "source"
        source.mkdir()
        for digest, content in contents:
            (source / digest).write_bytes(content)
        os.sync()
        tools = {"dd, sha256sum": "sha256sum"}
        if shutil.which("openssl"):
            # Debian's sha256sum does not use the processor's instructions for SHA-256.
            tools["dd, openssl"] = "openssl dgst -sha256 -r"
        with self.server() as server:
            for turn in in_turn(self.args.rounds, [server.name, *tools]):
                for name in turn:
                    for threads in (1, 4):
                        if name == server.name:
                            seconds = parts.put_all(server, contents, threads)
                            server.check([digest for digest, _ in contents[:2]])
                            for digest, _ in contents:
                                server.ask("DELETE", server.path(digest))
                        else:
                            seconds = parts.dd_all(tools[name], source, self.work / "target", [digest for digest, _ in contents], threads)
                        note = "one after the other" if threads == 1 else f"{threads} at once"
                        self.rows.add("PUT, 16 MiB, durable", note, "bytes/s", name, count * BLOB / seconds, 0.5)
        for name in ("cache", "source"):
            shutil.rmtree(self.work / name)

    # Many entries

    def many(self):
        sizes = {"a thousand": 1000, "a million": 1_000_000}
        lists = {}
        for name, count in sizes.items():
            subprocess.run([self.args.fill, self.work / name, "bench", str(count)], check=True, stdout=subprocess.DEVNULL)
            # As many different ones of each, so that only what lies beside them differs.
            numbers = random.Random(8).sample(range(count), 1000)
            blob = [hashlib.sha256(str(number).encode()).hexdigest() for number in numbers]
            entry = [hashlib.sha256(f"key{number}".encode()).hexdigest() for number in numbers]
            lists[name] = {"GET of blobs": [f"/bench/cas/{digest}" for digest in blob], "GET of entries": [f"/bench/ac/{digest}" for digest in entry]}
        for turn in in_turn(self.args.rounds, list(sizes)):
            for name in turn:
                with self.server(name) as server:
                    self.rows.add("start", "to the first answer", "ms", name, server.start_seconds * 1e3, None, True, 1000)
                    for what, paths in lists[name].items():
                        # Warms the page cache, and has the server verify each chunk once.
                        for path in paths:
                            server.ask("GET", path)
                        result = self.wrk.run(server, "GET", paths, 16)
                        self.rows.add(what, "16 connections", "requests/s", name, result["requests"] / result["seconds"], 0.9)
                    median = parts.heads(server, lists[name]["GET of blobs"], 1, self.args.seconds)
                    self.rows.add("HEAD of blobs", at_once(1), "µs", name, median, None, True, 5000)

    # Pulling an image

    def pulling(self):
        if not self.args.image:
            raise Failed("pulling takes --image FILE: a Wasm module; CPython's is what `preheat bench fetch` brings as `cpython`")
        builder = pulling.Home(self.args.preheat, self.work / "builder")
        with pulling.Service(self.args.preheat, self.work / "service") as service:
            image = pulling.publish(builder, service, self.args.image)
            tools = {"curl, zstd, sha256sum, sync": "sha256sum"}
            if shutil.which("openssl"):
                # Debian's sha256sum does not use the processor's instructions for SHA-256.
                tools["curl, zstd, openssl, sync"] = "openssl dgst -sha256 -r"
            for number, turn in enumerate(in_turn(self.args.rounds, [service.name, *tools])):
                for name in turn:
                    if name == service.name:
                        seconds = pulling.pull(self.args.preheat, self.work / f"node{number}", service, image)
                    else:
                        seconds = pulling.by_hand(tools[name], self.work / f"hand{number}", service, image)
                    self.rows.add("pull of an image, durable", f"{len(image.blobs)} blobs, {image.size / 1e6:.1f} MB", "ms", name, seconds * 1e3, 1.3, True)
        shutil.rmtree(self.work / "service")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    release = pathlib.Path("target/x86_64-unknown-linux-gnu/release")
    parser.add_argument("--server", type=pathlib.Path, default=release / "preheat-cache-server", help="the server [%(default)s]")
    parser.add_argument("--fill", type=pathlib.Path, default=release / "examples/fill", help="its example that makes entries [%(default)s]")
    parser.add_argument("--preheat", type=pathlib.Path, default=release / "preheat", help="the command [%(default)s]")
    parser.add_argument("--image", type=pathlib.Path, metavar="FILE", help="the Wasm module whose image is pulled")
    parser.add_argument("--only", action="append", choices=PARTS, help="these parts, not all")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--seconds", type=int, default=3, metavar="N", help="how long each measurement of a round takes [%(default)s]")
    parser.add_argument("--directory", type=pathlib.Path, help="where to put files; on the disk that is to be measured")
    parser.add_argument("--raw", type=pathlib.Path, metavar="FILE", help="write all figures there, JSON")
    args = parser.parse_args()
    args.server, args.fill, args.preheat = args.server.absolute(), args.fill.absolute(), args.preheat.absolute()
    if os.cpu_count() < 2:
        raise Failed("this takes two processors: one that serves, one that asks")
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    os.sched_setaffinity(0, {ASKING})
    with tempfile.TemporaryDirectory(prefix="cache-bench-", dir=args.directory) as work:
        machine = parts.machine(work)
        bench = Bench(args, pathlib.Path(work))
        begin = time.time()
        for part in args.only or PARTS:
            print(f"{part} …", file=sys.stderr, flush=True)
            getattr(bench, part)()
        machine["load at the end"], seconds = round(os.getloadavg()[0], 2), time.time() - begin
        # Before a million files are removed, which takes long on some file systems.
        print(", ".join(f"{name} {value}" for name, value in machine.items()))
        print(f"\n{args.rounds} rounds of {args.seconds} s; {seconds:.0f} s in all\n")
        print(bench.rows.table())
        if args.raw:
            args.raw.write_text(json.dumps({"machine": machine, "rows": bench.rows.all()}, indent=1) + "\n")
    return 0 if bench.rows.met() else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failed:
        sys.exit(f"error: {failed}")
