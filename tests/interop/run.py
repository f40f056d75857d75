#!/usr/bin/env python3
"""Exports sessions with opexport and reads the files with readers that nobody here wrote. See README.md."""

import argparse
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
FORMATS = ["folded", "flamegraph", "pprof", "firefox", "speedscope", "perf-script", "json"]


def install(readers):
    """Installs the readers unless they are there."""
    if not (readers / "node_modules").is_dir():
        readers.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "package.json", readers)
        # node's own package fetches the binary in a script.
        subprocess.run(["npm", "install", "--no-audit", "--no-fund"], cwd=readers, check=True)
    if not (readers / "python").is_dir():
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--target", readers / "python", "jsonschema==4.26.0"],
            check=True,
        )
    sys.path.insert(0, str(readers / "python"))


def samples(session):
    """Sums all plain sample files up, without any of the project's code (layout: header 72 bytes, descriptor 32, nodes 16)."""
    total = 0
    for path in (session / "samples" / "current").rglob("*"):
        below = str(path.relative_to(session))
        if not path.is_file() or "{root}" not in below and "{kern}" not in below or "{cg}" in below:
            continue
        data = path.read_bytes()
        if data[:4] != b"DAE\n":
            continue
        used = struct.unpack_from("<I", data, 76)[0]
        total += sum(struct.unpack_from("<I", data, 104 + 16 * node + 8)[0] for node in range(1, used))
    return total


def speedscope_schema(readers, path):
    import jsonschema

    schema = json.loads((readers / "node_modules/speedscope/dist/release/file-format-schema.json").read_text())
    jsonschema.validate(json.loads(path.read_text()), schema)
    print("ok   speedscope: file-format-schema.json")


def folded(path, total):
    found = sum(int(line.rsplit(" ", 1)[1]) for line in path.read_text().splitlines())
    if found != total:
        raise SystemExit(f"FAIL folded: {found}, not {total}")
    print("ok   folded: total")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin-dir", type=pathlib.Path, default=HERE.parent.parent / "target/release")
    parser.add_argument("--readers", type=pathlib.Path, default=HERE.parent.parent / "target/interop-readers")
    parser.add_argument("--root", type=pathlib.Path, help="root of the guest's files")
    parser.add_argument("sessions", type=pathlib.Path, nargs="+", help="session directories")
    arguments = parser.parse_args()
    readers = arguments.readers.resolve()
    install(readers)
    failed = 0
    for session in arguments.sessions:
        print(f"== {session}")
        with tempfile.TemporaryDirectory() as out:
            out = pathlib.Path(out)
            for form in FORMATS:
                target = out / (form + ".svg" if form == "flamegraph" else form)
                command = [arguments.bin_dir / "opexport", "-F", form, "-o", target, "--session-dir", session]
                if arguments.root:
                    command += ["-R", arguments.root]
                subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            total = samples(session)
            document = json.loads((out / "json").read_text())
            if document["total"] != total or sum(s["count"] for s in document["samples"]) != total:
                raise SystemExit(f"FAIL json: {document['total']}, the sample files have {total}")
            print("ok   json: total is that of the sample files")
            hottest = max(document["samples"], key=lambda sample: sample["count"])
            function = document["frames"][hottest["stack"][-1]]["function"]
            folded(out / "folded", total)
            speedscope_schema(readers, out / "speedscope")
            node = readers / "node_modules/node/bin/node"
            failed |= subprocess.run([node, HERE / "check.mjs", readers, out, str(total), function]).returncode
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.setdefault("NO_COLOR", "1")
    sys.exit(main())
