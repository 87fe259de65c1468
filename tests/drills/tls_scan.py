"""testssl.sh and sslscan find nothing above "low" on a default listener; Chromium agrees on a hybrid group."""

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree

from .harness import Failed

# What testssl.sh calls a finding, but ours to tolerate.
BELOW = {"DEBUG", "INFO", "OK", "LOW", "WARN"}
SCANNED_WITHIN = 400  # seconds
# Of the TLS registry of IANA.
X25519MLKEM768 = 4588
STRONG = re.compile(r"TLS_(AES_(128|256)_GCM|CHACHA20_POLY1305)_SHA\d+|"
                    r"ECDHE-(ECDSA|RSA)-(AES(128|256)-GCM-SHA\d+|CHACHA20-POLY1305)")

CONFIG = """\
[admin]
bind = "unix:{folder}/admin.sock"

[listener.web]
bind = "127.0.0.1:0"
tls.certificates = [
  {{ cert = "ecdsa.crt", key = "ecdsa.key" }},
  {{ cert = "rsa.crt", key = "rsa.key" }},
]
hsts = "365d"

[pool.app]
files = "{folder}/site"

[[route]]
pool = "app"
response_headers.set = {{ "X-Frame-Options" = "DENY", "X-Content-Type-Options" = "nosniff", "Content-Security-Policy" = "default-src 'self'", "Referrer-Policy" = "no-referrer", "Permissions-Policy" = "camera=()", "Cross-Origin-Opener-Policy" = "same-origin", "Cross-Origin-Resource-Policy" = "same-origin", "Cross-Origin-Embedder-Policy" = "require-corp" }}
"""

LEAF = """\
subjectAltName=DNS:localhost
basicConstraints=CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
crlDistributionPoints=URI:http://crl.test/ca.crl
"""

KEYS = {
    "ecdsa": ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "rsa": ("-newkey", "rsa:2048"),
}


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def certificates(stage):
    """An authority, and a certificate of each kind from it."""
    ca, ca_key = stage.path("ca.pem"), stage.path("ca.key")
    openssl("req", "-x509", *KEYS["ecdsa"], "-nodes", "-days", "365", "-subj", "/O=Drill/CN=Drill",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", ca_key, "-out", ca)
    extensions = stage.write("leaf.cnf", LEAF)
    for name, key in KEYS.items():
        request = stage.path(f"{name}.csr")
        openssl("req", *key, "-nodes", "-subj", "/CN=localhost", "-keyout",
                stage.path(f"{name}.key"), "-out", request)
        openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial",
                "-days", "80", "-sha256", "-extfile", extensions, "-out", stage.path(f"{name}.crt"))
    return ca


def testssl(stage, port, ca):
    """The findings, and how many of which severity there are."""
    report = stage.path("testssl.json")
    done = subprocess.run(
        ["testssl", "--quiet", "--color", "0", "--warnings", "batch", "--add-ca", ca,
         "--jsonfile", report, "-p", "-s", "-f", "-P", "-S", "-h", "-U",
         "--ip", "127.0.0.1", f"https://localhost:{port}"],
        capture_output=True, text=True, timeout=SCANNED_WITHIN, stdin=subprocess.DEVNULL)
    try:
        findings = json.loads(report.read_text())
    except (OSError, ValueError) as error:
        raise Failed(f"testssl.sh made no report: {error}\n{done.stdout[-2000:]}") from None
    above = [f"{it['id']}: {it['severity']}: {it['finding']}" for it in findings
             if it["severity"] not in BELOW]
    return findings, above


def sslscan(port):
    """What it sees: the versions that are spoken, and what is weak."""
    done = subprocess.run(
        ["sslscan", "--xml=-", "--sni-name=localhost", f"127.0.0.1:{port}"],
        capture_output=True, text=True, timeout=SCANNED_WITHIN, stdin=subprocess.DEVNULL)
    test = xml.etree.ElementTree.fromstring(done.stdout).find("ssltest")
    if test is None:
        raise Failed(f"sslscan saw nothing: {done.stdout[-500:]}{done.stderr[-500:]}")
    weak = []
    spoken = {f"{it.get('type')}{it.get('version')}" for it in test.findall("protocol")
              if it.get("enabled") == "1"}
    if spoken != {"tls1.2", "tls1.3"}:
        weak.append(f"speaks {', '.join(sorted(spoken)) or 'nothing'}")
    ciphers = [it.get("cipher") for it in test.findall("cipher")]
    weak += [f"suite {name}" for name in ciphers if not STRONG.fullmatch(name)]
    for name in ("compression", "renegotiation"):
        found = test.find(name)
        if found is not None and found.get("supported") == "1" and found.get("secure") != "1":
            weak.append(f"{name} is supported")
    weak += [f"Heartbleed in {it.get('sslversion')}" for it in test.findall("heartbleed")
             if it.get("vulnerable") == "1"]
    if not ciphers:
        weak.append("no suite was found")
    return ciphers, weak


def chromium(stage, port):
    """What it agreed on, by its own log of the network; or None where there is none."""
    program = shutil.which("chromium")
    if not program:
        return None
    log = stage.path("net-log.json")
    subprocess.run(
        [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--ignore-certificate-errors", f"--user-data-dir={stage.path('chromium')}",
         f"--log-net-log={log}", "--dump-dom", f"https://localhost:{port}/"],
        capture_output=True, timeout=120, stdin=subprocess.DEVNULL)
    text = log.read_text(errors="replace")
    agreed = re.search(r'"key_exchange_group":\s*(\d+)', text)
    version = re.search(r'"version":\s*"(TLS [\d.]+)"', text)
    protocol = re.search(r'"next_proto":\s*"(h2|http/1\.1)"', text)
    return tuple(found and found[1] for found in (agreed, version, protocol))


def run(stage, result):
    ca = certificates(stage)
    stage.write("site/index.html", "<!doctype html><title>hello</title>")
    proxy = stage.headwater(stage.write("headwater.toml", CONFIG.format(folder=stage.folder)))
    port = proxy.port("web")
    findings, above = testssl(stage, port, ca)
    low = [it["id"] for it in findings if it["severity"] == "LOW"]
    result.figure(f"testssl.sh: {len(findings)} findings, {len(above)} above low, low: "
                  f"{', '.join(low) or 'none'}")
    result.require(len(findings) > 50, "testssl.sh saw too little")
    result.problems += above
    ciphers, weak = sslscan(port)
    result.figure(f"sslscan: {len(ciphers)} suites, {len(weak)} weak")
    result.problems += weak
    if stage.short:
        return
    agreed = chromium(stage, port)
    if agreed is None:
        result.figure("Chromium is not installed, and so was not tried")
        return
    group, version, protocol = agreed
    result.figure(f"Chromium: {version}, {protocol}, group {group}")
    result.require(agreed == (str(X25519MLKEM768), "TLS 1.3", "h2"),
                   f"Chromium agreed on {version}, {protocol}, group {group}")
