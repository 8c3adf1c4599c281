#!/usr/bin/env bash
# Exit code 0 if each model of a models.config has a version that is AVAILABLE; 1, and which has none, otherwise.
# The status page answers 200 for a model that is loading or broken, too, so its text is read. The image has no curl.
#   ready.sh [MODELS_CONFIG] [REST_PORT]
set -euo pipefail

config=${1:-/config/models.config}
port=${2:-8501}

names=$(sed -nE 's/^[[:space:]]*name:[[:space:]]*"([^"]+)".*/\1/p' "$config")
if [[ -z $names ]]; then
  echo "$config names no model" >&2
  exit 1
fi

status_of() {
  exec 3<>"/dev/tcp/127.0.0.1/$port"
  printf 'GET /v1/models/%s HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$1" >&3
  timeout 3 cat <&3
  exec 3>&-
}

for name in $names; do
  # In a child process: where no port is open, bash ends the shell that asked.
  answer=$(status_of "$name" 2>&1) || true
  if ! grep -qE '"state": *"AVAILABLE"' <<<"$answer"; then
    echo "$name has no version that is AVAILABLE: $(tail -c 300 <<<"$answer" | tr -s '[:space:]' ' ')" >&2
    exit 1
  fi
done
