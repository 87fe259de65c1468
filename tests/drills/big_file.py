"""Real sites and a file of 1 GiB come through unchanged, down and up, in flat memory.

The upstreams are nginx, lighttpd and Python's http.server; curl speaks HTTP/1.1 and HTTP/2, without
TLS and with 1.2 and 1.3.
"""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

from .harness import REPOSITORY, Failed, Sampler, mib, wait_for_port
from .origins import Nginx, python_origin

MEMORY_GROWTH_MAX = 64 << 20

CONFIG = """\
[admin]
bind = "unix:{folder}/admin.sock"

[log]
access.to = "off"

[cache]
memory = "32MiB"

[listener.plain]
bind = "127.0.0.1:0"

[listener.secure]
bind = "127.0.0.1:0"
tls.certificates = [{{ cert = "site.crt", key = "site.key" }}]

[pool.nginx]
endpoints = ["127.0.0.1:{nginx}"]

[pool.lighttpd]
endpoints = ["127.0.0.1:{lighttpd}"]

[pool.python]
endpoints = ["127.0.0.1:{python}"]

[pool.sink]
endpoints = ["127.0.0.1:{sink}"]

[[route]]
paths = ["/nginx/*"]
pool = "nginx"
rewrite = {{ strip_prefix = "/nginx" }}

[[route]]
paths = ["/lighttpd/*"]
pool = "lighttpd"
rewrite = {{ strip_prefix = "/lighttpd" }}

[[route]]
paths = ["/python/*"]
pool = "python"
rewrite = {{ strip_prefix = "/python" }}

[[route]]
paths = ["/sink"]
pool = "sink"
body_max = "2GiB"
"""

LIGHTTPD = """\
server.document-root = "{root}"
server.port = {port}
server.bind = "127.0.0.1"
server.errorlog = "{folder}/lighttpd.log"
index-file.names = ("index.html")
mimetype.assign = (".html" => "text/html", ".css" => "text/css", ".js" => "text/javascript",
    ".png" => "image/png", ".svg" => "image/svg+xml", "" => "application/octet-stream")
"""

# How curl asks: the listener and its options.
SPOKEN = {
    "h1": ("plain", ["--http1.1"]),
    "h1 TLS 1.2": ("secure", ["--http1.1", "--tlsv1.2", "--tls-max", "1.2"]),
    "h1 TLS 1.3": ("secure", ["--http1.1", "--tlsv1.3"]),
    "h2 TLS 1.2": ("secure", ["--http2", "--tlsv1.2", "--tls-max", "1.2"]),
    "h2 TLS 1.3": ("secure", ["--http2", "--tlsv1.3"]),
    "h2 TLS 1.3 compressed": ("secure", ["--http2", "--tlsv1.3", "--compressed"]),
}
KINDS = {".html", ".css", ".js", ".png", ".svg", ".gif", ".woff2", ".json", ".txt", ".md"}
PAGES, PAGE_BYTES_MAX, PAGES_OF_A_FOLDER = 60, 4 << 20, 6


def run(stage, result):
    cert, _ = stage.certificate()
    site = stage.path("site")
    pages = make_site(site)
    size = stage.length(1 << 30, 256 << 20)
    # Above what the cache could hold, so that memory tells streaming from storing.
    digest = make_big(site / "big.bin", size)
    proxy = start(stage, site)
    urls = {"plain": f"http://localhost:{proxy.port('plain')}",
            "secure": f"https://localhost:{proxy.port('secure')}"}
    curl = Curl(stage, urls, cert)

    compared = 0
    for origin in ("nginx", "lighttpd", "python"):
        for spoken in SPOKEN:
            compared += compare(curl, origin, spoken, site, pages, result)
    result.figure(f"{compared} pages equal byte for byte (3 servers, {len(SPOKEN)} ways)")

    ways = ["h1", "h2 TLS 1.3"] if stage.short else list(SPOKEN)[:-1]
    growth = 0
    for spoken in ways:
        for transfer in (download, upload):
            growth = max(growth, measured(
                proxy, lambda: transfer(curl, spoken, site / "big.bin", size, digest)))
    growth = max(growth, measured(
        proxy, lambda: upload(curl, ways[-1], site / "big.bin", size, digest, chunked=True)))
    stored = proxy.metrics().sum("cache_bytes")
    result.figure(f"{mib(size)} down and up over {', '.join(ways)}: SHA-256 equal, peak memory "
                  f"{mib(growth)} above the start, {mib(proxy.memory('VmHWM'))} in all, "
                  f"cache {mib(stored)}")
    result.require(growth <= MEMORY_GROWTH_MAX, f"memory grew by {mib(growth)}")
    result.require(stored <= 32 << 20, "the cache is over its bound")


def make_site(site):
    """Copies files of this machine's web documents: their paths below the site."""
    site.mkdir()
    pages, of_folder = [], {}
    for root in (REPOSITORY / "docs", "/usr/share", "/var/www"):
        for folder, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                path = pathlib.Path(folder, name)
                if (len(pages) >= PAGES or path.suffix not in KINDS or not path.is_file()
                        or path.stat().st_size > PAGE_BYTES_MAX
                        or of_folder.get(folder, 0) >= PAGES_OF_A_FOLDER
                        or not os.access(path, os.R_OK)):
                    continue
                of_folder[folder] = of_folder.get(folder, 0) + 1
                # Names without anything that would need encoding in a URL.
                page = f"page{len(pages)}/{len(pages)}{path.suffix}"
                (site / page).parent.mkdir()
                shutil.copyfile(path, site / page)
                pages.append(page)
    (site / "empty.txt").touch()
    return [*pages, "empty.txt"]


def make_big(path, size):
    """A file that no two MiB of are alike; its SHA-256."""
    digest, block = hashlib.sha256(), os.urandom(1 << 20)
    with open(path, "wb") as file:
        for number in range(size >> 20):
            part = number.to_bytes(8, "big") + block[8:]
            digest.update(part)
            file.write(part)
    return digest.hexdigest()


def start(stage, site):
    """The upstreams, and headwater in front of them."""
    # Its pages may be stored, so that most of them come from the cache.
    nginx = Nginx(stage, "nginx", site, "expires 1h; gzip_vary on;")
    lighttpd, python = stage.port(), stage.port()
    config = stage.write("lighttpd.conf", LIGHTTPD.format(
        root=site, port=lighttpd, folder=stage.folder))
    stage.spawn("lighttpd", "-D", "-f", config)
    stage.spawn(sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", site,
                python, stderr=subprocess.DEVNULL)
    sink = python_origin(stage)
    for port in (lighttpd, python):
        wait_for_port(port)
    return stage.headwater(stage.write("headwater.toml", CONFIG.format(
        folder=stage.folder, nginx=nginx.port, lighttpd=lighttpd, python=python, sink=sink)))


class Curl:
    """curl in the ways of `SPOKEN`."""

    def __init__(self, stage, urls, cert):
        self.stage, self.urls, self.cert = stage, urls, cert

    def url(self, spoken, path):
        return self.urls[SPOKEN[spoken][0]] + path

    def command(self, spoken, *arguments):
        return ["curl", "-sS", "--fail-with-body", "--max-time", "120", "--cacert",
                str(self.cert), *SPOKEN[spoken][1], *arguments]

    def run(self, spoken, *arguments):
        done = subprocess.run(self.command(spoken, *arguments), capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"curl over {spoken}: {done.stderr.strip()} {done.stdout[:200]}")
        return done.stdout


def compare(curl, origin, spoken, site, pages, result):
    """Gets all pages from an origin in one way; how many are equal."""
    folder = curl.stage.path("got")
    shutil.rmtree(folder, ignore_errors=True)
    arguments = ["--create-dirs", "-w", "%{http_version} %{ssl_verify_result}\\n"]
    for page in pages:
        arguments += ["-o", folder / page, curl.url(spoken, f"/{origin}/{page}")]
    versions = set(curl.run(spoken, *arguments).split("\n")) - {""}
    expected = {"2 0" if spoken.startswith("h2") else "1.1 0"}
    result.require(versions == expected, f"{origin} over {spoken}: HTTP {versions}")
    equal = 0
    for page in pages:
        got = folder / page
        # curl makes no file of an empty body.
        same = (got.read_bytes() if got.exists() else b"") == (site / page).read_bytes()
        result.require(same, f"{origin} over {spoken}: {page} is different")
        equal += same
    return equal


def download(curl, spoken, _file, size, digest):
    command = curl.command(spoken, curl.url(spoken, "/nginx/big.bin"))
    got, length = hashlib.sha256(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        while data := process.stdout.read(1 << 20):
            got.update(data)
            length += len(data)
    if process.returncode != 0 or got.hexdigest() != digest:
        raise Failed(f"down over {spoken}: curl {process.returncode}, {length} of {size} bytes, "
                     f"SHA-256 {got.hexdigest()}, not {digest}")


def upload(curl, spoken, file, size, digest, chunked=False):
    # From standard input the length is not known beforehand.
    source = ["-T", "-"] if chunked else ["-T", str(file)]
    with open(file, "rb") as stdin:
        done = subprocess.run(
            curl.command(spoken, *source, "-H", "Expect:", curl.url(spoken, "/sink")),
            stdin=stdin, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"up over {spoken}: {done.stderr.strip()} {done.stdout[:200]}")
    if json.loads(done.stdout) != {"length": size, "sha256": digest}:
        raise Failed(f"up over {spoken}: {done.stdout} has come, not {size} bytes, {digest}")


def measured(proxy, transfer):
    """How far above the start memory was during a transfer, in bytes."""
    proxy.forget_peak()
    before, samples = proxy.memory(), []
    with Sampler(lambda: samples.append(proxy.memory()), every=0.05):
        transfer()
    return max(proxy.memory("VmHWM"), *samples) - before
