"""Google Cloud Storage on this machine: as much of its interface as TensorFlow, TensorStore and Google's client use.

The programs are not changed and do not know: `Cloud.environment` names a proxy that answers for
storage.googleapis.com and www.googleapis.com with a certificate of its own, and a file that trusts it.
"""

import datetime
import http.server
import itertools
import json
import pathlib
import re
import ssl
import threading
import urllib.parse
import uuid

HOSTS = ("storage.googleapis.com", "www.googleapis.com")


class Cloud:
    """Buckets in memory behind a proxy; use as a context.

    Attributes:
      objects: (bucket, name) -> (generation, content).
      refused: whether writes are refused, as they are without the permission.
    """

    def __init__(self, folder: pathlib.Path):
        self.objects: dict[tuple[str, str], tuple[int, bytes]] = {}
        self.refused = False
        self.uploads: dict[str, list] = {}  # of several requests: key, query, content so far
        self.lock = threading.Lock()
        self.generations = itertools.count(1)
        self.certificate = folder / "certificate.pem"
        make_certificate(self.certificate)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(self.certificate)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("_", (_Handler,), {"cloud": self}))
        self.server.daemon_threads = True

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def names(self, prefix=""):
        """Of all objects, as bucket/name, that begin with `prefix`."""
        with self.lock:
            return sorted(path for key in self.objects if (path := "/".join(key)).startswith(prefix))

    @property
    def environment(self):
        """Variables with which a program finds these buckets behind gs://."""
        proxy = f"http://127.0.0.1:{self.server.server_address[1]}"
        trust = ("CURL_CA_BUNDLE", "TENSORSTORE_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
        return {
            "https_proxy": proxy, "http_proxy": proxy, "HTTPS_PROXY": proxy, "HTTP_PROXY": proxy,
            "no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost",
            # Google's own client asks for no credentials there.
            "STORAGE_EMULATOR_HOST": "https://storage.googleapis.com", "NO_GCE_CHECK": "true",
            **dict.fromkeys(trust, str(self.certificate)),
        }  # fmt: skip


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise each answer waits 40 ms for an acknowledgement
    cloud: Cloud

    def do_CONNECT(self):
        if self.path.removesuffix(":443") not in HOSTS:
            return self._reply(403, b"")
        self.send_response(200)
        self.end_headers()
        self.connection = self.cloud.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False

    def do_GET(self):
        path, query = self._parts()
        if found := re.fullmatch(r"/storage/v1/b/([^/]+)/o", path):
            return self._list(found[1], query)
        if re.fullmatch(r"/storage/v1/b/[^/]+", path):
            return self._reply(200, {"kind": "storage#bucket", "name": path.rpartition("/")[2], "location": "US"})
        stored = None
        if found := re.fullmatch(r"/storage/v1/b/([^/]+)/o/(.+)|/([^/]+)/(.+)", path):
            key = (found[1] or found[3], urllib.parse.unquote(found[2] or found[4]))
            stored = self.cloud.objects.get(key)
        if stored is None or query.get("generation", str(stored[0])) != str(stored[0]):
            return self._reply(404, {})
        if query.get("ifGenerationNotMatch") == str(stored[0]):
            return self._reply(304, b"")
        if query.get("alt") == "media" or found[3]:
            return self._content(*stored)
        return self._reply(200, _about(key, stored))

    def do_POST(self):
        path, query = self._parts()
        content = self._body()
        found = re.fullmatch(r"(?:/resumable)?/upload/storage/v1/b/([^/]+)/o", path)
        if found and query["uploadType"] == "media":
            return self._store((found[1], query["name"]), content, query)
        if found and query["uploadType"] == "resumable":
            token = uuid.uuid4().hex
            self.cloud.uploads[token] = [(found[1], query["name"]), query, b""]
            return self._reply(200, b"", Location=f"https://storage.googleapis.com/session/{token}")
        return self._reply(404, {})

    def do_PUT(self):
        path, _ = self._parts()
        content = self._body()
        upload = self.cloud.uploads[path.removeprefix("/session/")]
        if found := re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", self.headers.get("Content-Range", "")):
            upload[2] = upload[2][: int(found[1])] + content
            if found[2] != str(len(upload[2])):
                return self._reply(308, b"", Range=f"bytes=0-{len(upload[2]) - 1}")
        return self._store(upload[0], upload[2], upload[1])

    def do_DELETE(self):
        path, _ = self._parts()
        found = re.fullmatch(r"/storage/v1/b/([^/]+)/o/(.+)", path)
        with self.cloud.lock:
            gone = found and self.cloud.objects.pop((found[1], urllib.parse.unquote(found[2])), None)
        return self._reply(204 if gone else 404, b"")

    def log_message(self, *args):
        pass

    def _list(self, bucket, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, prefixes = [], {}
        with self.cloud.lock:
            found = sorted((key, stored) for key, stored in self.cloud.objects.items() if key[0] == bucket)
        for key, stored in found:
            name, rest = key[1], key[1][len(prefix) :]
            if not name.startswith(prefix) or name < query.get("startOffset", ""):
                continue
            if "endOffset" in query and name >= query["endOffset"]:
                continue
            if delimiter and delimiter in rest:
                prefixes[prefix + rest[: rest.index(delimiter) + 1]] = None
            else:
                items.append(_about(key, stored))
        items = items[: int(query.get("maxResults", len(items)))]
        self._reply(200, {"kind": "storage#objects", "items": items, "prefixes": list(prefixes)})

    def _store(self, key, content, query):
        with self.cloud.lock:
            now = self.cloud.objects.get(key, (0,))[0]
            if self.cloud.refused or query.get("ifGenerationMatch", str(now)) != str(now):
                return self._reply(403 if self.cloud.refused else 412, {})
            stored = self.cloud.objects[key] = (next(self.cloud.generations), content)
        return self._reply(200, _about(key, stored))

    def _content(self, generation, content):
        about = {"x-goog-generation": str(generation), "ETag": f'"{generation}"'}
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not found:
            return self._reply(200, content, **about)
        first = int(found[1]) if found[1] else max(0, len(content) - int(found[2]))
        last = min(int(found[2]), len(content) - 1) if found[1] and found[2] else len(content) - 1
        if first >= len(content):
            return self._reply(416, b"")
        about["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self._reply(206, content[first : last + 1], **about)

    def _parts(self):
        url = urllib.parse.urlsplit(self.path)
        return url.path, dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _reply(self, status, body, **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if status not in (204, 304):
            self.wfile.write(content)


def _about(key, stored):
    when = "2026-01-01T00:00:00.000Z"
    return {"kind": "storage#object", "bucket": key[0], "name": key[1], "size": str(len(stored[1])),
            "generation": str(stored[0]), "metageneration": "1", "updated": when, "timeCreated": when}  # fmt: skip


def make_certificate(path: pathlib.Path) -> None:
    """A key and a certificate for `HOSTS` that is its own authority, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a bucket for tests")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(pem) + secret)
