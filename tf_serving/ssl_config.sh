#!/usr/bin/env bash
# Writes what --ssl_config_file takes, to standard output:
#   (umask 077; tf_serving/ssl_config.sh server.key server.crt clients-ca.crt > ssl.config)
set -euo pipefail

if (($# != 3)); then
  echo "usage: ${0##*/} SERVER_KEY SERVER_CERT CLIENTS_CA (files in PEM form)" >&2
  exit 2
fi

field() {
  if ! grep -q -- '^-----BEGIN ' "$2"; then
    echo "${0##*/}: $2 is no PEM file" >&2
    exit 1
  fi
  echo "$1:"
  sed -e 's/\r$//' -e 's/[\\"]/\\&/g' -e 's/.*/  "&\\n"/' "$2"
}

field server_key "$1"
field server_cert "$2"
field custom_ca "$3"
echo "client_verify: true"
