# Sourced by scripts/demo, scripts/test and .ci/run: makes .venv, once, from pyproject.toml and constraints.txt.
# Needs nothing but Python 3.10 or newer (and its venv module) and a package index. Sets ROOT and BIN.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
BIN="$ROOT/.venv/bin"

# PYTHON=/path/to/python3.12 ./scripts/test chooses another.
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.10 python; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.10 or newer found (set PYTHON to one)" >&2
    return 1
}

# Changes when what must be installed changes.
wanted_stamp() {
    "$BIN/python" - "$ROOT" <<'END'
import hashlib, pathlib, sys

root = pathlib.Path(sys.argv[1])
parts = [(root / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
print(hashlib.sha256(b"\0".join(parts) + sys.version.encode() + str(root).encode()).hexdigest())
END
}

set_up() {
    local stamp="$ROOT/.venv/.installed" python
    if [ ! -x "$BIN/python" ]; then
        python="$(find_python)" || return 1
        if ! "$python" -m venv "$ROOT/.venv"; then
            rm -rf "$ROOT/.venv"
            echo "error: $python cannot make a virtual environment" >&2
            echo "       try: apt-get install python3-venv, or set PYTHON to another Python" >&2
            return 1
        fi
    fi
    if [ "$(cat "$stamp" 2>/dev/null)" != "$(wanted_stamp)" ]; then
        echo "setting up .venv: a minute or two, 2 GB (more where CUDA packages come with torch)" >&2
        (cd "$ROOT" && "$BIN/python" -m pip install --quiet --disable-pip-version-check \
            -c constraints.txt -e '.[dev]') || return 1
        wanted_stamp > "$stamp"
    fi
}

set_up || exit 1
