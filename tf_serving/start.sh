#!/usr/bin/env bash
# Serves a hub with TensorFlow Serving: the program where it is installed, else Docker Compose.
#   tf_serving/start.sh [--hub DIR] [--port N] [--rest-port N] [--print]
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
hub=${TFDFD_HUB:-$here/../saved_models}
port=8500
rest_port=8501
print=

usage() {
  cat <<EOF
usage: ${0##*/} [--hub DIR] [--port N] [--rest-port N] [--print]

Serves the models of models.config with tensorflow_model_server where it is installed, else with Docker Compose.

  --hub DIR      what 'tfdfd publish' wrote (default: \$TFDFD_HUB, else saved_models of this repository)
  --port N       of gRPC (default: 8500)
  --rest-port N  of REST and metrics (default: 8501)
  --print        print the command and run nothing
EOF
}

fail() {
  echo "${0##*/}: $1" >&2
  exit "${2:-1}"
}

while (($#)); do
  case $1 in
    --hub | --port | --rest-port)
      (($# > 1)) || fail "$1 needs a value" 2
      case $1 in
        --hub) hub=$2 ;;
        --port) port=$2 ;;
        --rest-port) rest_port=$2 ;;
      esac
      shift 2
      ;;
    --print)
      print=yes
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    *)
      usage >&2
      exit 2
      ;;
  esac
done

for number in "$port" "$rest_port"; do
  [[ $number =~ ^[1-9][0-9]{0,4}$ ]] || fail "a port is a number; received '$number'" 2
done
[[ $port != "$rest_port" ]] || fail "gRPC and REST need a port each; received $port for both" 2
[[ -d $hub ]] || fail "there is no hub at $hub; 'tfdfd publish RUN --to DIR --version 1' writes one"
hub=$(cd -- "$hub" && pwd)

# A model without its versions would make the server wait for them, silent and with closed ports.
missing=
model=
while read -r key value; do
  case $key in
    name) model=$value ;;
    version) [[ -f $hub/$model/$value/saved_model.pb ]] || missing+=" $model/$value" ;;
  esac
done < <(sed -nE \
  -e 's/^[[:space:]]*name:[[:space:]]*"([^"]+)".*/name \1/p' \
  -e 's/.*versions:[[:space:]]*([0-9]+).*/version \1/p' "$here/models.config")
[[ -z $missing ]] || fail "models.config names what $hub does not hold:$missing; publish them, or write
  another: python -m tf_serving.models_config $hub > tf_serving/models.config"

run() {
  if [[ -n $print ]]; then
    printf '%q ' "$@"
    echo
    exit 0
  fi
  exec "$@"
}

# The flags stand once, in docker-compose.yml.
flags=()
while read -r flag; do
  flags+=("$flag")
done < <(sed -nE 's/^[[:space:]]*- (--[a-z_]+=.*)$/\1/p' "$here/docker-compose.yml")

if command -v tensorflow_model_server >/dev/null; then
  [[ $hub =~ ^[A-Za-z0-9_./\ -]+$ ]] || fail "move the hub: models.config cannot name every letter of $hub"
  config=${TMPDIR:-/tmp}/tfdfd-serving.XXXXXX
  if [[ -z $print ]]; then
    config=$(mktemp -d "$config")
    sed -E "s|(base_path:[[:space:]]*\")/models/|\1$hub/|" "$here/models.config" >"$config/models.config"
    cp "$here/batching.config" "$here/monitoring.config" "$config"
  fi
  flags=("${flags[@]//\/config\//$config/}")
  flags=("${flags[@]/#--port=*/--port=$port}")
  flags=("${flags[@]/#--rest_api_port=*/--rest_api_port=$rest_port}")
  echo "${0##*/}: ModelServer listens on all addresses and asks nobody who he is: close ports $port and $rest_port" \
    "to others. To change models while it runs, edit $config/models.config." >&2
  run tensorflow_model_server "${flags[@]}"
elif command -v docker >/dev/null && docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1; then
  run env TFDFD_HUB="$hub" TFDFD_PORT="$port" TFDFD_REST_PORT="$rest_port" \
    docker compose -f "$here/docker-compose.yml" up
else
  folders=$(sed -nE "s|^[[:space:]]*name:[[:space:]]*\"([^\"]+)\".*| $hub/\\1|p" "$here/models.config" | tr -d '\n')
  fail "neither tensorflow_model_server nor a running Docker is here; for one machine, tests and demos:
  tfdfd serve --models$folders --port $port --rest-port $rest_port"
fi
