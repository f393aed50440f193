"""Pulling an image into an empty store, and the same bytes by hand: curl, zstd, a hash, sync."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import time

from parts import Failed, Process, pinned

NAMESPACE = "default"


class Home:
    """A home of the command's own."""

    def __init__(self, program, directory):
        self.program, self.directory = program, directory
        self.environment = {**os.environ, "PREHEAT_HOME": str(directory)}

    def run(self, *args, feed=None):
        done = subprocess.run([self.program, *args], env=self.environment, input=feed, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise Failed(f"preheat {' '.join(map(str, args))}: {done.stderr}")
        return done.stdout

    def json(self, *args):
        return json.loads(self.run(*args, "--json"))


class Service(Process):
    """`preheat cache serve` on an empty directory."""

    name = "preheat"

    def __init__(self, program, directory):
        home = Home(program, directory / "home")
        directory.mkdir()
        command = [program, "cache", "serve", directory / "cache", "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            command, env=home.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=pinned
        )
        line = self.process.stdout.readline()
        if not line.startswith("listening on http://"):
            raise Failed(f"the service does not start: {line}")
        self.host = line.strip().removeprefix("listening on http://")
        self.port = int(self.host.rsplit(":", 1)[1])
        self.token = next(word for line in self.process.stderr for word in line.split() if word.startswith("phc_"))
        self.headers = {"authorization": f"Bearer {self.token}"}

    def login(self, home):
        home.run("login", self.host, feed=self.token)


@dataclasses.dataclass
class Image:
    place: str
    fingerprint: str
    # (digest in hex, size) of everything that a pull brings, the manifest included
    blobs: list
    size: int


def publish(builder, service, wasm):
    """Builds an image for one CPU level and pushes it; gives what it consists of, as a pull into an empty store counts it."""
    service.login(builder)
    fingerprint = builder.json("cache", "init", service.host)["fingerprint"]
    builder.run("build", wasm, "--tag", "pulled", "--cpu", "v2")
    place = f"{service.host}/{NAMESPACE}/pulled:v1"
    builder.run("push", "pulled", place)
    node = Home(builder.program, builder.directory.parent / "first")
    trusting(node, service, fingerprint)
    pulled = node.json("pull", place)
    files = [path for path in sorted((node.directory / "store" / "blobs").rglob("*")) if path.is_file()]
    # Statements are kept as blobs too, but come by another way.
    files = [path for path in files if b"payloadType" not in path.read_bytes()[:4096]]
    blobs = [(path.parent.name + path.name, path.stat().st_size) for path in files]
    if (len(blobs), sum(size for _, size in blobs)) != (pulled["blobs"], pulled["bytes"]):
        raise Failed(f"the store holds {blobs}, and {pulled} was said")
    shutil.rmtree(node.directory)
    return Image(place, fingerprint, blobs, pulled["bytes"])


def trusting(node, service, fingerprint):
    service.login(node)
    node.run("trust", "add", "--from", service.host, "--fingerprint", fingerprint)


def pull(program, directory, service, image):
    """Seconds that it takes a node that trusts the root and has nothing."""
    node = Home(program, directory)
    trusting(node, service, image.fingerprint)
    os.sync()
    began = time.perf_counter()
    pulled = node.json("pull", image.place)
    seconds = time.perf_counter() - began
    if (pulled["blobs"], pulled["bytes"]) != (len(image.blobs), image.size):
        raise Failed(f"a pull brought something else: {pulled}")
    node.run("verify")
    shutil.rmtree(directory)
    return seconds


def by_hand(hasher, directory, service, image):
    """Seconds that the tools take for the same blobs: each is decompressed if it comes compressed, written, hashed; then all are synced."""
    directory.mkdir()
    # zstd with -f passes on what is not compressed.
    script = """set -eo pipefail; cd "$1"; shift
        for name; do
            curl -sSf -H "authorization: Bearer $TOKEN" -H "accept-encoding: zstd" "$URL/$name" | zstd -dqcf | tee "$name" | $HASHER >"$name.sum"
        done
        sync -- "$@" ."""
    environment = {**os.environ, "TOKEN": service.token, "URL": f"http://{service.host}/{NAMESPACE}/cas", "HASHER": hasher}
    names = [name for name, _ in image.blobs]
    os.sync()
    began = time.perf_counter()
    done = subprocess.run(["bash", "-c", script, "bash", directory, *names], env=environment, stderr=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise Failed(f"by hand: {done.stderr}")
    for name in names:
        if (directory / f"{name}.sum").read_text().split()[0] != name:
            raise Failed(f"by hand: {name} is something else")
    shutil.rmtree(directory)
    return seconds
