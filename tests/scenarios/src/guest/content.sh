#!/bin/bash
# Asks for every published content item through nginx, as a user does. Prints `status guid sha256-of-the-body` lines, and
# `101 websocket` when the upgrade works.
set -euo pipefail
export LC_ALL=C
url=http://connect.example.com
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
as_admin=(-sS -m 20 -H @/root/lab/keys/admin.header)
curl -f "${as_admin[@]}" $url/__api__/v1/content >"$work/list"
jq -r '.[] | select(.bundle_id != null) | .guid' "$work/list" | sort >"$work/guids"
while read -r guid; do printf 'url = "%s/content/%s/"\noutput = "%s/%s"\n' $url "$guid" "$work" "body-$guid"; done \
	<"$work/guids" >"$work/asks"
# One program for all: starting one for each is what takes long here.
curl "${as_admin[@]}" -w '%{http_code}\n' -K "$work/asks" >"$work/codes"
sums=$(cd "$work" && sed 's/^/body-/' guids | xargs sha256sum | cut -c1-16)
paste -d ' ' "$work/codes" "$work/guids" <(printf '%s\n' "$sums")
for guid in $(jq -r '.[] | select(.bundle_id != null and .app_mode == "shiny") | .guid' "$work/list"); do
	answer=$(curl "${as_admin[@]}" -m 5 -o /dev/null -w '%{http_code}' --http1.1 -H 'Connection: Upgrade' \
		-H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' \
		-N --max-time 2 "$url/content/$guid/websocket/" 2>/dev/null || true)
	printf '%s websocket %s\n' "$answer" "$guid"
done
