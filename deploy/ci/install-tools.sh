#!/usr/bin/env bash
# Install the system tools that the tests use, on Debian: the packages of apt.txt, and docker's compose plugin,
# which Debian has only from release 13 on. As root, or with sudo.
set -euo pipefail
cd "$(dirname "$0")"

sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)
export DEBIAN_FRONTEND=noninteractive

missing=()
while read -r package command _; do
  case $package in ''|'#'*) continue ;; esac
  command -v "$command" > /dev/null || missing+=("$package")
done < apt.txt

if ! command -v docker > /dev/null; then
  missing+=(docker.io)
fi
if [ ${#missing[@]} -gt 0 ]; then
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" apt-get install -yqq --no-install-recommends "${missing[@]}" > /dev/null
fi

if ! docker compose version > /dev/null 2>&1; then
  # The plugin alone, from the package of Debian 13, unpacked beside the system and not installed.
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  # shellcheck disable=SC2016  # apt expands it, not the shell
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
  mkdir -p "$work"/{lists/partial,cache/archives/partial,parts}
  : > "$work/status"
  printf 'Types: deb\nURIs: %s\nSuites: trixie\nComponents: main\nSigned-By: %s\n' \
    "$mirror" /usr/share/keyrings/debian-archive-keyring.gpg > "$work/parts/trixie.sources"
  printf '%s\n' "Dir::Etc::SourceList \"none\";" "Dir::Etc::SourceParts \"$work/parts\";" \
    "Dir::State::Lists \"$work/lists\";" "Dir::State::status \"$work/status\";" \
    "Dir::Cache \"$work/cache\";" 'APT::Sandbox::User "root";' > "$work/apt.conf"
  export APT_CONFIG="$work/apt.conf"
  apt-get update -qq
  (cd "$work" && apt-get download -qq docker-compose && dpkg -x docker-compose_*.deb root)
  plugins=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins
  mkdir -p "$plugins"
  cp "$work/root/usr/libexec/docker/cli-plugins/docker-compose" "$plugins/"
fi
docker compose version
