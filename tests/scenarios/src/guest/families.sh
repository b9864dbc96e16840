#!/bin/bash
# Gives the lab's image the tags of both families of images, and puts registries beside it that are at fault.
set -euo pipefail
registry=http://127.0.0.1:5000/v2
kind=application/vnd.docker.distribution.manifest.v2+json
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
curl -fsS -H "Accept: $kind" -o "$work/manifest" $registry/posit/connect/manifests/2026.03.1

tag() { # repository, tags
	local repository=$1 tag
	shift
	for tag; do
		curl -fsS -o /dev/null -X PUT -H "Content-Type: $kind" --data-binary "@$work/manifest" "$registry/$repository/manifests/$tag"
	done
}
# Another repository has none of the layers yet.
for digest in $(grep -o 'sha256:[0-9a-f]*' "$work/manifest" | sort -u); do
	curl -fsS -o /dev/null -X POST "$registry/rstudio/rstudio-connect/blobs/uploads/?mount=$digest&from=posit/connect"
done
tag rstudio/rstudio-connect latest 1.9.0.1 2021.08.0 2022.08.0 bionic-2022.09.0 bionic-2023.06.0 jammy-2023.07.0 \
	jammy-2024.12.0 ubuntu2204-2024.12.0 ubuntu2204-2025.06.0 ubuntu2204-2026.06.1
tag posit/connect latest 2025.05.0-ubuntu-22.04-std 2025.09.1-ubuntu-22.04-std 2025.11.0-ubuntu-22.04-std \
	2025.12.1-ubuntu-22.04-std 2025.12.1-ubuntu-24.04-std 2025.12.1-ubuntu-24.04-min \
	2026.03.1-ubuntu-22.04-std 2026.03.1-ubuntu-24.04-std 2026.08.0-ubuntu-24.04-std

cat >/etc/nginx/conf.d/lab-registries.conf <<'X'
server { listen 127.0.0.1:5401; location / { return 401 '{"errors":[{"message":"authentication required"}]}'; } }
server { listen 127.0.0.1:5429; location / { add_header Retry-After 60 always; return 429 '{"errors":[{"message":"slow down"}]}'; } }
server { listen 127.0.0.1:5500; location / { return 500 '{"errors":[{"message":"disk full"}]}'; } }
X
nginx -tq
systemctl reload nginx
