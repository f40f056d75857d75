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
PYTHON_PACKAGES = ["jsonschema==4.26.0"]

# Exit codes beside 0, all is well, and 1, a reader does not read what it should.
NOT_INSTALLED = 2
NO_BROWSER = 3


class Stop(Exception):
    """Ends the program with this message and exit code."""

    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


def command(words, **options):
    """Runs a command that installs something."""
    words = [str(word) for word in words]
    try:
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr, **options)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Stop(f"`{' '.join(words)}` failed; is the network up? ({error})", NOT_INSTALLED) from error


def install(readers):
    """Installs the readers of this version of package.json, unless they are there."""
    wanted = (HERE / "package.json").read_bytes()
    # npm writes it last.
    whole = (readers / "node_modules/.package-lock.json").is_file()
    if not whole or (readers / "package.json").read_bytes() != wanted:
        readers.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(readers / "node_modules", ignore_errors=True)
        (readers / "package.json").write_bytes(wanted)
        # node's own package fetches the binary in a script.
        command(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"], cwd=readers)
    packages = readers / "python"
    stamp = packages / "installed.txt"
    if not stamp.is_file() or stamp.read_text().splitlines() != PYTHON_PACKAGES:
        shutil.rmtree(packages, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--root-user-action=ignore", "--disable-pip-version-check"]
        command([*pip, "--target", packages, *PYTHON_PACKAGES])
        stamp.write_text("\n".join(PYTHON_PACKAGES))
    sys.path.insert(0, str(packages))


def browser(readers, node, named):
    """A Chromium that starts: the one that is named, else that of npm."""
    if named is None:
        script = "import('@sparticuz/chromium').then(async it => console.log(await it.default.executablePath()))"
        printed = subprocess.run([node, "-e", script], cwd=readers, check=True, capture_output=True, text=True)
        named = pathlib.Path(printed.stdout.strip())
    try:
        subprocess.run([named, "--version"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", None) or "").strip().splitlines()
        why = said[-1] if said else str(error)
        message = f"{named} does not start ({why}); install one (apt-get install chromium) and name it with --chromium"
        raise Stop(message, NO_BROWSER) from error
    return named


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


def say(form, reader, what, failure=None):
    """The line of a format and a reader; whether it is read as it should."""
    mark = "ok  " if failure is None else "FAIL"
    print(f"{mark} {form:<12} {reader:<20} {what if failure is None else f'{what}: {failure}'}", flush=True)
    return failure is None


def own_json(document, total):
    sums = document["total"], sum(sample["count"] for sample in document["samples"])
    return say("json", "Python", "total", None if sums == (total, total) else f"{sums}, not {total}")


def folded(path, total):
    found = sum(int(line.rsplit(" ", 1)[1]) for line in path.read_text().splitlines())
    return say("folded", "Python", "total", None if found == total else f"{found}, not {total}")


def speedscope_schema(readers, path):
    import jsonschema

    schema = json.loads((readers / "node_modules/speedscope/dist/release/file-format-schema.json").read_text())
    failure = None
    try:
        jsonschema.validate(json.loads(path.read_text()), schema)
    except jsonschema.ValidationError as error:
        failure = error.message
    return say("speedscope", "jsonschema", "speedscope's schema", failure)


def read_all(session, arguments, readers, node, chromium):
    """Exports a session in each format; whether each is read as it should."""
    with tempfile.TemporaryDirectory() as out:
        out = pathlib.Path(out)
        for form in FORMATS:
            target = out / (form + ".svg" if form == "flamegraph" else form)
            words = [arguments.bin_dir / "opexport", "-F", form, "-o", target, "--session-dir", session]
            if arguments.root:
                words += ["-R", arguments.root]
            done = subprocess.run(words, stderr=subprocess.PIPE, text=True)
            if done.returncode:
                return say(form, "opexport", "exit code", f"{done.returncode}: {done.stderr.strip()}")
        total = samples(session)
        document = json.loads((out / "json").read_text())
        hottest = max(document["samples"], key=lambda sample: sample["count"])
        function = document["frames"][hottest["stack"][-1]]["function"]
        good = [
            own_json(document, total),
            folded(out / "folded", total),
            speedscope_schema(readers, out / "speedscope"),
        ]
        words = [node, HERE / "check.mjs", readers, out, str(total), function, chromium]
        return subprocess.run(words).returncode == 0 and all(good)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin-dir", type=pathlib.Path, default=HERE.parent.parent / "target/release")
    parser.add_argument("--readers", type=pathlib.Path, default=HERE.parent.parent / "target/interop-readers")
    parser.add_argument("--chromium", type=pathlib.Path, help="the browser, if npm's does not start here")
    parser.add_argument("--root", type=pathlib.Path, help="root of the guest's files")
    parser.add_argument("sessions", type=pathlib.Path, nargs="+", help="session directories")
    arguments = parser.parse_args()
    readers = arguments.readers.resolve()
    try:
        install(readers)
        node = readers / "node_modules/node/bin/node"
        chromium = browser(readers, node, arguments.chromium)
    except Stop as stop:
        print(f"run.py: {stop}", file=sys.stderr)
        return stop.code
    good = True
    for session in arguments.sessions:
        print(f"{session}:", flush=True)
        good &= read_all(session, arguments, readers, node, chromium)
    return 0 if good else 1


if __name__ == "__main__":
    os.environ.setdefault("NO_COLOR", "1")
    sys.exit(main())
