"""Pulls the same repositories with the package huggingface_hub and with freehold from one server, on this machine, that
speaks the hub's protocol; compares files, bytes and refusals. Arguments: the freehold program, an empty directory."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

PROGRAM, SCRATCH = sys.argv[1], Path(sys.argv[2])
COMMIT = hashlib.sha1(b"a commit").hexdigest()
TOKEN = "hf_" + "parity" * 6
PAGE = 4


def safetensors(**tensors):
    """Weights in the format's own words: a header, and zeros."""
    header, offset = {}, 0
    for name, count in tensors.items():
        header[name] = {"dtype": "F32", "shape": [count], "data_offsets": [offset, offset + 4 * count]}
        offset += 4 * count
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + bytes(offset)


def gguf(size):
    """Metadata alone: one key, whose value is an array of `size` bytes."""
    text = lambda value: len(value).to_bytes(8, "little") + value
    number = lambda value, width: value.to_bytes(width, "little")
    values = bytes(hashlib.shake_128(b"gguf").digest(size))
    head = b"GGUF" + number(3, 4) + number(0, 8) + number(1, 8)
    return head + text(b"test.padding") + number(9, 4) + number(0, 4) + number(size, 8) + values


CARD = b"---\nlicense: apache-2.0\n---\n# A model\n"
INDEX = {"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}}
COMMON = {
    "README.md": CARD,
    "LICENSE": b"terms",
    "config.json": b'{"model_type": "llama"}',
    "generation_config.json": b"{}",
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "merges.txt": b"a b\n",
}
REPOSITORIES = {
    "org/single": COMMON | {"model.safetensors": safetensors(a=300_000), "pytorch_model.bin": b"x", "train.py": b"x"},
    "org/sharded": COMMON
    | {
        "model.safetensors.index.json": json.dumps(INDEX).encode(),
        "model-1.safetensors": safetensors(a=200_000),
        "model-2.safetensors": safetensors(b=100_000, c=7),
        "consolidated.safetensors": safetensors(a=9),
    },
    "org/gguf": {"README.md": CARD, "m-Q4_K_M.gguf": gguf(700_000), "m-Q8_0.gguf": gguf(900_000), "sub dir/x.txt": b"x"},
    "org/gated": COMMON | {"model.safetensors": safetensors(a=1)},
}
is_large = lambda path: path.endswith((".safetensors", ".gguf", ".bin"))
requests, broken = [], set()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code):
        self.answer(status, X_Error_Code=code, X_Error_Message=code)

    def do_GET(self):
        url = urlsplit(self.path)
        path = unquote(url.path).strip("/")
        requests.append((self.server.role, path, self.headers.get("Authorization")))
        if self.server.role == "storage":
            return self.storage(path)
        api = path.removeprefix("api/models/")
        name = "/".join((api if api != path else path).split("/")[:2])
        files = REPOSITORIES.get(name)
        if files is None:
            return self.refuse(401, "RepoNotFound")
        rest = (api if api != path else path).split("/")[2:]
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in ("main", "v1", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        if api == path:
            return self.resolve(name, files, "/".join(rest[2:]))
        if rest[:1] == ["tree"]:
            return self.tree(files, int(parse_qs(url.query).get("cursor", ["0"])[0]))
        siblings = [{"rfilename": path} for path in files]
        self.json({"id": name, "sha": COMMIT, "siblings": siblings})

    do_HEAD = do_GET

    def json(self, value, **headers):
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def tree(self, files, start):
        entries = []
        for path, data in files.items():
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            entry = {"type": "file", "oid": git, "size": len(data), "path": path}
            if is_large(path):
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 1}
            entries.append(entry)
        link = {}
        if start + PAGE < len(entries):
            address = f"http://{self.headers['Host']}{urlsplit(self.path).path}?recursive=true&cursor={start + PAGE}"
            link = {"Link": f'<{address}>; rel="next"'}
        self.json(entries[start : start + PAGE], **link)

    def resolve(self, name, files, path):
        if name == "org/gated":
            return self.refuse(403, "GatedRepo")
        if path not in files:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        data = files[path]
        if not is_large(path):
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            return self.answer(200, data, ETag=f'"{git}"', X_Repo_Commit=COMMIT, Accept_Ranges="bytes")
        digest = hashlib.sha256(data).hexdigest()
        location = f"http://127.0.0.1:{storage.server_port}/{name}/{path}"
        self.answer(302, X_Repo_Commit=COMMIT, X_Linked_ETag=f'"{digest}"', X_Linked_Size=str(len(data)), Location=location)

    def storage(self, path):
        name, path = path.rsplit("/", 1)
        data = REPOSITORIES[name][path]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        status, headers = 200, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept_Ranges": "bytes"}
        if start:
            status, headers["Content_Range"] = 206, f"bytes {start}-{len(data) - 1}/{len(data)}"
        client = self.headers.get("User-Agent", "").split("/")[0]
        if self.command == "GET" and (client, path) not in broken:
            # Each client's first download of each file breaks off in the middle.
            broken.add((client, path))
            self.send_response(status)
            for header, value in headers.items():
                self.send_header(header.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start : start + (len(data) - start) // 2])
            self.close_connection = True
            return
        self.answer(status, data[start:], **headers)


def serve(role):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.role = role
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


hub, storage = serve("hub"), serve("storage")
os.environ |= {
    "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
    "HF_TOKEN": TOKEN,
    "HF_HOME": str(SCRATCH / "hf"),
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
from huggingface_hub import __version__, hf_hub_download, snapshot_download  # noqa: E402  (reads the environment)
from huggingface_hub.errors import HfHubHTTPError  # noqa: E402


def freehold(*arguments):
    return subprocess.run([PROGRAM, "--home", SCRATCH / "home", *arguments], capture_output=True, text=True)


def pulled(name):
    """The files of a model in the store, read as the OCI layout that it is."""
    store = SCRATCH / "home/store"
    blob = lambda digest: (store / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()
    for entry in json.loads((store / "index.json").read_text())["manifests"]:
        if entry["annotations"]["org.opencontainers.image.ref.name"] == name:
            layers = json.loads(blob(entry["digest"]))["layers"]
            return {layer["annotations"]["org.cncf.model.filepath"]: blob(layer["digest"]) for layer in layers}
    sys.exit(f"{name} is not in the store")


def same(label, ours, theirs):
    if ours != theirs:
        sys.exit(f"{label}: freehold has {sorted(ours)}, huggingface_hub {sorted(theirs)}, or their bytes differ")
    print(f"{label:<34} {len(ours):>2} files, {sum(map(len, ours.values())):>9,} bytes: equal")


print(f"huggingface_hub {__version__}, {freehold('--version').stdout.strip()}")
# What a model of safetensors needs, in the words of huggingface_hub.
needed = ["*.json", "*.jinja", "*.txt", "*.md", "LICENSE*", "model*.safetensors"]
for reference in ["org/single", "org/sharded", "org/sharded@v1", f"org/sharded@{COMMIT}"]:
    name, _, revision = reference.partition("@")
    snapshot = Path(snapshot_download(name, revision=revision or None, allow_patterns=needed))
    theirs = {str(path.relative_to(snapshot)): path.read_bytes() for path in snapshot.rglob("*") if path.is_file()}
    result = freehold("pull", f"hf:{reference}")
    if result.returncode != 0:
        sys.exit(f"{reference}: {result.stderr}")
    same(reference[:34], pulled(name), theirs)
for file in ["m-Q4_K_M.gguf", "m-Q8_0.gguf"]:
    theirs = {path: Path(hf_hub_download("org/gguf", path)).read_bytes() for path in [file, "README.md"]}
    result = freehold("pull", f"hf:org/gguf/{file}")
    if result.returncode != 0:
        sys.exit(f"{file}: {result.stderr}")
    same(f"org/gguf/{file}", pulled(f"org/gguf/{file.removesuffix('.gguf')}"), theirs)

for reference, call in {
    "org/absent": lambda: snapshot_download("org/absent"),
    "org/single@v9": lambda: snapshot_download("org/single", revision="v9"),
    "org/gated": lambda: snapshot_download("org/gated"),
    "org/gguf/absent.gguf": lambda: hf_hub_download("org/gguf", "absent.gguf"),
}.items():
    try:
        call()
        sys.exit(f"{reference}: huggingface_hub got it")
    except HfHubHTTPError as error:
        theirs = type(error).__name__
    result = freehold("pull", f"hf:{reference}")
    if result.returncode != 1:
        sys.exit(f"{reference}: freehold got it")
    print(f"{reference:<34} {theirs}; {result.stderr.strip()}")

leaked = [request for request in requests if request[0] == "storage" and request[2]]
tokens = {token for role, _, token in requests if role == "hub"}
if leaked or tokens != {f"Bearer {TOKEN}"}:
    sys.exit(f"the token went astray: {leaked}, {tokens}")
print("both sent the token to the hub, and to no other server")
